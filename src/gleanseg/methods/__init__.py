"""One file per learning algorithm; the file's name is the method's name in recipes."""

from typing import Any

from gleanseg.config import Named
from gleanseg.parts.method import Blueprint, Method
from gleanseg.resolve import resolve
from gleanseg.strict import build_options


def method_class(named: Named) -> tuple[type[Method], Any]:
    """A method's class and its options, checked.

    Raises:
        UserError: no such method, or an unknown option.
    """
    cls = resolve("methods", named.name)
    assert issubclass(cls, Method), f"{named.name} is not a Method"
    return cls, build_options(cls.Config, named.options, where=f"[method] {named.name}")


def build_method(named: Named, blueprint: Blueprint) -> Method:
    """Make a method from its recipe table.

    Args:
        named: the method's name and options.
        blueprint: what it is made from.

    Raises:
        UserError: no such method, or an unknown option.
    """
    cls, config = method_class(named)
    return cls(blueprint, config)

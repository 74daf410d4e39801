"""One file per learning algorithm; the file's name is the method's name in recipes."""

from collections.abc import Callable

from gleanseg.config import Named, build_options
from gleanseg.networks.network import Network
from gleanseg.parts.method import Method
from gleanseg.resolve import resolve


def build_method(named: Named, network: Callable[[], Network]) -> Method:
    """Make a method from its recipe table.

    Args:
        named: the method's name and options.
        network: makes a freshly initialised network.

    Raises:
        UserError: no such method, or an unknown option.
    """
    cls = resolve("methods", named.name)
    assert issubclass(cls, Method), f"{named.name} is not a Method"
    return cls(network, build_options(cls.Config, named.options, where=f"[method] {named.name}"))

"""From a name in a recipe to a class: the file name IS the name.

``resolve("methods", "mean_teacher")`` imports ``gleanseg.methods.mean_teacher`` and returns the one final class in it.
Third-party packages add names through entry points of the group ``gleanseg.<room>``.
"""

import inspect
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

from gleanseg.errors import UserError, nearest


def names(room: str) -> list[str]:
    """All names of a room, our own and those of installed plug-ins, sorted."""
    package = import_module(f"gleanseg.{room}")
    own = {m.name for m in iter_modules(package.__path__) if not m.name.startswith("_")}
    return sorted({n for n in own if _is_offer(room, n)} | {e.name for e in entry_points(group=f"gleanseg.{room}")})


def resolve(room: str, name: str) -> type:
    """The class that ``name`` stands for.

    Args:
        room: a package of gleanseg, such as ``methods`` or ``networks``.
        name: the file's name without ``.py``; hyphens and underscores are the same.

    Raises:
        UserError: no such name; the nearest are offered.
    """
    wanted = name.replace("-", "_")
    for entry in entry_points(group=f"gleanseg.{room}"):
        if entry.name == wanted:
            loaded = entry.load()
            assert isinstance(loaded, type), f"entry point {entry.value} is not a class"
            return loaded
    if find_spec(f"gleanseg.{room}.{wanted}") is None or not _is_offer(room, wanted):
        known = names(room)
        raise UserError(f"{room}: no {name!r}{nearest(wanted, known)} (known: {', '.join(known)})")
    return _final_class(import_module(f"gleanseg.{room}.{wanted}"))


def _is_offer(room: str, name: str) -> bool:
    """A file is an offer when it holds a final class; helpers and abstract bases of the room are not."""
    module = import_module(f"gleanseg.{room}.{name}")
    return any(getattr(c, "__final__", False) for c in _own_classes(module))


def _final_class(module: ModuleType) -> type:
    (found,) = [c for c in _own_classes(module) if getattr(c, "__final__", False)]
    return found


def _own_classes(module: ModuleType) -> list[type]:
    return [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]

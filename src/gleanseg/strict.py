"""Tables of TOML and JSON, read strictly: an unknown key or a bad value is an error that names what was meant."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gleanseg.errors import UserError, nearest

T = TypeVar("T")
_MOST_BYTES = 1 << 30
"""A manifest of a million cases has a third of it."""


class Section(BaseModel):
    """A table: frozen, and every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text, or too large to be JSON or TOML that people work with.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON file, which may be anybody's.

    Args:
        path: the file.
        pairs: makes the value of an object, in place of a dict.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, too large, or nested too deeply.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def validate(cls: type[T], raw: Mapping[str, Any], *, where: str) -> T:
    """Turn a mapping into ``cls``; the first problem becomes one line that names file, key, and nearest key.

    Raises:
        UserError: unknown key or bad value.
    """
    try:
        return TypeAdapter(cls).validate_python(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_problem(cls, error)}") from None


def build_options(cls: type[T], options: Mapping[str, Any], *, where: str) -> T:
    """Strictly turn a recipe table into the frozen dataclass ``cls`` that stands beside its owner.

    Raises:
        UserError: unknown key (the nearest is named), missing key, or a value of another type.
    """
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, known)} (known keys: {listed})")
    for name, field in known.items():
        if field.default is MISSING and field.default_factory is MISSING and name not in options:
            raise UserError(f"{where}: key {name!r} is missing")
    return validate(cls, options, where=where)


def _first_problem(cls: Any, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        table = ".".join(location[:-1])
        known = _known_keys(cls, location[:-1])
        place = f"table [{table}]" if table else "top level"
        hint = nearest(location[-1], known) or f" (known keys: {', '.join(known)})"
        return f"unknown key {location[-1]!r} in {place}{hint}"
    message = first["msg"].removeprefix("Value error, ")
    found = f", found {first['input']!r}" if first["type"] not in ("missing", "value_error") else ""
    name = ".".join(part for part in location if "[" not in part and "-" not in part)
    return f"{name or 'recipe'}: {message[0].lower()}{message[1:]}{found}"


def _known_keys(cls: Any, location: Sequence[str]) -> list[str]:
    for part in location:
        annotation = cls.model_fields[part].annotation if part in getattr(cls, "model_fields", {}) else None
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                cls = candidate
    return list(getattr(cls, "model_fields", {}))

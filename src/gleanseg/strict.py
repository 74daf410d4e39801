"""Tables of TOML and JSON, read strictly: an unknown key or a bad value is an error that names what was meant."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gleanseg.errors import UserError, nearest

T = TypeVar("T")


class Section(BaseModel):
    """A table: frozen, and every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

"""HTML and SVG as values: whatever is not :class:`Html` already is escaped, so a case id cannot inject markup."""

import math
from collections.abc import Iterable
from datetime import datetime
from html import escape as _escape

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


Child = str | int | Iterable["Child"] | None
Attribute = str | int | float | bool | None


def html(child: Child) -> Html:
    """Escape one child; lists are joined, None is nothing."""
    if child is None:
        return Html("")
    if isinstance(child, Html):
        return child
    if isinstance(child, (str, int)):
        return Html(_escape(str(child), quote=False))
    return Html("".join(html(part) for part in child))


def tag(name: str, *children: Child, **attributes: Attribute) -> Html:
    """One element, e.g. ``tag("td", 0.9, class_="num")``.

    Attribute names lose a trailing underscore and turn inner underscores into hyphens; False and None leave the
    attribute out, True writes it without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{html(children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    text = compact(value) if isinstance(value, float) else _escape(str(value), quote=True)
    return f' {key}="{text}"'


def compact(value: int | float, digits: int = 2) -> str:
    """Shortest decimal with at most ``digits`` decimals: 3.10 is ``3.1``, -0.0 is ``0``."""
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def number(value: int | float | None, digits: int = 3) -> str:
    """A number for a table with a true minus sign; an en dash when it is undefined."""
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"  # noqa: RUF001
    return f"{value:,.{digits}f}".replace("-", "−")  # noqa: RUF001


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 case``, ``1,204 cases``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def duration(seconds: int | float) -> str:
    """Seconds as people say them: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def when(text: str) -> str:
    """An ISO 8601 time as ``2025-03-01 10:20 UTC``; anything else as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time:%Y-%m-%d %H:%M} {time:%Z}".rstrip()


def rgb(color: tuple[int, int, int]) -> str:
    """CSS notation of a color."""
    return "#{:02x}{:02x}{:02x}".format(*color)

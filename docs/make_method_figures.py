"""Write docs/images/<method>.svg: the data flow of each method that docs/figures/<method>.toml describes.

python docs/make_method_figures.py

Boxes stand in columns and rows, arrows leave and enter at their sides, and labels take the first free place beside
their arrow. What does not fit raises an error: text wider than its box, an arrow through a box or a label.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "docs" / "figures"
IMAGES = ROOT / "docs" / "images"
Side = Literal["left", "right", "top", "bottom"]
Points = list[tuple[float, float]]
OUTWARD: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
KINDS = {"input": "box data", "network": "box", "frozen": "box frozen", "term": "term"}
BORDER, PADDING, FRAME, TIP = (
    20.0,
    10.0,
    12.0,
    2.0,
)  # of the picture, of text in a box, of a group, before an arrow's end
LARGEST, HEIGHTS, BOXES = 1000.0, (200.0, 460.0), range(4, 15)
STYLE = """\
<style>
:root { color-scheme: light dark; }
.box { fill: #ffffff; stroke: #14598a; stroke-width: 1.5; }
.data { stroke: #59626d; stroke-width: 1.2; }
.frozen { stroke-dasharray: 5 3; }
.term { fill: #f3f0e9; stroke: #b9b2a3; stroke-width: 1.2; }
.group { fill: none; stroke: #b9b2a3; stroke-width: 1.2; }
.flow { fill: none; stroke: #59626d; stroke-width: 1.6; marker-end: url(#head); }
.slow { stroke-dasharray: 5 4; }
text { font: 14px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: #1b2127; text-anchor: middle; }
.small { font-size: 12px; fill: #59626d; }
.left { text-anchor: start; }
.right { text-anchor: end; }
.b { font-weight: 650; }
.sub { font-size: 75%; }
.tip { fill: #59626d; }
@media (prefers-color-scheme: dark) {
.box { fill: #1a1f25; stroke: #7cbbe9; }
.data { stroke: #a0aab5; }
.term { fill: #20262d; stroke: #4a545f; }
.group { stroke: #4a545f; }
.flow { stroke: #a0aab5; }
text { fill: #e6e9ec; }
.small { fill: #a0aab5; }
.tip { fill: #a0aab5; }
}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>
"""
THOUSANDTHS = {  # of the size of the font, of characters of Arial and its like; all others as wide as a digit
    " !,./:;I[]ft": 278,
    "ijl'": 222,
    "()-r": 333,
    "csvkxyzJ": 500,
    "ABEKPSVXY&": 667,
    "CDHNRUw": 722,
    "GOQ": 778,
    "FTZ+=<>": 611,
    "mM": 833,
    "W%→": 944,
    "‖|\u2032·": 260,
    "λαβγσθκρτμε": 560,
}
WIDTHS = {character: width for characters, width in THOUSANDTHS.items() for character in characters}


class Rect(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def grown(self, by: float) -> "Rect":
        """The same with a margin."""
        return Rect(self.left - by, self.top - by, self.right + by, self.bottom + by)

    def meets(self, other: "Rect") -> bool:
        """Whether they overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies inside."""
        return self.left < x < self.right and self.top < y < self.bottom


@dataclass(frozen=True, kw_only=True)
class Box:
    """Data, a network or a loss term; ``at`` is its column and row, captions may have several lines."""

    id: str
    title: str
    kind: Literal["input", "network", "frozen", "term"]
    at: tuple[float, float]
    caption: str = ""

    @property
    def lines(self) -> list[str]:
        """Of the caption."""
        return self.caption.split("\n") if self.caption else []

    @property
    def height(self) -> float:
        """As its text needs."""
        return 36 + 16 * len(self.lines)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A frame around boxes, which arrows may leave and enter."""

    id: str
    of: list[str]
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """From a box to another; ``slow``: without gradient. Along row ``lane`` it passes the columns in between.

    Its label is put as near to ``near`` as there is room, 0 being the arrow's begin and 1 its end.
    """

    start: str
    end: str
    label: str = ""
    slow: bool = False
    out: Side | None = None
    into: Side | None = None
    lane: float | None = None
    near: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a file describes: widths of the columns, gaps between them, distance of rows."""

    title: str
    columns: list[float]
    gaps: list[float]
    row: float
    boxes: list[Box]
    arrows: list[Arrow]
    groups: list[Group] = field(default_factory=list)
    note: str = ""


@dataclass
class Layout:
    """Where everything lies."""

    figure: Figure
    rects: dict[str, Rect] = field(default_factory=dict)
    columns: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Place columns, boxes and groups."""
        f, left = self.figure, BORDER
        for width, gap in zip(f.columns, [*f.gaps, 0.0], strict=True):
            self.columns.append((left, left + width))
            left += width + gap
        for box in f.boxes:
            (left, right), y = self.columns[int(box.at[0])], self.row(box.at[1])
            self.rects[box.id] = Rect(left, y - box.height / 2, right, y + box.height / 2)
        for group in f.groups:
            found = [self.rects[member] for member in group.of]
            frame = Rect(
                *map(min, zip(*(r[:2] for r in found), strict=True)),
                *map(max, zip(*(r[2:] for r in found), strict=True)),
            )
            self.rects[group.id] = frame.grown(FRAME)._replace(top=frame.top - FRAME - (16 if group.title else 0))

    def row(self, number: float) -> float:
        """Height of a row's middle."""
        return number * self.figure.row

    def group_of(self, name: str) -> set[str]:
        """A box and the groups that hold it."""
        return {name} | {group.id for group in self.figure.groups if name in group.of}


def sides(arrow: Arrow, layout: Layout) -> tuple[Side, Side]:
    """Where it leaves and enters: between columns at the sides, else at top and bottom."""
    a, b = layout.rects[arrow.start], layout.rects[arrow.end]
    if a.right < b.left:
        usual: tuple[Side, Side] = "right", "left"
    elif b.right < a.left:
        usual = "left", "right"
    else:
        usual = ("bottom", "top") if a.middle[1] < b.middle[1] else ("top", "bottom")
    return arrow.out or usual[0], arrow.into or usual[1]


def ports(layout: Layout) -> dict[tuple[int, str], tuple[float, float]]:
    """Of each arrow's begin and end, the point: those of one side are spread along it, in the order of their others."""
    wanted: dict[tuple[str, Side], list[tuple[float, int, str]]] = {}
    for i, arrow in enumerate(layout.figure.arrows):
        for which, own, other, side in zip(
            ("start", "end"), (arrow.start, arrow.end), (arrow.end, arrow.start), sides(arrow, layout), strict=True
        ):
            x, y = layout.rects[other].middle
            towards = x if side in ("top", "bottom") else y if arrow.lane is None else layout.row(arrow.lane)
            wanted.setdefault((own, side), []).append((towards, i, which))
    found = {}
    for (name, side), ends in wanted.items():
        r = layout.rects[name]
        (x, y), length = r.middle, (r.right - r.left if side in ("top", "bottom") else r.bottom - r.top)
        gap = min(18.0, (length - 20) / max(1, len(ends) - 1))
        for k, (_, i, which) in enumerate(sorted(ends)):
            shift = (k - (len(ends) - 1) / 2) * gap
            at = {"left": (r.left, y + shift), "right": (r.right, y + shift), "top": (x + shift, r.top)}
            found[i, which] = at.get(side, (x + shift, r.bottom))
    alone = {(i, which) for ends in wanted.values() if len(ends) == 1 for _, i, which in ends}
    for i, arrow in enumerate(layout.figure.arrows):
        facing = set(sides(arrow, layout))
        if arrow.lane is None and facing in ({"left", "right"}, {"top", "bottom"}):
            straighten(layout, arrow, i, found, alone)
    return found


def straighten(
    layout: Layout, arrow: Arrow, i: int, found: dict[tuple[int, str], tuple[float, float]], alone: set[tuple[int, str]]
) -> None:
    """Move an end that has its side to itself to where the other one is, if that is well inside the side."""
    upright = sides(arrow, layout)[0] in ("top", "bottom")
    for which, name, other in (("end", arrow.end, "start"), ("start", arrow.start, "end")):
        rect, (x, y) = layout.rects[name].grown(-10), found[i, other]
        if (i, which) in alone and (rect.left <= x <= rect.right if upright else rect.top <= y <= rect.bottom):
            found[i, which] = (x, found[i, which][1]) if upright else (found[i, which][0], y)
            return


def path(arrow: Arrow, layout: Layout, begin: tuple[float, float], end: tuple[float, float]) -> list[Points]:
    """Its parts: lines of two points, and curves of four."""
    out, into = sides(arrow, layout)
    end = end[0] + TIP * OUTWARD[into][0], end[1] + TIP * OUTWARD[into][1]
    if arrow.lane is None:
        return [part(begin, end, out, into)]
    y = layout.row(arrow.lane)
    right_way = begin[0] < end[0]
    between = [c for c in layout.columns if min(begin[0], end[0]) < c[0] and c[1] < max(begin[0], end[0])]
    assert between, f"{arrow.start} to {arrow.end}: a lane passes a column"
    first, last = (between[0][0], between[-1][1]) if right_way else (between[-1][1], between[0][0])
    onwards: tuple[Side, Side] = ("right", "left") if right_way else ("left", "right")
    return [part(begin, (first, y), out, onwards[1]), [(first, y), (last, y)], part((last, y), end, onwards[0], into)]


def part(begin: tuple[float, float], end: tuple[float, float], out: Side, into: Side) -> Points:
    """A line where both sides face each other on one height, else a curve that leaves and enters at right angles."""
    (x0, y0), (x1, y1), (ox, oy), (ix, iy) = begin, end, OUTWARD[out], OUTWARD[into]
    if (ox, oy) == (-ix, -iy) and (abs(y1 - y0) < 1 if ox else abs(x1 - x0) < 1):
        return [begin, end]
    across, along = abs(x1 - x0), abs(y1 - y0)
    ahead, aside = (across, along) if ox else (along, across)
    facing = (ox, oy) == (-ix, -iy)  # the steeper, the longer it keeps to its first and last direction
    bend = 0.5 + 0.3 * min(1.0, max(0.0, aside / max(1.0, ahead) - 1)) if facing else 0.65
    across, along = across * bend, along * bend
    if (ox, oy) == (ix, iy):  # a loop beside both
        across = along = 36.0
    return [begin, (x0 + ox * across, y0 + oy * along), (x1 + ix * across, y1 + iy * along), end]


def sampled(parts: list[Points]) -> Points:
    """Points of a path, about three apart."""
    found: Points = []
    for points in parts:
        steps = 1 + int(sum(abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in pairwise(points)) / 3)
        for t in (i / steps for i in range(steps + 1)):
            weights = [1 - t, t] if len(points) == 2 else [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
            x, y = (sum(w * p[axis] for w, p in zip(weights, points, strict=True)) for axis in (0, 1))
            found.append((x, y))
    return found


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """What a line takes at most, whichever of the fonts there is."""
    total = 0.0
    for piece, lowered in pieces(text):
        total += sum(WIDTHS.get(c, 556) for c in piece) * (0.75 if lowered else 1.0)
    return total / 1000 * size * (1.25 if bold else 1.16)


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Parts of a line, and whether each is a subscript: what follows _, one character or {several}."""
    for plain, several, single in re.findall(r"([^_]+)|_\{([^}]*)\}|_(.)", text):
        yield (plain, False) if plain else (several or single, True)


def markup(text: str) -> str:
    """A line, subscripts lowered."""
    found, low = "", False
    for piece, lowered in pieces(text):
        shift = f' dy="{3 if lowered else -3}"' if lowered != low else ""
        kind = ' class="sub"' if lowered else ""
        found += f"<tspan{kind}{shift}>{escape(piece, quote=False)}</tspan>" if shift else escape(piece, quote=False)
        low = lowered
    return found


def place(arrow: Arrow, points: Points, taken: list[Rect], frames: list[Rect], lines: Points) -> tuple[Rect, str]:
    """A label's rectangle and anchor: the first free place beside its arrow, as near to ``near`` as there is one."""
    width = text_width(arrow.label, 12)
    for i in sorted(range(len(points)), key=lambda i: abs(i / max(1, len(points) - 1) - arrow.near)):
        x, y = points[i]
        for anchor, rect in (
            ("middle", Rect(x - width / 2, y - 18, x + width / 2, y - 4)),
            ("middle", Rect(x - width / 2, y + 4, x + width / 2, y + 18)),
            ("left", Rect(x + 8, y - 7, x + 8 + width, y + 7)),
            ("right", Rect(x - 8 - width, y - 7, x - 8, y + 7)),
        ):
            wide = rect.grown(3 if anchor == "middle" else 6)
            on_frame = any(wide.meets(f) and not (f.holds(*wide[:2]) and f.holds(*wide[2:])) for f in frames)
            if not on_frame and not any(map(wide.meets, taken)) and not any(wide.holds(*p) for p in lines):
                return rect, anchor
    raise ValueError(f"{arrow.start} to {arrow.end}: no room for the label {arrow.label!r}")


def check(layout: Layout, drawn: list[Points]) -> None:
    """Text fits its box, boxes keep their distance, no arrow crosses one.

    Raises:
        ValueError: which does not.
    """
    f = layout.figure
    if len(f.boxes) not in BOXES:
        raise ValueError(f"{len(f.boxes)} boxes")
    for box in f.boxes:
        room = f.columns[int(box.at[0])] - 2 * PADDING
        sizes = [text_width(box.title, 14, bold=True), *(text_width(line, 12) for line in box.lines)]
        if max(sizes) > room:
            raise ValueError(f"{box.id}: text of {max(sizes):.0f} in a box with room for {room:.0f}")
    solid = [box.id for box in f.boxes]
    for i, one in enumerate(solid):
        for other in solid[i + 1 :]:
            if layout.rects[one].grown(4).meets(layout.rects[other].grown(4)):
                raise ValueError(f"{one} and {other} are too near to each other")
    for arrow, points in zip(f.arrows, drawn, strict=True):
        own = layout.group_of(arrow.start) | layout.group_of(arrow.end)
        own |= {m for g in f.groups if g.id in (arrow.start, arrow.end) for m in g.of}
        for name, rect in layout.rects.items():
            inner = rect.grown(-2) if name in (arrow.start, arrow.end) else rect.grown(4)
            if (name not in own or name in (arrow.start, arrow.end)) and any(inner.holds(*p) for p in points):
                raise ValueError(f"{arrow.start} to {arrow.end}: crosses {name}")


def load(file: Path) -> Figure:
    """A description."""
    read: dict[str, Any] = tomllib.loads(file.read_text())
    boxes = [Box(**{**entry, "at": tuple(entry["at"])}) for entry in read.pop("boxes")]
    arrows = [Arrow(start=entry.pop("from"), end=entry.pop("to"), **entry) for entry in read.pop("arrows")]
    return Figure(**read | {"boxes": boxes, "arrows": arrows, "groups": [Group(**g) for g in read.pop("groups", [])]})


def picture(file: Path) -> str:
    """The SVG of a description."""
    f = load(file)
    layout = Layout(f)
    at = ports(layout)
    paths = [path(arrow, layout, at[i, "start"], at[i, "end"]) for i, arrow in enumerate(f.arrows)]
    drawn = [sampled(parts) for parts in paths]
    check(layout, drawn)
    frames = [layout.rects[group.id] for group in f.groups]
    titles = [Rect(r.left, r.top, r.right, r.top + 22) for r, g in zip(frames, f.groups, strict=True) if g.title]
    taken, lines = [layout.rects[box.id] for box in f.boxes] + titles, [p for points in drawn for p in points]
    body = [f'<rect class="group" {spot(frame)} rx="8"/>' for frame in frames]
    for rect, group in zip(frames, f.groups, strict=True):
        if group.title:
            body.append(
                f'<text class="small" x="{rect.middle[0]:.0f}" y="{rect.top + 19:.0f}">{markup(group.title)}</text>'
            )
    for box in f.boxes:
        body += draw_box(box, layout.rects[box.id])
    for arrow, parts in zip(f.arrows, paths, strict=True):
        body.append(f'<path class="flow{" slow" * arrow.slow}" d="{steps(parts)}"/>')
    for arrow, points in zip(f.arrows, drawn, strict=True):
        if arrow.label:
            rect, anchor = place(arrow, points, taken, frames, lines)
            taken.append(rect)
            x = {"left": rect.left, "right": rect.right}.get(anchor, rect.middle[0])
            kind = "small" if anchor == "middle" else f"small {anchor}"
            body.append(f'<text class="{kind}" x="{x:.0f}" y="{rect.bottom - 3:.0f}">{markup(arrow.label)}</text>')
    everything = [*layout.rects.values(), *taken, *(Rect(x, y, x, y) for x, y in lines)]
    low, high = min(r.top for r in everything), max(r.bottom for r in everything)
    left = min(r.left for r in everything) - BORDER
    width = max(r.right for r in everything) + BORDER - left
    height = max(HEIGHTS[0], high - low + 2 * BORDER + 24 * bool(f.note))
    top = (height - 24 * bool(f.note) - (high - low)) / 2 - low
    if f.note:
        body.append(
            f'<text class="small left" x="{left + BORDER:.0f}" y="{height - 16 - top:.0f}">{markup(f.note)}</text>'
        )
        width = max(width, text_width(f.note, 12) + 2 * BORDER)
    if width > LARGEST or height > HEIGHTS[1]:
        raise ValueError(f"{width:.0f} x {height:.0f} is too large")
    size = f'viewBox="{left:.0f} {-top:.0f} {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="Data flow of {escape(f.title)}">\n'
    return head + STYLE + "\n".join(body) + "\n</svg>\n"


def draw_box(box: Box, rect: Rect) -> list[str]:
    """Frame, title and caption."""
    x = rect.middle[0]
    found = [f'<rect class="{KINDS[box.kind]}" {spot(rect)} rx="6"/>']
    found.append(f'<text class="b" x="{x:.0f}" y="{rect.top + 23:.0f}">{markup(box.title)}</text>')
    for i, line in enumerate(box.lines):
        found.append(f'<text class="small" x="{x:.0f}" y="{rect.top + 41 + 16 * i:.0f}">{markup(line)}</text>')
    return found


def spot(r: Rect) -> str:
    """Of a rectangle, in SVG's words."""
    return f'x="{r.left:.0f}" y="{r.top:.0f}" width="{r.right - r.left:.0f}" height="{r.bottom - r.top:.0f}"'


def steps(parts: list[Points]) -> str:
    """A path, in SVG's words."""
    (x, y), words = parts[0][0], []
    for points in parts:
        numbers = " ".join(f"{px:.0f} {py:.0f}" for px, py in points[1:])
        words.append(("L" if len(points) == 2 else "C") + numbers)
    return f"M{x:.0f} {y:.0f} " + " ".join(words)


def made() -> dict[Path, str]:
    """All figures, by where they belong."""
    found = {}
    for file in sorted(SOURCES.glob("*.toml")):
        try:
            found[IMAGES / f"{file.stem}.svg"] = picture(file)
        except (ValueError, KeyError, TypeError) as wrong:
            raise ValueError(f"{file.name}: {wrong}") from wrong
    return found


def main() -> None:
    """Draw what is described."""
    for image, text in made().items():
        image.write_text(text)


if __name__ == "__main__":
    main()

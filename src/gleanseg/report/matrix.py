"""The cases x ROIs state matrix: what supervision the run had, at a glance, also for hundreds of cases."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from gleanseg.report.markup import Html, html, plural, tag

STATES = ("annotated", "hidden", "absent", "unknown")
EXPLAINED = {
    "annotated": "annotated: voxels are given",
    "hidden": "hidden: annotated in the manifest, kept from this run by its recipe",
    "absent": "absent: known to be nowhere in the image",
    "unknown": "unknown: nobody looked",
}
_ROW, _DENSE_ROW, _HEAD = 20, 15, 40
_DENSE_FROM = 40  # ROIs
_HEIGHTS = {"annotated": 0.7, "hidden": 0.7, "absent": 0.3, "unknown": 0.1}  # shares of a row
_WIDTH = 760
_GAP = 14
_SPLITS = ("train", "validation", "test")


class CaseStates(NamedTuple):
    """One case: its state for each ROI, in the run's order."""

    id: str
    site: str
    split: str
    states: tuple[str, ...]


class _Group(NamedTuple):
    split: str
    site: str
    cases: tuple[CaseStates, ...]
    left: float
    width: float


def state_matrix(cases: Sequence[CaseStates], *, names: Sequence[str]) -> Html:
    """Picture and numbers of the matrix; cases run to the right, grouped by split and site, alike ones side by side.

    States differ in height and pattern as well as in color.

    Args:
        cases: any order; every case has one state per name.
        names: display names of the ROIs, one row each.
    """
    if not cases:
        return tag("p", "The manifest lists no case.", class_="empty")
    cell = min(20.0, max(3.0, _WIDTH / len(cases)))
    groups = _groups(cases, cell)
    row = _ROW if len(names) < _DENSE_FROM else _DENSE_ROW
    height = _HEAD + row * len(names) + 4
    width = groups[-1].left + groups[-1].width
    margin = round(max((len(name) for name in names), default=0) * (7.3 if row == _ROW else 6.5)) + 10
    labels = [
        tag("text", name, x=margin - 6, y=_HEAD + row * (r + 0.5) + 3.5, class_="row-name end")
        for r, name in enumerate(names)
    ]
    box = f"0 0 {margin} {height}"
    rows = tag("svg", labels, viewBox=box, width=margin, height=height, class_="names", aria_hidden="true")
    drawn: list[Html] = [_hatch(), *_heads(groups)]
    for group in groups:
        drawn.extend(_cells(group, cell, row, names))
    seen = {state for case in cases for state in case.states}
    picture = tag(
        "svg", drawn, viewBox=f"0 0 {round(width)} {height}", width=round(width), height=height, role="img",
        aria_label=f"States of {plural(len(names), 'ROI')} in {plural(len(cases), 'case')}; the numbers stand below.",
    )  # fmt: skip
    legend = tag("ul", [_legend_entry(s) for s in STATES if s in seen], class_="legend states")
    body = tag(
        "div",
        rows,
        tag("div", picture, class_="scroll", tabindex=0),
        class_="matrix dense" if row == _DENSE_ROW else "matrix",
    )
    return html((legend, body, _numbers(groups, names)))


def _groups(cases: Sequence[CaseStates], cell: float) -> list[_Group]:
    def place(case: CaseStates) -> tuple[int, str]:
        return (_SPLITS.index(case.split) if case.split in _SPLITS else len(_SPLITS), case.site)

    def alike(case: CaseStates) -> tuple[tuple[int, str], list[int], str]:
        return (place(case), [STATES.index(state) for state in case.states], case.id)

    groups: list[_Group] = []
    left = 0.0
    for _, members in groupby(sorted(cases, key=alike), key=place):
        inside = tuple(members)
        first = inside[0]
        new_split = not groups or groups[-1].split != first.split
        text = max(len(_site(first.site)) * 7.2, len(first.split) * 8.0 if new_split else 0) + 6
        width = max(len(inside) * cell, text)
        left += (_GAP * 1.6 if new_split else _GAP) if groups else 0
        groups.append(_Group(first.split, first.site, inside, left, width))
        left += width
    return groups


def _site(site: str) -> str:
    return site or "no site"


def _heads(groups: Sequence[_Group]) -> list[Html]:
    drawn = []
    for split, members in groupby(groups, key=lambda group: group.split):
        inside = list(members)
        end = inside[-1].left + inside[-1].width
        drawn.append(tag("text", split, x=inside[0].left, y=12, class_="split"))
        drawn.append(tag("line", x1=inside[0].left, x2=end, y1=18, y2=18, class_="axis"))
        drawn.extend(tag("text", _site(group.site), x=group.left, y=33, class_="site") for group in inside)
    return drawn


def _cells(group: _Group, cell: float, row: int, names: Sequence[str]) -> list[Html]:
    drawn = []
    for r, name in enumerate(names):
        at = 0
        for state, run in groupby(group.cases, key=lambda case: case.states[r]):
            ids = [case.id for case in run]
            x, width = group.left + at * cell, len(ids) * cell
            at += len(ids)
            tall = row * _HEIGHTS[state]
            top = _HEAD + row * (r + 0.5) - tall / 2
            listed = ids[0] if len(ids) == 1 else f"{ids[0]} … {ids[-1]}"
            where = f"{group.split}, {_site(group.site)}"
            title = tag("title", f"{name}: {state} in {plural(len(ids), 'case')} ({where}: {listed})")
            drawn.append(tag("rect", title, x=x, y=top, width=width, height=tall, class_=f"s-{state}"))
    if cell >= 6:
        bottom = _HEAD + row * len(names)
        edges = [group.left + k * cell for k in range(1, len(group.cases))]
        drawn.extend(tag("line", x1=x, x2=x, y1=_HEAD, y2=bottom, class_="cell-edge") for x in edges)
    return drawn


def _hatch() -> Html:
    stripe = tag("path", d="M-1 1l2-2M0 6l6-6M5 7l2-2", class_="hatch-line")
    back = tag("rect", width=6, height=6, class_="hatch-back")
    return tag("defs", tag("pattern", back, stripe, id="hatch", width=6, height=6, patternUnits="userSpaceOnUse"))


def _legend_entry(state: str) -> Html:
    tall = _ROW * _HEIGHTS[state]
    sample = tag("rect", x=0, y=8.5 - tall / 2, width=18, height=tall, class_=f"s-{state}")
    return tag("li", tag("svg", sample, viewBox="0 0 18 17", width=18, height=17, aria_hidden="true"), EXPLAINED[state])


def _numbers(groups: Sequence[_Group], names: Sequence[str]) -> Html:
    head = [tag("th", f"{group.split}, {_site(group.site)}", scope="col") for group in groups]
    rows = []
    for row, name in enumerate(names):
        cells = []
        for group in groups:
            count = Counter(case.states[row] for case in group.cases)
            cells.append(tag("td", ", ".join(f"{count[state]} {state}" for state in STATES if count[state])))
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    table = tag("table", tag("thead", tag("tr", tag("th", "ROI", scope="col"), head)), tag("tbody", rows))
    return tag("details", tag("summary", "The matrix as numbers"), tag("div", table, class_="scroll box", tabindex=0))

"""How a paper's table is printed: our runs below its rows, tests of ours against each other, and what was refused."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from gleanseg.report.paper_tables import Cell, Comparison, TableRow
    from gleanseg.report.papers import PaperRow

_WIDEST = 1000  # characters
_MARKS = {1: "[bold]{}[/bold]\N{SUPERSCRIPT ONE}", 2: "[underline]{}[/underline]\N{SUPERSCRIPT TWO}", None: "{} "}
_COLORS = {"beats": "green", "loses to": "red", "undecided against": "dim"}


def show(found: "Comparison") -> None:
    """Print the table, and below it what its numbers are."""
    from gleanseg.cli.progress import console

    wide = _table(found, columns=True)
    needed = _width(wide)
    if not console.is_terminal or needed <= console.width or not found.table.mean:
        _print(wide)
    else:
        _print(_table(found, columns=False))
        console.print(f"[dim]single ROIs: in the files, or on a terminal of {needed} characters[/dim]")
    if any(row.versus for row in found.rows):
        _print(_tests(found))
    if found.table.split is None:
        console.print(
            f"[yellow]split not checked[/yellow] the published lists of {found.table.benchmark} are not known to this"
            " table; runs were checked against each other only"
        )
    lines = [
        f"paper: {found.table.paper}; ours: {found.protocol.summary}",
        "\N{SUPERSCRIPT ONE} best, \N{SUPERSCRIPT TWO} second of the column, the paper's rows and ours apart;"
        " intervals: 95 %, over seeds, or over the cases of a single run",
        *found.table.notes,
    ]
    if found.protocol.name != found.table.protocol:
        unit = {"mm": "millimetres", "voxel": "voxels"}[found.protocol.unit]
        lines.insert(
            1, f"ours by protocol {found.protocol.name!r}, in {unit}: distances are not comparable with the paper's"
        )
    for line in lines:
        console.print(f"[dim]{line}[/dim]")
    for line in found.unready:
        console.print(f"[yellow]no row yet[/yellow] {line}")
    for line in found.refused:
        console.print(f"[red]refused[/red] {line}")


def _width(drawn: "Table") -> int:
    from gleanseg.cli.progress import console

    return console.measure(drawn, options=console.options.update(max_width=_WIDEST)).maximum


def _print(drawn: "Table") -> None:
    from rich.console import Console

    from gleanseg.cli.progress import console

    # A file has no width.
    (console if console.is_terminal else Console(highlight=False, width=_width(drawn))).print(drawn)


def _table(found: "Comparison", *, columns: bool) -> "Table":
    from rich import box
    from rich.table import Table

    table = found.table
    first = len(table.column) if not columns else 0
    drawn = Table(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("method", "", "protocol"):
        drawn.add_column(head, no_wrap=True)
    for head in _heads(found)[first:]:
        drawn.add_column(head, justify="right", no_wrap=True)
    counts = [f"[dim]{c.train}/{c.test}[/dim] " if c.test else "" for c in table.column] + [""] * len(table.mean)
    if any(counts[first:]):
        drawn.add_row("[dim]train/test cases[/dim]", "", "", *counts[first:])
    for row in found.rows:
        name = _name(row)
        if row.source == "ours" and any(r.id == row.id and r.source == "paper" for r in found.rows):
            name = ""
        if not row.cells:
            drawn.add_row(name, "ours", "[dim]not run[/dim]")
            continue
        drawn.add_row(name, _source(row), row.protocol, *map(_shown, row.cells[first:]))
        if row.source == "ours" and any(not math.isnan(cell.low) for cell in row.cells[first:]):
            drawn.add_row("", "", "[dim]interval[/dim]", *map(_interval, row.cells[first:]))
    return drawn


def _tests(found: "Comparison") -> "Table":
    from rich import box
    from rich.table import Table

    from gleanseg.evaluate.statistics import LEVEL
    from gleanseg.report.results import metric_name

    metric = metric_name(found.table.tested_metric)
    title = (
        f"{metric}, ours against ours: paired bootstrap over cases and seeds;"
        f" beats: the {100 * LEVEL:.0f} % interval excludes 0"
    )
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("method", "", "", "other"):
        drawn.add_column(head, no_wrap=True)
    for head in ("difference", f"{100 * LEVEL:.0f} %", "cases"):
        drawn.add_column(head, justify="right", no_wrap=True)
    names = {row.id: _name(row) for row in found.table.row}
    for row in found.rows:
        for i, test in enumerate(row.versus):
            drawn.add_row(
                "" if i else _name(row),
                f"[{_COLORS[test.verdict]}]{test.verdict}[/]",
                f"[dim]{test.role}[/dim]",
                names.get(test.row, test.row),
                f"{test.difference:+.2f}",
                "[dim]one case[/dim]" if math.isnan(test.low) else f"{test.low:+.2f} to {test.high:+.2f}",
                str(test.num_cases),
            )
    return drawn


def _name(row: "TableRow | PaperRow") -> str:
    return row.name if row.labelled is None or row.id == row.name else f"{row.name} ({row.labelled} labelled)"


def _heads(found: "Comparison") -> list[str]:
    table = found.table
    several = len({column.metric for column in table.column}) > 1
    heads = []
    for i, column in enumerate(table.column):
        before = table.column[i - 1].task if i else None
        task = column.task if column.task != before else ""
        heads.append(f"{task.replace(' ', chr(10))}\n{column.head}" if not several else column.head)
    return [*heads, *(mean.head for mean in table.mean)]


def _source(row: "TableRow") -> str:
    if row.source == "paper":
        return "paper"
    return f"ours, {len(row.runs)} seeds" if len(row.runs) > 1 else "ours"


def _shown(cell: "Cell") -> str:
    if math.isnan(cell.value):
        return "[dim]-[/dim] "
    return _MARKS[cell.place].format(f"{cell.value:.2f}")


def _interval(cell: "Cell") -> str:
    return "" if math.isnan(cell.low) else f"[dim]{cell.low:.1f}\N{EN DASH}{cell.high:.1f}[/dim]"

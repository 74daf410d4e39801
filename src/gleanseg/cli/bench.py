"""``gleanseg bench``: finished runs beside a paper's table, and training of the rows that are missing."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from gleanseg.config import Recipe
    from gleanseg.report.paper_tables import Cell, Comparison, TableRow
    from gleanseg.report.papers import PaperRow, PaperTable

_WIDEST = 1000  # characters
_MARKS = {1: "[bold]{}[/bold]\N{SUPERSCRIPT ONE}", 2: "[underline]{}[/underline]\N{SUPERSCRIPT TWO}", None: "{} "}


@dataclass(frozen=True, kw_only=True)
class Command:
    """Print a paper's table with our runs beside it, and write it as JSON and CSV; what was not run says so.

    A run is refused when it was trained or chosen on the test split, or when its split is not the published one.

    Example: gleanseg bench mots --runs runs/mots

    Example: gleanseg bench mots --runs runs/mots --train --manifest data/mots.json --seeds 0 1 2
    """

    table: tyro.conf.Positional[str]
    """Table: mots, or a TOML file of your own."""
    runs: Path
    """Folder of run folders."""
    protocol: str | None = None
    """Protocol of our numbers. Default: the table's."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the JSON and CSV files. Default: --runs."""
    train: bool = False
    """First train, predict and evaluate the missing rows, one after the other; unfinished runs continue."""
    only: tuple[str, ...] = ()
    """Rows to train. Default: all that are missing."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to train of each row."""
    recipes: Path | None = None
    """Folder of the table's recipes. Default: recipes/TABLE."""
    manifest: Path | None = None
    """Manifest to train on. Default: as the recipes say."""
    override: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """table.key=value for all recipes, may be given several times; the results are not the table's settings then."""

    def run(self) -> int:
        """Train what is missing, collect, print and write."""
        from gleanseg.cli.progress import console
        from gleanseg.errors import UserError
        from gleanseg.report.paper_tables import compare_with_paper
        from gleanseg.report.papers import PaperTable

        table = PaperTable.load(self.table)
        if self.train:
            self._train(table)
        elif not self.runs.is_dir():
            raise UserError(f"{self.runs}: no such folder; name the folder of the run folders, or add --train")
        found = compare_with_paper(table, self.runs, protocol=self.protocol)
        show(found)
        for path in found.save(self.out or self.runs):
            console.print(f"saved: [bold]{path}[/bold]")
        return 1 if found.refused else 0

    def _train(self, table: "PaperTable") -> None:
        from gleanseg.cli.progress import console
        from gleanseg.errors import UserError, nearest
        from gleanseg.report.paper_tables import compare_with_paper

        rows = {row.id: row for row in table.row if row.recipe}
        if strange := [id for id in self.only if id not in rows]:
            raise UserError(f"--only {strange[0]}: no such row to train{nearest(strange[0], rows)} ({', '.join(rows)})")
        found = compare_with_paper(table, self.runs, protocol=self.protocol)
        there = {(row.id, run["seed"]) for row in found.rows for run in row.runs}
        todo = [(rows[id], seed) for id in self.only or rows for seed in self.seeds if (id, seed) not in there]
        prepared = [
            (row, seed, self._recipe(table, row, seed)) for row, seed in todo
        ]  # all mistakes before hours of work
        for row, seed, recipe in prepared:
            console.print(f"[bold]{row.name}[/bold], seed {seed}")
            self._one(table, recipe, self.runs / f"{row.id}-seed{seed}")

    def _recipe(self, table: "PaperTable", row: "PaperRow", seed: int) -> "Recipe":
        from gleanseg.config import Recipe
        from gleanseg.data.manifest import Manifest
        from gleanseg.errors import UserError
        from gleanseg.report.finished import digest_of

        folder = self.recipes or Path("recipes") / table.name
        recipe = Recipe.load(folder / row.recipe, overrides=[*row.override, f"seed={seed}", *self.override])
        if self.manifest is not None:
            recipe = recipe.model_copy(update={"manifest": self.manifest.absolute()})
        manifest = Manifest.load(recipe.manifest)
        ids = {case.id: case.split for case in manifest.cases}
        for name, wanted in (("test", table.split.test), ("train", table.split.train)):
            chosen = [id for id, split in ids.items() if (split == "test") == (name == "test")]
            if digest_of(chosen) != wanted:
                raise UserError(
                    f"{recipe.manifest}: its {len(chosen)} {name} cases are not the published ones of {table.name};"
                    " import the whole benchmark"
                )
        return recipe

    def _one(self, table: "PaperTable", recipe: "Recipe", out: Path) -> None:
        from gleanseg import api
        from gleanseg.cli.progress import TrainingBar, bar
        from gleanseg.evaluate.protocol import Protocol
        from gleanseg.report.finished import result_path
        from gleanseg.run.folder import Run

        protocol = Protocol.load(self.protocol or table.protocol)
        started = (out / "run.json").is_file()
        if not started or Run.open(out).info.get("status") != "finished":
            with bar("prepare") as progress:
                api.prepare(recipe, progress=progress)
            with TrainingBar() as watching:
                api.fit(recipe, out=out, resume=started, listener=watching)
        if not result_path(out, protocol).is_file():
            with bar("predict") as progress:
                api.predict(out, split="test", resume=True, progress=progress)
            with bar("evaluate") as progress:
                api.evaluate(out, split="test", protocol=self.protocol or table.protocol, progress=progress)


def show(found: "Comparison") -> None:
    """Print the table, and below it what its numbers are."""
    from rich.console import Console

    from gleanseg.cli.progress import console

    wide = _table(found, columns=True)
    needed = console.measure(wide, options=console.options.update(max_width=_WIDEST)).maximum
    if not console.is_terminal:
        Console(highlight=False, width=needed).print(wide)  # a file has no width
    elif needed <= console.width or not found.table.mean:
        console.print(wide)
    else:
        console.print(_table(found, columns=False))
        console.print(f"[dim]single ROIs: in the files, or on a terminal of {needed} characters[/dim]")
    lines = [
        f"paper: {found.table.paper}; ours: {found.protocol.summary}",
        "\N{SUPERSCRIPT ONE} best, \N{SUPERSCRIPT TWO} second of the column, the paper's rows and ours apart;"
        " intervals: 95 %, over seeds, or over the cases of a single run",
        *found.table.notes,
    ]
    for line in lines:
        console.print(f"[dim]{line}[/dim]")
    for line in found.unready:
        console.print(f"[yellow]no row yet[/yellow] {line}")
    for line in found.refused:
        console.print(f"[red]refused[/red] {line}")


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
        name = row.name if row.labelled is None or row.id == row.name else f"{row.name} ({row.labelled} labelled)"
        if row.source == "ours" and any(r.id == row.id and r.source == "paper" for r in found.rows):
            name = ""
        if not row.cells:
            drawn.add_row(name, "ours", "[dim]not run[/dim]")
            continue
        drawn.add_row(name, _source(row), row.protocol, *map(_shown, row.cells[first:]))
        if row.source == "ours" and any(not math.isnan(cell.low) for cell in row.cells[first:]):
            drawn.add_row("", "", "[dim]interval[/dim]", *map(_interval, row.cells[first:]))
    return drawn


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

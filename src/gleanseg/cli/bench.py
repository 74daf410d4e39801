"""``gleanseg bench``: finished runs beside a paper's table, and training of the rows that are missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gleanseg.config import Recipe
    from gleanseg.report.papers import PaperRow, PaperTable


@dataclass(frozen=True, kw_only=True)
class Command:
    """Print a paper's table with our runs beside it, and write it as JSON and CSV; what was not run says so.

    A run is refused when it was trained or chosen on the test split, or when its split is not the published one.

    Example: gleanseg bench mots

    Example: gleanseg bench left-atrium --labelled 8 --methods supervised llm_segnet --train --protocol honest
    """

    table: tyro.conf.Positional[str]
    """Table: mots; left-atrium, pancreas-ct, brats19; left-atrium-ablation, pancreas-ct-ablation; or a TOML file of
    your own."""
    runs: Path | None = None
    """Folder of run folders. Default: runs/ and the name of the table's benchmark."""
    protocol: str = "paper"
    """paper: measured as the table is, one seed; honest: in mm, where missed and invented structures count, three
    seeds; or the name or TOML file of any protocol."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the JSON and CSV files. Default: that of the runs."""
    labelled: int | None = None
    """Show and train only rows with so many labelled cases. The files hold all rows."""
    methods: tuple[str, ...] = ("all",)
    """Show and train only rows of these methods."""
    train: bool = False
    """First train, predict and evaluate the missing rows, one after the other; unfinished runs continue."""
    only: tuple[str, ...] = ()
    """Rows to train, by id. Default: all that are missing."""
    seeds: tuple[int, ...] | None = None
    """Seeds to train of each row. Default: the protocol's."""
    recipes: Path | None = None
    """Folder of the table's recipes. Default: recipes/ and the name of the table's benchmark."""
    manifest: Path | None = None
    """Manifest to train on. Default: as the recipes say."""
    override: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """table.key=value for all recipes, may be given several times; the results are not the table's settings then."""

    def run(self) -> int:
        """Train what is missing, collect, print and write."""
        from gleanseg.cli.paper_table import show
        from gleanseg.cli.progress import console
        from gleanseg.errors import UserError
        from gleanseg.report.paper_tables import compare_with_paper
        from gleanseg.report.papers import PaperTable

        table = PaperTable.load(self.table)
        rows, runs = self._wanted(table), self._runs(table)
        if self.train:
            self._train(table, rows)
        elif self.runs is not None and not runs.is_dir():
            raise UserError(f"{runs}: no such folder; name the folder of the run folders, or add --train")
        found = compare_with_paper(table, runs, protocol=self._measured(table))
        show(found.only(labelled=self.labelled, methods=self._methods))
        if self.out or runs.is_dir():
            for path in found.save(self.out or runs):
                console.print(f"saved: [bold]{path}[/bold]")
        else:
            console.print(f"[dim]nothing was run in {runs} yet; --train does, --runs names another folder[/dim]")
        return 1 if found.refused else 0

    def _runs(self, table: "PaperTable") -> Path:
        return self.runs or Path("runs") / table.benchmark

    def _measured(self, table: "PaperTable") -> str:
        """The protocol file that our numbers follow."""
        return {"paper": table.protocol, "honest": "default"}.get(self.protocol, self.protocol)

    @property
    def _seeds(self) -> tuple[int, ...]:
        return self.seeds or ((0, 1, 2) if self.protocol == "honest" else (0,))

    @property
    def _methods(self) -> tuple[str, ...]:
        """The chosen methods as they are called in recipes; empty: all."""
        return () if "all" in self.methods else tuple(name.replace("-", "_") for name in self.methods)

    def _wanted(self, table: "PaperTable") -> list["PaperRow"]:
        from gleanseg.errors import UserError, nearest

        counts = sorted({row.labelled for row in table.row if row.labelled is not None})
        if self.labelled is not None and self.labelled not in counts:
            told = f"rows with {' or '.join(map(str, counts))}" if counts else "no rows that hide labels; leave it out"
            raise UserError(f"--labelled {self.labelled}: {table.name} has {told}")
        known = list(dict.fromkeys(table.method(row) for row in table.row))
        if strange := [name for name in self._methods if name not in known]:
            raise UserError(
                f"--methods {strange[0]}: not in {table.name}{nearest(strange[0], known)} ({', '.join(known)})"
            )
        return [
            row
            for row in table.row
            if self.labelled in (None, row.labelled) and (not self._methods or table.method(row) in self._methods)
        ]

    def _train(self, table: "PaperTable", wanted: "Sequence[PaperRow]") -> None:
        from gleanseg.cli.progress import console
        from gleanseg.errors import UserError, nearest
        from gleanseg.report.paper_tables import compare_with_paper

        rows = {row.id: row for row in wanted if row.recipe}
        if strange := [id for id in self.only if id not in rows]:
            raise UserError(f"--only {strange[0]}: no such row to train{nearest(strange[0], rows)} ({', '.join(rows)})")
        if not rows:
            names = ", ".join(dict.fromkeys(table.method(row) for row in table.row if row.recipe))
            raise UserError(f"--train: none of the chosen rows has a recipe (methods with one: {names})")
        runs = self._runs(table)
        found = compare_with_paper(table, runs, protocol=self._measured(table))
        there = {(row.id, run["seed"]) for row in found.rows for run in row.runs}
        todo = [(rows[id], seed) for id in self.only or rows for seed in self._seeds if (id, seed) not in there]
        prepared = [
            (row, seed, self._recipe(table, row, seed)) for row, seed in todo
        ]  # all mistakes before hours of work
        for row, seed, recipe in prepared:
            console.print(f"[bold]{row.name}[/bold], seed {seed}")
            self._one(table, recipe, runs / f"{row.id}-seed{seed}")

    def _recipe(self, table: "PaperTable", row: "PaperRow", seed: int) -> "Recipe":
        from gleanseg.config import Recipe
        from gleanseg.data.manifest import Manifest
        from gleanseg.errors import UserError
        from gleanseg.report.finished import digest_of

        folder = self.recipes or Path("recipes") / table.benchmark
        recipe = Recipe.load(folder / row.recipe, overrides=[*row.overrides(), f"seed={seed}", *self.override])
        if self.manifest is not None:
            recipe = recipe.model_copy(update={"manifest": self.manifest.absolute()})
        if table.split is None:
            return recipe
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

        protocol = Protocol.load(self._measured(table))
        started = (out / "run.json").is_file()
        if not started or Run.open(out).info.get("status") != "finished":
            if not api.is_prepared(recipe):
                with bar("prepare") as progress:
                    api.prepare(recipe, progress=progress)
            with TrainingBar() as watching:
                api.fit(recipe, out=out, resume=started, listener=watching)
        if not result_path(out, protocol).is_file():
            with bar("predict") as progress:
                api.predict(out, split="test", resume=True, progress=progress)
            with bar("evaluate") as progress:
                api.evaluate(out, split="test", protocol=self._measured(table), progress=progress)

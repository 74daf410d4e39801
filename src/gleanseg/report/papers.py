"""Tables of papers as data files: which rows and columns, what was published, and on which split."""

import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from gleanseg.errors import UserError, nearest
from gleanseg.evaluate.protocol import Metric
from gleanseg.strict import Section, validate


class Column(Section):
    """One number of each row."""

    roi: str
    metric: Metric = "dice"
    head: str
    """Short heading; columns side by side with the same ``task`` stand under it."""
    task: str = ""
    train: Annotated[int, Field(ge=0)] = 0
    """Training cases that annotate the ROI, as published; 0: not told."""
    test: Annotated[int, Field(ge=0)] = 0
    """Test cases, as published; 0: not told."""


class Mean(Section):
    """A mean over columns, which must share one metric."""

    id: str
    head: str
    rois: tuple[str, ...] = ()
    """Of the columns; empty: all."""


class PaperRow(Section):
    """A method of the table, how to train it, and what was published for it."""

    id: str
    name: str
    labelled: int | None = None
    """Labelled training cases; rows with the same number are compared with each other. None: all labels are used."""
    match: dict[str, Any] = {}
    """Keys of the recipe and their values by which a run belongs to this row; the row with most keys wins."""
    recipe: str = ""
    """File in the folder of the benchmark's recipes; empty: nothing to train."""
    change: dict[str, Any] = {}
    """Keys that the row changes in that recipe; a run belongs to the row only if it has their values."""
    reference: bool = False
    """Other rows with as many labels are tested against this one."""
    values: tuple[float, ...] = ()
    """Published numbers in the order of the columns, in the paper's units (per cent for overlaps); nan: not told;
    empty: none is."""
    means: dict[str, float] = {}
    """Published means by the id of the mean."""
    protocol: str = ""
    """How the published numbers were made."""

    def overrides(self) -> list[str]:
        """What the row changes in its recipe, as ``Recipe.load`` takes it."""
        changes = self.change if self.labelled is None else {"data.labelled": self.labelled, **self.change}
        return [f"{key}={json.dumps(value)}" for key, value in changes.items()]  # such JSON is TOML, too


class PublishedSplit(Section):
    """SHA-256 of case ids (sorted, as JSON)."""

    train: str
    """Of all training cases, with those that a run holds back for validation."""
    test: str
    labelled: dict[str, str] = {}
    """Number of labelled cases -> of their ids."""


class PaperTable(Section):
    """A table of a paper."""

    name: str
    benchmark: str = ""
    """Table that has the split, and the name of the folder of recipes; empty: the table itself."""
    title: str
    paper: str
    protocol: str
    """Name of the protocol that our numbers are made with."""
    notes: tuple[str, ...] = ()
    split: PublishedSplit | None = None
    """None: the published lists are not known, and runs are checked against each other only."""
    match: dict[str, Any] = {}
    """Of every row, unless its own ``match`` or ``change`` says other."""
    column: tuple[Column, ...]
    mean: tuple[Mean, ...] = ()
    row: tuple[PaperRow, ...]

    @model_validator(mode="after")
    def _fits(self) -> "PaperTable":
        rois = {column.roi for column in self.column}
        for mean in self.mean:
            if strange := sorted(set(mean.rois) - rois):
                raise ValueError(f"mean {mean.id!r}: no column of {strange[0]!r}")
            if len({column.metric for column in self.of_mean(mean)}) != 1:
                raise ValueError(f"mean {mean.id!r}: its columns have several metrics")
        ids = [row.id for row in self.row]
        for row in self.row:
            if ids.count(row.id) > 1:
                raise ValueError(f"row {row.id!r} stands twice; ids must differ")
            if len(row.values) not in (0, len(self.column)):
                raise ValueError(f"row {row.id!r}: {len(row.values)} values for {len(self.column)} columns")
            if strange := sorted(row.means.keys() - {mean.id for mean in self.mean}):
                raise ValueError(f"row {row.id!r}: no mean {strange[0]!r}")
        yardsticks = [row.labelled for row in self.row if row.reference]
        for row in self.row:
            if yardsticks.count(row.labelled) > 1:
                raise ValueError(f"row {row.id!r}: several references with {row.labelled} labelled cases; expected one")
        return self

    def keys(self, row: PaperRow) -> dict[str, Any]:
        """All keys of a recipe, with their values, that make a run one of this row."""
        return {**self.match, **row.match, **row.change}

    def method(self, row: PaperRow) -> str:
        """Name of the row's method; empty when the row does not tell."""
        return str(self.keys(row).get("method.name", ""))

    @property
    def tested_metric(self) -> Metric:
        """On which rows are tested against each other: the first column's."""
        return self.column[0].metric

    @property
    def tested_rois(self) -> tuple[str, ...]:
        """On which rows are tested against each other: those of all columns with that metric."""
        return tuple(dict.fromkeys(c.roi for c in self.column if c.metric == self.tested_metric))

    def of_mean(self, mean: Mean) -> tuple[Column, ...]:
        """The columns that a mean is over."""
        return tuple(c for c in self.column if not mean.rois or c.roi in mean.rois)

    @classmethod
    def load(cls, name: str) -> "PaperTable":
        """A built-in table by name, or one of your own by the path of its TOML file.

        Raises:
            UserError: no such table, not TOML, an unknown key or a bad value.
        """
        table = validate(cls, {"name": Path(name).stem, **cls._read(name)}, where=name)
        if table.split is None and table.benchmark not in ("", table.name):
            other = str(Path(name).with_name(f"{table.benchmark}.toml")) if name.endswith(".toml") else table.benchmark
            split = validate(cls, {"name": other, **cls._read(other)}, where=other).split
            table = table.model_copy(update={"split": split})
        return table.model_copy(update={"benchmark": table.benchmark or table.name})

    @staticmethod
    def _read(name: str) -> dict[str, Any]:
        own = name.endswith(".toml")
        if not own and name not in table_names():
            known = ", ".join(table_names())
            raise UserError(f"no table {name!r}{nearest(name, table_names())} (known: {known}; or give a .toml file)")
        source = Path(name) if own else files("gleanseg.report") / "papers" / f"{name}.toml"
        try:
            return tomllib.loads(source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{name}: no such file; expected a table as TOML") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{name}: not valid TOML: {error}") from None


def table_names() -> list[str]:
    """Names of the built-in tables, sorted."""
    return sorted(
        f.name.removesuffix(".toml")
        for f in (files("gleanseg.report") / "papers").iterdir()
        if f.name.endswith(".toml")
    )

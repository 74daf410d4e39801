"""Tables of papers as data files: which rows and columns, what was published, and on which split."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from gleanseg.config import Section, validate
from gleanseg.errors import UserError, nearest
from gleanseg.evaluate.protocol import Metric


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
    match: dict[str, Any]
    """Keys of the recipe and their values by which a run belongs to this row; the row with most keys wins."""
    recipe: str = ""
    """File in the folder of the table's recipes; empty: nothing to train."""
    override: tuple[str, ...] = ()
    """Changes to that recipe."""
    values: tuple[float, ...] = ()
    """Published numbers in the order of the columns, in the paper's units (per cent for overlaps); empty: unknown."""
    means: dict[str, float] = {}
    """Published means by the id of the mean."""
    protocol: str = ""
    """How the published numbers were made."""


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
    title: str
    paper: str
    protocol: str
    """Name of the protocol that our numbers are made with."""
    notes: tuple[str, ...] = ()
    split: PublishedSplit
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
        return self

    def of_mean(self, mean: Mean) -> tuple[Column, ...]:
        """The columns that a mean is over."""
        return tuple(c for c in self.column if not mean.rois or c.roi in mean.rois)

    @classmethod
    def load(cls, name: str) -> "PaperTable":
        """A built-in table by name, or one of your own by the path of its TOML file.

        Raises:
            UserError: no such table, not TOML, an unknown key or a bad value.
        """
        own = name.endswith(".toml")
        if not own and name not in table_names():
            known = ", ".join(table_names())
            raise UserError(f"no table {name!r}{nearest(name, table_names())} (known: {known}; or give a .toml file)")
        source = Path(name) if own else files("gleanseg.report") / "papers" / f"{name}.toml"
        try:
            raw = tomllib.loads(source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{name}: no such file; expected a table as TOML") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{name}: not valid TOML: {error}") from None
        return validate(cls, {"name": Path(name).stem, **raw}, where=name)


def table_names() -> list[str]:
    """Names of the built-in tables, sorted."""
    return sorted(
        f.name.removesuffix(".toml")
        for f in (files("gleanseg.report") / "papers").iterdir()
        if f.name.endswith(".toml")
    )

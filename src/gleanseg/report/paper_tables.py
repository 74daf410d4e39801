"""Our runs beside a paper's table: the same columns, the protocol of each row, and nothing that was not run."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gleanseg.errors import UserError
from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.statistics import LEVEL, bootstrap_interval
from gleanseg.files import whole
from gleanseg.report.finished import Finished, NotReadyError, read_finished
from gleanseg.report.papers import Mean, PaperTable
from gleanseg.report.results import is_share
from gleanseg.report.versus import Versus, versus
from gleanseg.run.folder import write_text

FORMAT = 1


class Cell(NamedTuple):
    """A number of the table.

    Attributes:
        value: mean over cases, and over seeds; per cent for overlaps; NaN when it is not known.
        low: lower end of its 95 % interval; NaN without one.
        high: upper end.
        over: what the interval is over: seeds (Student's t of their means), or the cases of a single run (bootstrap).
        place: 1 and 2 for the best two of the column among rows of the same source and number of labelled cases.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    over: Literal["seeds", "cases", "nothing"] = "nothing"
    place: int | None = None


NOTHING = Cell(math.nan)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row from one source.

    Attributes:
        id: of the paper's row, or a name of its own.
        name: for people.
        source: the paper, or our runs.
        method: name of the method; empty when the table does not tell.
        labelled: labelled training cases; None: all labels.
        protocol: how its numbers were made.
        cells: by column, then by mean, in the table's order; empty when it was not run.
        runs: where they come from.
        versus: ours tested against other rows of ours.
    """

    id: str
    name: str
    source: Literal["paper", "ours"]
    method: str
    labelled: int | None
    protocol: str
    cells: tuple[Cell, ...]
    runs: tuple[dict[str, Any], ...] = ()
    versus: tuple[Versus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A filled table.

    Attributes:
        table: the paper's.
        protocol: of our numbers.
        rows: the paper's rows, each with ours after it, then runs that no row describes.
        unready: runs that are no row yet, and what they lack.
        refused: runs whose numbers may not stand in the table, and why.
    """

    table: PaperTable
    protocol: Protocol
    rows: tuple[TableRow, ...]
    unready: tuple[str, ...]
    refused: tuple[str, ...]

    def only(self, *, labelled: int | None = None, methods: Sequence[str] = ()) -> "Comparison":
        """The same with fewer rows; places and tests stay those of the whole table.

        Args:
            labelled: number of labelled cases; None: any.
            methods: names; empty: all.
        """
        rows = (r for r in self.rows if labelled in (None, r.labelled) and (not methods or r.method in methods))
        return replace(self, rows=tuple(rows))

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of the paper's rows that have no run."""
        return tuple(row.id for row in self.rows if row.source == "ours" and not row.cells)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``<table>.json`` and ``<table>.csv`` (one line per number)."""
        paths = folder / f"{self.table.name}.json", folder / f"{self.table.name}.csv"
        write_text(paths[0], json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        with whole(paths[1]) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self._lines())
        return paths

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON's types; what is not known is null."""
        table = self.table
        return {
            "gleanseg": FORMAT,
            "table": table.name,
            "benchmark": table.benchmark,
            "title": table.title,
            "paper": table.paper,
            "notes": list(table.notes),
            "protocol": {"name": self.protocol.name, "sha256": self.protocol.digest()},
            "split": table.split.model_dump() if table.split else None,
            "columns": [column.model_dump() for column in table.column],
            "means": [mean.model_dump() for mean in table.mean],
            "confidence": LEVEL,
            "rows": [
                {
                    "id": row.id, "name": row.name, "source": row.source, "method": row.method,
                    "labelled": row.labelled, "protocol": row.protocol,
                    "run": bool(row.cells) if row.source == "ours" else None,
                    "cells": [{k: _plain(v) for k, v in cell._asdict().items()} for cell in row.cells],
                    "versus": [
                        {"verdict": test.verdict, **{k: _plain(v) for k, v in test._asdict().items()}}
                        for test in row.versus
                    ],
                    "runs": list(row.runs),
                }
                for row in self.rows
            ],
            "unready": list(self.unready),
            "refused": list(self.refused),
        }  # fmt: skip

    def _lines(self) -> list[list[object]]:
        names = [(c.roi, c.metric) for c in self.table.column]
        names += [(m.id, self.table.of_mean(m)[0].metric) for m in self.table.mean]
        head = [
            "row",
            "source",
            "labelled",
            "protocol",
            "roi",
            "metric",
            "value",
            "low",
            "high",
            "over",
            "seeds",
            "place",
        ]
        lines: list[list[object]] = [list(head)]
        for row in self.rows:
            for (roi, metric), cell in zip(names, row.cells, strict=bool(row.cells)):
                numbers = [cell.value, cell.low, cell.high]
                start: list[object] = [row.id, row.source, row.labelled, row.protocol, roi, metric]
                end: list[object] = [cell.over, len(row.runs), cell.place]
                lines.append([*start, *("" if math.isnan(n) else repr(n) for n in numbers), *end])
        return lines


def compare_with_paper(table: PaperTable, runs: Path, *, protocol: str | None = None) -> Comparison:
    """Collect the runs of a folder into a paper's table.

    Args:
        table: the paper's.
        runs: folder of run folders, at most two levels deep; may be missing, then nothing was run.
        protocol: name of the protocol of our numbers; default: the table's.

    Raises:
        UserError: no such protocol.
    """
    chosen = Protocol.load(protocol or table.protocol)
    finished: list[Finished] = []
    unready, refused = [], []
    for path in find_runs(runs):
        try:
            run = read_finished(path, table, chosen)
            _check_seeds(run, finished)
            if table.split is None:
                _check_cases(run, finished)
            finished.append(run)
        except NotReadyError as error:
            unready.append(str(error))
        except UserError as error:
            refused.append(str(error))
    groups: dict[str, list[Finished]] = {}
    for run in finished:
        groups.setdefault(run.row, []).append(run)
    rows = _ranked(_rows(groups, table, chosen), table)
    return Comparison(table=table, protocol=chosen, rows=rows, unready=tuple(unready), refused=tuple(refused))


def _rows(groups: Mapping[str, Sequence[Finished]], table: PaperTable, protocol: Protocol) -> list[TableRow]:
    levels = {
        row: _cell([run.evaluation for run in runs], table.tested_rois, table.tested_metric).value
        for row, runs in groups.items()
    }
    tests = versus(groups, table, levels=levels)
    rows: list[TableRow] = []
    for row in table.row:
        common: dict[str, Any] = {
            "id": row.id, "name": row.name, "method": table.method(row), "labelled": row.labelled
        }  # fmt: skip
        if row.values or row.means:
            paper = [Cell(v) for v in row.values] or [NOTHING] * len(table.column)
            paper += [Cell(row.means.get(mean.id, math.nan)) for mean in table.mean]
            rows.append(TableRow(**common, source="paper", protocol=row.protocol, cells=tuple(paper)))
        ours = _of(groups.get(row.id, ()), table)
        rows.append(TableRow(**common, source="ours", protocol=protocol.name, **ours, versus=tests.get(row.id, ())))
    for name in [name for name in groups if name not in {row.id for row in table.row}]:
        ours, first = _of(groups[name], table), groups[name][0]
        common = {"id": name, "name": name, "method": first.method, "labelled": first.labelled}
        rows.append(TableRow(**common, source="ours", protocol=protocol.name, **ours, versus=tests[name]))
    return rows


def find_runs(folder: Path) -> list[Path]:
    """Run folders in a folder, sorted; the folder itself may be one."""
    found = {path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}run.json")}
    return sorted(found)


def _check_seeds(run: Finished, others: Sequence[Finished]) -> None:
    for other in others:
        if other.row == run.row and other.settings != run.settings:
            raise UserError(
                f"{run.path}: belongs to row {run.row!r} as {other.path} does, but its recipe differs in more than the"
                " seed; keep one of them in the folder"
            )
        if other.row == run.row and other.seed == run.seed:
            raise UserError(f"{run.path}: repeats seed {run.seed} of {other.path}; keep one of them in the folder")


def _check_cases(run: Finished, others: Sequence[Finished]) -> None:
    """Where the published lists are not known, runs must at least share their cases."""
    same = {"test_sha256": others, "train_sha256": others}
    same["labelled_sha256"] = [o for o in others if o.labelled is not None and o.labelled == run.labelled]
    for key, compared in same.items():
        if compared and compared[0].record[key] != run.record[key]:
            raise UserError(
                f"{run.path}: its {key.removesuffix('_sha256')} cases are others than those of {compared[0].path};"
                " train both on one manifest, with the same labelled cases"
            )


def _of(runs: Sequence[Finished], table: PaperTable) -> dict[str, Any]:
    """Cells and origins of a row of ours; no cells without a run."""
    if not runs:
        return {"cells": (), "runs": ()}
    evaluations = [run.evaluation for run in runs]
    cells = [_cell(evaluations, (column.roi,), column.metric) for column in table.column]
    cells += [_mean_cell(evaluations, table, mean) for mean in table.mean]
    return {"cells": tuple(cells), "runs": tuple(run.record for run in runs)}


def _mean_cell(evaluations: Sequence[Evaluation], table: PaperTable, mean: Mean) -> Cell:
    columns = table.of_mean(mean)
    return _cell(evaluations, tuple(column.roi for column in columns), columns[0].metric)


def _cell(evaluations: Sequence[Evaluation], rois: tuple[str, ...], metric: str) -> Cell:
    """Mean over ROIs of the means over cases; NaN when a seed does not define one of the ROIs."""
    if any(metric not in e.metrics or not set(rois) <= set(e.rois) for e in evaluations):
        return NOTHING
    scale = 100.0 if is_share(metric) else 1.0
    values = [scale * e.values(metric)[:, [e.rois.index(roi) for roi in rois]] for e in evaluations]
    if any(np.isnan(v).all(axis=0).any() for v in values):
        return NOTHING
    intervals = [bootstrap_interval(v) for v in values]
    if len(intervals) == 1:
        only = intervals[0]
        return Cell(only.mean, only.low, only.high, "nothing" if math.isnan(only.low) else "cases")
    return over_seeds([interval.mean for interval in intervals])


def over_seeds(means: Sequence[float]) -> Cell:
    """Mean of the seeds' means and its interval by Student's t; seeds are few, so that a bootstrap would be too narrow.

    Args:
        means: one per seed, at least two.
    """
    from scipy.stats import t  # slow to import, and needed with several seeds alone

    n, mean = len(means), float(np.mean(means))
    half = float(t.ppf(0.5 + LEVEL / 2, n - 1) * np.std(means, ddof=1) / math.sqrt(n))
    return Cell(mean, mean - half, mean + half, "seeds")


def _ranked(rows: Sequence[TableRow], table: PaperTable) -> tuple[TableRow, ...]:
    """The rows with the best two of each column marked, ours and the paper's apart: their protocols differ."""
    metrics = [column.metric for column in table.column] + [table.of_mean(m)[0].metric for m in table.mean]
    ranked = {position: list(row.cells) for position, row in enumerate(rows)}
    for source, labelled in dict.fromkeys((row.source, row.labelled) for row in rows):
        block = [p for p, r in enumerate(rows) if (r.source, r.labelled) == (source, labelled) and r.cells]
        for c, metric in enumerate(metrics):
            values = {p: ranked[p][c].value for p in block if not math.isnan(ranked[p][c].value)}
            best = sorted(set(values.values()), reverse=is_share(metric))[:2]
            for p, value in values.items():
                if value in best and len(values) > 1:
                    ranked[p][c] = ranked[p][c]._replace(place=best.index(value) + 1)
    return tuple(TableRow(**{**row.__dict__, "cells": tuple(ranked[position])}) for position, row in enumerate(rows))


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The result of an evaluation: rows, what they sum up to, and where they came from."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.errors import UserError, nearest
from gleanseg.evaluate.protocol import DISTANCES
from gleanseg.evaluate.scores import VOLUMES, Row
from gleanseg.evaluate.statistics import LEVEL, Interval, PairedTest, bootstrap_interval, credited, paired_test
from gleanseg.files import remove_parts, whole
from gleanseg.reading import read_json

FORMAT = 1


class RoiSummary(NamedTuple):
    """One ROI over the cases in which it is known.

    Attributes:
        metrics: mean over cases with its interval; ``num`` says how many values are defined.
        cases: in which the ROI is known; the other counts are parts of it.
        both_empty: not there and not predicted.
        missed: there, but nothing was predicted.
        false_positives: not there, but something was predicted.
        false_positive_ml: mean volume predicted over the cases where the ROI is not there; NaN when it always is.
    """

    metrics: dict[str, Interval]
    cases: int
    both_empty: int
    missed: int
    false_positives: int
    false_positive_ml: float


class Summary(NamedTuple):
    """All ROIs.

    Attributes:
        rois: one entry per ROI that was scored.
        mean: mean over cases per ROI, then over ROIs, with an interval over cases.
    """

    rois: dict[str, RoiSummary]
    mean: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Rows and their provenance.

    Attributes:
        protocol: name of the protocol.
        protocol_digest: SHA-256 of its decisive fields.
        metrics: the protocol's, in order.
        unit: of distances, ``mm`` or ``voxel``.
        manifest: name of the manifest.
        manifest_digest: SHA-256 of it.
        split: of the manifest.
        split_digest: SHA-256 of the split's case ids, sorted.
        predictions: folder that was scored.
        predictions_digest: SHA-256 of its ``labels.json``, or of the values that stood in for it.
        created: UTC time, ISO 8601.
        version: of gleanseg.
        rows: one per (case, ROI, metric); known ROIs only.
        missing: cases without a prediction (only where that was allowed); they are in no mean.
        unscored: cases in which no ROI that was predicted is known.
        not_predicted: ROIs of the manifest that the predictions do not hold; they are in no mean.
        skipped_absent: (case, ROI) pairs that the protocol leaves out because the ROI is absent.
    """

    protocol: str
    protocol_digest: str
    metrics: tuple[str, ...]
    unit: str
    manifest: str
    manifest_digest: str
    split: str
    split_digest: str
    predictions: str
    predictions_digest: str
    created: str
    version: str
    rows: tuple[Row, ...]
    missing: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()
    not_predicted: tuple[str, ...] = ()
    skipped_absent: int = 0

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Ids of the scored cases, in order."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @cached_property
    def rois(self) -> tuple[str, ...]:
        """Ids of the scored ROIs, in order."""
        return tuple(dict.fromkeys(row.roi for row in self.rows))

    def values(self, metric: str) -> NDArray[np.float64]:
        """Cases x ROIs of one metric, in the order of ``cases`` and ``rois``; NaN where undefined or unknown.

        Raises:
            UserError: the protocol does not have this metric.
        """
        return self._tables[self._checked(metric)].copy()

    @cached_property
    def summary(self) -> Summary:
        """Means, intervals and counts; the same rows always give the same intervals."""
        rois = {roi: self._of_roi(r) for r, roi in enumerate(self.rois)}
        return Summary(rois, {m: bootstrap_interval(self._tables[m]) for m in self.metrics})

    def save(self, path: Path) -> None:
        """Write everything as JSON (NaN as null), complete or not at all."""
        head: dict[str, Any] = {k: v for k, v in asdict(self).items() if k != "rows"}
        rows = ",\n".join("  " + json.dumps([*row[:3], _plain(row.value)], ensure_ascii=False) for row in self.rows)
        data = {"gleanseg": FORMAT, **head, "confidence": LEVEL, "summary": _plain(self.summary)}
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        _write(path, f'{text[: text.rindex("}")].rstrip()},\n "rows": [\n{rows}\n ]\n}}\n')

    def save_csv(self, path: Path) -> None:
        """Write the rows as CSV: case, roi, metric, value; undefined values are empty."""
        with _complete(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows((*row[:3], "" if math.isnan(row.value) else repr(row.value)) for row in self.rows)

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what ``save`` wrote; the summary is made anew from the rows.

        Raises:
            UserError: missing file, or not an evaluation.
        """
        try:
            data = read_json(Path(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such evaluation; make one with 'gleanseg evaluate'") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not JSON ({error}); evaluate again") from None
        if not isinstance(data, dict) or data.get("gleanseg") != FORMAT or "rows" not in data:
            raise UserError(f"{path}: not an evaluation of this version of gleanseg; evaluate again")
        rows = tuple(Row(c, r, m, float("nan") if v is None else float(v)) for c, r, m, v in data["rows"])
        head: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in cls.__dataclass_fields__
        }
        return cls(**{**head, "rows": rows})

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.float64]]:
        case_of = {case: c for c, case in enumerate(self.cases)}
        roi_of = {roi: r for r, roi in enumerate(self.rois)}
        empty = np.full((len(case_of), len(roi_of)), np.nan)
        tables = {metric: empty.copy() for metric in (*self.metrics, *VOLUMES)}
        for row in self.rows:
            tables[row.metric][case_of[row.case], roi_of[row.roi]] = row.value
        return tables

    def _of_roi(self, r: int) -> RoiSummary:
        reference, prediction = (self._tables[volume][:, r] for volume in VOLUMES)
        known = np.isfinite(reference)
        empty = known & (reference == 0)
        return RoiSummary(
            metrics={m: bootstrap_interval(self._tables[m][:, r : r + 1]) for m in self.metrics},
            cases=int(known.sum()),
            both_empty=int((empty & (prediction == 0)).sum()),
            missed=int(((reference > 0) & (prediction == 0)).sum()),
            false_positives=int((empty & (prediction > 0)).sum()),
            false_positive_ml=float(prediction[empty].mean()) if empty.any() else float("nan"),
        )

    def _checked(self, metric: str) -> str:
        if metric not in self._tables:
            known = ", ".join((*self.metrics, *VOLUMES))
            raise UserError(f"protocol {self.protocol}: no metric {metric!r}{nearest(metric, self._tables)} ({known})")
        return metric


def compare(
    a: Evaluation | Sequence[Evaluation],
    b: Evaluation | Sequence[Evaluation],
    *,
    metric: str = "dice",
    rois: Sequence[str] | None = None,
    seed: int = 0,
) -> PairedTest:
    """Test whether ``a`` scores other than ``b``; each is one evaluation, or one per training seed.

    All must be made with one protocol on the same split; pairs (case, ROI) that only some of them hold are left out.
    Where the structure is absent and one side finds something while the other rightly does not, the latter counts as
    perfect (Dice 1, distance 0). ``rois`` are those that count; default: all.

    Raises:
        UserError: protocols or splits differ, or there is nothing in common.
    """
    groups = [[e] if isinstance(e, Evaluation) else list(e) for e in (a, b)]
    everything = [e for group in groups for e in group]
    if not all(groups):
        raise UserError("compare: each side needs at least one evaluation")
    first = everything[0]
    for other in everything[1:]:
        if other.protocol_digest != first.protocol_digest:
            raise UserError(f"compare: protocols differ ({first.protocol}, {other.protocol}); evaluate with one")
        if other.split_digest != first.split_digest:
            raise UserError(
                f"compare: the cases of {first.predictions} and {other.predictions} differ; evaluate one split"
            )
    cases = tuple(dict.fromkeys(c for e in everything for c in e.cases))
    held = dict.fromkeys(r for e in everything for r in e.rois)
    rois = tuple(r for r in held if rois is None or r in rois)
    stacks = [np.stack([_aligned(e, e.values(metric), cases, rois) for e in group]) for group in groups]
    nothing = [np.stack([_aligned(e, _nothing(e), cases, rois) == 1 for e in group]) for group in groups]
    perfect = 0.0 if metric in DISTANCES else 1.0
    try:
        return paired_test(*credited(stacks[0], stacks[1], (nothing[0], nothing[1]), perfect=perfect), seed=seed)
    except ValueError as error:
        raise UserError(f"compare: {error}") from None


def _aligned(
    evaluation: Evaluation, values_CR: NDArray[np.float64], cases: Sequence[str], rois: Sequence[str]
) -> NDArray[np.float64]:
    table = np.full((len(cases), len(rois)), np.nan)
    wanted = [roi for roi in evaluation.rois if roi in rois]
    c, r = [cases.index(x) for x in evaluation.cases], [rois.index(x) for x in wanted]
    table[np.ix_(c, r)] = values_CR[:, [evaluation.rois.index(x) for x in wanted]]
    return table


def _nothing(evaluation: Evaluation) -> NDArray[np.float64]:
    """1 where neither reference nor prediction has a voxel."""
    empty: NDArray[np.bool_] = (evaluation.values("reference_ml") == 0) & (evaluation.values("prediction_ml") == 0)
    return empty.astype(np.float64)


def _plain(value: Any) -> Any:
    """JSON's types: named tuples become objects, NaN becomes null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    with _complete(path) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when all is written; those of killed processes are removed."""
    try:
        remove_parts(path)
        with whole(path) as part:
            yield part
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); free disk space or change rights") from None

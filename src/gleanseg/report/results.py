"""What the report needs of an evaluation; the only place that knows how evaluations are stored."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.protocol import Empty, Protocol, protocol_names
from gleanseg.evaluate.scores import VOLUMES
from gleanseg.evaluate.statistics import LEVEL
from gleanseg.report.markup import when

SPLITS = ("test", "validation", "train")
"""The order in which splits are looked for and shown."""
_ORDER = ("dice", "nsd", "hd95", "assd", "asd", "jaccard")
_SHOWN = {"dice": "Dice", "nsd": "NSD", "hd95": "HD95", "assd": "ASSD", "asd": "ASD", "jaccard": "Jaccard"}
_SHARES = frozenset({"dice", "nsd", "jaccard"})


class Estimate(NamedTuple):
    """Mean over cases with its bootstrap interval; NaN where nothing is defined."""

    mean: float
    low: float
    high: float


NOTHING = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Results:
    """One evaluated split.

    Attributes:
        split: name of the split.
        protocol: name of the protocol that scored it.
        units: unit of the distances, ``mm`` or ``voxel``.
        confidence: of the intervals, e.g. 0.95.
        scores: (case, roi, metric) -> value; a missing key is an unknown ROI, NaN is undefined.
        estimates: (roi, metric) -> mean and interval.
        overall: metric -> mean over ROIs and interval.
        both_empty: ROI -> cases where reference and prediction are empty.
        missed: ROI -> cases where it is there and nothing was predicted.
        false_positives: ROI -> cases where it is not there and something was predicted.
        left_out: what is in no mean, in words.
        details: further facts for the last section, in words.
    """

    split: str
    protocol: str
    units: str
    confidence: float
    scores: dict[tuple[str, str, str], float]
    estimates: dict[tuple[str, str], Estimate]
    overall: dict[str, Estimate]
    both_empty: dict[str, int]
    missed: dict[str, int]
    false_positives: dict[str, int]
    left_out: tuple[str, ...]
    details: dict[str, str]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that were scored, the telling ones first."""
        found = {metric for _, _, metric in self.scores}.difference(VOLUMES)
        return (*(m for m in _ORDER if m in found), *sorted(found.difference(_ORDER)))

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Case ids, worst mean Dice first; cases without a defined value last."""
        return tuple(sorted({case for case, _, _ in self.scores}, key=lambda c: (_nan_last(self.case_mean(c)), c)))

    @cached_property
    def rois(self) -> tuple[str, ...]:
        """ROIs that were scored in at least one case, in the order of the rows."""
        return tuple(dict.fromkeys(roi for _, roi, _ in self.scores))

    @cached_property
    def main(self) -> str:
        """The metric of the headline."""
        return self.metrics[0] if self.metrics else "dice"

    def value(self, case: str, roi: str, metric: str) -> float | None:
        """A score; None when the ROI is unknown in the case."""
        return self.scores.get((case, roi, metric))

    def volumes_ml(self, case: str, roi: str) -> tuple[float, float] | None:
        """Volume of the reference and of the prediction, where they were measured."""
        reference, prediction = (self.scores.get((case, roi, volume)) for volume in VOLUMES)
        return None if reference is None or prediction is None else (reference, prediction)

    def values(self, roi: str, metric: str) -> list[float]:
        """All scores of an ROI, one per case that knows it."""
        return [v for (_, r, m), v in self.scores.items() if r == roi and m == metric]

    def case_mean(self, case: str, metric: str | None = None) -> float:
        """Mean over the ROIs of a case; NaN when none is defined."""
        return mean(self._of_case.get((case, metric or self.main), ()))

    def worst_rois(self, case: str) -> list[str]:
        """ROIs of a case with a defined main score, worst first."""
        found = {roi: self.value(case, roi, self.main) for roi in self.rois}
        defined = {roi: v for roi, v in found.items() if v is not None and not math.isnan(v)}
        return sorted(defined, key=lambda roi: defined[roi] * (1 if is_share(self.main) else -1))

    @cached_property
    def _of_case(self) -> dict[tuple[str, str], list[float]]:
        grouped: dict[tuple[str, str], list[float]] = {}
        for (case, _, metric), value in self.scores.items():
            grouped.setdefault((case, metric), []).append(value)
        return grouped


def mean(values: Iterable[float]) -> float:
    """Mean of the defined values; NaN without any."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan


def is_share(metric: str) -> bool:
    """Whether the metric lies in [0, 1] and more is better."""
    return metric in _SHARES


def metric_name(metric: str) -> str:
    """How a metric is written in a heading."""
    return _SHOWN.get(metric, metric)


def digits(metric: str) -> int:
    """Decimals that make sense for the metric."""
    return 3 if is_share(metric) else 2


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def find_results(run: Path) -> list[Results]:
    """All evaluations of a run, the test split and the default protocol first.

    Raises:
        UserError: a file is damaged.
    """
    found = [load_results(path) for path in sorted((run / "evaluation").glob("*.json"))]
    return sorted(found, key=lambda results: _place(results.split, results.protocol))


def _place(split: str, protocol: str) -> tuple[int, str, bool, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split, protocol != "default", protocol)


def load_results(path: Path) -> Results:
    """Read one evaluation file.

    Raises:
        UserError: not an evaluation, or damaged.
    """
    evaluation = Evaluation.load(path)
    summary = evaluation.summary
    return Results(
        split=evaluation.split,
        protocol=evaluation.protocol,
        units="voxels" if evaluation.unit == "voxel" else evaluation.unit,
        confidence=LEVEL,
        scores={(row.case, row.roi, row.metric): row.value for row in evaluation.rows},
        estimates={
            (roi, metric): Estimate(interval.mean, interval.low, interval.high)
            for roi, of_roi in summary.rois.items()
            for metric, interval in of_roi.metrics.items()
        },
        overall={metric: Estimate(i.mean, i.low, i.high) for metric, i in summary.mean.items()},
        both_empty={roi: of_roi.both_empty for roi, of_roi in summary.rois.items()},
        missed={roi: of_roi.missed for roi, of_roi in summary.rois.items()},
        false_positives={roi: of_roi.false_positives for roi, of_roi in summary.rois.items()},
        left_out=_left_out(evaluation),
        details=_details(evaluation),
    )


def _left_out(evaluation: Evaluation) -> tuple[str, ...]:
    told = []
    if evaluation.missing:
        told.append(f"{_some(evaluation.missing)}: no prediction, in no mean.")
    if evaluation.unscored:
        told.append(f"{_some(evaluation.unscored)}: nothing that was predicted is known there, in no mean.")
    if evaluation.not_predicted:
        told.append(f"{_some(evaluation.not_predicted)}: in the manifest, but not predicted; in no mean.")
    if evaluation.skipped_absent:
        told.append(f"{evaluation.skipped_absent} case and ROI pairs: absent, which this protocol does not score.")
    return tuple(told)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _details(evaluation: Evaluation) -> dict[str, str]:
    told = {
        "Evaluated": f"{when(evaluation.created)}, gleanseg {evaluation.version}",
        "Predictions": evaluation.predictions,
    }
    if evaluation.protocol in protocol_names():
        protocol = Protocol.load(evaluation.protocol)
        if protocol.digest() == evaluation.protocol_digest:
            of = (
                "pooled over both directions" if protocol.percentile_of == "pooled" else "the larger of both directions"
            )
            tolerance = protocol.nsd_tolerance
            told |= {
                "Definition": protocol.summary,
                "HD95": f"{protocol.percentile:g}th percentile of surface distances, {of}",
                "ASD": f"from the {protocol.asd_from}'s surface",
                "NSD tolerance": "each ROI's own (ontology)" if tolerance == "ontology" else f"{tolerance:g}",
                "Both masks empty": _worth(protocol.both_empty),
                "Prediction empty": _worth(protocol.prediction_empty),
                "Reference empty": _worth(protocol.reference_empty),
            }
        else:
            told["Definition"] = "this protocol has changed since; evaluate again to compare with newer results"
    digests = {"Protocol": evaluation.protocol_digest, "Split": evaluation.split_digest}
    digests |= {"Manifest": evaluation.manifest_digest, "Labels": evaluation.predictions_digest}
    return told | {f"{name} SHA-256": digest for name, digest in digests.items()}


def _worth(empty: Empty) -> str:
    distance = {"undefined": "undefined", "diagonal": "the image's diagonal"}.get(str(empty.distance), empty.distance)
    overlap = empty.overlap if isinstance(empty.overlap, str) else f"{empty.overlap:g}"
    return f"overlap {overlap}, distance {distance}"

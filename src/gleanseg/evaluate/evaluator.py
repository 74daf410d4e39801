"""Score a folder of predictions against what is known of a split: known ROIs only, on the native grid."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from gleanseg import __version__
from gleanseg.data import images
from gleanseg.data.labels import read_labels
from gleanseg.data.manifest import Case, Manifest, Split, State
from gleanseg.errors import UserError, names_memory
from gleanseg.evaluate.evaluation import Evaluation, RoiSummary, Summary, compare
from gleanseg.evaluate.labels import Labels, Layer
from gleanseg.evaluate.predictions import Predictions, Values
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import Row, score_case, score_masks
from gleanseg.types import ProgressBar

__all__ = ["Evaluation", "RoiSummary", "Row", "Summary", "compare", "evaluate_folder", "score_case", "score_masks"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def evaluate_folder(
    manifest: Manifest,
    predictions: Path,
    *,
    split: Split = "test",
    protocol: str | Path | Protocol = "default",
    values: Values | None = None,
    allow_missing: bool = False,
    num_workers: int | None = None,
    progress: ProgressBar | None = None,
) -> Evaluation:
    """Score every case of a split.

    Args:
        manifest: says what is known of each case, and where its labels are.
        predictions: folder written by ``gleanseg predict``, or label maps ``<case>.nii.gz`` of another tool.
        split: cases to score.
        protocol: name, TOML file, or the protocol itself.
        values: what label maps of another tool hold, value -> ROIs; None reads the folder's ``labels.json``.
        allow_missing: report cases without a prediction in ``Evaluation.missing`` and leave them out of all means.
        num_workers: cases at a time, each in memory; None: one per core, at most 8.
        progress: called with (done, total, case).

    Returns:
        One row per (case, known ROI, metric), and where it all came from.

    Raises:
        UserError: no case in the split or none to score, a prediction that is missing, broken, on another grid or
            with values that mean nothing, or no ROI in common.
    """
    chosen = protocol if isinstance(protocol, Protocol) else Protocol.load(protocol)
    ontology = manifest.ontology()
    held = Predictions.open(predictions, ontology=ontology, wanted=manifest.rois, values=values)
    cases = [case for case in manifest.cases if case.split == split]
    if not cases:
        raise UserError(f"{manifest.name}: no case with split = {split!r} to evaluate")
    predicted = [roi for roi in manifest.rois if roi in held.rois]
    known = {case.id: _known(manifest, case, predicted, chosen) for case in cases}
    scored, missing = _with_predictions([case for case in cases if known[case.id]], held, split, allow_missing)
    tolerance_mm = {roi: ontology[roi].tolerance_mm for roi in predicted}
    workers = num_workers or min(8, os.cpu_count() or 1)

    def score(case: Case) -> list[Row]:
        threads = max(1, workers // len(scored))
        with names_memory(f"case {case.id!r}", "use fewer --num-workers"):
            return _score_one(manifest, case, held, known[case.id], chosen, tolerance_mm, threads)

    rows: list[Row] = []
    for done, (case, found) in enumerate(_in_order(score, scored, min(workers, len(scored))), start=1):
        rows += found
        if progress is not None:
            progress(done, len(scored), case.id)
    everything = sum(len(_known(manifest, case, predicted, None)) for case in scored)
    return Evaluation(
        protocol=chosen.name,
        protocol_digest=chosen.digest(),
        metrics=tuple(chosen.metrics),
        unit=chosen.unit,
        manifest=manifest.name,
        manifest_digest=manifest.digest(),
        split=split,
        split_digest=hashlib.sha256(json.dumps(sorted(case.id for case in cases)).encode()).hexdigest(),
        predictions=str(predictions),
        predictions_digest=held.digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        rows=tuple(rows),
        missing=missing,
        unscored=tuple(case.id for case in cases if not known[case.id]),
        not_predicted=tuple(roi for roi in manifest.rois if roi not in held.rois),
        skipped_absent=everything - sum(len(known[case.id]) for case in scored),
    )


def _with_predictions(
    cases: list[Case], held: Predictions, split: Split, allow_missing: bool
) -> tuple[list[Case], tuple[str, ...]]:
    """The cases that can be scored, and the ids of those without a prediction."""
    missing = tuple(case.id for case in cases if not held.files(case.id))
    if missing and not allow_missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{held.folder}: no prediction of case {missing[0]!r}{more} (of {len(cases)}); expected "
            f"{missing[0]}.nii.gz; predict them, or leave them out with --allow-missing"
        )
    if len(missing) == len(cases):
        reason = "every prediction is missing" if missing else "no ROI that was predicted is known in any case"
        raise UserError(f"{held.folder}: nothing to evaluate in split {split!r}: {reason}")
    return [case for case in cases if case.id not in missing], missing


def _known(manifest: Manifest, case: Case, rois: Sequence[str], protocol: Protocol | None) -> list[str]:
    """The ROIs that a protocol scores in a case; without a protocol all known ones."""
    states = manifest.states(case)
    unscored = {State.UNKNOWN, State.ABSENT} if protocol and protocol.absent == "skip" else {State.UNKNOWN}
    return [roi for roi in rois if states[roi] not in unscored]


def _score_one(
    manifest: Manifest,
    case: Case,
    held: Predictions,
    rois: list[str],
    protocol: Protocol,
    tolerance_mm: dict[str, float],
    num_workers: int,
) -> list[Row]:
    reference = read_labels(manifest, case)
    if reference is None:
        grid, _ = images.read_grid(manifest.path(case.images[0]), spacing_mm=case.spacing_mm)
        true, valid = Labels([], rois=manifest.rois, shape_ZYX=grid.shape_ZYX), None
    else:
        grid, valid = reference.grid, reference.valid
        true = Labels([Layer(reference.codes, reference.table)], rois=manifest.rois, shape_ZYX=grid.shape_ZYX)
    return score_case(
        case.id,
        held.read(case.id, grid),
        true,
        rois,
        spacing_ZYX_mm=grid.spacing_ZYX_mm,
        protocol=protocol,
        tolerance_mm=tolerance_mm,
        valid_ZYX=valid,
        num_workers=num_workers,
    )


def _in_order(work: Callable[[Item], Result], items: list[Item], num_workers: int) -> Iterator[tuple[Item, Result]]:
    """Results in the order of the items; never more than ``num_workers`` under way, and none after an error."""
    if num_workers == 1:
        for item in items:
            yield item, work(item)
        return
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > num_workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

"""Dice on the validation split during training, on prepared volumes; the test split is out of reach."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from gleanseg.data.selection import Selection
from gleanseg.data.store import Store
from gleanseg.evaluate.overlap import dice_counts
from gleanseg.predict.predictor import Predictor


class Validation(NamedTuple):
    """How good a method is on the validation cases; higher is better.

    Attributes:
        scores: by ROI; NaN where no case tells. Dice: its mean over cases in which the ROI is known and present.
        mean: over the ROIs with a value.
        metric: ``dice``, or ``auroc`` of a classifier.
    """

    scores: dict[str, float]
    mean: float
    metric: str = "dice"


def validate(
    predictor: Predictor,
    store: Store,
    selection: Selection,
    *,
    fabric: Fabric,
    poll: Callable[[], None],
    between: Callable[[], None],
) -> Validation:
    """Segment this rank's share of the validation cases and join the scores of all ranks.

    Args:
        predictor: networks in evaluation mode.
        store: prepared volumes.
        selection: roles and ROIs.
        fabric: joins the ranks.
        poll: called between windows; may raise to stop.
        between: called by all ranks together before each of them turns to a case; may raise on all of them.
    """
    cases = selection.validation
    scores = np.zeros((len(cases), len(selection.rois)))
    counts = np.zeros_like(scores)
    for first in range(0, len(cases), fabric.world_size):
        between()
        i = first + fabric.global_rank
        if i >= len(cases):
            break
        stored = store.case(cases[i].id)
        image, codes = stored.read((0, 0, 0), stored.grid.shape_ZYX)
        prediction = predictor.segment_prepared(np.asarray(image, dtype=np.float32), poll=poll)
        table = stored.table[:, selection.columns]
        valid = np.ones(codes.shape, dtype=np.bool_) if stored.ignore_code is None else codes != stored.ignore_code
        for r in np.flatnonzero(cases[i].known):
            reference = table[codes, r] & valid
            if reference.any():
                masks = prediction.mask(selection.rois[r])[None], reference[None]
                ((twice_common, total),) = dice_counts(*masks, valid_ZYX=valid)
                scores[i, r], counts[i, r] = twice_common / total, 1
    return _summary(_joined(scores, fabric), _joined(counts, fabric), selection.rois)


def _joined(array: NDArray[np.float64], fabric: Fabric) -> NDArray[np.float64]:
    if fabric.world_size == 1:
        return array
    summed = fabric.all_reduce(torch.from_numpy(array).to(fabric.device), reduce_op="sum")
    assert isinstance(summed, torch.Tensor)
    joined: NDArray[np.float64] = summed.cpu().numpy()
    return joined


def _summary(scores: NDArray[np.float64], counts: NDArray[np.float64], rois: Sequence[str]) -> Validation:
    told = counts.sum(0)
    dice = np.where(told > 0, scores.sum(0) / np.maximum(told, 1), np.nan)
    mean = float(dice[told > 0].mean()) if (told > 0).any() else float("nan")
    return Validation({roi: float(value) for roi, value in zip(rois, dice, strict=True)}, mean)

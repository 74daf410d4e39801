"""Dice and Jaccard from counts; fast enough to run inside training.

Axes: Z Y X voxels, V values of a label map, R ROIs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gleanseg.evaluate.labels import Layer

_SLAB = 1 << 21  # voxels counted at a time, so that the joint index stays small


def dice(intersection: int, total: int, *, plus: float = 0.0) -> float:
    """``2 * intersection / (total + plus)``, where ``total`` is the sum of both masks' sizes; NaN for 0 / 0."""
    return 2 * intersection / (total + plus) if total + plus else float("nan")


def jaccard(intersection: int, total: int) -> float:
    """Intersection over union, where ``total`` is the sum of both masks' sizes; NaN when both are empty."""
    return intersection / (total - intersection) if total else float("nan")


def dice_counts(
    prediction_RZYX: NDArray[np.bool_],
    reference_RZYX: NDArray[np.bool_],
    *,
    valid_ZYX: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """``(2 * intersection, sum of sizes)`` per ROI, R x 2; Dice is their ratio, also after summing over cases.

    Args:
        prediction_RZYX: masks; ROIs may overlap.
        reference_RZYX: masks of the same shape.
        valid_ZYX: voxels that count; None for all.
    """
    if prediction_RZYX.shape != reference_RZYX.shape:
        raise ValueError(f"prediction has shape {prediction_RZYX.shape}, reference {reference_RZYX.shape}")
    counts = np.zeros((len(prediction_RZYX), 2), dtype=np.int64)
    for r, (p_ZYX, y_ZYX) in enumerate(zip(prediction_RZYX, reference_RZYX, strict=True)):
        p, y = (p_ZYX, y_ZYX) if valid_ZYX is None else (p_ZYX & valid_ZYX, y_ZYX & valid_ZYX)
        counts[r] = 2 * np.count_nonzero(p & y), np.count_nonzero(p) + np.count_nonzero(y)
    return counts


def dice_counts_of_layers(
    prediction: Sequence[Layer], reference: Layer, *, valid_ZYX: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The counts of ``dice_counts`` from label maps, in one pass per map however many ROIs there are.

    Args:
        prediction: layers whose tables have the reference's columns; each ROI has voxels in one layer only.
        reference: code volume of a case and its table.
        valid_ZYX: voxels that count; None for all.
    """
    R = reference.table_VR.shape[1]
    counts = np.zeros((R, 2), dtype=np.int64)
    table = reference.table_VR.astype(np.int64)
    for layer in prediction:
        joint_UV = _joint_counts(layer, reference, valid_ZYX)
        mine = layer.table_VR.astype(np.int64)
        counts[:, 0] += 2 * np.einsum("uv,ur,vr->r", joint_UV, mine, table, optimize=True)
        counts[:, 1] += joint_UV.sum(axis=1) @ mine
    codes = reference.codes_ZYX if valid_ZYX is None else reference.codes_ZYX[valid_ZYX]
    counts[:, 1] += np.bincount(codes.ravel(), minlength=len(table)) @ table
    return counts


def _joint_counts(layer: Layer, reference: Layer, valid_ZYX: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """How many voxels have value u in the layer and v in the reference."""
    U, V = len(layer.table_VR), len(reference.table_VR)
    if layer.codes_ZYX.shape != reference.codes_ZYX.shape:
        raise ValueError(f"layer has shape {layer.codes_ZYX.shape}, reference {reference.codes_ZYX.shape}")
    joint = np.zeros(U * V, dtype=np.int64)
    planes = max(1, _SLAB // max(1, reference.codes_ZYX[0].size))
    for start in range(0, len(reference.codes_ZYX), planes):
        slab = slice(start, start + planes)
        pairs = layer.codes_ZYX[slab].astype(np.intp) * V + reference.codes_ZYX[slab]
        joint += np.bincount(pairs.ravel() if valid_ZYX is None else pairs[valid_ZYX[slab]], minlength=U * V)
    return joint.reshape(U, V)

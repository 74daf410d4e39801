"""Which part of a volume is kept: everything, what is not zero, the patient, or what lies around the labels.

Axes: C channels, Z Y X voxels in the closest RAS order.
"""

from math import ceil
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from gleanseg.data.labels import LabelMap
from gleanseg.data.plan import LabelBox, Plan
from gleanseg.data.volume import Grid, grid_to_ras
from gleanseg.errors import UserError

_AIR_HU = -500.0
_BODY_MARGIN_MM = 10.0
_BODY_SAMPLES = 96  # per axis; enough to find a body's box, cheap on any volume
_BODY_SHARE = 0.1  # components of at least this share of the largest belong to the patient (two legs)
Box = tuple[slice, slice, slice]


def crop_box(array: NDArray[Any], grid: Grid, plan: Plan, *, keep: Box | None = None, source: object = "image") -> Box:
    """The part of a volume (C, Z, Y, X) to keep; all of it when nothing is found to remove.

    Args:
        array: the volume.
        grid: its grid.
        plan: says how to crop.
        keep: part that annotated voxels lie in; it stays, and a plan that crops around labels needs it.
        source: what messages name.

    Raises:
        UserError: the plan crops around labels, and there are none.
    """
    if isinstance(plan.crop, LabelBox):
        if keep is None:
            raise UserError(
                f"{source}: prepare.crop = 'labels' cuts around labels, and this image has none; predict cases of a"
                " manifest that have labels, or train with another crop"
            )
        return _around(keep, grid, plan.crop, plan.spacing_ZYX_mm)
    if plan.crop == "nonzero":
        return _joined(box_of((array != 0).any(axis=0)) or _all(grid), keep)
    return _joined(_body(array[0], grid) if plan.crop == "body" else _all(grid), keep)


def annotated_box(labels: LabelMap | None) -> Box | None:
    """Smallest box, in RAS order, around all annotated voxels; None when there are none."""
    if labels is None:
        return None
    _, axes = grid_to_ras(labels.grid)
    return box_of(axes.apply(labels.codes) != 0)


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """Smallest box around the true voxels; None when there are none."""
    parts = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            return None
        parts.append(slice(int(used[0]), int(used[-1]) + 1))
    return parts[0], parts[1], parts[2]


def _around(labels: Box, grid: Grid, crop: LabelBox, spacing_ZYX_mm: tuple[float, float, float]) -> Box:
    """The box in x and y, filled up to the least size and with its margin; z whole.

    As published, sizes are distances between the first and the last voxel, and the upper end is not part of the box.
    """
    box = [slice(0, grid.shape_ZYX[0])]
    for axis in (1, 2):
        part, n = labels[axis], grid.shape_ZYX[axis]
        scale = spacing_ZYX_mm[axis] / grid.spacing_ZYX_mm[axis]  # the plan's voxels in the image's
        first, last = part.start, part.stop - 1
        more = max(ceil(crop.least * scale - 1e-6) - (last - first), 0) // 2 + ceil(crop.margin * scale - 1e-6)
        box.append(slice(max(0, first - more), min(n, max(last + more, part.stop))))
    return box[0], box[1], box[2]


def _joined(box: Box, keep: Box | None) -> Box:
    if keep is None:
        return box
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, keep, strict=True))
    return z, y, x


def _all(grid: Grid) -> Box:
    z, y, x = (slice(0, n) for n in grid.shape_ZYX)
    return z, y, x


def _body(array: NDArray[Any], grid: Grid) -> Box:
    """Box around what is denser than air and not small, found on a coarse copy, with a margin."""
    strides = [max(1, n // _BODY_SAMPLES) for n in grid.shape_ZYX]
    dense = np.ascontiguousarray(array[:: strides[0], :: strides[1], :: strides[2]] > _AIR_HU)
    parts = cc3d.connected_components(dense, connectivity=6)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if not sizes.any():
        return _all(grid)
    found = box_of(np.take(sizes >= _BODY_SHARE * sizes.max(), parts))
    assert found is not None, "the largest component has voxels"
    box = []
    for part, stride, n, spacing in zip(found, strides, grid.shape_ZYX, grid.spacing_ZYX_mm, strict=True):
        margin = stride + int(np.ceil(_BODY_MARGIN_MM / spacing))
        box.append(slice(max(0, part.start * stride - margin), min(n, (part.stop - 1) * stride + 1 + margin)))
    return box[0], box[1], box[2]

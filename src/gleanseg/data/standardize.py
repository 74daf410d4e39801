"""One volume onto a plan's grid and intensity scale; the store and the predictor share this code.

Axes: C channels, Z Y X voxels in the closest RAS order.
"""

from typing import Any, NamedTuple

import cc3d
import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from gleanseg.data.plan import Intensity, Plan
from gleanseg.data.resample import AxisMap, axis_map, resample
from gleanseg.data.volume import Axes, Grid, Volume, to_ras
from gleanseg.errors import UserError

ORDER = {"linear": 1, "cubic": 3}
"""Interpolation order of ``Plan.resample``."""
_AIR_HU = -500.0
_BODY_MARGIN_MM = 10.0
_BODY_SAMPLES = 96  # per axis; enough to find a body's box, cheap on any volume
_BODY_SHARE = 0.1  # components of at least this share of the largest belong to the patient (two legs)
_LARGEST_HALF = 65504.0
Box = tuple[slice, slice, slice]


class Prepared(NamedTuple):
    """A volume on the plan's grid, and the way back.

    Attributes:
        image: normalised intensities on ``grid``.
        grid: RAS order, the plan's spacing, the crop's centre.
        axes: ``axes.undo`` turns arrays on the ``native`` grid to the file's own order.
        native: the whole input in RAS order.
        box: part of ``native`` that was kept.
        maps: Z, Y, X; where the samples of ``grid`` lie on the kept part. ``maps[i].inverse()`` leads back.
    """

    image: Float32[np.ndarray, "C Z Y X"]
    grid: Grid
    axes: Axes
    native: Grid
    box: Box
    maps: tuple[AxisMap, AxisMap, AxisMap]


def preprocess_image(volume: Volume, plan: Plan, *, keep: Box | None = None) -> Prepared:
    """Turn to RAS, crop, normalise and resample.

    Values that are not finite count as the smallest finite value of their channel.

    Args:
        volume: (Z, Y, X) or (C, Z, Y, X) with the plan's channels.
        plan: what to do.
        keep: part of the volume, in RAS order, that the crop must contain (annotated voxels).

    Raises:
        UserError: another number of channels, or no finite voxel.
    """
    array, native, axes = to_ras(volume)
    array = array[None] if array.ndim == 3 else array
    if len(array) != len(plan.channels):
        raise UserError(
            f"{volume.source}: expected {len(plan.channels)} channels "
            f"({', '.join(channel.name for channel in plan.channels)}), found {len(array)}"
        )
    box = _joined(_crop(array, native, plan.crop), keep)
    image = np.ascontiguousarray(array[(slice(None), *box)], dtype=np.float32)
    if np.shares_memory(image, volume.array):
        image = image.copy()
    for channel, intensity in zip(image, plan.intensity, strict=True):
        _replace_non_finite(channel, volume)
        _normalize(channel, intensity)
    cropped = _part(native, box)
    grid, maps = target_grid(cropped, plan.spacing_ZYX_mm)
    low, high = image.min(axis=(1, 2, 3)), image.max(axis=(1, 2, 3))
    image = resample(image, maps, order=ORDER[plan.resample])
    if plan.resample == "cubic":
        # The spline overshoots at sharp edges; what was no intensity before must not become one.
        np.clip(image, low[:, None, None, None], high[:, None, None, None], out=image)
    return Prepared(image, grid, axes, native, box, maps)


def target_grid(
    grid: Grid, spacing_ZYX_mm: tuple[float, float, float]
) -> tuple[Grid, tuple[AxisMap, AxisMap, AxisMap]]:
    """The grid of another spacing that has the same centre, and how its samples lie on the old one."""
    z, y, x = (
        axis_map(n, old, new) for n, old, new in zip(grid.shape_ZYX, grid.spacing_ZYX_mm, spacing_ZYX_mm, strict=True)
    )
    return on_maps(grid, (z, y, x)), (z, y, x)


def on_maps(grid: Grid, maps: tuple[AxisMap, AxisMap, AxisMap]) -> Grid:
    """The grid that maps lead to."""
    z, y, x = maps
    old_from_new = np.diag([x.step, y.step, z.step, 1.0])
    old_from_new[:3, 3] = x.offset, y.offset, z.offset
    return Grid((z.num_out, y.num_out, x.num_out), grid.affine @ old_from_new)


def _part(grid: Grid, box: Box) -> Grid:
    z, y, x = (part.start for part in box)
    shift = np.eye(4)
    shift[:3, 3] = x, y, z
    return Grid((_length(box[0]), _length(box[1]), _length(box[2])), grid.affine @ shift)


def _length(part: slice) -> int:
    return int(part.stop - part.start)


def _joined(box: Box, keep: Box | None) -> Box:
    if keep is None:
        return box
    z, y, x = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, keep, strict=True))
    return z, y, x


def _crop(array: NDArray[Any], grid: Grid, crop: str) -> Box:
    """The part to keep; all of it when nothing is found to remove."""
    if crop == "nonzero":
        return box_of((array != 0).any(axis=0)) or _all(grid)
    if crop == "body":
        return _body(array[0], grid)
    return _all(grid)


def _all(grid: Grid) -> Box:
    z, y, x = (slice(0, n) for n in grid.shape_ZYX)
    return z, y, x


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """Smallest box around the true voxels; None when there are none."""
    parts = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(used):
            return None
        parts.append(slice(int(used[0]), int(used[-1]) + 1))
    return parts[0], parts[1], parts[2]


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


def _replace_non_finite(channel: NDArray[np.float32], volume: Volume) -> None:
    if np.isfinite(channel.min()) and np.isfinite(channel.max()):
        return
    finite = np.isfinite(channel)
    if not finite.any():
        raise UserError(f"{volume.source}: every voxel is NaN or infinite; convert the image again")
    channel[~finite] = channel[finite].min()


def _normalize(channel: NDArray[np.float32], intensity: Intensity) -> None:
    if intensity.kind == "ct_window":
        np.clip(channel, intensity.low, intensity.high, out=channel)
        channel -= np.float32(intensity.mean)
        channel *= np.float32(1 / intensity.std)
    elif intensity.kind == "zscore":
        _zscore(channel, nonzero=intensity.nonzero)


def _zscore(channel: NDArray[np.float32], *, nonzero: bool) -> None:
    """Mean 0 and standard deviation 1, of the nonzero voxels only when asked; a constant image becomes 0.

    Sums are in double precision over single slices, so the result does not depend on the scale of the intensities.
    """
    inside = channel != 0 if nonzero else None
    if inside is not None and not inside.any():
        return
    count = channel.size if inside is None else np.count_nonzero(inside)
    mean = np.sum(channel, dtype=np.float64) / count  # zeros add nothing
    total = 0.0
    for z, part in enumerate(channel):
        deviation = part - mean
        total += float(np.sum(deviation * deviation, where=True if inside is None else inside[z]))
    std = np.sqrt(total / count)
    channel -= np.float32(mean)
    # Below float32's resolution of the mean, what is left is rounding noise (or nothing).
    channel *= np.float32(1 / std) if std > 1e-7 * abs(mean) else np.float32(0)
    if inside is not None:
        channel *= inside

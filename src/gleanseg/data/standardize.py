"""One volume onto a plan's grid and intensity scale; the store and the predictor share this code.

Axes: C channels, Z Y X voxels in the closest RAS order.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from gleanseg.data.crop import Box, crop_box
from gleanseg.data.intensity import normalize
from gleanseg.data.plan import Plan
from gleanseg.data.resample import AxisMap, axis_map, resample
from gleanseg.data.volume import Axes, Grid, Volume, to_ras
from gleanseg.errors import UserError

ORDER = {"linear": 1, "cubic": 3}
"""Interpolation order of ``Plan.resample``."""


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
        keep: part of the volume, in RAS order, that annotated voxels lie in: the crop contains it, or is made around it
            where the plan says so.

    Raises:
        UserError: another number of channels, no finite voxel, or no labels to crop around.
    """
    array, native, axes = to_ras(volume)
    array = array[None] if array.ndim == 3 else array
    if len(array) != len(plan.channels):
        raise UserError(
            f"{volume.source}: expected {len(plan.channels)} channels "
            f"({', '.join(channel.name for channel in plan.channels)}), found {len(array)}"
        )
    box = crop_box(array, native, plan, keep=keep, source=volume.source)
    image = np.ascontiguousarray(array[(slice(None), *box)], dtype=np.float32)
    if np.shares_memory(image, volume.array):
        image = image.copy()
    for channel, whole, intensity in zip(image, array, plan.intensity, strict=True):
        _replace_non_finite(channel, volume)
        normalize(channel, intensity, whole=whole)
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


def _replace_non_finite(channel: NDArray[np.float32], volume: Volume) -> None:
    if np.isfinite(channel.min()) and np.isfinite(channel.max()):
        return
    finite = np.isfinite(channel)
    if not finite.any():
        raise UserError(f"{volume.source}: every voxel is NaN or infinite; convert the image again")
    channel[~finite] = channel[finite].min()

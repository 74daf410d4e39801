"""Where to halve, and with which kernels: nnU-Net's rule of thumb for a patch and a voxel size."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from gleanseg.errors import UserError
from gleanseg.networks.network import Size

_SMALLEST = 4
"""No side of a map is halved below this many voxels."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Step and kernel of each level, (Z, Y, X), the full resolution first."""

    strides: tuple[Size, ...]
    kernels: tuple[Size, ...]


def plan(patch_ZYX: Size, spacing_ZYX_mm: tuple[float, float, float]) -> Topology:
    """Halve the axes with the smallest voxels until they are as coarse as the others, then all, down to 4 voxels.

    An axis is halved when its voxels are less than twice as long as the smallest among axes that can still be halved.
    Kernels are 1 along an axis until its voxels are less than twice as long as the smallest, then 3.

    Args:
        patch_ZYX: voxels per side.
        spacing_ZYX_mm: voxel size.

    Returns:
        At least one level; one level means that the patch is too small to halve.

    Paper: Isensee et al., nnU-Net, Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z (supplement)
    """
    size, spacing = list(patch_ZYX), list(spacing_ZYX_mm)
    kernel, strides, kernels = [1, 1, 1], [(1, 1, 1)], []
    while axes := _axes_to_halve(size, spacing):
        kernel = _grown(kernel, spacing)
        kernels.append(_triple(kernel))
        strides.append(_triple([2 if axis in axes else 1 for axis in range(3)]))
        size = [ceil(n / 2) if axis in axes else n for axis, n in enumerate(size)]
        spacing = [2 * mm if axis in axes else mm for axis, mm in enumerate(spacing)]
    return Topology(strides=tuple(strides), kernels=(*kernels, (3, 3, 3)))


def check_levels(strides: Sequence[Size], *, patch_ZYX: Size | None = None) -> None:
    """Refuse a network without a level below full resolution.

    Raises:
        UserError: fewer than two levels.
    """
    if len(strides) >= 2:
        return
    found = f"patch {'x'.join(str(n) for n in reversed(patch_ZYX))} (x, y, z)" if patch_ZYX else "strides"
    raise UserError(f"[network] {found}: a U-Net needs two levels; use a patch with two sides of at least 8 voxels")


def _axes_to_halve(size: list[int], spacing: list[float]) -> list[int]:
    large = [axis for axis in range(3) if size[axis] >= 2 * _SMALLEST]
    finest = min((spacing[axis] for axis in large), default=0.0)
    axes = [axis for axis in large if spacing[axis] < 2 * finest]
    # A single axis that is left over is halved only when it is long, since each level costs parameters.
    if len(axes) == 1 and size[axes[0]] < 3 * _SMALLEST:
        return []
    return axes


def _grown(kernel: list[int], spacing: list[float]) -> list[int]:
    return [3 if k == 3 or mm < 2 * min(spacing) else 1 for k, mm in zip(kernel, spacing, strict=True)]


def _triple(values: Sequence[int]) -> Size:
    z, y, x = values
    return z, y, x

"""A volume and the grid it lies on.

Axes: arrays are Z, Y, X (or C, Z, Y, X); affines map voxel (x, y, z) to RAS millimetres, as nibabel's.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from gleanseg.errors import UserError

MAX_COSINE_NOISE = 1e-4
"""Direction cosines this far from orthonormal count as rounding noise of the file."""
_MOST_MM = 1e6
"""A kilometre: no voxel is so large, and none lies so far away."""


class Grid(NamedTuple):
    """Where voxels lie in the patient.

    Attributes:
        shape_ZYX: number of voxels along each array axis.
        affine: maps voxel (x, y, z, 1) to RAS mm.
    """

    shape_ZYX: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing_ZYX_mm(self) -> tuple[float, float, float]:
        """Distance of neighboring voxels along each array axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def orientation(self) -> str:
        """Letters of the directions in which voxel x, y, z run, such as ``RAS`` or ``LPS``."""
        axes, signs = closest_axes(self.affine)
        return "".join("RAS"[a] if s > 0 else "LPI"[a] for a, s in zip(axes, signs, strict=True))

    @property
    def skew(self) -> float:
        """Largest absolute cosine between two voxel axes; 0 when they are at right angles."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(np.abs(directions.T @ directions - np.eye(3)).max())

    def offset_mm(self, other: "Grid") -> float:
        """Largest distance between the same corner voxel of two grids, which are taken to have this grid's shape."""
        z, y, x = (n - 1 for n in self.shape_ZYX)
        corners = np.array([(i, j, k, 1) for i in (0, x) for j in (0, y) for k in (0, z)], dtype=np.float64)
        return float(np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1).max())

    def same_as(self, other: "Grid", *, tolerance_mm: float = 1e-3) -> bool:
        """Whether both have one shape and all their voxels lie within ``tolerance_mm`` of each other."""
        return self.shape_ZYX == other.shape_ZYX and self.offset_mm(other) <= tolerance_mm


class Volume(NamedTuple):
    """Voxels on a grid.

    Attributes:
        array: (Z, Y, X), or (C, Z, Y, X) when the file has several channels; the file's type unless it
            scales its values (then float32); never float64.
        grid: where the voxels lie.
        source: the file, folder or ``file.h5#dataset`` it was read from.
        header: what ``images.write`` needs to give back exactly the same geometry.
    """

    array: NDArray[Any]
    grid: Grid
    source: Path
    header: object | None = None

    @property
    def num_channels(self) -> int:
        """Channels of the file; 1 for a plain 3D volume."""
        return self.array.shape[0] if self.array.ndim == 4 else 1


class Axes(NamedTuple):
    """A change of axis order and direction without resampling.

    Attributes:
        order: array axis (0 = Z) of the source that becomes Z, Y, X of the result.
        flips: whether Z, Y, X of the result run against the source.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @property
    def _runs(self) -> tuple[Any, ...]:
        return (..., *(slice(None, None, -1 if f else 1) for f in self.flips))

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of a (Z, Y, X) or (C, Z, Y, X) array in the new order."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(a + lead for a in self.order))
        flipped: NDArray[Any] = moved[self._runs]
        return flipped

    def undo(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of an array in the new order, turned back to the source's."""
        lead = array.ndim - 3
        flipped: NDArray[Any] = array[self._runs]
        return flipped.transpose(*range(lead), *(self.order.index(a) + lead for a in range(3)))


def closest_axes(affine: Float64[np.ndarray, "4 4"]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """RAS axis (0 = R) that each voxel axis x, y, z is closest to, each used once, and its sign."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # The rotation nearest to the directions decides, so that sheared and oblique axes are matched jointly.
    u, _, vh = np.linalg.svd(cosines)
    nearest = np.abs(u @ vh)
    axes = [0, 0, 0]
    for _ in range(3):
        ras, voxel = np.unravel_index(int(nearest.argmax()), (3, 3))
        axes[int(voxel)] = int(ras)
        nearest[ras, :] = -1
        nearest[:, voxel] = -1
    signs = [1 if cosines[axes[v], v] >= 0 else -1 for v in range(3)]
    return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])


def to_ras(volume: Volume) -> tuple[NDArray[Any], Grid, Axes]:
    """Turn a volume to the closest RAS order by transposing and flipping; nothing is resampled.

    Returns:
        View of the array, its grid, and the ``Axes`` whose ``undo`` leads back.
    """
    grid, axes = grid_to_ras(volume.grid)
    return axes.apply(volume.array), grid, axes


def grid_to_ras(grid: Grid) -> tuple[Grid, Axes]:
    """The grid in the closest RAS order, and how to get there."""
    ras_of, signs = closest_axes(grid.affine)
    voxel_of = [ras_of.index(ras) for ras in range(3)]  # new x, y, z <- old voxel axis
    z, y, x = (2 - voxel_of[2], 2 - voxel_of[1], 2 - voxel_of[0])
    axes = Axes((z, y, x), (signs[voxel_of[2]] < 0, signs[voxel_of[1]] < 0, signs[voxel_of[0]] < 0))
    old_from_new = np.zeros((4, 4))
    old_from_new[3, 3] = 1.0
    for new, old in enumerate(voxel_of):
        old_from_new[old, new] = signs[old]
        if signs[old] < 0:
            old_from_new[old, 3] = grid.shape_ZYX[2 - old] - 1
    shape = (grid.shape_ZYX[z], grid.shape_ZYX[y], grid.shape_ZYX[x])
    return Grid(shape, grid.affine @ old_from_new), axes


def laid_onto(grid: Grid, image: Grid) -> tuple[Grid, Axes, Axes]:
    """A grid as if its first voxel, in the image's order of axes, were the image's: position and tilt are the image's.

    Returns:
        Shape and spacing of ``grid`` in the image's order at the image's place, and how to get there: the ``apply`` of
        the first axes, then the ``undo`` of the second.
    """
    (ras, there), (_, back) = grid_to_ras(grid), grid_to_ras(image)
    z, y, x = (back.order.index(axis) for axis in range(3))
    spacing_ZYX_mm = ras.spacing_ZYX_mm
    affine = image.affine.copy()
    affine[:3, :3] *= np.array([spacing_ZYX_mm[x], spacing_ZYX_mm[y], spacing_ZYX_mm[z]]) / image.spacing_ZYX_mm[::-1]
    return Grid((ras.shape_ZYX[z], ras.shape_ZYX[y], ras.shape_ZYX[x]), affine), there, back


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in the machine's byte order, C-contiguous, booleans as uint8 and without 16- or 64-bit floats."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"voxels of type {array.dtype} are neither whole nor real numbers; convert the image first")
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array.view(np.uint8))
    wanted: np.dtype[Any] = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=wanted)


def checked_affine(affine: NDArray[Any], *, source: Path) -> Float64[np.ndarray, "4 4"]:
    """The affine as float64, or a UserError when it maps the volume to a plane or is no measure of a patient."""
    matrix = np.asarray(affine, dtype=np.float64)
    usual = np.isfinite(matrix).all() and np.abs(matrix).max() < _MOST_MM
    if not usual or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        told = [[float(f"{value:.5g}") for value in row] for row in matrix[:3]]
        raise UserError(
            f"{source}: the header's orientation has no volume or is beyond measure (affine {told}); mend its "
            "sform/qform or spacing"
        )
    return matrix


def squeezed(array: NDArray[Any], *, source: Path) -> NDArray[Any]:
    """(Z, Y, X) or (C, Z, Y, X) from an array whose leading axes may be single time or vector axes."""
    while array.ndim > 3 and 1 in array.shape[:-3]:
        array = array.squeeze(axis=array.shape[:-3].index(1))
    if array.ndim < 3:
        array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    if array.ndim > 4:
        raise UserError(
            f"{source}: found {array.ndim} axes {array.shape[::-1]} (x, y, z, ...), expected 3, or 4 with "
            "channels last; split the file"
        )
    return array

"""Distances between the surfaces of two masks, all of them from one pass.

A surface voxel is a voxel of the mask with a face neighbor outside (the image's border is outside), as medpy and MONAI
define it. Both masks are cropped to their common bounding box. Distances are exact: the row distance (along the axis
with the smallest voxels) is known for every voxel, so the nearest surface voxel is the best of a few neighboring rows,
taken nearest first until none can be closer. A few voxels that are far from the other surface are compared with all of
it; more are left to a k-d tree, many to a distance transform of the box (squares in float32, so 7 digits).

Axes: arrays are Z Y X; N counts surface voxels, K neighboring rows.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]

_NOT_NEAR = 128  # row distance of rows without a near surface voxel
_NUM_ROWS = 150  # neighboring rows that are tried before a voxel counts as far
_GROUPS = (1, 8, 24, 56, 104)  # rows tried before voxels whose answer is certain are put aside
_MAX_CANDIDATES = 1 << 18  # voxels x rows handled at once, so that they stay in the cache
_VERY_FEW = 64  # far points that are compared with all of a surface sooner than a k-d tree of it is made
_MAX_PAIRS = 1 << 22  # of these points and a surface, so that their distances take 32 MiB
_FEW = 10_000  # far points that the k-d tree answers in a tenth of a second
_VOXELS_PER_FAR_POINT = 250  # one far query of the k-d tree costs as much as this many voxels of a distance transform


class SurfaceDistances(NamedTuple):
    """Distance of each surface voxel to the nearest surface voxel of the other mask, in the unit of the spacing.

    Attributes:
        from_prediction: one value per surface voxel of the prediction.
        from_reference: one value per surface voxel of the reference.
    """

    from_prediction: NDArray[np.float64]
    from_reference: NDArray[np.float64]

    def percentile(self, q: float, *, pooled: bool = True) -> float:
        """The ``q``-th percentile of both directions pooled, or the larger of the two directions' percentiles."""
        if pooled:
            return float(np.percentile(np.concatenate(self), q))
        return float(max(np.percentile(self.from_prediction, q), np.percentile(self.from_reference, q)))

    def symmetric_mean(self) -> float:
        """Mean of both directions pooled: every surface voxel counts once (medpy's ASSD since 0.5)."""
        total = self.from_prediction.sum() + self.from_reference.sum()
        return float(total / (self.from_prediction.size + self.from_reference.size))

    def share_within(self, tolerance: float) -> float:
        """Share of all surface voxels that lie within ``tolerance`` of the other surface: NSD, in [0, 1]."""
        limit = tolerance * (1 + 1e-9)  # 3 x 0.7 mm is within 2.1 mm whatever the rounding
        near = np.count_nonzero(self.from_prediction <= limit) + np.count_nonzero(self.from_reference <= limit)
        return float(near / (self.from_prediction.size + self.from_reference.size))


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, spacing_ZYX: Spacing
) -> SurfaceDistances:
    """Exact distances between the surfaces of two masks.

    Args:
        prediction: mask, Z Y X, with at least one voxel; cropping to the box that holds both masks changes no value.
        reference: mask of the same shape, with at least one voxel.
        spacing_ZYX: voxel size in mm, or (1, 1, 1) for distances in voxels.

    Raises:
        ValueError: a mask is empty (what an empty mask means is the protocol's business) or the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}; they must be equal")
    if not prediction.any() or not reference.any():
        raise ValueError("surface distances need two masks that are not empty")
    row_axis = 0 if spacing_ZYX[0] <= min(spacing_ZYX[1:]) else 1 if spacing_ZYX[1] <= spacing_ZYX[2] else 2
    if row_axis == 2:  # rows of a contiguous axis are slow to shift
        prediction, reference = prediction.swapaxes(1, 2), reference.swapaxes(1, 2)
        spacing_ZYX, row_axis = (spacing_ZYX[0], spacing_ZYX[2], spacing_ZYX[1]), 1
    rows = _neighboring_rows(spacing_ZYX, row_axis)
    surfaces = [_surface(_padded(mask, rows.margin)) for mask in (prediction, reference)]
    points = [np.flatnonzero(surface) for surface in surfaces]
    return SurfaceDistances(
        _to_nearest(points[0], surfaces[1], points[1], rows, spacing_ZYX),
        _to_nearest(points[1], surfaces[0], points[0], rows, spacing_ZYX),
    )


def surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of ``mask`` (Z Y X) with a face neighbor outside the mask or outside the image."""
    return _surface(_padded(mask, (1, 1, 1)))[1:-1, 1:-1, 1:-1]


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box that holds every voxel of ``mask`` (Z Y X); None when there is none."""
    planes = np.flatnonzero(mask.any(axis=(1, 2)))
    if planes.size == 0:
        return None
    z = slice(int(planes[0]), int(planes[-1]) + 1)
    shadow_YX = np.logical_or.reduce(mask[z], axis=0)
    lines, columns = np.flatnonzero(shadow_YX.any(axis=1)), np.flatnonzero(shadow_YX.any(axis=0))
    return z, slice(int(lines[0]), int(lines[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def join_boxes(*boxes: Box | None) -> Box | None:
    """The smallest box that holds all ``boxes``; None stands for nothing."""
    some = [box for box in boxes if box is not None]
    if not some:
        return None
    z, y, x = (slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*some, strict=True))
    return z, y, x


class _Rows(NamedTuple):
    """Rows around a voxel, nearest first.

    ``shift_K`` is their offset (two axes that are not the row's), ``squared_K`` their squared distance, ``groups`` are
    slices of them, each with the squared distance that no later row can be closer than.
    """

    axis: int
    reach: int  # row distances are known up to here, in voxels
    margin: tuple[int, int, int]
    shift_KA: NDArray[np.intp]
    squared_K: NDArray[np.float64]
    groups: tuple[tuple[slice, float], ...]
    along: NDArray[np.float64]  # squared length of a row distance


@lru_cache(maxsize=64)
def _neighboring_rows(spacing_ZYX: Spacing, axis: int) -> _Rows:
    first, second = (a for a in range(3) if a != axis)
    radius = math.sqrt(_NUM_ROWS * spacing_ZYX[first] * spacing_ZYX[second] / math.pi)
    a = np.arange(-int(radius / spacing_ZYX[first]), int(radius / spacing_ZYX[first]) + 1)
    b = np.arange(-int(radius / spacing_ZYX[second]), int(radius / spacing_ZYX[second]) + 1)
    shifts = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    squared = (shifts[:, 0] * spacing_ZYX[first]) ** 2 + (shifts[:, 1] * spacing_ZYX[second]) ** 2
    inside = squared <= radius**2
    order = np.argsort(squared[inside], kind="stable")
    shift_KA, squared_K = shifts[inside][order].astype(np.intp), squared[inside][order]
    steps = max(1, min(6, math.ceil(math.log2(radius / spacing_ZYX[axis] + 1))))
    reach = 2**steps - 1
    outside = ((reach + 1) * spacing_ZYX[axis]) ** 2
    cuts = [0, *(c for c in _GROUPS if c < len(squared_K)), len(squared_K)]
    bounds = [*(float(squared_K[c]) for c in cuts[1:-1]), radius**2]
    groups = tuple(
        (slice(start, stop), min(bound, outside))
        for start, stop, bound in zip(cuts[:-1], cuts[1:], bounds, strict=True)
    )
    margin = [1, 1, 1]
    margin[first], margin[second] = max(1, int(a[-1])), max(1, int(b[-1]))
    along = np.full(_NOT_NEAR + 1, np.inf)
    along[: reach + 1] = (np.arange(reach + 1) * spacing_ZYX[axis]) ** 2
    return _Rows(axis, reach, (margin[0], margin[1], margin[2]), shift_KA, squared_K, groups, along)


def _padded(mask: NDArray[np.bool_], margin: tuple[int, int, int]) -> NDArray[np.bool_]:
    Z, Y, X = (s + 2 * m for s, m in zip(mask.shape, margin, strict=True))
    padded = np.zeros((Z, Y, X), dtype=np.bool_)
    padded[tuple(slice(m, m + s) for s, m in zip(mask.shape, margin, strict=True))] = mask
    return padded


def _surface(padded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Surface voxels of a mask with an empty margin, which makes shifts of the flat array right."""
    flat, (_, Y, X) = padded.ravel(), padded.shape
    far, end = Y * X, padded.size - Y * X
    inner = flat[: end - far] & flat[2 * far :]
    for step in (X, 1):
        inner &= flat[far - step : end - step]
        inner &= flat[far + step : end + step]
    surface = np.zeros_like(padded)
    np.greater(flat[far:end], inner, out=surface.reshape(-1)[far:end])  # in the mask and not inner
    return surface


def _row_distances(surface: NDArray[np.bool_], rows: _Rows) -> NDArray[np.uint8]:
    """Voxels to the nearest surface voxel of the same row, up to the rows' reach; beyond it ``_NOT_NEAR``."""
    near = np.logical_not(surface).view(np.uint8)
    near *= np.uint8(_NOT_NEAR)
    step = 1
    while step <= rows.reach:
        if step < surface.shape[rows.axis]:
            low = near[:-step] if rows.axis == 0 else near[:, :-step]
            high = near[step:] if rows.axis == 0 else near[:, step:]
            up, down = low + np.uint8(step), high + np.uint8(step)
            np.minimum(high, up, out=high)
            np.minimum(low, down, out=low)
        step *= 2
    return near


def _to_nearest(
    points_N: NDArray[np.intp],
    surface: NDArray[np.bool_],
    surface_points: NDArray[np.intp],
    rows: _Rows,
    spacing_ZYX: Spacing,
) -> NDArray[np.float64]:
    """Distance of each point (index into the flat padded box) to the nearest voxel of ``surface``."""
    near = _row_distances(surface, rows).ravel()
    shape = surface.shape
    strides = [s for a, s in enumerate((shape[1] * shape[2], shape[2], 1)) if a != rows.axis]
    shift_K = rows.shift_KA[:, 0] * strides[0] + rows.shift_KA[:, 1] * strides[1]
    squared_N = np.full(points_N.size, np.inf)
    open_N = np.arange(points_N.size)
    for group, bound in rows.groups:
        count = max(1, _MAX_CANDIDATES // (group.stop - group.start))
        for start in range(0, open_N.size, count):
            part = open_N[start : start + count]
            index_KN = points_N[part] + shift_K[group, None]
            candidates_KN = rows.along[near[index_KN]]
            candidates_KN += rows.squared_K[group, None]
            squared_N[part] = np.minimum(squared_N[part], candidates_KN.min(axis=0))
        open_N = open_N[squared_N[open_N] > bound]
        if open_N.size == 0:
            break
    distance_N: NDArray[np.float64] = np.sqrt(squared_N)
    if open_N.size:
        distance_N[open_N] = _far(points_N[open_N], surface, surface_points, spacing_ZYX)
    return distance_N


def _far(
    points_N: NDArray[np.intp], surface: NDArray[np.bool_], surface_points: NDArray[np.intp], spacing_ZYX: Spacing
) -> NDArray[np.float64]:
    if points_N.size > _FEW and points_N.size * _VOXELS_PER_FAR_POINT > surface.size:
        squared = edt.edtsq(np.logical_not(surface), anisotropy=spacing_ZYX, parallel=1).ravel()[points_N]
        return np.sqrt(np.asarray(squared, dtype=np.float64))
    far, near = (
        np.array(np.unravel_index(some, surface.shape), dtype=np.float64).T * np.asarray(spacing_ZYX)
        for some in (points_N, surface_points)
    )
    if len(far) <= _VERY_FEW and len(far) * len(near) <= _MAX_PAIRS:
        return np.asarray(cdist(far, near).min(axis=1), dtype=np.float64)
    distance_N, _ = KDTree(near, balanced_tree=False).query(far)
    return np.asarray(distance_N, dtype=np.float64)

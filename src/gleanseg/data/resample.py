"""Separable resampling: one small matrix per axis, applied by block-banded matrix products.

Axes: C channels, Z Y X voxels; O output and I input samples of one axis.

A grid is always resampled about its centre: the physical box that the voxels fill keeps its centre, so nothing drifts
when an image goes to another spacing and back. All interpolation is a matrix per axis; its rows are needed one slab at
a time by the predictor, so any range of rows can be asked for.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray
from scipy import ndimage

_SPLINE_PAD = 12  # edge samples that scipy's mode "nearest" adds before the spline filter; |pole|**12 = 1.4e-7
_NEGLIGIBLE = 1e-7  # weights below it are outside float32's resolution of the result
_BLOCK = 32  # output samples per product; the band of inputs they touch is little more
_DRIFT_VOXELS = 0.05  # grids that stay this close everywhere count as the same: no resampling


class AxisMap(NamedTuple):
    """How the samples of one axis lie on another grid: output ``o`` sits at input coordinate ``offset + o * step``.

    Attributes:
        num_in: input samples.
        num_out: output samples.
        step: output spacing in units of the input spacing.
        offset: input coordinate of the first output sample.
    """

    num_in: int
    num_out: int
    step: float
    offset: float

    @property
    def is_identity(self) -> bool:
        """Whether no output sample lies off its input sample by more than a twentieth of a voxel."""
        last = self.offset + (self.num_out - 1) * (self.step - 1)
        return self.num_in == self.num_out and max(abs(self.offset), abs(last)) <= _DRIFT_VOXELS

    def inverse(self) -> "AxisMap":
        """The way back: from the output grid to the input grid."""
        return AxisMap(self.num_out, self.num_in, 1 / self.step, -self.offset / self.step)

    def matrix(self, *, order: int, rows: slice | None = None) -> Float32[np.ndarray, "O I"]:
        """``axis_matrix`` of this map."""
        return axis_matrix(self.num_in, self.num_out, step=self.step, offset=self.offset, order=order, rows=rows)

    def nearest(self) -> Int64[np.ndarray, " O"]:
        """Index of the input sample nearest to each output sample; the edge's outside the input."""
        at = self.offset + np.arange(self.num_out) * self.step
        # Rounding to 1e-9 keeps samples that lie exactly between two inputs on the same side whatever the arithmetic.
        return np.clip(np.floor(np.round(at, 9) + 0.5), 0, self.num_in - 1).astype(np.int64)


def axis_map(num_in: int, in_mm: float, out_mm: float) -> AxisMap:
    """Grid with spacing ``out_mm`` that shares its centre with ``num_in`` samples of ``in_mm``; at least one sample.

    Spacings so close that no sample would move by a twentieth of a voxel give the identity.
    """
    step = out_mm / in_mm
    num_out = max(1, round(num_in / step))
    made = AxisMap(num_in, num_out, step, ((num_in - 1) - (num_out - 1) * step) / 2)
    return AxisMap(num_in, num_in, 1.0, 0.0) if made.is_identity else made


def axis_matrix(
    num_in: int, num_out: int, *, step: float, offset: float, order: int, rows: slice | None = None
) -> Float32[np.ndarray, "O I"]:
    """Matrix that resamples one axis; its rows sum to 1.

    Outside the input the edge's value goes on (scipy's mode ``nearest``).

    Args:
        num_in: input samples.
        num_out: output samples.
        step: output spacing in units of the input spacing, > 0.
        offset: input coordinate of output sample 0.
        order: 0 nearest; 1 linear; 3 the interpolating cubic B-spline. 1 and 3 equal
            ``scipy.ndimage.map_coordinates(order=..., mode="nearest")``. Neither is widened when ``step`` is above 1:
            a filter against aliasing raised the error on nearly all real volumes (benchmarks/results/storage.json).
        rows: which output samples; all by default.

    Returns:
        One row per asked output sample.

    Raises:
        ValueError: for another order.
    """
    at = offset + np.arange(num_out)[rows or slice(None)] * step
    if order == 0:
        picked = AxisMap(num_in, num_out, step, offset).nearest()[rows or slice(None)]
        return np.asarray(np.eye(num_in, dtype=np.float32)[picked])
    if order == 1:
        return _linear(at, num_in)
    if order == 3:
        return _spline(at, num_in).astype(np.float32)
    raise ValueError(f"order is 0, 1 or 3, found {order}")


def _linear(at: Float64[np.ndarray, " O"], num_in: int) -> Float32[np.ndarray, "O I"]:
    low, share = linear_taps(at, num_in)
    matrix = np.zeros((len(at), num_in), dtype=np.float32)
    rows = np.arange(len(at))
    matrix[rows, low] = 1 - share
    matrix[rows, np.minimum(low + 1, num_in - 1)] += share
    return matrix


def linear_taps(
    at: Float64[np.ndarray, " O"], num_in: int
) -> tuple[Int64[np.ndarray, " O"], Float64[np.ndarray, " O"]]:
    """Lower neighbour of each coordinate and the weight, in [0, 1), of the next one; coordinates end at the edges."""
    inside = np.clip(at, 0, num_in - 1)
    low = np.floor(inside).astype(np.int64)
    return low, inside - low


def _spline(at: Float64[np.ndarray, " O"], num_in: int) -> Float64[np.ndarray, "O I"]:
    coefficients = _spline_coefficients(num_in)
    place = np.clip(at + _SPLINE_PAD, 0, len(coefficients) - 1)
    first = np.floor(place).astype(np.int64)
    t = (place - first)[:, None]
    basis = np.concatenate([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    matrix = np.zeros((len(at), num_in))
    last = len(coefficients) - 1
    for tap in range(4):
        index = np.abs(first + tap - 1)  # mirrored about the first and the last sample
        matrix += basis[:, tap, None] * coefficients[np.where(index > last, 2 * last - index, index)]
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    return matrix


@lru_cache(maxsize=8)
def _spline_coefficients(num_in: int) -> Float64[np.ndarray, "P I"]:
    padded = np.pad(np.eye(num_in), ((_SPLINE_PAD, _SPLINE_PAD), (0, 0)), mode="edge")
    return np.asarray(ndimage.spline_filter1d(padded, order=3, axis=0, mode="mirror"))


def resample(
    array: Float32[np.ndarray, "*C Z Y X"], maps: Sequence[AxisMap], *, order: int
) -> Float32[np.ndarray, "*C Zo Yo Xo"]:
    """Resample the last three axes.

    Args:
        array: (C, Z, Y, X) or (Z, Y, X).
        maps: one per axis, in the order Z, Y, X; identities cost nothing.
        order: 0, 1 or 3, see ``axis_matrix``.

    Returns:
        A new array, or ``array`` itself where nothing changes.
    """
    matrices = [None if m.is_identity else m.matrix(order=order) for m in maps]
    return apply_matrices(array, matrices)


def apply_matrices(
    array: Float32[np.ndarray, "*C Z Y X"], matrices: Sequence[NDArray[np.float32] | None]
) -> Float32[np.ndarray, "*C Zo Yo Xo"]:
    """Multiply the last three axes (Z, Y, X) by matrices; None leaves an axis alone.

    The axis that shrinks most goes first, so that the others have less to do. Each channel is multiplied on its own:
    matrix products round differently by shape, and a channel's bits must not depend on what stands beside it.
    """
    if array.ndim > 3 and any(m is not None for m in matrices):
        return np.stack([apply_matrices(channel, matrices) for channel in array])
    todo = [(m.shape[0] / m.shape[1], axis, m) for axis, m in zip((-3, -2, -1), matrices, strict=True) if m is not None]
    for _, axis, matrix in sorted(todo, key=lambda item: item[:2]):
        array = _along(array, matrix, axis)
    return array


def _along(array: Float32[np.ndarray, "Z Y X"], matrix: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    z, y, x = array.shape
    num_out = len(matrix)
    if axis == -1:
        rows_of_x = np.ascontiguousarray(array).reshape(z * y, x)
        flat = np.empty((len(rows_of_x), num_out), dtype=np.float32)
        for rows, band in _bands(matrix):
            np.matmul(rows_of_x[:, band], matrix[rows, band].T, out=flat[:, rows])
        return flat.reshape(z, y, num_out)
    # Z and Y are the middle axis of a stack of matrices, so no transposed copy is made.
    count, middle, columns = (1, z, y * x) if axis == -3 else (z, y, x)
    stack = np.ascontiguousarray(array).reshape(count, middle, columns)
    result = np.empty((count, num_out, columns), dtype=np.float32)
    for rows, band in _bands(matrix):
        np.matmul(matrix[rows, band], stack[:, band], out=result[:, rows])
    return result.reshape(num_out, y, x) if axis == -3 else result.reshape(z, num_out, x)


def _bands(matrix: NDArray[np.float32]) -> list[tuple[slice, slice]]:
    """Blocks of rows, each with the range of columns in which they are not all zero."""
    blocks = []
    for start in range(0, len(matrix), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        blocks.append((rows, slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)))
    return blocks

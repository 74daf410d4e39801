"""Resampling of label codes, exact for nested and for adjacent ROIs.

Axes: V codes, R ROIs, Z Y X voxels. A code is a row of the table, a set of ROIs; row 0 is the empty set.

Every ROI is interpolated linearly as a mask and kept above one half. The weights are multiples of 1/256 on each axis,
so that all sums are exact in float32: if A lies in B then the resampled A lies in the resampled B, and disjoint ROIs
stay disjoint, whatever the order of the arithmetic. A tie at one half goes to the nearest input voxel, which keeps both
properties and neither shrinks nor grows structures.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt
from numpy.typing import NDArray
from scipy import ndimage

from gleanseg.data.resample import AxisMap, apply_matrices, linear_taps

_LEVELS = 256  # per axis; three axes give multiples of 2**-24, float32's last exact ones
Box = tuple[slice, slice, slice]


def resample_codes(
    codes: UInt[np.ndarray, "Z Y X"], table: Bool[np.ndarray, "V R"], maps: Sequence[AxisMap]
) -> tuple[UInt[np.ndarray, "Zo Yo Xo"], Bool[np.ndarray, "W R"]]:
    """Resample sets of ROIs.

    Where several ROIs meet and together hold more than half of a voxel though none of them does, the set of the nearest
    voxel is taken, so that no gap opens between neighbours. An ROI that would vanish keeps its nearest-neighbour
    voxels, at least one: a small lesion is still known to be there.

    Args:
        codes: rows of ``table``.
        table: which ROIs each code contains.
        maps: one per axis Z, Y, X.

    Returns:
        Codes on the other grid (uint8, or uint16 above 255 sets), and their table: the empty set first, then the sets
        that occur, in the order of their ROIs.
    """
    num_voxels = count_codes(codes, len(table)) @ table
    if all(m.is_identity for m in maps):
        return compact(codes, table)
    boxes = roi_boxes(codes, table)
    painted = _Painted(tuple(m.num_out for m in maps), table.shape[1])
    nearest = codes[np.ix_(*(m.nearest() for m in maps))]
    everything = np.asarray(table.any(axis=1))
    for roi in np.flatnonzero(num_voxels):
        box, mask = _majority(codes, table[:, roi], boxes[roi], maps, nearest)
        painted.add(int(roi), box, mask)
    if num_voxels.any():
        whole = tuple(
            slice(min(b[axis].start for b in boxes if b), max(b[axis].stop for b in boxes if b)) for axis in range(3)
        )
        box, mask = _majority(codes, everything, (whole[0], whole[1], whole[2]), maps, nearest)
        gap = mask & (painted.codes[box] == 0) & everything[nearest[box]]
        painted.put(box, gap, nearest[box], table)
    left = painted.num_voxels()
    # Small ones first: the set that brings back a part holds its parents as well.
    for roi in np.argsort(num_voxels, kind="stable"):
        if num_voxels[roi] and not left[roi] and not painted.num_voxels()[roi]:
            _keep(painted, int(roi), codes, table, boxes[roi], maps, nearest)
    return compact(painted.codes, np.array(painted.sets, dtype=np.bool_))


def count_codes(codes: UInt[np.ndarray, "Z Y X"], num_codes: int) -> Int64[np.ndarray, " V"]:
    """Voxels of each code, slice by slice, because ``bincount`` widens its input to 64 bits."""
    counts = np.zeros(num_codes, dtype=np.int64)
    for codes_YX in codes:
        counts += np.bincount(codes_YX.ravel(), minlength=num_codes)
    return counts


def compact(
    codes: UInt[np.ndarray, "Z Y X"], table: Bool[np.ndarray, "V R"]
) -> tuple[UInt[np.ndarray, "Z Y X"], Bool[np.ndarray, "W R"]]:
    """Drop sets that do not occur, join equal ones, and order the rest; the empty set is always row 0."""
    used = np.flatnonzero(count_codes(codes, len(table)))
    sets = {tuple(row) for row in table[used].tolist()} | {(False,) * table.shape[1]}
    ordered = sorted(sets, key=lambda row: [i for i, inside in enumerate(row) if inside])
    number = {row: i for i, row in enumerate(ordered)}
    lut = np.zeros(len(table), dtype=code_dtype(len(ordered)))
    for code in used:
        lut[code] = number[tuple(table[code].tolist())]
    return np.take(lut, codes), np.array(ordered, dtype=np.bool_).reshape(len(ordered), table.shape[1])


def code_dtype(num_codes: int) -> type[np.uint8 | np.uint16]:
    """Smallest type for so many codes, the empty set included.

    Raises:
        ValueError: above 65536 codes.
    """
    if num_codes > 65536:
        raise ValueError(f"a code volume holds at most 65536 sets of ROIs, found {num_codes}")
    return np.uint8 if num_codes <= 256 else np.uint16


class _Painted:
    """A code volume that ROIs are added to one after the other, and the sets that its codes stand for."""

    def __init__(self, shape: tuple[int, ...], num_rois: int) -> None:
        self.codes = np.zeros(shape, dtype=np.uint16)
        self.sets: list[tuple[bool, ...]] = [(False,) * num_rois]
        self._number = {self.sets[0]: 0}

    def add(self, roi: int, box: Box, mask: NDArray[np.bool_]) -> None:
        """Put an ROI into the sets of the mask's voxels."""
        part = self.codes[box]
        inside = part[mask]
        lut = np.zeros(len(self.sets), dtype=np.uint16)
        for code in np.flatnonzero(np.bincount(inside, minlength=len(self.sets))):
            row = self.sets[code]
            lut[code] = self._code((*row[:roi], True, *row[roi + 1 :]))
        part[mask] = lut[inside]

    def put(
        self, box: Box, mask: NDArray[np.bool_], source: NDArray[np.unsignedinteger], table: NDArray[np.bool_]
    ) -> None:
        """Give the mask's voxels the sets of source codes."""
        taken = source[mask]
        lut = np.zeros(len(table), dtype=np.uint16)
        for code in np.flatnonzero(np.bincount(taken, minlength=len(table))):
            lut[code] = self._code(tuple(table[code].tolist()))
        self.codes[box][mask] = lut[taken]

    def num_voxels(self) -> NDArray[np.int64]:
        """Voxels of each ROI."""
        counts = count_codes(self.codes, len(self.sets)) @ np.array(self.sets, dtype=np.int64)
        return np.asarray(counts, dtype=np.int64)

    def _code(self, row: tuple[bool, ...]) -> int:
        if row not in self._number:
            code_dtype(len(self.sets) + 1)
            self._number[row] = len(self.sets)
            self.sets.append(row)
        return self._number[row]


def roi_boxes(codes: UInt[np.ndarray, "Z Y X"], table: Bool[np.ndarray, "V R"]) -> list[Box | None]:
    """Smallest box around each ROI; None for those without a voxel."""
    found = [None, *ndimage.find_objects(codes, max_label=len(table) - 1)] if len(table) > 1 else [None]
    boxes: list[Box | None] = []
    for roi in range(table.shape[1]):
        mine = [part for code in np.flatnonzero(table[:, roi]) if (part := found[code]) is not None]
        box = [slice(min(b[a].start for b in mine), max(b[a].stop for b in mine)) for a in range(3)] if mine else None
        boxes.append((box[0], box[1], box[2]) if box else None)
    return boxes


def _majority(
    codes: NDArray[np.unsignedinteger],
    contains: NDArray[np.bool_],
    box: Box | None,
    maps: Sequence[AxisMap],
    nearest: NDArray[np.unsignedinteger],
) -> tuple[Box, NDArray[np.bool_]]:
    """Output box that a mask can reach, and where in it the mask holds more than half of the voxel."""
    assert box is not None, "an ROI with voxels has a box"
    axes = [_quantized(m, part) for m, part in zip(maps, box, strict=True)]
    out = (axes[0][0], axes[1][0], axes[2][0])
    mask = np.take(contains, codes[box]).astype(np.float32)
    weight = apply_matrices(mask, [matrix for _, matrix in axes])
    inside = weight > 0.5
    tie = weight == 0.5
    if tie.any():
        inside |= tie & np.take(contains, nearest[out])
    return out, inside


def _quantized(axis: AxisMap, part: slice) -> tuple[slice, NDArray[np.float32] | None]:
    """Output range touched by an input range, and the matrix between them; None where samples coincide."""
    if axis.is_identity:
        return part, None
    low, share = linear_taps(axis.offset + np.arange(axis.num_out) * axis.step, axis.num_in)
    share = np.round(share * _LEVELS) / _LEVELS
    touched = np.flatnonzero((low + (share > 0) >= part.start) & (low < part.stop))
    if len(touched) == 0:
        return slice(0, 0), np.zeros((0, part.stop - part.start), dtype=np.float32)
    rows = slice(int(touched[0]), int(touched[-1]) + 1)
    matrix = np.zeros((rows.stop - rows.start, axis.num_in), dtype=np.float32)
    index = np.arange(len(matrix))
    matrix[index, low[rows]] = 1 - share[rows]
    matrix[index, np.minimum(low[rows] + 1, axis.num_in - 1)] += share[rows]
    return rows, matrix[:, part]


def _keep(
    painted: _Painted,
    roi: int,
    codes: NDArray[np.unsignedinteger],
    table: NDArray[np.bool_],
    box: Box | None,
    maps: Sequence[AxisMap],
    nearest: NDArray[np.unsignedinteger],
) -> None:
    """Bring back an ROI that fell below one half everywhere."""
    assert box is not None, "an ROI with voxels has a box"
    whole = (slice(None), slice(None), slice(None))
    mask = np.take(table[:, roi], nearest)
    if mask.any():
        painted.put(whole, mask, nearest, table)
        return
    # Its voxels lie between all output samples: take the output voxel nearest to the one closest to its centre.
    voxels = np.argwhere(np.take(table[:, roi], codes[box])) + [part.start for part in box]
    voxel = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    place = [int(np.clip(np.rint((v - m.offset) / m.step), 0, m.num_out - 1)) for v, m in zip(voxel, maps, strict=True)]
    here = (slice(place[0], place[0] + 1), slice(place[1], place[1] + 1), slice(place[2], place[2] + 1))
    single = codes[tuple(slice(int(v), int(v) + 1) for v in voxel)]
    painted.put(here, np.ones((1, 1, 1), dtype=np.bool_), single, table)

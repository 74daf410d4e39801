"""Images and labels of a case: all channels on one grid, and one code volume whose codes are sets of ROIs.

Axes: C channels, R ROIs of the manifest, V codes, Z Y X voxels.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from gleanseg.data import images
from gleanseg.data.manifest import Case, Manifest, State
from gleanseg.data.volume import Grid, Volume, laid_onto
from gleanseg.errors import UserError

MAX_SHIFT = 0.1
"""Labels may lie this far (in voxels) from their image; rounding of headers stays far below."""
_MASK_THREADS = 8


class LabelMap(NamedTuple):
    """Which ROIs each voxel belongs to.

    Attributes:
        codes: row of ``table`` of each voxel; uint8, or uint16 above 255 sets.
        table: whether code v contains ROI r of the manifest; row 0 is the empty set; only annotated ROIs are True.
        valid: False where the annotator marked "ignore" (code 0 there); None when all voxels are judged.
        grid: the image's.
    """

    codes: NDArray[np.uint8] | NDArray[np.uint16]
    table: Bool[np.ndarray, "V R"]
    valid: Bool[np.ndarray, "Z Y X"] | None
    grid: Grid

    def mask(self, roi: int) -> Bool[np.ndarray, "Z Y X"]:
        """Voxels of the ROI at this position of the manifest's list."""
        chosen: NDArray[np.bool_] = self.table[:, roi][self.codes]
        return chosen


def read_image(manifest: Manifest, case: Case) -> Volume:
    """Read all channels of a case as float32 (C, Z, Y, X) on the grid of the first file.

    Raises:
        UserError: missing or broken file, channels on different grids, or another number of them than declared.
    """
    with _about(case):
        volumes = [images.read(manifest.path(name), spacing_mm=case.spacing_mm) for name in case.images]
        first = volumes[0]
        for other in volumes[1:]:
            _check_grid(other.grid, first.grid, other.source, first.source)
        parts = [v.array if v.array.ndim == 4 else v.array[None] for v in volumes]
        found = sum(len(p) for p in parts)
        if found != len(manifest.channels):
            declared = ", ".join(c.name for c in manifest.channels)
            raise UserError(
                f"{first.source}: holds {found} channels, expected {len(manifest.channels)} ({declared});"
                " correct 'channels' or 'images' of the manifest"
            )
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return first._replace(array=np.ascontiguousarray(array, dtype=np.float32))


def read_labels(manifest: Manifest, case: Case) -> LabelMap | None:
    """Read what a case annotates.

    ROIs that are not annotated have no voxels here, whatever the files hold. A union (kidneys) that is annotated
    through its members gets their voxels when the labels do not list it.

    Returns:
        Codes and table, or None when the case has no labels.

    Raises:
        UserError: missing or broken file, labels on another grid than the image, or a value that is not declared.
    """
    if case.labels is None:
        return None
    with _about(case):
        source = manifest.path(case.images[0])
        grid, _ = images.read_grid(source, spacing_mm=case.spacing_mm)
        column = {roi: r for r, roi in enumerate(manifest.rois)}
        if isinstance(case.labels, dict):
            codes, sets, valid = _from_masks(manifest, case, grid)
            listed = set(case.labels)
        else:
            codes, sets, valid = _from_map(manifest, case, grid)
            listed = {roi for rois in case.values.values() for roi in rois}
    table = np.zeros((len(sets), len(manifest.rois)), dtype=np.bool_)
    for row, rois in enumerate(sets):
        table[row, [column[roi] for roi in rois]] = True
    states = manifest.states(case)
    for roi in manifest.rois:
        if states[roi] is not State.ANNOTATED:
            table[:, column[roi]] = False
        elif roi not in listed:
            _fill_union(roi, manifest, column, table)
    codes, table = _compacted(codes, table)
    return LabelMap(codes, table, valid, grid)


@contextmanager
def _about(case: Case) -> Iterator[None]:
    """Name the case in errors about its files."""
    try:
        yield
    except UserError as error:
        raise UserError(f"case {case.id!r}: {error}") from error


def _check_grid(found: Grid, wanted: Grid, source: Path, reference: Path) -> None:
    if found.shape_ZYX != wanted.shape_ZYX:
        raise UserError(
            f"{source}: shape {found.shape_ZYX[::-1]} (x, y, z) differs from {wanted.shape_ZYX[::-1]} of {reference};"
            " resample it onto that grid, or pair the right files"
        )
    if wanted.offset_mm(found) > MAX_SHIFT * min(wanted.spacing_ZYX_mm):
        raise UserError(
            f"{source}: lies up to {wanted.offset_mm(found):.3g} mm ({found.orientation} against {wanted.orientation})"
            f" from {reference}; resample it, or copy the image's header where only the header is wrong"
        )


def _read_on(manifest: Manifest, name: str, case: Case, grid: Grid) -> NDArray[Any]:
    volume = images.read(manifest.path(name), spacing_mm=case.spacing_mm)
    if volume.array.ndim == 4:
        raise UserError(f"{volume.source}: holds {volume.num_channels} channels, expected one label map; split it")
    if case.labels_follow == "orientation":
        laid, there, back = laid_onto(volume.grid, grid)
        turned = np.ascontiguousarray(back.undo(there.apply(volume.array)))
        volume = volume._replace(array=turned, grid=laid)
    _check_grid(volume.grid, grid, volume.source, manifest.path(case.images[0]))
    if volume.array.dtype.kind == "f":
        whole: NDArray[Any] = np.rint(volume.array)
        if not np.array_equal(whole, volume.array):
            raise UserError(
                f"{volume.source}: holds values that are not whole numbers; labels must not be interpolated"
            )
        return whole.astype(np.int32)
    return volume.array


def _from_map(
    manifest: Manifest, case: Case, grid: Grid
) -> tuple[NDArray[Any], list[tuple[str, ...]], NDArray[np.bool_] | None]:
    assert isinstance(case.labels, str)
    array = _read_on(manifest, case.labels, case, grid)
    found = value_counts(array)
    declared = {0, *case.values} | ({case.ignore} if case.ignore is not None else set())
    if stray := {v: n for v, n in found.items() if v not in declared}:
        said = ", ".join(f"{v} ({n:,} voxels)" for v, n in list(stray.items())[:5])
        raise UserError(
            f"{manifest.path(case.labels)}: holds undeclared label value {said}; declared are "
            f"{', '.join(map(str, sorted(declared)))}; add it to 'values' (with [] for background) or mend the file"
        )
    sets: list[tuple[str, ...]] = [()]
    row_of: dict[int, int] = {}
    for value in found:
        rois = () if value == case.ignore else case.values.get(value, ())
        if rois not in sets:
            sets.append(rois)
        row_of[value] = sets.index(rois)
    codes = _mapped(array, row_of, np.min_scalar_type(max(1, len(sets) - 1)))
    valid = array != case.ignore if case.ignore is not None and case.ignore in found else None
    return codes, sets, valid


def value_counts(array: NDArray[Any]) -> dict[int, int]:
    """How many voxels hold each value of an array of whole numbers, values ascending."""
    low, high = int(array.min()), int(array.max())
    if high - low > 1 << 20:
        values, counts = np.unique(array, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(high - low + 1, dtype=np.int64)
    for part in array:  # slice by slice: bincount makes a 64-bit copy
        total += np.bincount(part.reshape(-1).astype(np.int64) - low, minlength=total.size)
    present = np.flatnonzero(total)
    return {int(v) + low: int(total[v]) for v in present}


def _mapped(array: NDArray[Any], row_of: dict[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Replace values by rows."""
    low, high = min(row_of), max(row_of)
    if high - low > 1 << 20:
        values = np.array(sorted(row_of))
        rows = np.array([row_of[int(v)] for v in values], dtype=dtype)
        mapped: NDArray[Any] = rows[np.searchsorted(values, array)]
        return mapped
    lut = np.zeros(high - low + 1, dtype=dtype)
    for value, row in row_of.items():
        lut[value - low] = row
    out = np.empty(array.shape, dtype=dtype)
    for z, part in enumerate(array):
        np.take(lut, part.astype(np.int64) - low, out=out[z])
    return out


def _from_masks(
    manifest: Manifest, case: Case, grid: Grid
) -> tuple[NDArray[Any], list[tuple[str, ...]], NDArray[np.bool_] | None]:
    """Combine masks one after another: a voxel's set grows by looking up (set so far, ROI), so no stack is held."""
    assert isinstance(case.labels, dict)
    valid: NDArray[np.bool_] | None = None
    codes: NDArray[Any] = np.zeros(grid.shape_ZYX, dtype=np.uint16)
    sets: list[tuple[str, ...]] = [()]
    row_of: dict[tuple[str, ...], int] = {(): 0}

    def inside(item: tuple[str, str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        array = _read_on(manifest, item[1], case, grid).reshape(-1)
        if case.ignore is None:
            return np.flatnonzero(array > 0), np.empty(0, np.int64)
        return np.flatnonzero((array > 0) & (array != case.ignore)), np.flatnonzero(array == case.ignore)

    chosen = {roi: name for roi, name in case.labels.items() if roi in case.annotated}
    with ThreadPoolExecutor(min(_MASK_THREADS, max(1, len(chosen)))) as pool:
        for roi, (voxels, ignored) in zip(chosen, pool.map(inside, chosen.items()), strict=True):
            if ignored.size:
                valid = np.ones(grid.shape_ZYX, dtype=np.bool_) if valid is None else valid
                valid.reshape(-1)[ignored] = False
            before = codes.reshape(-1)[voxels]
            lut = np.zeros(len(sets), dtype=np.uint32)
            for row in np.flatnonzero(np.bincount(before, minlength=len(sets))):
                grown = (*sets[row], roi)
                if grown not in row_of:
                    row_of[grown] = len(sets)
                    sets.append(grown)
                lut[row] = row_of[grown]
            if len(sets) > np.iinfo(np.uint16).max and codes.dtype != np.uint32:
                codes = codes.astype(np.uint32)
            codes.reshape(-1)[voxels] = lut[before]
    if valid is not None:
        codes[~valid] = 0
    return codes, sets, valid


def _fill_union(roi: str, manifest: Manifest, column: dict[str, int], table: NDArray[np.bool_]) -> None:
    """Give an annotated union the voxels of its members, and theirs, as far as the manifest has them."""
    waiting = list(manifest.ontology()[roi].members)
    while waiting:
        member = waiting.pop()
        waiting.extend(manifest.ontology()[member].members)
        if member in column:
            table[:, column[roi]] |= table[:, column[member]]


def _compacted(codes: NDArray[Any], table: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Keep one row per set that occurs, the empty set first, in the smallest type."""
    counts = np.zeros(len(table), dtype=np.int64)
    for part in codes:
        counts += np.bincount(part.reshape(-1), minlength=len(table))
    kept: dict[bytes, int] = {np.zeros(table.shape[1], dtype=np.bool_).tobytes(): 0}
    lut = np.zeros(len(table), dtype=np.uint32)
    for row in np.flatnonzero(counts):
        lut[row] = kept.setdefault(table[row].tobytes(), len(kept))
    if len(kept) > np.iinfo(np.uint16).max:
        raise UserError(
            f"{len(kept):,} different overlaps of ROIs occur; the masks look like noise, expected below 65,536"
        )
    small = lut.astype(np.uint8 if len(kept) <= np.iinfo(np.uint8).max else np.uint16)
    rows = np.frombuffer(b"".join(kept), dtype=np.bool_).reshape(len(kept), table.shape[1]).copy()
    if np.array_equal(small, np.arange(len(small))):
        return codes.astype(small.dtype, copy=False), rows
    out = np.empty(codes.shape, dtype=small.dtype)
    for z, part in enumerate(codes):
        np.take(small, part, out=out[z])
    return out, rows

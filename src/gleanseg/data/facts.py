"""What the doctor measures of each file, kept beside the manifest so that an unchanged file is read once.

Axes: C channels, Z Y X voxels.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.data import images
from gleanseg.data.manifest import Manifest
from gleanseg.data.volume import Grid, Volume
from gleanseg.errors import UserError
from gleanseg.reading import read_json

VERSION = 1
_SAMPLE = 400_000
"""Voxels from which percentiles are taken; evenly spread over the volume."""
_SAVE_EVERY = 200


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What an image file holds.

    Attributes:
        shape_ZYX, affine: its grid.
        channels: how many there are in the file.
        content: hash of the voxel values, see ``images.content_hash``.
        ranges: per channel the minimum, the 0.5, 50 and 99.5 percentile and the maximum of its finite voxels.
        nonfinite: number of NaN and infinite voxels.
    """

    shape_ZYX: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    channels: int
    content: str
    ranges: tuple[tuple[float, float, float, float, float], ...]
    nonfinite: int

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.shape_ZYX, np.array(self.affine, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class LabelFacts:
    """What a label file holds.

    Attributes:
        shape_ZYX, affine: its grid.
        channels: how many there are in the file; 1 in a usable one.
        counts: number of voxels of each value.
        right_mm: per value other than 0 the mean position of its voxels along the patient's left (-) to right (+) axis.
        fractions: number of voxels that are not whole numbers.
    """

    shape_ZYX: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    channels: int
    counts: dict[int, int]
    right_mm: dict[int, float]
    fractions: int

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.shape_ZYX, np.array(self.affine, dtype=np.float64))


Role = Literal["image", "label"]


class Trouble(NamedTuple):
    """A file that gives no facts."""

    missing: bool
    message: str


class Facts(NamedTuple):
    """Facts of all files of a manifest, by the name that the manifest gives them."""

    images: dict[str, ImageFacts]
    labels: dict[str, LabelFacts]
    troubles: dict[tuple[Role, str], Trouble]
    num_read: int


def hashes_path(manifest_path: Path) -> Path:
    """Where the facts of a manifest's files are kept: ``<manifest stem>.hashes.json`` beside it."""
    return manifest_path.with_name(f"{manifest_path.stem}.hashes.json")


def known_hashes(manifest: Manifest, path: Path) -> dict[str, str]:
    """Content hashes of image files that have not changed since the doctor read them.

    Args:
        manifest: names the files.
        path: see ``hashes_path``; a missing or foreign file gives an empty result.
    """
    kept = _load(path)
    return {
        name: kept["image", name]["facts"]["content"]
        for case in manifest.cases
        for name in case.images
        if ("image", name) in kept and kept["image", name]["stamp"] == _stamp(manifest.path(name), case.spacing_mm)
    }


def gather(
    manifest: Manifest,
    *,
    path: Path | None = None,
    num_workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Facts:
    """Measure every file of a manifest, in threads; files kept from an earlier time and unchanged are not read.

    Args:
        manifest: names the files.
        path: where facts are kept from one time to the next; nowhere when not given.
        num_workers: files at a time; each thread holds one volume.
        progress: called with (done, total, file).
    """
    kept = _load(path) if path is not None else {}
    tasks: dict[tuple[Role, str], tuple[float, float, float] | None] = {}
    for case in manifest.cases:
        tasks.update({("image", name): case.spacing_mm for name in case.images})
        tasks.update({("label", name): case.spacing_mm for name in case.label_files()})
    facts = Facts({}, {}, {}, 0)
    stored: dict[tuple[str, str], dict[str, Any]] = {}
    num_read = 0

    def work(key: tuple[Role, str]) -> tuple[ImageFacts | LabelFacts | Trouble, list[int | float] | None, bool]:
        place = manifest.path(key[1])
        stamp = _stamp(place, tasks[key])
        old = kept.get(key)
        if old is not None and stamp is not None and old["stamp"] == stamp:
            return _restored(key[0], old["facts"]), stamp, False
        return _measured(place, key[0], tasks[key]), stamp, True

    try:
        with ThreadPoolExecutor(num_workers or os.cpu_count() or 1) as pool:
            waiting = {pool.submit(work, key): key for key in tasks}
            for done, future in enumerate(as_completed(waiting), start=1):
                role, name = waiting[future]
                found, stamp, fresh = future.result()
                num_read += fresh
                if isinstance(found, Trouble):
                    facts.troubles[role, name] = found
                else:
                    (facts.images if isinstance(found, ImageFacts) else facts.labels)[name] = found  # type: ignore[assignment]
                    stored[role, name] = {"stamp": stamp, "facts": asdict(found)}
                if progress is not None:
                    progress(done, len(tasks), Path(name).name)
                if path is not None and num_read and num_read % _SAVE_EVERY == 0 and fresh:
                    _save(path, {**kept, **stored})
    finally:
        if path is not None and (num_read or stored.keys() != kept.keys()):
            _save(path, stored if len(stored) + len(facts.troubles) == len(tasks) else {**kept, **stored})
    return facts._replace(num_read=num_read)


def _measured(
    place: Path, role: Role, spacing_mm: tuple[float, float, float] | None
) -> ImageFacts | LabelFacts | Trouble:
    try:
        volume = images.read(place, spacing_mm=spacing_mm)
    except UserError as error:
        return Trouble(missing=not images.files_of(place), message=str(error))
    except MemoryError:
        return Trouble(missing=False, message=f"{place}: does not fit into memory")
    return measure_image(volume) if role == "image" else measure_labels(volume)


def measure_image(volume: Volume) -> ImageFacts:
    """Grid, hash and intensities of an image."""
    parts = volume.array if volume.array.ndim == 4 else volume.array[None]
    nonfinite = 0
    ranges = []
    for part in parts:
        flat = part.reshape(-1)
        sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
        low, high = float(flat.min()), float(flat.max())
        if part.dtype.kind == "f" and not np.isfinite([low, high]).all():
            finite = np.isfinite(flat)
            nonfinite += int(flat.size - finite.sum())
            inside = flat[finite]
            low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
            sample = sample[np.isfinite(sample)]
        middle = np.percentile(sample, [0.5, 50, 99.5]).tolist() if sample.size else [low, low, high]
        ranges.append((low, *middle, high))
    return ImageFacts(
        shape_ZYX=volume.grid.shape_ZYX,
        affine=_rows(volume.grid),
        channels=len(parts),
        content=images.content_hash(volume),
        ranges=tuple(ranges),
        nonfinite=nonfinite,
    )


def measure_labels(volume: Volume) -> LabelFacts:
    """Grid, voxels of each value and where they lie, of a label map or mask."""
    array = volume.array if volume.array.ndim == 3 else volume.array[0]
    fractions = 0
    if array.dtype.kind == "f":
        whole = np.nan_to_num(np.rint(array), posinf=-1, neginf=-1)
        fractions = int((whole != array).sum())
        array = whole.astype(np.int64)
    counts, middles = _counted(array)
    right = volume.grid.affine[0]
    return LabelFacts(
        shape_ZYX=volume.grid.shape_ZYX,
        affine=_rows(volume.grid),
        channels=volume.num_channels,
        counts=counts,
        right_mm={value: float(right[:3] @ middle[::-1] + right[3]) for value, middle in middles.items()},
        fractions=fractions,
    )


def _counted(array: NDArray[Any]) -> tuple[dict[int, int], dict[int, NDArray[np.float64]]]:
    """Voxels of each value, and the mean Z, Y, X of each value but 0; slice by slice over the voxels that are not 0."""
    sums: dict[int, NDArray[np.float64]] = {}
    for z, part in enumerate(array):
        flat = part.reshape(-1)
        inside = np.flatnonzero(flat)
        if not inside.size:
            continue
        values, which = np.unique(flat[inside], return_inverse=True)
        n = np.bincount(which).astype(np.float64)
        y, x = np.divmod(inside, part.shape[1])
        rows = np.stack([n, n * z, np.bincount(which, weights=y), np.bincount(which, weights=x)], axis=1)
        for value, row in zip(values.tolist(), rows, strict=True):
            sums[value] = sums[value] + row if value in sums else row
    counts = {value: int(sums[value][0]) for value in sorted(sums)}
    rest = array.size - sum(counts.values())
    middles = {value: row[1:] / row[0] for value, row in sums.items()}
    return ({0: rest} if rest else {}) | counts, middles


def _rows(grid: Grid) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in row) for row in grid.affine)


def _stamp(place: Path, spacing_mm: tuple[float, float, float] | None) -> list[int | float] | None:
    """Number, size and latest time of the files behind a name, and the spacing given to it; None when there is none."""
    found = [file.stat() for file in images.files_of(place)]
    if not found:
        return None
    return [len(found), sum(f.st_size for f in found), max(f.st_mtime_ns for f in found), *(spacing_mm or ())]


def _restored(role: Role, kept: Mapping[str, Any]) -> ImageFacts | LabelFacts:
    affine = tuple(tuple(row) for row in kept["affine"])
    shape = tuple(kept["shape_ZYX"])
    if role == "image":
        ranges = tuple(tuple(r) for r in kept["ranges"])
        return ImageFacts(**{**kept, "shape_ZYX": shape, "affine": affine, "ranges": ranges})
    whole = {key: {int(v): n for v, n in kept[key].items()} for key in ("counts", "right_mm")}
    return LabelFacts(**{**kept, "shape_ZYX": shape, "affine": affine, **whole})


def _load(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Kept entries by (role, name); none from a file that another version, or somebody else, wrote."""
    try:
        data = read_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict) or data.get("gleanseg_facts") != VERSION:
        return {}
    wanted = {role: {f.name for f in fields(kind)} for role, kind in (("image", ImageFacts), ("label", LabelFacts))}
    return {
        (role, name): item
        for role in ("image", "label")
        for name, item in data.get(role, {}).items()
        if set(item.get("facts", ())) == wanted[role]
    }


def _save(path: Path, stored: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    def listed(role: str) -> Iterable[str]:
        lines = (f"  {json.dumps(name)}: {json.dumps(item)}" for (r, name), item in sorted(stored.items()) if r == role)
        return ",\n".join(lines)

    text = (
        f'{{"gleanseg_facts": {VERSION},\n "image": {{\n{listed("image")}\n }},'
        f'\n "label": {{\n{listed("label")}\n }}\n}}\n'
    )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        if error.errno not in (EACCES, EPERM, EROFS):  # a data set on a read-only disk is examined all the same
            part.unlink(missing_ok=True)
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); free space or name another place"
            ) from error

"""Read and write volumes of every format gleanseg knows.

Axes: arrays are Z, Y, X (or C, Z, Y, X); affines map voxel (x, y, z) to RAS millimetres.
"""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gleanseg.data import dicom, itk, nifti
from gleanseg.data.bounded import refuse_too_large
from gleanseg.data.volume import Axes, Grid, Volume, grid_to_ras, native, squeezed, to_ras
from gleanseg.errors import UserError
from gleanseg.files import whole

__all__ = [
    "SUFFIXES", "Axes", "Grid", "Volume", "content_hash", "files_of", "grid_to_ras", "read", "read_grid", "stem",
    "suffix", "to_ras", "write",
]  # fmt: skip

_NIFTI = (".nii.gz", ".nii")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
_H5 = (".h5", ".hdf5")
_BROKEN_H5 = (OSError, RuntimeError, KeyError, ValueError, TypeError)
SUFFIXES = _NIFTI + _ITK
"""File endings of volumes, longest first."""


def read(path: Path, *, spacing_mm: tuple[float, float, float] | None = None) -> Volume:
    """Read a volume.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha``, ``.mhd``, a folder with one DICOM series (``folder#part of
            its UID or description`` among several), or ``file.h5#dataset`` (array axes x, y, z, or c, x, y, z).
        spacing_mm: x, y, z voxel size of h5 data sets, which have no geometry; 1 mm when not given.

    Returns:
        Volume in the file's own orientation; scaled values are float32, others keep their type, float64 becomes
        float32.

    Raises:
        UserError: missing, truncated or unknown file; names it and what to do.
    """
    kind = _kind(path)
    if kind == "h5":
        return _read_h5(path, spacing_mm)
    return {"nifti": nifti.read, "itk": itk.read, "dicom": dicom.read}[kind](path)


def read_grid(path: Path, *, spacing_mm: tuple[float, float, float] | None = None) -> tuple[Grid, int]:
    """Grid and number of channels from the header alone.

    Raises:
        UserError: missing or unknown file, or one whose header is broken.
    """
    kind = _kind(path)
    if kind == "h5":
        with _dataset(path) as data:
            return _h5_grid(path, data.shape, spacing_mm), data.shape[0] if data.ndim == 4 else 1
    return {"nifti": nifti.read_grid, "itk": itk.read_grid, "dicom": dicom.read_grid}[kind](path)


def write(path: Path, array: NDArray[Any], like: Volume) -> None:
    """Write voxels on exactly the grid of another volume: shape, affine and orientation.

    Args:
        path: ends in ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or ``.mhd``; its folder is made. An existing file is
            replaced only when the new one is complete.
        array: (Z, Y, X) or (C, Z, Y, X) in ``like``'s own orientation; booleans are written as uint8.
        like: volume that was read; NIfTI to NIfTI keeps sform, qform and their codes.

    Raises:
        UserError: unknown ending.
        ValueError: the array does not fit the grid.
    """
    ending = suffix(path)
    if not ending:
        raise UserError(f"{path}: cannot write this kind of file; end its name in one of {', '.join(SUFFIXES)}")
    if tuple(array.shape[-3:]) != like.grid.shape_ZYX or array.ndim not in (3, 4):
        raise ValueError(f"array {array.shape} does not fit the grid {like.grid.shape_ZYX} of {like.source}")
    writer = nifti.write if ending.lower() in _NIFTI else itk.write
    with whole(path) as part:
        writer(part, _writable(array), like)
        for voxels in sorted(f for f in part.parent.iterdir() if f != part):  # of .mhd and .nhdr, before their header
            voxels.replace(path.with_name(voxels.name))


def content_hash(source: Volume | Path) -> str:
    """SHA-256 of the voxel values and the shape, not of the header or the file.

    The same image in two formats, types or compressions hashes alike.

    Args:
        source: a volume, or the path of one.
    """
    volume = source if isinstance(source, Volume) else read(source)
    array = volume.array[0] if volume.array.ndim == 4 and len(volume.array) == 1 else volume.array
    digest = hashlib.sha256(repr(array.shape).encode())
    for part in array:
        digest.update(np.ascontiguousarray(part, dtype=np.float32).data)
    return digest.hexdigest()


def stem(path: Path | str) -> str:
    """File name without its volume ending (``.nii.gz`` as a whole)."""
    name = Path(path).name
    return name.removesuffix(suffix(name))


def suffix(path: Path | str) -> str:
    """Volume ending of a file name in its own case (``.nii.gz`` as a whole), or an empty string."""
    name = Path(path).name
    return next((name[-len(s) :] for s in SUFFIXES if name.lower().endswith(s)), "")


def files_of(path: Path) -> list[Path]:
    """Files on disk that make up a volume: one, or those of a DICOM folder. Missing ones are left out.

    ``.mhd`` and ``.nhdr`` headers are listed with the raw file of the same name.
    """
    if path.is_file():
        mates = (
            [path.with_suffix(s) for s in (".raw", ".zraw", ".raw.gz")]
            if path.suffix.lower() in (".mhd", ".nhdr")
            else []
        )
        return [path, *(m for m in mates if m.is_file())]
    bare = path.with_name(path.name.partition("#")[0])
    if bare.is_file():
        return [bare]
    folder = path if path.is_dir() else bare
    return sorted(f for f in folder.iterdir() if f.is_file()) if folder.is_dir() else []


def _kind(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(_NIFTI):
        return "nifti"
    if name.endswith(_ITK):
        return "itk"
    if name.partition("#")[0].endswith(_H5):
        return "h5"
    if path.is_dir() or path.with_name(path.name.partition("#")[0]).is_dir():
        return "dicom"
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path in the manifest")
    raise UserError(f"{path}: unknown kind of image; expected {', '.join(SUFFIXES)}, a DICOM folder or file.h5#dataset")


class _dataset:  # noqa: N801 - used as a function
    """Context of one h5 data set: opened read-only, every failure a UserError."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Any:
        name, _, key = self.path.name.partition("#")
        file = self.path.with_name(name)
        if not file.is_file():
            raise UserError(f"{file}: no such file; check the path in the manifest")
        try:
            self.file = h5py.File(file, "r")
        except OSError as error:
            raise UserError(f"{file}: not a complete HDF5 file ({error}); copy or download it again") from error
        try:
            found = [k for k in self.file if self.file.get(k, getclass=True) is h5py.Dataset]
            data = self.file.get(key) if key else None
            fits = isinstance(data, h5py.Dataset) and data.ndim in (3, 4)
        except _BROKEN_H5 as error:
            self.file.close()
            raise UserError(f"{file}: broken HDF5 file ({error}); copy or download it again") from error
        if not fits:
            self.file.close()
            raise UserError(
                f"{self.path}: expected 'file.h5#dataset' of 3 or 4 axes, found data sets {', '.join(found) or 'none'}"
            )
        return data

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _read_h5(path: Path, spacing_mm: tuple[float, float, float] | None) -> Volume:
    with _dataset(path) as data:
        refuse_too_large(path, data.size * data.dtype.itemsize)
        try:
            array = data[()]
        except _BROKEN_H5 as error:
            raise UserError(f"{path}: its voxels cannot be read ({error}); copy or download it again") from error
    lead = tuple(range(array.ndim - 3))
    turned = squeezed(native(array.transpose(*lead, *range(array.ndim - 1, array.ndim - 4, -1))), source=path)
    return Volume(turned, _h5_grid(path, array.shape, spacing_mm), path, None)


def _h5_grid(path: Path, shape: tuple[int, ...], spacing_mm: tuple[float, float, float] | None) -> Grid:
    x, y, z = shape[-3:]
    return Grid((z, y, x), np.diag([*(spacing_mm or (1.0, 1.0, 1.0)), 1.0]).astype(np.float64))


def _writable(array: NDArray[Any]) -> NDArray[Any]:
    """The array in a type that viewers read: no booleans, no half or double floats, 64-bit integers only if needed."""
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low >= -(2**31) and high < 2**31:
            return np.ascontiguousarray(array, dtype=np.int32)
    return native(array)

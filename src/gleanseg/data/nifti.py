"""NIfTI: header by nibabel, voxels decompressed by isal into one buffer; geometry goes out exactly as it came in."""

import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from gleanseg.data.bounded import refuse_too_large
from gleanseg.data.volume import Grid, Volume, checked_affine, native, squeezed
from gleanseg.errors import UserError

_BROKEN: tuple[Any, ...] = (
    OSError, EOFError, KeyError, ValueError, OverflowError, zlib.error, igzip_lib.IsalError,
    nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError,
)  # fmt: skip
_PIECE = 1 << 24
_MOST_EXPANSION = 1032
"""Bytes that one byte of deflate can stand for, at most."""
_MOST_BEHIND = 1 << 28
"""Bytes behind the voxels that are read to check an archive."""


def read(path: Path) -> Volume:
    """Read ``.nii`` or ``.nii.gz``; see ``images.read``."""
    with _readable(path), _open(path) as stream:
        header = _header(stream)
        affine = header.get_best_affine()
        slope, intercept = header.get_slope_inter()
        raw = _payload(stream, header, path)
        _skip(stream, _MOST_BEHIND)  # only reading to the end checks the archive's CRC
        if stream.read(1):
            raise OSError(f"more than {_MOST_BEHIND:,} bytes follow its voxels")
    array = squeezed(native(raw), source=path)
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        array = array.astype(np.float32)
        array *= np.float32(slope)
        array += np.float32(intercept)
    shape = (array.shape[-3], array.shape[-2], array.shape[-1])
    return Volume(array, Grid(shape, checked_affine(affine, source=path)), path, header)


def read_grid(path: Path) -> tuple[Grid, int]:
    """Grid and number of channels from the header alone."""
    with _readable(path), _open(path) as stream:
        header = _header(stream)
        affine = header.get_best_affine()
        shape = squeezed(np.broadcast_to(np.uint8(0), _shape(header)), source=path).shape
    grid = Grid((shape[-3], shape[-2], shape[-1]), checked_affine(affine, source=path))
    return grid, shape[0] if len(shape) == 4 else 1


def write(path: Path, array: NDArray[Any], like: Volume) -> None:
    """Write voxels on the grid of ``like``; the caller makes it atomic."""
    header = _header_like(like)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"] = header["cal_max"] = 0.0
    header["vox_offset"] = 0  # let nibabel place the voxels right behind the header
    header.set_intent("none")
    header.extensions.clear()
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    zipped = path.name.lower().endswith(".gz")
    with igzip.open(path, "wb", compresslevel=1) if zipped else path.open("wb") as out:
        header.write_to(out)
        out.write(bytes(int(header["vox_offset"]) - int(header["sizeof_hdr"]) - 4))
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _PIECE):
            out.write(flat[start : start + _PIECE].data)


def _header_like(like: Volume) -> Any:
    """The input's own header when it was NIfTI; else a new one with sform (and qform, when it can) set."""
    if isinstance(like.header, Nifti1Header):
        return like.header.as_byteswapped("<")
    header = Nifti1Header()
    header.set_data_shape(like.grid.shape_ZYX[::-1])
    header.set_sform(like.grid.affine, code="scanner")
    if like.grid.skew < 1e-6:
        header.set_qform(like.grid.affine, code="scanner")
    header["pixdim"][1:4] = like.grid.spacing_ZYX_mm[::-1]
    header.set_xyzt_units("mm")
    return header


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path in the manifest") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a NIfTI file") from None
    except _BROKEN as error:
        raise UserError(f"{path}: not a complete NIfTI file ({_line(error)}); copy or download it again") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _open(path: Path) -> io.BufferedIOBase:
    """Decompressing stream, judged by content: files named .nii are gzipped now and then, and the other way round."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    stream: io.BufferedIOBase = igzip.open(path, "rb") if zipped else path.open("rb")
    return stream


def _skip(stream: io.BufferedIOBase, num_bytes: int) -> None:
    """Read past bytes, a piece at a time; the file may end before."""
    while num_bytes > 0 and (got := stream.read(min(_PIECE, num_bytes))):
        num_bytes -= len(got)


def _header(stream: io.BufferedIOBase) -> Any:
    start = stream.read(4)
    size = {int.from_bytes(start, order) for order in ("little", "big")}
    kind: Any = Nifti2Header if 540 in size else Nifti1Header
    if not size & {348, 540}:
        raise OSError("it does not start with a NIfTI header")
    block = start + stream.read(kind.sizeof_hdr - 4)
    if len(block) < kind.sizeof_hdr:
        raise EOFError("the header is cut off")
    header = kind(block, check=False)
    if header["magic"].item().rstrip(b"\0") not in (b"n+1", b"n+2"):
        raise OSError("its voxels are in another file (.hdr/.img pair); convert it to .nii.gz")
    return header


def _shape(header: Any) -> tuple[int, ...]:
    """(..., Z, Y, X) as the header claims it."""
    shape = tuple(int(n) for n in header.get_data_shape()[::-1])
    if not shape or min(shape) < 1:
        raise OSError(f"its shape is {shape[::-1]}")
    return shape


def _payload(stream: io.BufferedIOBase, header: Any, path: Path) -> NDArray[Any]:
    """Voxels in file order, last axis fastest turned: shape (..., Z, Y, X). No memory is taken for what cannot be."""
    shape, dtype = _shape(header), header.get_data_dtype()
    native(np.empty(0, dtype))  # refuses types that are no numbers
    offset, claimed = max(int(header["vox_offset"]), header.single_vox_offset), math.prod(shape) * dtype.itemsize
    held = path.stat().st_size * (1 if isinstance(stream, io.BufferedReader) else _MOST_EXPANSION)
    if offset + claimed > held:
        raise EOFError(f"{claimed:,} bytes of voxels expected, the file cannot hold more than {held:,}")
    refuse_too_large(path, claimed)
    _skip(stream, offset - header.sizeof_hdr)
    raw = np.empty(shape, dtype=dtype)
    buffer = memoryview(raw.reshape(-1).view(np.uint8).data)
    filled = 0
    while filled < len(buffer):
        got = stream.readinto(buffer[filled : filled + _PIECE])  # type: ignore[attr-defined]
        if not got:
            raise EOFError(f"{len(buffer):,} bytes of voxels expected, {filled:,} found")
        filled += got
    return raw

"""NRRD and MetaImage through SimpleITK, turned from LPS to RAS."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
from jaxtyping import Float64
from numpy.typing import NDArray

from gleanseg.data.bounded import refuse_too_large
from gleanseg.data.volume import Grid, Volume, checked_affine, native, squeezed
from gleanseg.errors import UserError

_LONGEST_FIELD, _LONGEST_LINE = 500, 1 << 24
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class ItkGeometry(NamedTuple):
    """Spacing (x, y, z), origin and row-major direction matrix of the first three axes, in LPS."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


def read(path: Path) -> Volume:
    """Read ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``; see ``images.read``."""
    reader = _reader(path)
    pixel = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
    num_values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    refuse_too_large(path, 2 * num_values * pixel.GetSizeOfPixelComponent())  # as an image and as an array
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _broken(path, error) from error
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    array = squeezed(native(array), source=path)
    geometry = _geometry(reader)
    shape = (array.shape[-3], array.shape[-2], array.shape[-1])
    return Volume(array, Grid(shape, checked_affine(affine_of(geometry), source=path)), path, geometry)


def read_grid(path: Path) -> tuple[Grid, int]:
    """Grid and number of channels from the header alone."""
    reader = _reader(path)
    sizes = reader.GetSize()[::-1]
    lead = (reader.GetNumberOfComponents(),) if reader.GetNumberOfComponents() > 1 else ()
    shape = squeezed(np.broadcast_to(np.uint8(0), lead + sizes), source=path).shape
    affine = checked_affine(affine_of(_geometry(reader)), source=path)
    return Grid((shape[-3], shape[-2], shape[-1]), affine), shape[0] if len(shape) == 4 else 1


def write(path: Path, array: NDArray[Any], like: Volume) -> None:
    """Write voxels on the grid of ``like``; channels become a vector image."""
    vector = array.ndim == 4
    image = sitk.GetImageFromArray(np.moveaxis(array, 0, -1) if vector else array, isVector=vector)
    geometry = like.header if isinstance(like.header, ItkGeometry) else geometry_of(like.grid)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:
        raise OSError(f"{path}: could not be written ({_reason(error)})") from error


def affine_of(geometry: ItkGeometry) -> Float64[np.ndarray, "4 4"]:
    """RAS affine of ITK's spacing, origin and direction."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * np.asarray(geometry.spacing)
    affine[:3, 3] = geometry.origin
    return LPS_TO_RAS @ affine


def geometry_of(grid: Grid) -> ItkGeometry:
    """ITK's spacing, origin and direction of a RAS grid."""
    lps = LPS_TO_RAS @ grid.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    return ItkGeometry(tuple(map(float, spacing)), tuple(map(float, lps[:3, 3])), tuple(map(float, direction.ravel())))


def _reader(path: Path) -> sitk.ImageFileReader:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path in the manifest")
    _refuse_long_fields(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _broken(path, error) from error
    if reader.GetDimension() not in (3, 4):
        raise UserError(f"{path}: found {reader.GetDimension()} axes, expected 3, or 4 with channels last; convert it")
    return reader


def _refuse_long_fields(path: Path) -> None:
    """ITK's reader of NRRD writes beyond its buffers when a header's field is long; comments and key:=value may be."""
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            return
        while (line := file.readline(_LONGEST_LINE)).strip(b"\r\n"):
            is_pair = line.partition(b":")[2].startswith(b"=")
            if len(line) > _LONGEST_FIELD and not line.startswith(b"#") and not is_pair:
                raise UserError(f"{path}: a field of its header has {len(line):,} bytes; copy or download it again")


def _geometry(reader: sitk.ImageFileReader) -> ItkGeometry:
    n = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (n, n))[:3, :3]
    return ItkGeometry(reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(map(float, direction.ravel())))


def _broken(path: Path, error: RuntimeError) -> UserError:
    return UserError(f"{path}: not a complete image ({_reason(error)}); copy or download it again")


def _reason(error: RuntimeError) -> str:
    """The last telling line of ITK's many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR:").strip() if lines else "unreadable"

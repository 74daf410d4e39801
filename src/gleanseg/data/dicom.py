"""A folder with a DICOM series: sorted by projected position, checked for gaps and tilt, decoded by SimpleITK."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
from jaxtyping import Float64
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from gleanseg.data.bounded import refuse_too_large
from gleanseg.data.itk import LPS_TO_RAS
from gleanseg.data.volume import Grid, Volume, checked_affine, native
from gleanseg.errors import UserError

MAX_TILT_DEGREES = 0.1
MAX_GAP = 0.1
"""Largest deviation of a slice from even distances, in slice distances."""

_TAGS = [
    "SeriesInstanceUID", "SeriesDescription", "Modality", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "Rows", "Columns", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "SliceThickness",
    "SpacingBetweenSlices", "SamplesPerPixel",
]  # fmt: skip


class Slice(NamedTuple):
    """Header of one file. Positions and directions are in LPS mm."""

    path: Path
    series: str
    about: str
    shape: tuple[int, int]
    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing: tuple[float, float]
    rescale: tuple[float, float]
    thickness: float


def read(folder: Path) -> Volume:
    """Read the one series of a folder; ``folder#part of the series UID or description`` chooses among several."""
    slices, grid = _series(folder)
    refuse_too_large(folder, 8 * math.prod(grid.shape_ZYX))  # 16 bits become 32, as an image and as an array
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(s.path) for s in slices])
    scales = {s.rescale for s in slices}
    if len(scales) > 1 or any(not value.is_integer() for value in next(iter(scales))):
        reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{folder}: its DICOM pixels cannot be decoded ({reason}); convert it with dcm2niix") from error
    return Volume(native(array), grid, folder, None)


def read_grid(folder: Path) -> tuple[Grid, int]:
    """Grid from the headers of the series' files."""
    return _series(folder)[1], 1


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and f.name != "DICOMDIR")


def _series(place: Path) -> tuple[list[Slice], Grid]:
    folder, wanted = place, ""
    if not place.is_dir() and "#" in place.name:
        name, _, wanted = place.name.partition("#")
        folder = place.with_name(name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder; check the path in the manifest")
    groups: dict[str, list[Slice]] = defaultdict(list)
    for file in _files(folder):
        if (one := _slice(file)) is not None and wanted.casefold() in f"{one.series} {one.about}".casefold():
            groups[one.series].append(one)
    if not groups:
        choice = f" of series {wanted!r}" if wanted else ""
        raise UserError(f"{folder}: holds no DICOM image{choice}; expected one file per slice directly in the folder")
    if len(groups) > 1:
        found = "; ".join(
            f"{group[0].about}, {len(group)} slices, UID {uid or 'missing'}" for uid, group in groups.items()
        )
        raise UserError(
            f"{folder}: holds {len(groups)} series ({found}); name one as 'folder#UID' or give each a folder"
        )
    (slices,) = groups.values()
    return _stacked(slices, folder)


def _slice(file: Path) -> Slice | None:
    """Header of an image slice; None for files that are no DICOM images (reports, presentation states, notes)."""
    try:
        return _header(file)
    except UserError:
        raise
    except InvalidDicomError:
        return None
    except Exception as error:  # what pydicom raises on broken files has no common base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file}: broken DICOM file ({reason}); copy or download it again") from error


def _header(file: Path) -> Slice | None:
    d: Any = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    if "Rows" not in d:
        return None
    if int(d.get("NumberOfFrames") or 1) > 1:
        raise UserError(f"{file}: multi-frame DICOM is not read; convert it with dcm2niix and list the NIfTI file")
    if int(d.get("SamplesPerPixel") or 1) > 1:
        raise UserError(f"{file}: color DICOM (a screenshot or photograph?) is not read; remove it from the folder")
    missing = [t for t in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing") if not d.get(t)]
    if missing:
        raise UserError(
            f"{file}: has no {missing[0]}, so its place in the patient is unknown; "
            "remove it or convert the series with dcm2niix"
        )
    directions = np.array(d.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    return Slice(
        path=file,
        series=str(d.get("SeriesInstanceUID") or ""),
        about=" ".join(str(d.get(t)) for t in ("Modality", "SeriesDescription") if d.get(t)) or "unnamed",
        shape=(int(d.Rows), int(d.Columns)),
        position=np.array(d.ImagePositionPatient, dtype=np.float64),
        directions=directions,
        spacing=(float(d.PixelSpacing[0]), float(d.PixelSpacing[1])),
        rescale=(float(d.get("RescaleSlope", 1) or 1), float(d.get("RescaleIntercept", 0) or 0)),
        thickness=float(d.get("SpacingBetweenSlices") or d.get("SliceThickness") or 1.0),
    )


def _stacked(slices: list[Slice], folder: Path) -> tuple[list[Slice], Grid]:
    """Slices in order along their normal, and the grid they make; UserError when they do not make one."""
    first = slices[0]
    for s in slices:
        if (
            s.shape != first.shape
            or not np.allclose(s.directions, first.directions, atol=1e-3)
            or not np.allclose(s.spacing, first.spacing)
        ):
            raise UserError(
                f"{folder}: {s.path.name} differs in size or direction from {first.path.name} ({s.shape} against "
                f"{first.shape}); the folder mixes a localizer or several stacks, so give each its own folder"
            )
    normal = np.cross(*first.directions)
    normal /= np.linalg.norm(normal)
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    step = _step(ordered, normal, folder)
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[1]
    affine[:3, 1] = first.directions[1] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position
    shape = (len(ordered), *first.shape)
    return ordered, Grid(shape, checked_affine(LPS_TO_RAS @ affine, source=folder))


def _step(ordered: list[Slice], normal: Float64[np.ndarray, " 3"], folder: Path) -> Float64[np.ndarray, " 3"]:
    """Vector from slice to slice in LPS mm."""
    if len(ordered) == 1:
        return np.asarray(normal * ordered[0].thickness)
    positions = np.array([s.position for s in ordered])
    step = np.asarray((positions[-1] - positions[0]) / (len(ordered) - 1))
    gaps = np.diff(positions @ normal)
    size = float(np.percentile(gaps, 50, method="lower"))
    if (gaps < 1e-3).any():
        at = int((gaps < 1e-3).argmax())
        raise UserError(
            f"{folder}: {ordered[at].path.name} and {ordered[at + 1].path.name} lie at the same position; "
            "the folder holds several phases or copies, so give each its own folder"
        )
    uneven = np.abs(gaps - size) > MAX_GAP * size
    if uneven.any():
        at = int(uneven.argmax())
        raise UserError(
            f"{folder}: {gaps[at]:.2f} mm between {ordered[at].path.name} and {ordered[at + 1].path.name}, expected "
            f"{size:.2f} mm; a slice is missing or the distances are uneven, so complete or resample the series"
        )
    tilt = float(np.degrees(np.arccos(min(1.0, abs(step @ normal) / np.linalg.norm(step)))))
    if tilt > MAX_TILT_DEGREES:
        raise UserError(
            f"{folder}: slices are stacked {tilt:.1f} degrees off their normal (gantry tilt); "
            "convert it with dcm2niix, which straightens it"
        )
    return step

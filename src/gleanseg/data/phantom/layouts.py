"""Write phantom cases the way public data sets are laid out: MSD, nnU-Net v2 raw, TotalSegmentator, plain folders."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gleanseg.data.phantom.render import CODES, Rendered
from gleanseg.data.phantom.shapes import Triple

MSD_LABELS = {0: "background", 1: "liver", 2: "cancer", 3: "spleen", 4: "stomach"}
NNUNET_REGIONS: dict[str, int | list[int]] = {
    "background": 0,
    "kidney_right": [1, 3],
    "kidney_left": [2, 4],
    "kidney_tumor": [3, 4],
    "urinary_bladder": 5,
}
STRUCTURES = ("aorta", "lung_left", "lung_right", "spleen", "stomach", "urinary_bladder")  # what site C's readers drew
_AXES = "RLAPSI"
_TO_MSD = {1: 1, 2: 2, 3: 3, 8: 4}
_TO_NNUNET = {4: 1, 5: 2, 6: 3, 7: 4, 10: 5}


class Geometry(NamedTuple):
    """Grid of a file.

    Attributes:
        spacing_mm: x, y, z in RAS order.
        start_mm: RAS position of the first voxel of the RAS-ordered array.
        orientation: codes of the file's axes, such as ``LPS``.
    """

    spacing_mm: Triple
    start_mm: Triple
    orientation: str


def write_nifti(path: Path, array_XYZ: NDArray[Any], geometry: Geometry) -> None:
    """Write an array of RAS order (X, Y, Z) in the orientation that the geometry names; equal bytes for equal input."""
    order = [_AXES.index(code) // 2 for code in geometry.orientation]
    flipped = tuple(i for i, code in enumerate(geometry.orientation) if code in "LPI")
    turned = np.flip(array_XYZ.transpose(order), flipped)
    affine = np.zeros((4, 4))
    affine[:, 3] = *geometry.start_mm, 1
    for column, axis in enumerate(order):
        step = geometry.spacing_mm[axis]
        affine[axis, column] = -step if column in flipped else step
        affine[axis, 3] += step * (array_XYZ.shape[axis] - 1) if column in flipped else 0
    kind: Any = nib.Nifti1Image
    image = kind(turned, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"gleanseg phantom"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def roi_masks(codes: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Mask (0 or 1) of every ROI that occurs in a code volume; nested ROIs overlap."""
    found = set(np.unique(codes).tolist())
    rois = sorted({roi for code in found - {0} for roi in CODES[code]})
    members = {roi: [code for code, names in CODES.items() if roi in names] for roi in rois}
    return {roi: np.isin(codes, members[roi]).astype(np.uint8) for roi in rois}


def _recode(codes: NDArray[np.uint8], values: Mapping[int, int]) -> NDArray[np.uint8]:
    lookup = np.zeros(max(CODES) + 1, dtype=np.uint8)
    for code, value in values.items():
        lookup[code] = value
    return lookup[codes]


def write_msd(folder: Path, id: str, scan: Rendered, geometry: Geometry) -> Path:
    """Image and label map of one case of a Medical Segmentation Decathlon task; returns the image's path."""
    image = folder / "imagesTr" / f"{id}.nii.gz"
    write_nifti(image, scan.hu, geometry)
    write_nifti(folder / "labelsTr" / f"{id}.nii.gz", _recode(scan.codes, _TO_MSD), geometry)
    return image


def write_msd_index(folder: Path, ids: list[str]) -> None:
    """The ``dataset.json`` of a Medical Segmentation Decathlon task."""
    index = {
        "name": "PhantomLiver",
        "description": "Computed phantom: liver, liver tumors, spleen and stomach",
        "reference": "gleanseg phantom",
        "licence": "Apache-2.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in MSD_LABELS.items()},
        "numTraining": len(ids),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in ids],
        "test": [],
    }
    write_json(folder / "dataset.json", index)


def write_nnunet(folder: Path, id: str, scan: Rendered, geometry: Geometry) -> Path:
    """Image and label map of one case of an nnU-Net v2 raw data set; returns the image's path."""
    image = folder / "imagesTr" / f"{id}_0000.nii.gz"
    write_nifti(image, scan.hu, geometry)
    write_nifti(folder / "labelsTr" / f"{id}.nii.gz", _recode(scan.codes, _TO_NNUNET), geometry)
    return image


def write_nnunet_index(folder: Path, ids: list[str]) -> None:
    """The ``dataset.json`` of an nnU-Net v2 raw data set whose regions nest (a tumor lies in its kidney)."""
    index = {
        "channel_names": {"0": "CT"},
        "labels": NNUNET_REGIONS,
        "regions_class_order": [1, 2, 3, 5],
        "numTraining": len(ids),
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", index)


def write_totalsegmentator(
    folder: Path, id: str, scan: Rendered, geometry: Geometry, structures: tuple[str, ...] | None = None
) -> Path:
    """One folder with the image and one mask per structure that occurs; returns the image's path.

    Args:
        folder: of the data set.
        id: name of the case's folder.
        scan: image and codes.
        geometry: of all files.
        structures: what is written; None for every ROI.
    """
    image = folder / id / "ct.nii.gz"
    write_nifti(image, scan.hu, geometry)
    for roi, mask in roi_masks(scan.codes).items():
        if structures is None or roi in structures:
            write_nifti(folder / id / "segmentations" / f"{roi}.nii.gz", mask, geometry)
    return image


def write_plain(folder: Path, id: str, scan: Rendered, geometry: Geometry) -> Path:
    """An image without labels; returns its path."""
    image = folder / f"{id}.nii.gz"
    write_nifti(image, scan.hu, geometry)
    return image


def write_truth(folder: Path, id: str, scan: Rendered, geometry: Geometry) -> None:
    """Masks of every ROI that occurs, for experiments that hide labels; no manifest names them."""
    for roi, mask in roi_masks(scan.codes).items():
        write_nifti(folder / id / f"{roi}.nii.gz", mask, geometry)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write indented JSON; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

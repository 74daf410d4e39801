"""Small NIfTI files and manifests of them."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gleanseg.data.manifest import Manifest

ROIS = ("liver", "liver_tumor", "spleen")
VALUES = {1: ("liver",), 2: ("liver", "liver_tumor"), 3: ("spleen",)}


def save(path: Path, array_ZYX: NDArray[Any], affine: NDArray[np.float64] | None = None) -> str:
    """Write a volume; the affine maps voxel (x, y, z), 1 mm RAS by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array_ZYX.T, np.eye(4) if affine is None else affine), path)
    return str(path)


def ct_case(folder: Path, name: str, *, seed: int, labelled: bool = True, **more: Any) -> dict[str, Any]:
    """A 20 x 24 x 28 CT of noise around 50 HU in air, with a liver that holds a tumor, and a spleen."""
    rng = np.random.default_rng(seed)
    image = np.full((20, 24, 28), -1000, dtype=np.int16)
    image[2:18, 2:22, 2:26] = rng.integers(0, 100, (16, 20, 24))
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[4:12, 4:14, 4:14] = 1
    labels[6:9, 6:9, 6:9] = 2
    labels[10:15, 14:20, 18:24] = 3
    case = {"id": name, "images": [save(folder / f"{name}.nii.gz", image, more.pop("affine", None))]}
    if labelled:
        case |= {
            "labels": save(folder / f"{name}_seg.nii.gz", labels, None),
            "values": VALUES,
            "annotated": ROIS,
        }
    return case | more


def ct_manifest(*cases: dict[str, Any]) -> Manifest:
    """A CT manifest of these cases."""
    return Manifest(name="two-sites", rois=ROIS, channels=({"name": "ct", "modality": "CT"},), cases=cases)

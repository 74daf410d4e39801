"""Tiny replicas of the seven data sets of MOTS, with the real file names of the cases they hold."""

import json
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

# Two numbers of each task: the first trains, the second tests.
NUMBERS = {
    "liver": (1, 0), "kidney": (1, 15), "hepaticvessel": (2, 1), "pancreas": (4, 1), "colon": (5, 1), "lung": (3, 1),
    "spleen": (2, 10),
}  # fmt: skip
IDS = {
    "liver_1", "liver_0", "kidney_1", "kidney_15", "hepaticvessel_002", "hepaticvessel_001", "pancreas_004",
    "pancreas_001", "colon_005", "colon_001", "lung_003", "lung_001", "spleen_2", "spleen_10",
}  # fmt: skip
MSD = {
    "hepaticvessel": ("Task08_HepaticVessel", "HepaticVessel", "hepaticvessel_{:03d}", ("Vessel", "Tumour")),
    "pancreas": ("Task07_Pancreas", "Pancreas", "pancreas_{:03d}", ("pancreas", "cancer")),
    "colon": ("Task10_Colon", "Colon", "colon_{:03d}", ("colon cancer primaries",)),
    "lung": ("Task06_Lung", "Lung", "lung_{:03d}", ("cancer",)),
    "spleen": ("Task09_Spleen", "Spleen", "spleen_{}", ("spleen",)),
}
SHAPE_XYZ = (8, 7, 6)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def save(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def codes(highest: int) -> NDArray[np.uint8]:
    """Value 1 in three columns, and value 2, where the task has it, in one of them."""
    array = np.zeros(SHAPE_XYZ, dtype=np.uint8)
    array[2:5, 3, 3] = 1
    array[4, 3, 3] = highest
    return array


def write_msd(root: Path, task: str) -> None:
    folder, name, pattern, labels = MSD[task]
    place = root / folder
    listed = []
    for number in NUMBERS[task]:
        file = f"{pattern.format(number)}.nii.gz"
        save(place / "imagesTr" / file, np.full(SHAPE_XYZ, 40, dtype=np.int16))
        save(place / "labelsTr" / file, codes(len(labels)).astype(np.float32))
        for kind in ("imagesTr", "labelsTr"):
            (place / kind / f"._{file}").write_bytes(b"Mac OS X")
        listed += [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in (file, f"._{file}")]
    (place / "dataset.json").write_text(json.dumps({
        "name": name, "modality": {"0": "CT"}, "training": listed, "test": [f"./imagesTs/{pattern.format(99)}.nii.gz"],
        "labels": {"0": "background"} | {str(v): label for v, label in enumerate(labels, start=1)},
    }))  # fmt: skip


def write_lits(root: Path) -> None:
    for batch, number in enumerate(NUMBERS["liver"], start=1):
        place = root / "LITS" / f"Training Batch {batch}"
        save(place / f"volume-{number}.nii", np.full(SHAPE_XYZ, 40, dtype=np.int16))
        save(place / f"segmentation-{number}.nii", codes(2))
    save(root / "LITS" / "Test" / "test-volume-0.nii", np.full(SHAPE_XYZ, 40, dtype=np.int16))


def write_kits(root: Path) -> None:
    for number in NUMBERS["kidney"]:
        place = root / "kits19" / "data" / f"case_{number:05d}"
        save(place / "imaging.nii.gz", np.full(SHAPE_XYZ, 40, dtype=np.int16))
        save(place / "segmentation.nii.gz", codes(2))
    save(root / "kits19" / "data" / "case_00210" / "imaging.nii.gz", np.full(SHAPE_XYZ, 40, dtype=np.int16))


def write_mots(root: Path) -> Path:
    """All seven, two cases each; returns the root."""
    write_lits(root)
    write_kits(root)
    for task in MSD:
        write_msd(root, task)
    return root

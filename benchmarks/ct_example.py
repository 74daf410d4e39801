"""Real data 2: a CT with one mask per structure is imported and learnt; other scans are segmented on their own grids.

    python benchmarks/ct_example.py --data ../shared/data/ct_example --folder runs/ct-example

The scan that is learnt is segmented again: a network that learns nothing of it is broken. The torso CT
and the DICOM series have no reference; of them it is asserted that shape, affine and orientation are the input's.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from end_to_end import ROOT, folders, gleanseg, write


def main() -> None:
    data, folder = folders(__doc__, data="folder with s0001, ct_torso.nii.gz, dicom_series")
    manifest, run = folder / "ct.json", folder / "run"
    gleanseg("import", "totalsegmentator", data, "-o", manifest)
    recipe = ROOT / "recipes" / "ct-example" / "supervised.toml"
    gleanseg("train", recipe, "-o", run, "--resume", "--override", f"manifest={json.dumps(str(manifest))}")
    gleanseg("predict", run, "--split", "train", "--resume")
    gleanseg("evaluate", run, "--split", "train")
    gleanseg("predict", run, "-i", data / "ct_torso.nii.gz", "-o", folder / "torso", "--resume")
    gleanseg("predict", run, "-i", data / "dicom_series", "-o", folder / "dicom", "--resume")
    summary = json.loads((run / "evaluation" / "train.json").read_text())["summary"]
    info = json.loads((run / "run.json").read_text())
    result = {
        "command": "python benchmarks/ct_example.py --data ../shared/data/ct_example --folder FOLDER",
        "rois": len(info["rois"]),
        "train_s": info["elapsed_s"],
        "dice_on_the_training_scan": summary["mean"]["dice"],
        "ct_torso": on_its_grid(nibabel.load(data / "ct_torso.nii.gz"), folder / "torso"),
        "dicom_series": on_its_grid(series(data / "dicom_series"), folder / "dicom"),
    }
    write("ct_example", result)


def series(folder: Path) -> nibabel.Nifti1Image:
    """The DICOM series as another reader sees it, for its geometry: LPS turned into RAS."""
    reader = SimpleITK.ImageSeriesReader()
    files = [str(path) for path in folder.iterdir()]
    by_position = sorted(files, key=lambda f: SimpleITK.ReadImage(f).GetOrigin()[2])
    reader.SetFileNames(by_position)
    image = reader.Execute()
    direction = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction, image.GetOrigin()
    return nibabel.Nifti1Image(np.zeros(image.GetSize(), np.uint8), np.diag([-1, -1, 1, 1]) @ affine)


def on_its_grid(image: nibabel.Nifti1Image, folder: Path) -> dict[str, object]:
    """Assert that a prediction lies on the image's grid, and say what it holds."""
    (file,) = folder.glob("*.nii.gz")
    found = nibabel.load(file)
    assert found.shape == image.shape[:3], (found.shape, image.shape)
    difference = float(np.abs(found.affine - image.affine).max())
    assert difference < 1e-4, (found.affine, image.affine)
    assert nibabel.aff2axcodes(found.affine) == nibabel.aff2axcodes(image.affine)
    values = np.unique(np.asarray(found.dataobj))
    return {
        "shape_xyz": list(found.shape),
        "largest_affine_difference": difference,
        "orientation": "".join(nibabel.aff2axcodes(found.affine)),
        "structures_found": int((values > 0).sum()),
    }


if __name__ == "__main__":
    main()

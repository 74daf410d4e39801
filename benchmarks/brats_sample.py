"""Several modalities and nested regions end to end: three BraTS subjects, of which each draws something else.

    python benchmarks/brats_sample.py --data ../shared/data/brats2015_sample --folder runs/brats-sample

One subject outlines the whole tumor, one its core and its enhancing part; the third is segmented. A presence network
and latent-class mining are trained from these two. Two subjects teach no one to find gliomas: what is asserted is that
the segmentation lies on the input's grid and that every region lies inside the one around it.
"""

import json
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
from end_to_end import ROOT, folders, gleanseg, write

from gleanseg.data.manifest import Manifest

SITES = {"brats_2013_pat0001_1": "outlines", "brats_2013_pat0002_1": "parts"}
NESTED = ("brain_tumor_whole", "brain_tumor_core", "brain_tumor_enhancing")


def main() -> None:
    data, folder = folders(__doc__, data="folder with brats_2013_pat0001_1 and so on")
    manifest = make_manifest(data, folder / "brats_sample.json")
    given = ["--override", f"manifest={json.dumps(str(manifest))}"]
    recipes, presence, run = ROOT / "recipes" / "brats-sample", folder / "presence", folder / "latent_class"
    gleanseg("train", recipes / "presence.toml", "-o", presence, "--resume", *given)
    given += ["--override", f"presence.run={json.dumps(str(presence))}"]
    gleanseg("train", recipes / "latent_class.toml", "-o", run, "--resume", *given)
    gleanseg("predict", run, "--split", "test", "--resume")
    gleanseg("evaluate", run, "--split", "test")
    gleanseg("report", run)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    result = {
        "command": "python benchmarks/brats_sample.py --data ../shared/data/brats2015_sample --folder FOLDER",
        "channels": ["FLAIR", "T1c"],
        "train_s": json.loads((run / "run.json").read_text())["elapsed_s"],
        "dice_of_the_third_subject": json.loads((run / "evaluation" / "test.json").read_text())["summary"],
        "voxels_of_nested_regions": nested_on_its_grid(data, run / "predictions" / "test"),
        "last_log": log[-1],
    }
    write("brats_sample", result)


def make_manifest(data: Path, path: Path) -> Path:
    """Two modalities and one label map per subject, imported; then a site each, and the third subject to test."""
    images = ["{case}/Flair_subtrMeanDivStd.nii.gz", "{case}/T1c_subtrMeanDivStd.nii.gz"]
    words = ["--modality", "FLAIR", "T1c", "--images", *images, "--masks", "{case}/OTMultiClass.nii.gz"]
    gleanseg("import", "folder", data, *words, "--labels", "brats-2015", "--also", *NESTED[:2], "-o", path)
    manifest = Manifest.load(path)
    cases = [
        case.model_copy(update={"site": SITES[case.id]})
        if case.id in SITES
        else case.model_copy(update={"split": "test"})
        for case in manifest.cases
    ]
    manifest.model_copy(update={"cases": tuple(cases)}).save(path)
    return path


def nested_on_its_grid(data: Path, predictions: Path) -> dict[str, int]:
    """Assert that the prediction lies on the image's grid and that its regions nest; their voxels, outermost first."""
    (flat,) = predictions.glob("*.nii.gz")
    case = flat.name.removesuffix(".nii.gz")
    image = nibabel.load(data / case / "Flair_subtrMeanDivStd.nii.gz")
    masks = {}
    for layer in json.loads((predictions / "labels.json").read_text())["layers"]:
        found = nibabel.load(predictions / "layers" / f"{case}{layer['file_suffix']}.nii.gz")
        assert found.shape == image.shape, (found.shape, image.shape)
        assert np.abs(found.affine - image.affine).max() < 1e-4, (found.affine, image.affine)
        masks |= {roi: np.asarray(found.dataobj) == int(v) for v, rois in layer["values"].items() for roi in rois}
    for outer, inner in pairwise(NESTED):
        assert not (masks[inner] & ~masks[outer]).any(), (outer, inner)
    return {roi: int(masks[roi].sum()) for roi in NESTED}


if __name__ == "__main__":
    main()

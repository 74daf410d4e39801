"""A small partly labelled data set on disk: two sites, unlabelled cases, validation and test."""

import json
from pathlib import Path

import nibabel
import numpy as np

from gleanseg.config import Recipe

ROIS = ("liver", "liver_tumor", "spleen")
SHAPE = (24, 22, 20)  # x, y, z


def write_cases(folder: Path, *, seed: int = 0) -> Path:
    """Write 8 training, 2 validation and 2 test cases; returns the manifest's path.

    Site A labels liver and its tumour, site B the spleen, two cases nothing; validation and test all.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    cases = []
    for i in range(12):
        liver = ((grid - rng.integers(6, 9, 3)[:, None, None, None]) ** 2).sum(0) < 25
        tumor = liver & (((grid - rng.integers(5, 9, 3)[:, None, None, None]) ** 2).sum(0) < 5)
        spleen = ((grid - rng.integers(13, 16, 3)[:, None, None, None]) ** 2).sum(0) < 14
        codes = np.where(tumor, 2, np.where(liver, 1, np.where(spleen, 3, 0))).astype(np.uint8)
        image = 60 * liver - 40 * tumor + 120 * spleen + rng.normal(0, 10, SHAPE)
        name = f"c{i:02d}"
        nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), np.diag([2, 2, 2.5, 1])), folder / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(codes, np.diag([2, 2, 2.5, 1])), folder / f"{name}_seg.nii.gz")
        site = "ABU"[0 if i < 3 else 1 if i < 6 else 2]
        split = "train" if i < 8 else "validation" if i < 10 else "test"
        annotated = {"A": ["liver", "liver_tumor"], "B": ["spleen"], "U": []}[site] if split == "train" else list(ROIS)
        case = {"id": name, "site": site, "split": split, "images": [f"{name}.nii.gz"]}
        if annotated:
            case |= {"labels": f"{name}_seg.nii.gz", "annotated": annotated}
            case["values"] = {"1": ["liver"], "2": ["liver", "liver_tumor"], "3": ["spleen"]}
            case["values"] = {v: [r for r in rois if r in annotated] for v, rois in case["values"].items()}
        cases.append(case)
    manifest = {
        "gleanseg": 1,
        "name": "small",
        "rois": list(ROIS),
        "channels": [{"name": "mr", "modality": "MR"}],
        "cases": cases,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


RECIPE = """
manifest = "manifest.json"
[prepare]
spacing = [2.0, 2.0, 2.5]
[network]
name = "unet3d"
width = 4
levels = 3
[method]
name = "{method}"
[sampling]
patch = [16, 16, 16]
batch = 2
[train]
steps = {steps}
precision = "fp32"
log_every = 1
checkpoint_every = 2
validate_every = 3
"""


def write_recipe(folder: Path, *, method: str = "mean_teacher", steps: int = 6, more: str = "") -> Path:
    """Write the data set and a recipe beside it; the recipe's path is returned."""
    write_cases(folder)
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(method=method, steps=steps) + more)
    return path


def prepared(folder: Path, **options: object) -> Recipe:
    """A recipe whose manifest is prepared."""
    from gleanseg import api

    recipe = Recipe.load(write_recipe(folder, **options))  # type: ignore[arg-type]  # a test's shorthand
    api.prepare(recipe)
    return recipe

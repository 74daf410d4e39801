"""A made-up run folder: 20 cases of three sites, six ROIs, five predicted test cases, 300 logged steps."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gleanseg.data.manifest import Case, Channel, Manifest
from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import Row

ROIS = ("liver", "liver_tumor", "spleen", "kidney_left", "kidney_right", "vertebrae_L1")
SHAPE_ZYX = (36, 72, 80)
SPACING_XYZ_MM = (3.5, 3.5, 5.0)
# Center and radii in voxels (z, y, x) of a RAS grid: x runs to the patient's right.
BODIES = {
    "liver": ((20, 40, 54), (10, 15, 14), 110.0),
    "spleen": ((22, 30, 20), (6, 9, 6), 130.0),
    "kidney_right": ((12, 26, 52), (6, 5, 5), 165.0),
    "kidney_left": ((13, 26, 28), (6, 5, 5), 165.0),
    "vertebrae_L1": ((15, 18, 40), (4, 5, 5), 420.0),
    "liver_tumor": ((21, 42, 58), (3, 4, 4), 60.0),
}


def ball(center: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
    grids = np.meshgrid(*(np.arange(n) for n in SHAPE_ZYX), indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, center, radii, strict=True)) <= 1


def write_nifti(path: Path, ras_ZYX: NDArray[np.generic], *, flip: bool) -> None:
    """Write a RAS array as it is, or stored as LPS with the same meaning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*SPACING_XYZ_MM, 1.0])
    array = ras_ZYX.transpose(2, 1, 0)
    if flip:
        array = array[::-1, ::-1]
        for axis in (0, 1):
            affine[axis, 3] = (array.shape[axis] - 1) * affine[axis, axis]
            affine[axis, axis] *= -1
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), path)


def volumes(rng: np.random.Generator, *, badness: float, tumor: bool) -> tuple[NDArray[np.float32], ...]:
    """Image, reference codes and predicted codes of one patient; codes 1.. follow ``BODIES``."""
    image = np.where(ball((18, 36, 40), (60, 32, 36)), 20.0, -1000.0)
    reference = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    prediction = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    for code, (roi, (center, radii, value)) in enumerate(BODIES.items(), start=1):
        if roi == "liver_tumor" and not tumor:
            continue
        moved = [c + rng.normal(0, 1.0) for c in center]
        mask = ball(tuple(moved), radii)
        image[mask] = value
        reference[mask] = code
        off = [c + rng.normal(0, badness) for c in moved]
        prediction[ball(tuple(off), tuple(r * rng.uniform(1 - badness / 12, 1.06) for r in radii))] = code
    if badness > 2:
        prediction[prediction == list(BODIES).index("spleen") + 1] = 0
    noisy = image + rng.normal(0, 18, SHAPE_ZYX)
    return noisy.astype(np.float32), reference, prediction


def log_rows(steps: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    rows = []
    for step in range(10, steps + 1, 10):
        dice = 0.08 + 0.85 * math.exp(-step / 300) + 0.02 * rng.standard_normal()
        bce = 0.02 + 0.6 * math.exp(-step / 150) + 0.005 * abs(rng.standard_normal())
        consistency = 0.05 * min(1, step / 1200) * (1 + 0.2 * rng.standard_normal())
        terms = {"dice": dice, "bce": bce, "consistency": consistency}
        rows.append({
            "step": step, "stage": "main", "time_s": step * 0.35,
            "lr": 5e-4 * (1 + math.cos(math.pi * step / steps)),
            "loss": sum(terms.values()), "terms": terms, "rate": 2.8 + 0.1 * rng.standard_normal(),
        })  # fmt: skip
    return rows


def validation_rows(steps: int) -> list[dict[str, object]]:
    rows = []
    for step in range(100, steps + 1, 100):
        dice = {roi: 0.95 - 0.02 * r - 0.8 * math.exp(-step / (250 + 120 * r)) for r, roi in enumerate(ROIS)}
        rows.append(
            {"step": step, "stage": "main", "metric": "dice", "scores": dice, "mean": sum(dice.values()) / len(dice)}
        )
    return rows


def save_evaluation(path: Path, scores: dict[tuple[str, str, str], float], *, split: str) -> None:
    protocol = Protocol.load("default")
    Evaluation(
        protocol="default", protocol_digest=protocol.digest(), metrics=("dice", "nsd", "hd95"), unit="mm",
        manifest="made-up abdomen", manifest_digest="12" * 32, split=split, split_digest="34" * 32,
        predictions="predictions/test", predictions_digest="56" * 32, created="2025-03-01T10:20:00+00:00",
        version="0.1.0", rows=tuple(Row(*key, value) for key, value in scores.items()),
    ).save(path)  # fmt: skip


def make_manifest(folder: Path) -> Manifest:
    values = {code: ("liver", "liver_tumor") if roi == "liver_tumor" else (roi,) for code, roi in enumerate(BODIES, 1)}
    by_site = {"A": ROIS, "B": ("liver", "spleen"), "C": ("kidney_left", "kidney_right")}
    cases = []
    for k in range(20):
        split = "train" if k < 12 else "validation" if k < 15 else "test"
        site = "ABC"[k % 3]
        held_out = split != "train"
        annotated = ROIS if held_out else by_site[site]
        unlabelled = split == "train" and k % 6 == 5
        absent = ("liver_tumor",) if not unlabelled and not held_out and site == "B" and k % 2 else ()
        cases.append(
            Case(
                id=f"patient_{k:03d}",
                site=site,
                split=split,
                images=(f"images/{k:03d}.nii.gz",),
                labels=None if unlabelled else f"labels/{k:03d}.nii.gz",
                values={} if unlabelled else values,
                annotated=() if unlabelled else annotated,
                absent=absent,
            )
        )
    return Manifest(
        gleanseg=1, name="made-up abdomen", rois=ROIS, channels=(Channel(name="ct", modality="CT"),),
        cases=tuple(cases), root=folder,
    )  # fmt: skip


def write_volumes(folder: Path, run: Path, manifest: Manifest) -> dict[tuple[str, str, str], float]:
    """Images and references of the test cases, their predictions, and what those score."""
    predictions = run / "predictions" / "test"
    scores: dict[tuple[str, str, str], float] = {}
    for k, case in enumerate(manifest.cases):
        if case.split != "test":
            continue
        rng = np.random.default_rng(k)
        tumor = k % 2 == 1
        image, reference, prediction = volumes(rng, badness=0.4 + 0.55 * (k - 15), tumor=tumor)
        flip = case.site == "B"
        write_nifti(folder / case.images[0], image, flip=flip)
        write_nifti(folder / str(case.labels), reference, flip=flip)
        organs = np.where(prediction == 6, 1, prediction).astype(np.uint8)
        write_nifti(predictions / f"{case.id}.nii.gz", prediction, flip=flip)
        write_nifti(predictions / "layers" / f"{case.id}_layer1.nii.gz", organs, flip=flip)
        write_nifti(predictions / "layers" / f"{case.id}_layer2.nii.gz", (prediction == 6).astype(np.uint8), flip=flip)
        for code, roi in enumerate(BODIES, start=1):
            codes = (1, 6) if roi == "liver" else (code,)
            r, p = np.isin(reference, codes), np.isin(prediction, codes)
            both = int(r.sum() + p.sum())
            dice = 2 * int((r & p).sum()) / both if both else math.nan
            voxel_ml = math.prod(SPACING_XYZ_MM) / 1000
            scores[case.id, roi, "reference_ml"] = float(r.sum()) * voxel_ml
            scores[case.id, roi, "prediction_ml"] = float(p.sum()) * voxel_ml
            scores[case.id, roi, "dice"] = dice
            scores[case.id, roi, "nsd"] = dice**0.5
            scores[case.id, roi, "hd95"] = 40 * (1 - dice) ** 1.5 + 1
    organ_values = {str(c): [roi] for c, roi in enumerate(BODIES, 1) if roi != "liver_tumor"}
    described = {
        "gleanseg": 1,
        "rois": list(ROIS),
        "layers": [
            {"file_suffix": "_layer1", "values": organ_values},
            {"file_suffix": "_layer2", "values": {"1": ["liver_tumor"]}},
        ],
        "flat": {str(c): [roi] for c, roi in enumerate(BODIES, 1)},
    }
    (predictions / "labels.json").write_text(json.dumps(described))
    return scores


def make_run(folder: Path) -> Path:
    """A complete run folder; also what a person looks at in a browser."""
    manifest = make_manifest(folder)
    manifest.save(folder / "abdomen.json")
    run = folder / "run_mt_seed0"
    (run / "evaluation").mkdir(parents=True)
    scores = write_volumes(folder, run, manifest)
    save_evaluation(run / "evaluation" / "test.json", scores, split="test")
    info = {
        "gleanseg": 1, "version": "0.1.0", "created": "2025-03-01T10:00:00+00:00", "rois": list(ROIS),
        "channels": [{"name": "ct", "modality": "CT"}], "own_rois": {}, "manifest": str(folder / "abdomen.json"),
        "manifest_digest": manifest.digest(), "store": str(folder / "abdomen.store"),
        "overlaps": [["liver", "liver_tumor"]],
        "recipe_digest": "ab" * 32, "splits_digest": "cd" * 32, "seed": 0, "status": "finished", "elapsed_s": 1061.5,
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(info))
    (run / "recipe.toml").write_text(
        'manifest = "abdomen.json"\nseed = 0\n\n[method]\nname = "mean_teacher"\nalpha = 0.99\n\n'
        '[network]\nname = "unet3d"\n\n[sampling]\npatch = [64, 64, 32]\nbatch = 4\n\n'
        '[optimizer]\nname = "adamw"\nlr = 0.001\nschedule = "cosine"\n\n[train]\nsteps = 3000\nprecision = "auto"\n'
    )
    (run / "plan.json").write_text(json.dumps({"spacing_ZYX_mm": [5.0, 3.5, 3.5]}))
    seen = {
        c.id: ([] if k in (3, 6) else list(c.annotated)) for k, c in enumerate(manifest.cases) if c.split == "train"
    }
    held_out = [c.id for c in manifest.cases if c.split == "validation"]
    (run / "splits.json").write_text(json.dumps({"train": seen, "validation": held_out}))
    for name, rows in (("log", log_rows(3000)), ("validation", validation_rows(3000))):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    access = {"time": "2025-03-01T10:20:00+00:00", "split": "test", "purpose": "evaluate", "cases": 5}
    (run / "access.jsonl").write_text(json.dumps(access) + "\n")
    return run

"""From scores on the network's grid to a file on the scan's: gleanseg against nnU-Net v2.

    pip install '.[bench]'
    python benchmarks/export.py                    # 104 ROIs, 1.5 mm to a CT of 300x300x200 at 1 x 1 x 1.2 mm

Both sides get the same scores of every ROI on the coarse grid, nnU-Net with a row of zeros for background, and write
``.nii.gz``; each in fresh processes that take turns. ROIs are blobs at seeded places, as organs are: each is above 0 in
a small part of the volume. Maps are compared voxel by voxel.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peak import peak_mib

SIDES = ("gleanseg", "nnunet")
COARSE_MM, SLAB = 1.5, 40
"""Spacing of the scores; rows that gleanseg's sliding window completes at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois", type=int, default=104)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 300, 200), help="x y z of the scan")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.2), help="x y z of the scan, mm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape, spacing = tuple(arguments.shape[::-1]), tuple(arguments.spacing[::-1])
    if arguments.side:
        name, folder = arguments.side
        scores = np.load(Path(folder) / "scores.npy")
        start = time.perf_counter()
        {"gleanseg": by_gleanseg, "nnunet": by_nnunet}[name](scores, Path(folder), shape, spacing)
        print(json.dumps({"seconds": round(time.perf_counter() - start, 2), "peak_mib": round(peak_mib())}))
        return
    with tempfile.TemporaryDirectory() as folder:
        scores = blobs(arguments.rois, shape, spacing)
        np.save(Path(folder) / "scores.npy", scores)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
        for _ in range(arguments.repeats):
            for name, found in runs.items():
                words = [sys.executable, __file__, *sys.argv[1:], "--side", name, folder]
                found.append(
                    json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
                )
                print(name, found[-1], file=sys.stderr)
        ours, theirs = (voxels(Path(folder) / f"{name}.nii.gz") for name in SIDES)
    from end_to_end import write

    median = {name: statistics.median(run["seconds"] for run in found) for name, found in runs.items()}
    write(
        "export",
        {
            "command": shlex.join(["python", "benchmarks/export.py", *sys.argv[1:]]),
            "what": f"{arguments.rois} ROIs, {'x'.join(map(str, scores.shape[:0:-1]))} to "
            f"{'x'.join(map(str, arguments.shape))} voxels",
            "sides": {
                name: {
                    "min_s": min(run["seconds"] for run in found),
                    "median_s": median[name],
                    "max_s": max(run["seconds"] for run in found),
                    "peak_mib": max(run["peak_mib"] for run in found),
                }
                for name, found in runs.items()
            },
            "scores_mib": round(scores.nbytes / 2**20),
            "times_faster": round(median["nnunet"] / median["gleanseg"], 2),
            "share_of_equal_voxels": float((ours == theirs).mean()),
            "dice_of_equal_labels": 2
            * int(((ours == theirs) & (ours > 0)).sum())
            / int((ours > 0).sum() + (theirs > 0).sum()),
        },
    )


def blobs(rois: int, shape: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.float16]:
    """R Z Y X on the coarse grid: 8 at a blob's centre, falling to -8, with noise."""
    rng = np.random.default_rng(0)
    coarse = tuple(round(n * mm / COARSE_MM) for n, mm in zip(shape, spacing, strict=True))
    scores = np.empty((rois, *coarse), dtype=np.float16)
    axes = [np.arange(n, dtype=np.float32) for n in coarse]
    for one in scores:
        distance = np.zeros(coarse, dtype=np.float32)
        for i, axis in enumerate(axes):
            radius = rng.uniform(6, 30)
            along = ((axis - rng.uniform(0, len(axis))) / radius) ** 2
            distance += along.reshape([-1 if j == i else 1 for j in range(3)])
        one[:] = np.maximum(8 - 8 * distance, -8) + 0.5 * rng.standard_normal(coarse, dtype=np.float32)
    return scores


def by_gleanseg(scores: NDArray[np.float16], folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """Slab by slab, as the sliding window gives them, and the file."""
    from gleanseg.data import images
    from gleanseg.data.resample import axis_map
    from gleanseg.data.volume import Grid, Volume
    from gleanseg.predict.layers import Layering
    from gleanseg.predict.restore import Restorer

    rois, z = scores.shape[:2]
    maps = [axis_map(n, mm, COARSE_MM).inverse() for n, mm in zip(shape, spacing, strict=True)]
    names, one_map = tuple(f"class_{r}" for r in range(rois)), (0,) * rois
    layering = Layering(rois=names, layer_of=one_map, paint_order=tuple(range(rois)))
    restorer = Restorer(maps, native_ZYX=shape, crop_start_ZYX=(0, 0, 0), layering=layering)
    for stop in range(SLAB, z + SLAB, SLAB):
        start = max(0, stop - SLAB - restorer.halo)
        fold = restorer.slab(start, min(stop, z))
        for r in range(0, rois, 8):
            fold.fold(slice(r, min(r + 8, rois)), scores[r : r + 8, start : min(stop, z)].astype(np.float32))
    affine = np.diag([*spacing[::-1], 1.0])
    like = Volume(restorer.layers[0], Grid(shape, affine), folder / "scan.nii.gz")
    images.write(folder / "gleanseg.nii.gz", restorer.layers[0], like)


def by_nnunet(scores: NDArray[np.float16], folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """Its own export with its default resampling of logits."""
    import torch
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    class Plans:
        transpose_forward = transpose_backward = (0, 1, 2)
        image_reader_writer_class = NibabelIO

        def get_label_manager(self, dataset: dict[str, Any]) -> LabelManager:
            return LabelManager(dataset["labels"], regions_class_order=None)

    class Configuration:
        spacing = (COARSE_MM,) * 3
        resampling_fn_probabilities = staticmethod(
            partial(resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None)
        )

    background = np.zeros((1, *scores.shape[1:]), dtype=np.float16)
    properties = {
        "spacing": spacing,
        "shape_after_cropping_and_before_resampling": shape,
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
        "nibabel_stuff": {"original_affine": np.diag([*spacing[::-1], 1.0])},
    }
    labels = {"background": 0} | {f"class_{r}": r + 1 for r in range(len(scores))}
    export_prediction_from_logits(
        torch.from_numpy(np.concatenate([background, scores])),
        properties,
        Configuration(),
        Plans(),
        {"labels": labels, "file_ending": ".nii.gz"},
        str(folder / "nnunet"),
        num_threads_torch=torch.get_num_threads(),
    )


def voxels(path: Path) -> NDArray[Any]:
    from gleanseg.data import images

    return images.read(path).array


if __name__ == "__main__":
    main()

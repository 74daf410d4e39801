"""Time of Dice, Jaccard, HD95, ASD and NSD of a case: gleanseg against medpy, MONAI and surface-distance.

    pip install '.[bench]'
    python benchmarks/metrics.py                                      # made-up masks
    python benchmarks/metrics.py --data ../shared/data/ct_example     # and a CT of 117 structures

Sides are taken in turn in one process, on one core, and get the same masks: the reference, and the same displaced and
thickened as a prediction errs. Values are compared where definitions are equal; where they differ, both stand in the
result: medpy takes the percentile of both directions pooled, MONAI and surface-distance the larger of the two
directions'; surface-distance weighs surface elements by their area where the others count surface voxels.
"""

import argparse
import math
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
from end_to_end import write
from medpy.metric import binary as medpy
from monai import metrics as monai
from numpy.typing import NDArray
from scipy import ndimage

from gleanseg.evaluate.labels import Labels
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import score_case

Mask = NDArray[np.bool_]
TOLERANCE_MM = 2.0
METRICS = ("dice", "jaccard", "hd95", "asd", "nsd")
POOLED = Protocol.load("default").model_copy(update={"metrics": METRICS, "nsd_tolerance": TOLERANCE_MM})
EQUAL = {  # where definitions are the same
    "medpy": ("dice", "jaccard", "hd95", "asd"),
    "monai": ("dice", "jaccard", "hd95_larger", "asd", "nsd"),
    "surface-distance": ("dice",),
}


class Case(NamedTuple):
    """Masks of one case, ROI by ROI."""

    name: str
    reference: dict[str, Mask]
    prediction: dict[str, Mask]
    spacing_ZYX_mm: tuple[float, float, float]


Scores = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="TotalSegmentator's example CT")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # MONAI warns of each empty class
    cases = [ellipsoids()]
    if arguments.data:
        cases.append(many_structures(arguments.data))
    rows = [compare(case, arguments.repeats) for case in cases]
    words = [a if a != str(arguments.data) else "../shared/data/ct_example" for a in sys.argv[1:]]
    write("metrics", {"command": shlex.join(["python", "benchmarks/metrics.py", *words]), "cases": rows})


def ellipsoids() -> Case:
    """An abdomen's worth of sizes: 13 ellipsoids in 320x320x120 voxels of 0.8x0.8x2.5 mm."""
    rng = np.random.default_rng(0)
    shape, spacing = (120, 320, 320), (2.5, 0.8, 0.8)
    grid = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    masks = {}
    for roi, radius_mm in enumerate(np.geomspace(8, 75, 13)):
        center = [rng.uniform(0.3, 0.7) * n * s for n, s in zip(shape, spacing, strict=True)]
        radii = radius_mm * rng.uniform(0.7, 1.3, 3)
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True))
        masks[f"roi_{roi}"] = inside < 1
    return Case("13 ellipsoids, 320x320x120", masks, {roi: erring(mask) for roi, mask in masks.items()}, spacing)


def many_structures(data: Path) -> Case:
    """The masks of TotalSegmentator's example."""
    masks, spacing = {}, (1.0, 1.0, 1.0)
    for path in sorted((data / "s0001" / "segmentations").glob("*.nii.gz")):
        image = nibabel.load(path)
        array = np.asarray(image.dataobj).T > 0
        zooms = image.header.get_zooms()
        spacing = (float(zooms[2]), float(zooms[1]), float(zooms[0]))
        if array.any():
            masks[path.name.removesuffix(".nii.gz")] = array
    shape = next(iter(masks.values())).shape
    name = f"{len(masks)} structures of a CT, {'x'.join(str(n) for n in shape[::-1])}"
    return Case(name, masks, {roi: erring(mask) for roi, mask in masks.items()}, spacing)


def erring(mask: Mask) -> Mask:
    """A prediction: moved by a voxel, thicker, and with a crumb that does not belong."""
    moved: Mask = ndimage.binary_dilation(np.roll(mask, (0, 1, 1), axis=(0, 1, 2)))
    moved[2:4, 2:5, 2:5] = True
    return moved


def ours(case: Case) -> Scores:
    """One protocol, and HD95 by the other definition under a name of its own."""
    return _score(case, POOLED)


def ours_larger(case: Case) -> Scores:
    """HD95 as the larger of both directions."""
    found = _score(case, POOLED.model_copy(update={"metrics": ("hd95",), "percentile_of": "larger"}))
    return {roi: {"hd95_larger": values["hd95"]} for roi, values in found.items()}


def _score(case: Case, protocol: Protocol) -> Scores:
    prediction, reference = Labels.from_masks(case.prediction), Labels.from_masks(case.reference)
    rows = score_case(
        case.name,
        prediction,
        reference,
        list(case.reference),
        spacing_ZYX_mm=case.spacing_ZYX_mm,
        protocol=protocol,
        tolerance_mm={},
    )
    found: Scores = {roi: {} for roi in case.reference}
    for row in rows:
        found[row.roi][row.metric] = row.value
    return found


def by_medpy(case: Case) -> Scores:
    """Medpy has no NSD."""
    found = {}
    for roi, y in case.reference.items():
        p, spacing = case.prediction[roi], case.spacing_ZYX_mm
        found[roi] = {
            "dice": medpy.dc(p, y),
            "jaccard": medpy.jc(p, y),
            "hd95": float(medpy.hd95(p, y, voxelspacing=spacing)),
            "asd": float(medpy.asd(p, y, voxelspacing=spacing)),
        }
    return found


def by_monai(case: Case) -> Scores:
    """Masks as tensors of one class."""
    found = {}
    for roi in case.reference:
        p, y = (torch.from_numpy(side[roi])[None, None] for side in (case.prediction, case.reference))
        spacing = list(case.spacing_ZYX_mm)
        found[roi] = {
            "dice": float(monai.compute_dice(p, y)),
            "jaccard": float(monai.compute_iou(p, y)),
            "hd95_larger": float(
                monai.compute_hausdorff_distance(p, y, include_background=True, percentile=95, spacing=spacing)
            ),
            "asd": float(monai.compute_average_surface_distance(p, y, include_background=True, spacing=spacing)),
            "nsd": float(
                monai.compute_surface_dice(p, y, [TOLERANCE_MM], include_background=True, spacing=spacing)
            ),
        }  # fmt: skip
    return found


def by_surface_distance(case: Case) -> Scores:
    """Surface elements weighed by area."""
    import surface_distance

    found = {}
    for roi, y in case.reference.items():
        p = case.prediction[roi]
        distances = surface_distance.compute_surface_distances(y, p, case.spacing_ZYX_mm)
        found[roi] = {
            "dice": float(surface_distance.compute_dice_coefficient(y, p)),
            "hd95_by_area": float(surface_distance.compute_robust_hausdorff(distances, 95)),
            "asd_by_area": float(surface_distance.compute_average_surface_distance(distances)[1]),
            "nsd_by_area": float(surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)),
        }
    return found


SIDES: dict[str, Callable[[Case], Scores]] = {
    "gleanseg": ours,
    "medpy": by_medpy,
    "monai": by_monai,
    "surface-distance": by_surface_distance,
}


def compare(case: Case, repeats: int) -> dict[str, Any]:
    """Times of all sides, their values where definitions are equal, and how far the others are."""
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    values: dict[str, Scores] = {}
    for _ in range(repeats):
        for name, side in SIDES.items():
            start = time.perf_counter()
            values[name] = side(case)
            times[name].append(time.perf_counter() - start)
    larger = ours_larger(case)
    mine = {roi: found | larger[roi] for roi, found in values["gleanseg"].items()}
    rows = {name: {"min_s": min(t), "median_s": statistics.median(t), "max_s": max(t)} for name, t in times.items()}
    return {
        "case": case.name,
        "rois": len(case.reference),
        "times": rows,
        "times_faster": {
            name: round(rows[name]["median_s"] / rows["gleanseg"]["median_s"], 1)
            for name in SIDES
            if name != "gleanseg"
        },
        "largest_difference_where_definitions_are_equal": {
            name: {m: largest(mine, values[name], m, m) for m in metrics} for name, metrics in EQUAL.items()
        },
        "largest_difference_by_definition": {
            m: largest(mine, values["surface-distance"], mean, f"{m}_by_area")
            for m, mean in (("hd95", "hd95_larger"), ("asd", "asd"), ("nsd", "nsd"))
        },
    }


def largest(mine: Scores, theirs: Scores, a: str, b: str) -> float:
    """Over all ROIs; nothing may be undefined on one side only."""
    differences = [abs(mine[roi][a] - theirs[roi][b]) for roi in mine]
    assert not any(math.isnan(d) for d in differences), (a, b)
    return float(f"{max(differences):.3g}")


if __name__ == "__main__":
    main()

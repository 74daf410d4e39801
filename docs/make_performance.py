"""Write docs/performance.md from benchmarks/results, so that no number on it was typed.

python docs/make_performance.py [--glance]        # --glance prints the table of all times and ratios, too
"""

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import costs
import robustness

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
HEAD = """\
# Measured

Made from `benchmarks/results/*.json` by `python docs/make_performance.py`. Each file holds the command that made it.
[How the time is saved](reference/speed.md) tells what is behind the figures of time and memory.
"""

EXPERIMENTS = {
    "hippocampus": (
        "Hippocampus, T1 MRI (Medical Segmentation Decathlon, Task04)",
        "200 cases, one seeded split into 160 to train, 20 to develop, 20 to test.",
    ),
    "hippocampus-language": (
        "Hippocampus with 20 labelled cases: does language help?",
        """The same split, networks of half the width. Co-training is LLM-SegNet without its text; beta-0 and
        random-vectors are its controls.""",
    ),
    "left-atrium-half": (
        "Left atrium at half resolution with 8 labelled cases, and with 4",
        """80 cases of the Left Atrium challenge at 1.25 mm, one seeded split: 56 to train, 8 to develop, 16 to test,
        not the published test cases. All-labelled is supervised with all 56; names that end with -4 have four labelled
        cases. Co-training is LLM-SegNet without its text; beta-0 and random-vectors are its controls.""",
    ),
    "field-hippocampus": (
        "The whole field: every method on the hippocampus with 20 labelled cases",
        """The same split, networks of half the width, every method with its defaults. Equal budgets: about 1,500 passes
        of two rows forward and backward, counted in multiplications, so that a method that computes twice as much in a
        step takes half as many. With 23 comparisons one verdict is wrong by chance, on average.""",
    ),
    "field-left-atrium": (
        "The best of the field on the left atrium with 8 labelled cases",
        """The split of the left atrium above, budgets as on the hippocampus.
        [What to make of it](field.md).""",
    ),
    "hippocampus-halves": (
        "Hippocampus at two sites that each draw one part",
        """The same split; half of the training cases annotate only the anterior part, half only the posterior. Both are
        scored.""",
    ),
    "latent-phantom": (
        "Phantom of three partly labelled sites and unlabelled cases",
        "60 made-up CT scans with 11 ROIs, each site annotates other ROIs.",
    ),
}


def page() -> str:
    """All sections whose results are there."""
    sections = {
        **{name: partial(experiment, title=title, about=about) for name, (title, about) in EXPERIMENTS.items()},
        "ct_example": ct_example,
        "brats_sample": brats_sample,
        "step_time": costs.step_time,
        "step_time_unet3d": costs.step_time,
        "step_time_swin_unetr": costs.step_time,
        "step_profile": costs.step_profile,
        "inference": costs.inference,
        "inference_ct": costs.inference,
        "inference_left_atrium": costs.inference,
        "inference_hippocampus": costs.inference,
        "export": costs.export,
        "peak_memory": costs.peak_memory,
        "preprocessing": costs.preprocessing,
        "storage": costs.storage,
        "augmentation": costs.augmentation,
        "head_cost": costs.head_cost,
        "text_cost": costs.text_cost,
        "metrics": costs.metrics,
        "bookkeeping": costs.bookkeeping,
        "forecast": robustness.forecast,
        "drills": robustness.drills,
        "soak": robustness.soak,
    }
    found = results()
    parts = [section(found[name]) for name, section in sections.items() if name in found]
    return "\n".join([HEAD, costs.glance(found), *parts])


def results() -> dict[str, dict[str, Any]]:
    """Contents of the results' files by name."""
    return {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}


def experiment(result: dict[str, Any], *, title: str, about: str) -> str:
    """Dice of each run's name, seeds joined, and paired differences."""
    names = dict.fromkeys(run["name"] for run in result["runs"] if run["evaluation"])
    rows = [_row(name, [run for run in result["runs"] if run["name"] == name]) for name in names]
    seeds = Counter(run["name"] for run in result["runs"] if run["evaluation"])
    differences = [_difference(c, seeds) for c in result["comparisons"] if c["split"] == "test"]
    heads = "| compared | seeds | difference of test Dice | 95 % interval | verdict |\n|---|---|---|---|---|\n"
    processors = ", ".join(dict.fromkeys(run["processor"] for run in result["runs"]))
    note = "Differences count finding nothing as Dice 1 where the other side invents a structure; means leave it out."
    compared = f"\n{note}\n\n{heads}{chr(10).join(differences)}\n" if differences else ""
    return f"""\
## {title}

{" ".join(about.split())}
Mean Dice over cases and ROIs; ± is the standard deviation over seeds, in brackets the mean 95 % bootstrap interval over
cases. Processor: {processors}.

| run | seeds | development | test | training |
|---|---|---|---|---|
{chr(10).join(rows)}
{compared}
`{result["command"]}`
"""


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    cells = []
    for split in ("validation", "test"):
        dice = [run["evaluation"][split]["mean"]["dice"] for run in runs if split in run["evaluation"]]
        means = [d["mean"] for d in dice]
        spread = f" ± {stdev(means):.4f}" if len(means) > 1 else ""
        low, high = mean(d["low"] for d in dice), mean(d["high"] for d in dice)
        cells.append(f"{mean(means):.4f}{spread} ({low:.3f} to {high:.3f})")
    timed = [run for run in runs if "train_s" in run]
    seconds = f"{mean(r['train_s'] for r in timed):.0f} s on {timed[0]['threads']} cores" if timed else "not timed"
    return f"| {name} | {len(runs)} | {cells[0]} | {cells[1]} | {seconds} |"


def _difference(found: dict[str, Any], seeds: Counter[str]) -> str:
    verdict = "better" if found["low"] > 0 else "worse" if found["high"] < 0 else "tie"
    interval = f"{found['low']:+.4f} to {found['high']:+.4f}"
    pair, trained = f"{found['a']} against {found['b']}", f"{seeds[found['a']]}, {seeds[found['b']]}"
    return f"| {pair} | {trained} | {found['difference']:+.4f} | {interval} | {verdict} |"


def ct_example(result: dict[str, Any]) -> str:
    """One CT with one mask per structure."""
    dice, torso, dicom = result["dice_on_the_training_scan"], result["ct_torso"], result["dicom_series"]
    return f"""\
## One CT with {result["rois"]} structures (TotalSegmentator's example)

Trained on the scan itself for {result["train_s"]:.0f} s, which is not yet by heart: mean Dice {dice["mean"]:.3f} on it.
Two other scans are segmented on exactly their own grids:

| scan | shape (x, y, z) | axes | largest difference of the affines |
|---|---|---|---|
| torso CT | {torso["shape_xyz"]} | {torso["orientation"]} | {torso["largest_affine_difference"]:.1g} |
| DICOM series | {dicom["shape_xyz"]} | {dicom["orientation"]} | {dicom["largest_affine_difference"]:.1g} |

`{result["command"]}`
"""


def brats_sample(result: dict[str, Any]) -> str:
    """Several modalities and nested regions."""
    rois = result["dice_of_the_third_subject"]["rois"]
    rows = [
        f"| {roi} | {n} | {rois[roi]['metrics']['dice']['mean']:.3f} |"
        for roi, n in result["voxels_of_nested_regions"].items()
    ]
    return f"""\
## Nested regions from {" and ".join(result["channels"])} (three BraTS subjects)

Latent-class mining from two subjects of which each has other regions drawn, in {result["train_s"]:.0f} s; the third is
segmented on its own grid, every region inside the one around it. One subject: no measure of accuracy.

| region | voxels | Dice |
|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


if __name__ == "__main__":
    PAGE.write_text(page())
    if "--glance" in sys.argv:
        print(costs.glance(results()))

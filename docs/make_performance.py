"""Write docs/performance.md from benchmarks/results, so that no number on it was typed.

python docs/make_performance.py
"""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
HEAD = """\
# Measured

Made from `benchmarks/results/*.json` by `python docs/make_performance.py`. Each file holds the command that made it.
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
        "Left atrium at half resolution with 8 labelled cases",
        """80 cases of the Left Atrium challenge at 1.25 mm, one seeded split: 56 to train, 8 to develop, 16 to test,
        not the published test cases. All-labelled is supervised with all 56.""",
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
        "peak_memory": peak_memory,
        "step_time": step_time,
        "head_cost": head_cost,
        "text_cost": text_cost,
        "metrics": metrics,
        "bookkeeping": bookkeeping,
    }
    found = {name: RESULTS / f"{name}.json" for name in sections}
    parts = [sections[name](json.loads(path.read_text())) for name, path in found.items() if path.exists()]
    return "\n".join([HEAD, *parts])


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


def peak_memory(result: dict[str, Any]) -> str:
    """104 ROIs against 2."""
    few, many = result["peaks"]
    return f"""\
## Peak memory of prediction

| ROIs | peak | time |
|---|---|---|
| {few["num_rois"]} | {few["peak_mib"]:.0f} MiB | {few["seconds"]:.0f} s |
| {many["num_rois"]} | {many["peak_mib"]:.0f} MiB | {many["seconds"]:.0f} s |

Ratio {result["ratio"]:.2f} (target at most {result["target"]}); of what prediction adds to the process,
{result["ratio_of_what_predicting_adds"]:.2f}. {result["network"]} on {result["image"]} at {result["spacing_mm"]} mm,
random weights, on {few["threads"]} of {result["machine"]["cores"]} cores.

`{result["command"]}`
"""


def step_time(result: dict[str, Any]) -> str:
    """The engine against a plain loop."""
    times = result["times"].items()
    rows = [f"| {name} | {t['median_s']:.2f} s | {t['min_s']:.2f} to {t['max_s']:.2f} s |" for name, t in times]
    return f"""\
## Training step

{result["what"]}; precision of the engine: {result["precision"]}.

| side | median | range |
|---|---|---|
{chr(10).join(rows)}

The engine is {result["speedup_of_engine_over_fp32_loop"]} x as fast as the plain fp32 loop; with reading and augmenting
patches {result["speedup_of_whole_step_over_fp32_loop"]} x. Engine and loader cost
{100 * result["overhead_of_engine_and_loader_over_bare_network"]:.0f} % over the bare network in the
same precision and layout.

`{result["command"]}`
"""


def head_cost(result: dict[str, Any]) -> str:
    """Heads whose weights come from codes against a last layer."""
    rows = [
        f"| {s['head']} | {s['rois']} | {s['step_s']:.2f} s | {s['pass_s']:.2f} s | {s['peak_of_step_mib']} MiB | "
        f"{s['peak_of_pass_mib']} MiB |"
        for s in result["sides"]
    ]
    times = {(s["head"], s["rois"]): s["step_s"] for s in result["sides"]}
    ratios = " and ".join(f"{times['dynamic', n] / times['fixed', n]:.1f} x (at {n} ROIs)" for n in (11, 104))
    return f"""\
## Cost of the dynamic head

{result["what"]}; each case knows half of the ROIs. Each row is a process of its own. A step goes forward and back, a
pass forward only. A step with the dynamic head takes {ratios} the time of one with a fixed head.

| head | ROIs | step | pass | peak memory of a step | of a pass |
|---|---|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


def text_cost(result: dict[str, Any]) -> str:
    """Two networks with and without text."""
    rows = [
        f"| {name} | {t['step']['median_s']:.2f} s | {t['step']['min_s']:.2f} to {t['step']['max_s']:.2f} s | "
        f"{t['pass']['median_s']:.3f} s | {t['pass']['min_s']:.3f} to {t['pass']['max_s']:.3f} s |"
        for name, t in result["times"].items()
    ]
    return f"""\
## Cost of text

{result["what"]}. With text a step takes {result["step_with_text"]:.2f} x and a pass of one network
{result["pass_with_text"]:.2f} x as long as without; two networks that teach each other take
{result["step_of_two_networks"]:.2f} x the step of one.

| training | step | range | pass over one window | range |
|---|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


def metrics(result: dict[str, Any]) -> str:
    """Scores of a case against other libraries."""
    parts = []
    for case in result["cases"]:
        rows = [
            f"| {name} | {t['median_s']:.2f} s | {t['min_s']:.2f} to {t['max_s']:.2f} s | "
            f"{case['times_faster'].get(name, 1.0):.1f} x |"
            for name, t in case["times"].items()
        ]
        differences = [
            f"{name} {max(found.values()):.1g} ({', '.join(found)})"
            for name, found in case["largest_difference_where_definitions_are_equal"].items()
        ]
        parts.append(f"""\
{case["case"]}:

| library | median | range | gleanseg is faster by |
|---|---|---|---|
{chr(10).join(rows)}

Largest difference where definitions are equal: {"; ".join(differences)}.
""")
    return f"""\
## Metrics of a case

Dice, Jaccard, HD95, ASD and NSD of every ROI on one core, in turns; medpy computes no NSD, surface-distance no Jaccard.

{chr(10).join(parts)}
`{result["command"]}`
"""


def bookkeeping(result: dict[str, Any]) -> str:
    """Many cases."""
    what = {
        "load_and_check_manifest_s": "load and check the manifest",
        "hash_manifest_s": "hash it",
        "open_store_s": "open the store",
        "select_s": "select what the run sees",
        "overlaps_s": "find which ROIs overlap",
        "first_patch_s": "first patch",
        "patch_s": "every further patch",
    }
    sizes = result["cases"]
    rows = []
    for key, said in what.items():
        times = [f"{size[key]:.3f} s" for size in sizes.values()]
        rows.append(f"| {said} | {' | '.join(times)} |")
    peaks = [f"{size['peak_mib']} MiB" for size in sizes.values()]
    rows.append(f"| peak memory | {' | '.join(peaks)} |")
    return f"""\
## Many cases

| step | {" | ".join(f"{int(n):,} cases" for n in sizes)} |
|---|{"---|" * len(sizes)}
{chr(10).join(rows)}

`gleanseg --help` takes {result["help_s"]["median"]:.2f} s ({result["help_s"]["min"]:.2f} to
{result["help_s"]["max"]:.2f}).

`{result["command"]}`
"""


if __name__ == "__main__":
    PAGE.write_text(page())

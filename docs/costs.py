"""Sections of docs/performance.md about time and memory, one for each benchmark's result, and the table of them all."""

from typing import Any


def glance(results: dict[str, dict[str, Any]]) -> str:
    """What was measured against what, in one table.

    Args:
        results: contents of the files by name; those that are not there have no rows.
    """
    rows = [row for name, rows in _GLANCES.items() if name in results for row in rows(results[name])]
    heads = "| what | gleanseg | against | there | ratio | target |\n|---|---|---|---|---|---|\n"
    return "## At a glance\n\n" + heads + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _steps(result: dict[str, Any]) -> list[list[str]]:
    t = {name: f"{times['median_s']:.2f} s" for name, times in result["times"].items()}
    what, faster = "training step, " + result["what"].partition(", in")[0], result["speedup_of_engine_over"]
    others = [name for name in ("fp32 loop", "nnU-Net") if name in t]
    targets = {"fp32 loop": ">= 3.5 x with bf16 units"}
    return [
        *([what, t["engine step"], name, t[name], f"{faster[name]:.1f} x", targets.get(name, "")] for name in others),
        [
            "share of the processor's matrix rate",
            f"{100 * result['share_of_limit']['engine step']:.0f} %",
            "matrix product",
            f"{result['limit']['tflops']:.2f} TFLOP/s",
            "",
            ">= 30 %",
        ],
        [
            "engine and loader over the bare network",
            f"{100 * result['overhead_of_engine_and_loader_over_bare_network']:.0f} %",
            "",
            "",
            "",
            "<= 10 %",
        ],
    ]


def _volumes(result: dict[str, Any]) -> list[list[str]]:
    ours = {s["rois"]: s["median_s"] for s in result["sides"] if s["side"] == "gleanseg"}
    return [
        [
            f"{result['image']}, {'x'.join(map(str, result['shape_zyx'][::-1]))}, {s['rois']} ROIs",
            _brief(ours[s["rois"]]),
            s["side"],
            *(
                [_brief(s["median_s"]), f"{s['median_s'] / ours[s['rois']]:.1f} x"]
                if s["ended"]
                else ["out of memory", ""]
            ),
            ">= 6 x with bf16 units",
        ]
        for s in result["sides"]
        if s["side"] in ("monai", "nnunet")
    ]


def _export(result: dict[str, Any]) -> list[list[str]]:
    ours, theirs = (f"{result['sides'][name]['median_s']:.1f} s" for name in ("gleanseg", "nnunet"))
    return [[f"export, {result['what']}", ours, "nnU-Net", theirs, f"{result['times_faster']:.1f} x", "seconds"]]


def _memory(result: dict[str, Any]) -> list[list[str]]:
    few, many = result["peaks"]
    what, there = f"peak memory, {many['num_rois']} ROIs", f"{few['peak_mib']:.0f} MiB"
    against = f"{few['num_rois']} ROIs"
    return [[what, f"{many['peak_mib']:.0f} MiB", against, there, f"{result['ratio']:.2f} x", "<= 1.5 x"]]


def _metrics(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"metrics, {case['case']}",
            f"{case['times']['gleanseg']['median_s']:.2f} s",
            name,
            f"{case['times'][name]['median_s']:.2f} s",
            f"{faster:.1f} x",
            ">= 20 x" if name == "medpy" else ">= 3 x",
        ]
        for case in result["cases"]
        for name, faster in case["times_faster"].items()
    ]


def _cases(result: dict[str, Any]) -> list[list[str]]:
    ours, theirs = (f"{result['sides'][name]['case_s']['median']:.2f} s" for name in ("gleanseg", "nnunet"))
    return [["preparing a case", ours, "nnU-Net", theirs, f"{result['times_faster']:.1f} x", ">= 3 x"]]


def _patches(result: dict[str, Any]) -> list[list[str]]:
    rates = {name: f"{rate['median']:.1f} a second" for name, rate in result["patches_per_second"].items()}
    return [
        ["augmented patches", rates["gleanseg"], name, rates[name], f"{faster:.1f} x", ""]
        for name, faster in result["times_faster"].items()
        if name != "gleanseg"
    ]


def _help(result: dict[str, Any]) -> list[list[str]]:
    return [["`gleanseg --help`", f"{result['help_s']['median']:.2f} s", "", "", "", "< 0.3 s"]]


_GLANCES = {
    "step_time": _steps,
    "step_time_unet3d": _steps,
    "step_time_swin_unetr": _steps,
    "inference": _volumes,
    "inference_ct": _volumes,
    "inference_left_atrium": _volumes,
    "inference_hippocampus": _volumes,
    "export": _export,
    "peak_memory": _memory,
    "metrics": _metrics,
    "preprocessing": _cases,
    "augmentation": _patches,
    "bookkeeping": _help,
}


def _brief(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def _times(found: dict[str, float]) -> str:
    """Median and range, as two cells of a table."""
    low, median, high = (found[key] if key in found else found[f"{key}_s"] for key in ("min", "median", "max"))
    return f"{median:.2f} s | {low:.2f} to {high:.2f} s"


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
    """The engine against plain loops and nnU-Net's trainer."""
    faster, share = result["speedup_of_engine_over"], result["share_of_limit"]
    engine, whole = (result["times"][name]["median_s"] for name in ("engine step", "whole step"))
    rows = [
        f"| {name} | {_times(t)} | {t['peak_mib'] / 1024:.1f} GiB | {faster[name]:.2f} x | {100 * share[name]:.0f} % |"
        for name, t in result["times"].items()
    ]
    return f"""\
## Training step: {result["what"].partition(", in")[0]}

Each side in fresh processes that take turns; precision of the engine: {result["precision"]}. The limit is
{result["limit"]["tflops"]:.2f} TFLOP/s, the rate of large {result["limit"]["type"]} matrix products; the network needs
{result["network_tflop"]:.2f} TFLOP a step. Engine and loader cost
{100 * result["overhead_of_engine_and_loader_over_bare_network"]:.0f} % over the bare network in the same precision and
layout; {100 * (1 - engine / whole):.0f} % of a whole step are reading and augmenting its patches on the same cores.

| side | median | range | peak memory | engine is faster by | share of the limit |
|---|---|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


_GATES = {
    "gated": "Gated: a presence network (ResNet-18) is asked first what a window may hold; one ROI in eight is left.",
    "lightly": "Lightly: a quarter of its channels, and a stem of stride 2.",
}


def inference(result: dict[str, Any]) -> str:
    """Whole volumes against other libraries."""
    ours = {s["rois"]: s["median_s"] for s in result["sides"] if s["side"] == "gleanseg"}
    rows = []
    for s in result["sides"]:
        if not s["ended"]:
            rows.append(f"| {s['side']} | {s['rois']} | out of memory | | | | | | | |")
            continue
        dice = (s["dice_with_gleanseg"], s["dice_with_fp32"])
        agree = " | ".join("" if d is None else f"{d:.4f}" for d in dice)
        further = "" if s["next_volume_s"] is None else f"{s['next_volume_s']:.2f} s"
        rows.append(
            f"| {s['side']} | {s['rois']} | {_times(s)} | {further} | {s['peak_mib'] / 1024:.1f} GiB | "
            f"{s['median_s'] / ours[s['rois']]:.1f} x | {agree} | {100 * s['foreground']:.1f} % |"
        )
    x, y, z = result["shape_zyx"][::-1]
    few, many = min(ours), max(ours)
    slope = (
        f"Each further ROI costs gleanseg {1000 * (ours[many] - ours[few]) / (many - few):.0f} ms here, each slice"
        f" {1000 * ours[few] / z:.0f} ms.\n\n"
        if many > few
        else f"A slice costs gleanseg {1000 * ours[few] / z:.0f} ms here.\n\n"
    )
    gates = [text for word, text in _GATES.items() if any(word in s["side"] for s in result["sides"])]
    columns = (
        "Next volume: of the same process, whose kernels are built. Dice: with gleanseg's map, and with that in fp32."
    )
    about = slope + " ".join([*gates, columns]) + "\n\n"
    return f"""\
## Whole volumes: {result["image"]}, {x}x{y}x{z} voxels

{result["network"]}, patch {"x".join(map(str, result["patch_zyx"][::-1]))}, windows that overlap by half, the same
weights, from the prepared image to a label map; each side in fresh processes that take turns. {about}\
| side | ROIs | median | range | next volume | peak memory | gleanseg is faster by | Dice | Dice, fp32 | foreground |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


def export(result: dict[str, Any]) -> str:
    """From scores to a file."""
    rows = [f"| {name} | {_times(s)} | {s['peak_mib'] / 1024:.1f} GiB |" for name, s in result["sides"].items()]
    return f"""\
## From scores to a label file

{result["what"]}, scores of {result["scores_mib"]} MiB in half precision given to both; gleanseg is
{result["times_faster"]:.1f} x as fast, and voxels with the same label have Dice {result["dice_of_equal_labels"]:.4f}.
Peak memory holds the scores, which gleanseg never has at once when it predicts.

| side | median | range | peak memory |
|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


def step_profile(result: dict[str, Any]) -> str:
    """Operators' shares, and convolutions by themselves."""
    rows = [
        f"| {name} | {n['step_s']:.2f} s | {_shares(n['shares'])} | {n['convolutions_alone_s']:.2f} s | "
        f"{100 * n['convolutions_alone_share_of_limit']:.0f} % |"
        for name, n in result["networks"].items()
    ]
    slow = [
        f"| {name} | {layer['kind']} | {layer['times']} | {1000 * layer['seconds']:.0f} ms | "
        f"{layer['tflops']:.2f} TFLOP/s |"
        for name, n in result["networks"].items()
        for layer in n["slowest_convolutions"][:4]
    ]
    return f"""\
## Where a training step goes

Engine steps of batch {result["batch"]} in {result["precision"]}. Convolutions are also timed one by one, forward and
backward, with nothing around them; large matrix products reach {result["limit_tflops"]:.2f} TFLOP/s, and what
convolutions alone reach of it is what no fusion around them can pass. Memory that no cache holds is read and written
at {result["memory_gb_s"]:.0f} GB/s: a full map of the V-Net (64 MB) takes {128 / result["memory_gb_s"]:.0f} ms each
time a norm or an activation goes over it.

| network | step | operators' shares | its convolutions alone | share of the limit |
|---|---|---|---|---|
{chr(10).join(rows)}

Convolutions that take most:

| network | convolution | times | one | rate |
|---|---|---|---|---|
{chr(10).join(slow)}

`{result["command"]}`
"""


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.02)


def preprocessing(result: dict[str, Any]) -> str:
    """From files to what training reads."""
    rows = [f"| {name} | {_times(s['case_s'])} | {s['mib_per_case']:.1f} MiB |" for name, s in result["sides"].items()]
    return f"""\
## Preparing a case

{result["cases"]} cases of {result["data"]} to {" x ".join(map(str, result["spacing_mm"]))} mm on one core;
gleanseg is {result["times_faster"]:.1f} x as fast.

| side | median | range | on disk |
|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


def augmentation(result: dict[str, Any]) -> str:
    """Patches a second."""
    rows = [
        f"| {name} | {r['median']:.1f} | {r['min']:.1f} to {r['max']:.1f} | {result['times_faster'][name]:.1f} x |"
        for name, r in result["patches_per_second"].items()
    ]
    return f"""\
## Augmented patches

Patches of {"x".join(map(str, result["patch_zyx"][::-1]))} voxels with their labels a second on one core, the same
transforms at the same rates.

| side | median | range | gleanseg is faster by |
|---|---|---|---|
{chr(10).join(rows)}

`{result["command"]}`
"""


def storage(result: dict[str, Any]) -> str:
    """Formats of the store, and readers of NIfTI."""
    sizes = ("patch_64_ms", "patch_96_ms", "patch_128_ms")
    rows = [
        f"| {volume} | {name} | {of['megabytes']} of {formats['megabytes_raw']} MB | {of['write_s']:.2f} s | "
        f"{' | '.join(f'{of[size]:.1f} ms' for size in sizes)} |"
        for volume, formats in result["storage"].items()
        if isinstance(formats, dict)
        for name, of in formats.items()
        if isinstance(of, dict)
    ]
    files = [
        f"| {name} | {of['megabytes']} MB | {of['gleanseg_ms']:.0f} ms | {of['nibabel_ms']:.0f} ms | "
        f"{of['SimpleITK_ms']:.0f} ms |"
        for name, of in result.get("decoding", {}).items()
        if isinstance(of, dict)
    ]
    return f"""\
## Store and files

The store is blosc2, zstd, chunks of 128 and blocks of 32 voxels a side. Patches are read at seeded places from volumes
of half precision; a read opens the array.

| volume | format | on disk | written in | patch of 64^3 | 96^3 | 128^3 |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

From a `.nii.gz` file to its voxels:

| file | size | gleanseg (isal) | nibabel | SimpleITK |
|---|---|---|---|---|
{chr(10).join(files)}

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
        "train_to_first_step_s": "`gleanseg train` up to its first step",
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

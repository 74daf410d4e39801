"""Preparing cases: gleanseg against nnU-Net v2, per case on one core, from files to what training reads.

    pip install '.[bench]'
    python benchmarks/preprocessing.py ../shared/data/LA_half --cases 12 --spacing 0.9 0.9 0.9

Takes a data set in the layout of the Medical Segmentation Decathlon. Each side measures its plan first (nnU-Net's
fingerprint, gleanseg's intensities), apart from the cases. Both resample images with cubic splines to the same spacing,
normalise, list foreground voxels and write blosc2 files; each runs in a fresh process with one thread, in turns.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = ("gleanseg", "nnunet")
NAME = "Dataset901_Benchmark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="imagesTr, labelsTr and dataset.json")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0), help="mm, x y z")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    spacing = tuple(arguments.spacing)
    if arguments.side:
        name, folder = arguments.side
        side = by_gleanseg if name == "gleanseg" else by_nnunet
        print(json.dumps(side(arguments.data.resolve(), Path(folder), arguments.cases, spacing)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    for _ in range(arguments.repeats):
        for name in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, __file__, str(arguments.data), "--cases", str(arguments.cases), "--spacing"]
                words += [*map(str, spacing), "--side", name, folder]
                one = dict.fromkeys(
                    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "nnUNet_n_proc_DA"), "1"
                )
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **one})
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, runs[name][-1], file=sys.stderr)
    from end_to_end import write

    median = {name: statistics.median(run["case_s"] for run in found) for name, found in runs.items()}
    write(
        "preprocessing",
        {
            "command": shlex.join(["python", "benchmarks/preprocessing.py", *sys.argv[1:]]),
            "data": arguments.data.name,
            "cases": arguments.cases,
            "spacing_mm": spacing,
            "sides": {
                name: {
                    "case_s": {"min": min(r["case_s"] for r in found), "median": median[name],
                               "max": max(r["case_s"] for r in found)},
                    "plan_s": statistics.median(r["plan_s"] for r in found),
                    "mib_per_case": found[0]["mib_per_case"],
                    "shape_zyx": found[0]["shape_zyx"],
                }
                for name, found in runs.items()
            },
            "times_faster": round(median["nnunet"] / median["gleanseg"], 2),
        },
    )  # fmt: skip


def by_gleanseg(data: Path, folder: Path, num: int, spacing: tuple[float, ...]) -> dict[str, Any]:
    """``gleanseg prepare`` with one worker."""
    import torch

    from gleanseg.config import PrepareConfig
    from gleanseg.data.preprocess import prepare
    from gleanseg.data.sources import msd

    torch.set_num_threads(1)
    manifest = msd.to_manifest(data, msd.Options(images_ts="skip"))
    manifest = manifest.model_copy(update={"cases": manifest.cases[:num]})
    config = PrepareConfig(spacing=(spacing[0], spacing[1], spacing[2]))
    finished: list[float] = []

    def note(done: int, total: int, what: str) -> None:
        if done:  # 0: the plan is being measured
            finished.append(time.perf_counter())

    start = time.perf_counter()
    store = prepare(manifest, config, folder / "store", num_workers=1, progress=note)
    return {
        "case_s": round((time.perf_counter() - finished[0]) / (num - 1), 4),
        "plan_s": round(finished[0] - start, 3),  # and the first case
        "mib_per_case": size_mib(folder / "store" / "cases") / num,
        "shape_zyx": list(store.case(store.ids[0]).grid.shape_ZYX),
    }


def by_nnunet(data: Path, folder: Path, num: int, spacing: tuple[float, ...]) -> dict[str, Any]:
    """Its default preprocessor, case after case."""
    import torch

    torch.set_num_threads(1)
    for key in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{key}"] = str(folder / key)
        (folder / key).mkdir()
    told = json.loads((data / "dataset.json").read_text())
    raw = folder / "raw" / NAME
    files = sorted(path for path in (data / "imagesTr").glob("*.nii.gz") if not path.name.startswith("."))[:num]
    ids = [path.name.removesuffix(".nii.gz") for path in files]
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for id, path in zip(ids, files, strict=True):
        (raw / "imagesTr" / f"{id}_0000.nii.gz").symlink_to(path)
        (raw / "labelsTr" / f"{id}.nii.gz").symlink_to(data / "labelsTr" / path.name)
    about = {
        "channel_names": told.get("modality") or told["channel_names"],
        "labels": {name: int(value) for value, name in told["labels"].items()},
        "numTraining": num,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset, plan_experiments
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    start = time.perf_counter()
    extract_fingerprint_dataset(901, num_processes=1)
    plan_experiments([901])
    plan_s = time.perf_counter() - start
    path = folder / "preprocessed" / NAME / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    forward = plans["transpose_forward"]
    spacing_zyx = spacing[::-1]
    plans["configurations"]["3d_fullres"]["spacing"] = [spacing_zyx[axis] for axis in forward]
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    preprocessor, out = DefaultPreprocessor(verbose=False), folder / "out"
    out.mkdir()
    times = []
    for id in ids:
        start = time.perf_counter()
        images, labels = [str(raw / "imagesTr" / f"{id}_0000.nii.gz")], str(raw / "labelsTr" / f"{id}.nii.gz")
        preprocessor.run_case_save(str(out / id), images, labels, manager, configuration, about)
        times.append(time.perf_counter() - start)
    import blosc2

    stored = blosc2.open(str(out / f"{ids[0]}.b2nd"), mode="r")
    return {
        "case_s": round(sum(times[1:]) / (num - 1), 4),
        "plan_s": round(plan_s, 3),
        "mib_per_case": size_mib(out) / num,
        "shape_zyx": list(stored.shape[1:]),
    }


def size_mib(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 3)


if __name__ == "__main__":
    main()

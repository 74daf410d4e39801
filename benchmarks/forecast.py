"""How near the forecast of memory and disk comes: five configurations, each in a fresh process.

Each process notes what was foretold before its first step, works, and reports its own peak resident memory (getrusage)
and the largest size of its run folder.

    python benchmarks/forecast.py
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
ROIS = 30
TOLERANCE = 0.25
NETWORK = {
    "unet3d": {"name": "unet3d", "width": 16},
    "vnet": {"name": "vnet", "width": 16},
    "resenc_unet": {"name": "resenc_unet"},
}
TRAINED: dict[str, tuple[str, str, list[int], int]] = {
    # method, network, patch, batch
    "supervised, U-Net": ("supervised", "unet3d", [64, 64, 64], 2),
    "mean teacher, V-Net": ("mean_teacher", "vnet", [64, 64, 48], 4),
    "cross pseudo supervision, two U-Nets": ("cps", "unet3d", [48, 48, 48], 4),
    "supervised, residual nnU-Net, whose weights outweigh its maps": ("supervised", "resenc_unet", [32, 32, 32], 2),
}
PREDICTED = f"prediction, V-Net, {ROIS} ROIs, 180x200x220 voxels"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def folder_bytes(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):  # which forgives folders that go meanwhile
        for name in names:
            with suppress(FileNotFoundError):  # renamed meanwhile
                total += os.stat(os.path.join(where, name)).st_size
    return total


def train(folder: Path, name: str) -> dict[str, float]:
    """One configuration of training, in this process."""
    from gleanseg.config import Recipe
    from gleanseg.engine import fit as engine

    method, network, patch, batch = TRAINED[name]
    overrides = [
        f'method.name="{method}"',
        *(f"network.{key}={json.dumps(value)}" for key, value in NETWORK[network].items()),
        f"sampling.patch={patch}",
        f"sampling.batch={batch}",
    ]
    recipe, out = Recipe.load(folder / "recipe.toml", overrides=overrides), folder / "run"
    foretold, real = [], engine.forecast
    engine.forecast = lambda *arguments: foretold.append(real(*arguments)) or foretold[-1]
    sizes, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            sizes.append(folder_bytes(out))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        engine.fit(recipe, out=out)
    finally:
        done.set()
        watcher.join()
    return {
        "forecast": foretold[0].peak, "measured": peak_bytes(), "held_before": foretold[0].held,
        "disk_forecast": foretold[0].disk, "disk_measured": max(sizes), "seconds": time.perf_counter() - start,
    }  # fmt: skip


def predict(folder: Path) -> dict[str, float]:
    """Prediction of a file with a random network, in this process."""
    import nibabel as nib
    import numpy as np
    import torch

    from gleanseg.data import images
    from gleanseg.data.manifest import Channel
    from gleanseg.data.plan import Intensity, Plan
    from gleanseg.networks import build
    from gleanseg.predict.forecast import predict_need
    from gleanseg.predict.hardware import channels_last
    from gleanseg.predict.memory import resident
    from gleanseg.predict.predictor import Options, Predictor
    from gleanseg.predict.writer import file_items, write_predictions
    from gleanseg.rois.ontology import builtin

    torch.manual_seed(0)
    rois = tuple(builtin().scheme("totalsegmentator-v1").values())[:ROIS]
    net = build("vnet", {}, in_channels=1, num_rois=ROIS, patch_ZYX=(96, 96, 96), spacing_ZYX_mm=(1.5, 1.5, 1.5))
    channels_last(net.eval().requires_grad_(False), bf16=False)
    net.head.classifier.bias.zero_()  # half of all voxels are foreground of every ROI
    plan = Plan(
        spacing_ZYX_mm=(1.5, 1.5, 1.5), intensity=(Intensity(kind="zscore"),), resample="linear", crop="none",
        rois=rois, channels=(Channel(name="mr", modality="MR"),),
    )  # fmt: skip
    predictor = Predictor(
        [net], plan=plan, rois=rois, ontology=builtin(), patch_ZYX=(96, 96, 96), options=Options(backend="eager")
    )
    array = np.random.default_rng(0).integers(0, 1000, (180, 200, 220)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "a.nii")
    del array
    start = time.perf_counter()
    grid, _ = images.read_grid(folder / "a.nii")
    held = resident()
    foretold = held + predict_need(predictor, grid).total
    write_predictions(predictor, file_items(folder / "a.nii"), folder / "out")
    seconds = time.perf_counter() - start
    return {"forecast": foretold, "measured": peak_bytes(), "held_before": held, "seconds": seconds}


def make_store(folder: Path) -> None:
    """A small phantom, prepared, and its recipe."""
    from gleanseg import api
    from gleanseg.config import Recipe
    from gleanseg.data.phantom import make_phantom, phantom_manifest

    make_phantom(folder / "data", num_cases=9, shape_xyz=(80, 76, 72))
    phantom_manifest(folder / "data").save(folder / "manifest.json")
    (folder / "recipe.toml").write_text(
        'manifest = "manifest.json"\n[train]\nsteps = 4\nprecision = "fp32"\ncheckpoint_every = 1\nvalidate_every = 4\n'
    )
    api.prepare(Recipe.load(folder / "recipe.toml"))


def fresh(folder: Path, name: str) -> dict[str, object]:
    """One configuration, in a fresh process."""
    command = [sys.executable, __file__, "--folder", str(folder), "--only", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    row: dict[str, object] = {"configuration": name}
    row |= {f"{key}_mib": round(value / 2**20, 1) for key, value in found.items() if key != "seconds"}
    row["seconds"] = round(found["seconds"], 1)
    row["ratio"] = round(found["forecast"] / found["measured"], 3)
    if "disk_forecast" in found:
        row["disk_ratio"] = round(found["disk_forecast"] / found["disk_measured"], 3)
    print(json.dumps(row))
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "forecast.json")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only is not None:
        found = predict(arguments.folder) if arguments.only == PREDICTED else train(arguments.folder, arguments.only)
        print(json.dumps(found))
        return 0
    rows = []
    with TemporaryDirectory() as made:
        make_store(Path(made))
        for name in (*TRAINED, PREDICTED):
            place = Path(made) / "run"
            rows.append(fresh(Path(made), name))
            if place.exists():
                place.rename(place.with_name(f"run{len(rows)}"))
    result = {
        "command": " ".join(["python", "benchmarks/forecast.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("gleanseg", "torch", "numpy")}},
        "tolerance": TOLERANCE,
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    ratios = [float(str(row[key])) for row in rows for key in ("ratio", "disk_ratio") if key in row]
    print(f"forecast / measured: {min(ratios):.2f} to {max(ratios):.2f}")
    return 0 if all(abs(ratio - 1) <= TOLERANCE for ratio in ratios) else 1


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())

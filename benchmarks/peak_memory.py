"""Peak memory of predicting 104 ROIs against 2, with the same network on the same volume.

Each side runs in a fresh process, which reports its own peak resident memory. Weights are random, so that
every ROI is everywhere: the most there can be to hold.

    python benchmarks/peak_memory.py --image ../shared/data/ct_example/ct_torso.nii.gz
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from peak import peak_mib

from gleanseg.run.environment import processor

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("GLEANSEG_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
SIDES = (2, 104)
PATCHES_ZYX = {"vnet": (80, 112, 112), "unet3d": (96, 96, 96), "plain_unet": (96, 96, 96)}
TARGET = 1.5


def predict(image: Path, *, num_rois: int, network: str, spacing_mm: float, native_mm: float) -> dict[str, object]:
    """One side, in this process."""
    import numpy as np
    import torch

    from gleanseg.data import images
    from gleanseg.data.manifest import Channel
    from gleanseg.data.plan import Intensity, Plan
    from gleanseg.data.resample import resample
    from gleanseg.data.standardize import target_grid
    from gleanseg.networks import build
    from gleanseg.predict.hardware import channels_last, has_fast_bf16
    from gleanseg.predict.predictor import Predictor
    from gleanseg.rois.ontology import builtin

    torch.manual_seed(0)
    rois = tuple(builtin().scheme("totalsegmentator-v1").values())[:num_rois]
    spacing_ZYX_mm, patch_ZYX = (spacing_mm,) * 3, PATCHES_ZYX[network]
    volume = images.read(image)
    grid, maps = target_grid(volume.grid, (native_mm,) * 3)
    volume = volume._replace(array=resample(volume.array.astype(np.float32), maps, order=1), grid=grid)
    net = build(network, {}, in_channels=1, num_rois=num_rois, patch_ZYX=patch_ZYX, spacing_ZYX_mm=spacing_ZYX_mm)
    channels_last(net.eval().requires_grad_(False), bf16=has_fast_bf16(torch.device("cpu")))
    # About half of all voxels are foreground of every ROI: the most there can be to do.
    net.head.classifier.bias.zero_()
    plan = Plan(
        spacing_ZYX_mm=spacing_ZYX_mm,
        intensity=(Intensity(kind="ct_window", low=-1000, high=1000, mean=0, std=400),),
        resample="linear",
        crop="none",
        rois=rois,
        channels=(Channel(name="ct", modality="CT"),),
    )
    bf16 = has_fast_bf16(torch.device("cpu"))
    predictor = Predictor([net], plan=plan, rois=rois, ontology=builtin(), patch_ZYX=patch_ZYX, bf16=bf16)
    before, start = peak_mib(), time.perf_counter()
    prediction = predictor.predict_volume(volume)
    return {
        "num_rois": num_rois,
        "peak_mib": round(peak_mib(), 1),
        "before_predicting_mib": round(before, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "native_shape_zyx": list(volume.array.shape),
        "num_layers": len(prediction.layers),
        "num_labels_found": int(sum(len(np.unique(layer)) - 1 for layer in prediction.layers)),
        "bf16": bf16,
        "threads": torch.get_num_threads(),
    }


def run_side(arguments: argparse.Namespace, num_rois: int) -> dict[str, object]:
    """One side, in a fresh process."""
    command = [sys.executable, __file__, "--side", str(num_rois), "--image", str(arguments.image)]
    command += ["--network", arguments.network, "--spacing", str(arguments.spacing), "--native", str(arguments.native)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    side: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return side


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=SHARED / "ct_example" / "ct_torso.nii.gz")
    parser.add_argument("--network", choices=sorted(PATCHES_ZYX), default="vnet")
    parser.add_argument("--spacing", type=float, default=1.5, help="mm, the grid of the network")
    parser.add_argument("--native", type=float, default=1.5, help="mm, the image is resampled to it beforehand")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "peak_memory.json")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        kwargs = {"network": arguments.network, "spacing_mm": arguments.spacing, "native_mm": arguments.native}
        print(json.dumps(predict(arguments.image, num_rois=arguments.side, **kwargs)))
        return 0
    sides = [run_side(arguments, num_rois) for num_rois in SIDES]
    few, many = (float(str(side["peak_mib"])) for side in sides)
    few_own, many_own = (p - float(str(s["before_predicting_mib"])) for p, s in zip((few, many), sides, strict=True))
    result = {
        "command": " ".join(["python", "benchmarks/peak_memory.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("gleanseg", "torch", "numpy")}},
        "network": arguments.network,
        "patch_zyx": PATCHES_ZYX[arguments.network],
        "spacing_mm": arguments.spacing,
        "image": arguments.image.name,
        "peaks": sides,
        "ratio": round(many / few, 3),
        "ratio_of_what_predicting_adds": round(many_own / few_own, 3),
        "target": TARGET,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{few:.0f} MiB for {SIDES[0]} ROIs, {many:.0f} MiB for {SIDES[1]}: {many / few:.2f} x (target {TARGET} x)")
    return 0 if many / few <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())

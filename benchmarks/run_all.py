"""All benchmarks of time and memory, one after another, and the table of what they found: `make bench`.

    python benchmarks/run_all.py --data ../shared/data          # hours; --only picks some

Each writes its file in ``benchmarks/results``; the table, and docs/performance.md, are made from these. Those that need
real volumes are left out, with a word, where the folder does not hold them. Nothing else should run meanwhile.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CT, LEFT_ATRIUM, CT_EXAMPLE = "ct_example/ct_torso.nii.gz", "LA_half", "ct_example"
ATRIUM = "LA_half/imagesTr/06SR5RBREL16DQ6M8LWS.nii.gz"
HIPPOCAMPUS = "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz"
IN_DATA = (CT, LEFT_ATRIUM, CT_EXAMPLE, ATRIUM, HIPPOCAMPUS)
COMMANDS = {
    "step_time": "step_time.py",
    "step_time_unet3d": "step_time.py --network unet3d --patch 96 96 96",
    "step_time_swin_unetr": "step_time.py --network swin_unetr --patch 96 96 96 --repeats 1 --steps 1",
    "step_profile": "step_profile.py",
    "augmentation": f"augmentation.py --image {CT}",
    "inference": f"inference.py --image {CT} --shape 280 280 160 --rois 2 11 104 --repeats 1 "
    "--sides gleanseg 'gleanseg, eager' 'gleanseg, fp32' 'gleanseg, lightly gated' monai nnunet",
    "inference_ct": f"inference.py --image {CT} --shape 512 512 300 --repeats 1 --sides gleanseg monai nnunet",
    "inference_left_atrium": f"inference.py --image {ATRIUM} --sides gleanseg 'gleanseg, fp32' monai nnunet",
    "inference_hippocampus": f"inference.py --image {HIPPOCAMPUS} --patch 48 64 48 "
    "--sides gleanseg 'gleanseg, fp32' monai nnunet",
    "export": "export.py",
    "peak_memory": f"peak_memory.py --image {CT}",
    "forecast": "forecast.py",
    "preprocessing": f"preprocessing.py {LEFT_ATRIUM} --cases 12 --spacing 0.9 0.9 0.9",
    "metrics": f"metrics.py --data {CT_EXAMPLE}",
    "bookkeeping": "bookkeeping.py",
    "storage": "storage.py",
    "head_cost": "head_cost.py",
    "text_cost": "text_cost.py",
    "method_cost": "method_cost.py",
}
"""Script and arguments by result; those that name something in the data folder are given its path there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real volumes")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments = parser.parse_args()
    failed = [name for name in arguments.only if not ran(name, arguments.data)]
    subprocess.run([sys.executable, ROOT / "docs" / "make_performance.py", "--glance"], check=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def ran(name: str, data: Path) -> bool:
    """Whether a benchmark ended well, or was left out for want of data."""
    script, *words = shlex.split(COMMANDS[name])
    needed = [word for word in words if word in IN_DATA]
    if absent := [word for word in needed if not (data / word).exists()]:
        print(f"{name}: left out, {data / absent[0]} is not there", flush=True)
        return True
    words = [str(data / word) if word in needed else word for word in words]
    words += ["--name", name] if script in ("step_time.py", "inference.py") else []
    print(f"{name}: python benchmarks/{script} {shlex.join(words)}", flush=True)
    start = time.perf_counter()
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / script, *words], env=quiet, stdout=subprocess.DEVNULL)
    print(f"{name}: {'done' if done.returncode == 0 else 'failed'} in {time.perf_counter() - start:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()

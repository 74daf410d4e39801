"""What a dynamic head costs against a fixed one, at 11 and at 104 ROIs: time and memory of a step and of a pass.

    python benchmarks/head_cost.py

Each side runs in a fresh process, which reports the best of several repeats and its own peak resident memory. The step
is the supervised one: features once, then head and losses over chunks of ROIs that are computed again backward. Each of
two cases knows its own half of the ROIs. The pass is prediction: features, then the head over all ROIs in chunks.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from peak import peak_mib

RESULT = Path(__file__).parent / "results" / "head_cost.json"
HEADS = ("fixed", "dynamic")
COUNTS = (11, 104)
SIDE, WIDTH, CHUNK = 64, 16, 8


def measure(head: str, num_rois: int, repeats: int) -> dict[str, Any]:
    """One side, in this process."""
    import torch
    from torch import nn

    from gleanseg.losses.bce import partial_bce
    from gleanseg.losses.dice import pooled_dice
    from gleanseg.networks import build
    from gleanseg.networks.attach import attach_head, head_config
    from gleanseg.parts.fold import Chunk, carrying, over_rois
    from gleanseg.predict.hardware import channels_last
    from gleanseg.types import Batch, Progress, Term

    torch.manual_seed(0)
    rois = tuple(f"roi_{i}" for i in range(num_rois))
    network = build("unet3d", {"width": WIDTH, "dropout": 0.0}, in_channels=1, num_rois=num_rois)
    options = {"codes": "random"} if head == "dynamic" else {}
    table = nn.functional.normalize(torch.randn(num_rois, 384), dim=1)
    attach_head(network, head_config(head, options), rois=rois, table_Kd=table)
    channels_last(network, bf16=False)
    batch = made_batch(torch, num_rois, Batch)
    x = batch.x["weak"].contiguous(memory_format=torch.channels_last_3d)

    def step() -> None:
        features = network.features(x)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = network.score(features, r), batch.y(r), batch.known[:, r]
            return {"dice": pooled_dice(z, y, known, batch.valid), "ce": partial_bce(z, y, known, batch.valid)}

        found = over_rois(terms, batch, carrying(batch, Progress(0, 1), unknown=False))
        (found["dice"].value(found["dice"].sums) + found["ce"].total / found["ce"].count).backward()  # type: ignore[union-attr]
        network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def predict() -> None:
        features = network.features(x)
        for start in range(0, num_rois, CHUNK):
            network.score(features, torch.arange(start, min(start + CHUNK, num_rois)))

    before = peak_mib()
    passed = best(predict, repeats)
    peak_of_pass = peak_mib()
    stepped = best(step, repeats)
    return {
        "head": head, "rois": num_rois, "step_s": stepped, "pass_s": passed, "before_mib": round(before),
        "peak_of_pass_mib": round(peak_of_pass), "peak_of_step_mib": round(peak_mib()),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def made_batch(torch: Any, num_rois: int, batch_type: Any) -> Any:
    """Two cases that know the even and the odd ROIs; a voxel belongs to one of 104 codes."""
    codes = torch.randint(0, num_rois + 1, (2, SIDE, SIDE, SIDE), dtype=torch.int32)
    table = torch.zeros(2, num_rois + 1, num_rois, dtype=torch.bool)
    table[:, torch.arange(1, num_rois + 1), torch.arange(num_rois)] = True
    known = torch.zeros(2, num_rois, dtype=torch.bool)
    known[0, ::2] = known[1, 1::2] = True
    image = torch.randn(2, 1, SIDE, SIDE, SIDE)
    valid = torch.ones(2, SIDE, SIDE, SIDE, dtype=torch.bool)
    return batch_type({"weak": image}, codes, table, known, valid, torch.arange(2), torch.ones(2, 3), 2)


def best(what: Any, repeats: int) -> float:
    """Least seconds of several calls after one that warms up."""
    what()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        what()
        times.append(time.perf_counter() - start)
    return round(min(times), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side[0], int(arguments.side[1]), arguments.repeats)))
        return
    from gleanseg.run.environment import processor

    sides = []
    for count in COUNTS:
        for head in HEADS:
            words = [sys.executable, __file__, "--side", head, str(count), "--repeats", str(arguments.repeats)]
            sides.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
            print(sides[-1], flush=True)
    result = {
        "command": shlex.join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]),
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "what": f"unet3d, width {WIDTH}, patch {SIDE}^3, batch 2, fp32",
        "sides": sides,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()

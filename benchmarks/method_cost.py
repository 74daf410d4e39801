"""What a step of each method costs against a supervised one: time, and memory at its peak.

    python benchmarks/method_cost.py          # 3D U-Net, 48x48x48, batch 4 of which 2 rows are labelled
    python docs/make_method_table.py          # puts both into docs/methods/README.md

Times are taken in one process, all methods in turn, so that a drifting machine hurts all alike; each round divides by
its own supervised step. Memory is the peak of a fresh process per method, less that of the supervised one. Passes are
multiplications counted, a supervised step being one: a forward pass without gradient is a third of one, whatever the
machine. Options are the defaults; methods whose network is a classifier have no supervised step to compare with.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from end_to_end import write
from lightning_fabric import Fabric
from peak import peak_mib
from torch.utils.flop_counter import FlopCounterMode

from gleanseg.config import Named, Recipe, SamplingConfig, StageConfig
from gleanseg.engine.loop import Trainer
from gleanseg.methods import build_method, method_class
from gleanseg.networks import build, classifiers
from gleanseg.parts.method import Blueprint
from gleanseg.parts.presence import RoiAware
from gleanseg.resolve import names
from gleanseg.rois.ontology import builtin
from gleanseg.types import Batch

YARDSTICK = "supervised"
ROIS = ("liver", "spleen")
ROWS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=compared(), help="default: all")
    parser.add_argument("--network", default="unet3d")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--patch", type=int, default=48, help="side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(peak_of(arguments.side, arguments)))
        return
    chosen = list(dict.fromkeys([YARDSTICK, *arguments.methods]))
    times = in_turns(chosen, arguments)
    peaks = {name: in_fresh_process(name) for name in chosen}
    flops = {name: flops_of(name, arguments) for name in chosen}
    write(
        "method_cost",
        {
            "command": shlex.join(["python", "benchmarks/method_cost.py", *sys.argv[1:]]),
            "what": f"{arguments.network}, width {arguments.width}, patch {arguments.patch}^3, batch {ROWS} of which "
            f"{ROWS // 2} are labelled, {len(ROIS)} ROIs, in turns, {arguments.repeats} repeats",
            "methods": {
                name: {
                    "step_s": summary(times[name]),
                    "relative": summary([t / s for t, s in zip(times[name], times[YARDSTICK], strict=True)]),
                    "passes": round(flops[name] / flops[YARDSTICK], 3),
                    "peak_mib": round(peaks[name]),
                    "extra_mib": round(peaks[name] - peaks[YARDSTICK]),
                }
                for name in chosen
            },
        },
    )


def compared() -> list[str]:
    """All methods that train a segmentation network."""
    return [name for name in names("methods") if method_class(Named(name=name))[0].networks == "networks"]


def in_turns(chosen: list[str], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each method's steps, round by round."""
    batch = made_batch(arguments.patch)
    trainers = {name: trainer(name, arguments) for name in chosen}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for repeat in range(arguments.repeats + 1):  # the first round warms up
        for name in chosen:
            start = time.perf_counter()
            trainers[name].train_step([batch], [], 0.0)
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times


def in_fresh_process(name: str) -> float:
    """The peak that a method's process reports."""
    words = [sys.executable, __file__, *sys.argv[1:], "--side", name]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peak_of(name: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory of this process after two steps; the second one has the optimiser's state beside it."""
    batch, engine = made_batch(arguments.patch), trainer(name, arguments)
    for _ in range(2):
        engine.train_step([batch], [], 0.0)
    return peak_mib()


def flops_of(name: str, arguments: argparse.Namespace) -> int:
    """Floating-point operations of a step half-way through training, where every term counts."""
    with FlopCounterMode(display=False) as counter:
        trainer(name, arguments).train_step([made_batch(arguments.patch)], [], 0.5)
    return counter.get_total_flops()


def trainer(name: str, arguments: argparse.Namespace) -> Trainer:
    """The engine's, on one device in fp32, around a method with its default options."""
    torch.manual_seed(0)
    side, named = arguments.patch, Named(name=name)
    classifier = partial(classifiers.build, "resnet18", {}, in_channels=1, num_outputs=len(ROIS))
    geometry: dict[str, Any] = {"patch_ZYX": (side, side, side), "spacing_ZYX_mm": (1.0, 1.0, 1.0)}
    network = partial(build, in_channels=1, num_rois=len(ROIS), **geometry)
    blueprint = Blueprint(
        network=partial(network, arguments.network, {"width": arguments.width}),
        other=lambda named: network(named.name, {**named.options, "width": arguments.width}),
        rois=ROIS,
        ontology=builtin(),
        classifier=classifier,
        roi_aware=lambda: RoiAware(classifier(), [[0], [1]]),
    )
    recipe = Recipe(manifest=Path("none"), method=named, sampling=SamplingConfig(patch=(side, side, side), batch=ROWS))
    stage: StageConfig = recipe.stages[0]
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    made = Trainer(fabric, build_method(named, blueprint), recipe=recipe, stage=stage, index=0)
    made.method.train()
    return made


def made_batch(side: int) -> Batch:
    """Noise with two boxes; the first half of the rows annotates both ROIs, the others nothing."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(ROWS, side, side, side, dtype=torch.int32)
    codes[:, side // 8 : side // 2, side // 4 : side // 2, side // 4 : side // 2] = 1
    codes[:, side // 4 : side // 2, side // 2 : -side // 8, side // 4 : side // 2] = 2
    x = codes[:, None].float() - 1 + torch.randn(ROWS, 1, side, side, side, generator=generator)
    known = (torch.arange(ROWS) < ROWS // 2)[:, None].expand(ROWS, len(ROIS)).clone()
    return Batch(
        x={"weak": x, "strong": x + 0.1 * torch.randn(x.shape, generator=generator)},
        codes=codes,
        table=torch.tensor([[False, False], [True, False], [False, True]]).expand(ROWS, 3, 2).clone(),
        known=known,
        valid=torch.ones(ROWS, side, side, side, dtype=torch.bool),
        key=torch.arange(ROWS),
        spacing_mm=torch.ones(ROWS, 3),
        num_labelled=ROWS // 2,
    )


def summary(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 4), "median": round(statistics.median(values), 4), "max": round(max(values), 4)
    }  # fmt: skip


if __name__ == "__main__":
    main()

"""What language knowledge costs: time of a training step and of a prediction pass, with and without.

    python benchmarks/text_cost.py            # V-Net, 64x64x48, batch 4 of which 2 are labelled

Sides, taken in turn in one process so that a drifting machine hurts all alike: one network with labels alone, two
networks that teach each other without text, and LLM-SegNet, which is the same with text at both bottlenecks.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from end_to_end import write
from step_time import engine, made_up_data, ready

from gleanseg.networks.network import Network

SIDES = {
    "supervised": "",
    "co-training": '[data]\nlabelled = ["0", "1"]\n[method]\nname = "llm_segnet"\n',
    "llm-segnet": '[data]\nlabelled = ["0", "1"]\n[method]\nname = "llm_segnet"\n'
    '[text]\nknowledge = ["left_atrium"]\nbeta = 0.1\n',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 48), help="x y z")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: side(Path(folder) / name, arguments, more) for name, more in SIDES.items()}
        times: dict[str, dict[str, list[float]]] = {name: {"step": [], "pass": []} for name in sides}
        for repeat in range(arguments.repeats + 1):  # the first round warms up
            for name, calls in sides.items():
                for what, call in calls.items():
                    start = time.perf_counter()
                    call()
                    if repeat:
                        times[name][what].append(time.perf_counter() - start)
    rows = {name: {what: summary(t) for what, t in found.items()} for name, found in times.items()}
    patch = "x".join(map(str, arguments.patch))
    write(
        "text_cost",
        {
            "command": shlex.join(["python", "benchmarks/text_cost.py", *sys.argv[1:]]),
            "what": f"{arguments.network}, patch {patch}, batch {arguments.batch}, in turns, "
            f"{arguments.repeats} repeats",
            "times": rows,
            "step_with_text": ratio(rows, "step", "llm-segnet", "co-training"),
            "pass_with_text": ratio(rows, "pass", "llm-segnet", "co-training"),
            "step_of_two_networks": ratio(rows, "step", "co-training", "supervised"),
        },
    )


def side(folder: Path, arguments: argparse.Namespace, more: str) -> dict[str, Callable[[], object]]:
    """A step of the engine on a ready batch, and a pass of one deployed network over one window."""
    folder.mkdir()
    recipe = made_up_data(
        folder, network=arguments.network, patch=tuple(arguments.patch), batch=arguments.batch, more=more
    )
    trainer, loader = engine(recipe, out=folder / "run")
    patches = next(loader.steps(0, 1))
    batch = ready(trainer, loader, patches)
    method = trainer.method
    network = next(part for part in method.children() if isinstance(part, Network))
    window = next(iter(batch.x.values()))[:1]

    @torch.no_grad()
    def predict() -> None:
        network.eval()
        network(window)
        network.train()

    return {"step": lambda: trainer.train_step([batch], patches, 0.0), "pass": predict}


def summary(times: list[float]) -> dict[str, float]:
    return {"min_s": min(times), "median_s": statistics.median(times), "max_s": max(times)}


def ratio(rows: dict[str, Any], what: str, a: str, b: str) -> float:
    """How many times as long ``a`` takes as ``b``."""
    return round(rows[a][what]["median_s"] / rows[b][what]["median_s"], 3)


if __name__ == "__main__":
    main()

"""Long runs do not grow: memory and file handles over many steps of training and many prepared and predicted cases.

    PYTHONPATH=tests python -m drills.soak

Writes ``benchmarks/results/soak.json`` and exits with 1 when something grows. The cases are small: what a step or a
case leaves behind does not depend on its size, and shows sooner the more of them there are.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from gleanseg.run.environment import environment
from gleanseg.run.folder import now, write_text

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
WARM_UP = 0.25
"""Share of a run at whose end caches and allocators have what they need."""
MOST_MIB = 16.0
"""What the allocator may wander; a leak of 4 KiB a step shows in 10,000 of them."""
MOST_HANDLES = 2
_KEPT = 200
"""Samples in the result."""


class Sample(NamedTuple):
    """A look at this process after some steps or cases."""

    done: int
    mib: float
    handles: int
    threads: int


class Watch:
    """Looks at this process from time to time.

    Args:
        total: steps or cases that there will be.
    """

    def __init__(self, total: int) -> None:
        self.total, self.samples, self._start = total, [look(0)], time.perf_counter()

    def __call__(self, done: int) -> None:
        """Take a sample when one is due."""
        if (done - self.samples[-1].done) * _KEPT >= self.total:
            self.samples.append(look(done))

    def result(self) -> dict[str, Any]:
        """Samples, and what grew."""
        return {
            "total": self.total,
            "seconds": round(time.perf_counter() - self._start, 1),
            "grew": growth(self.samples),
            "samples": [list(sample) for sample in self.samples],
        }


def look(done: int) -> Sample:
    """Resident memory, open files and threads of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mib = int(fields["VmRSS"].split()[0]) / 1024
    return Sample(done, round(mib, 1), len(os.listdir("/proc/self/fd")), int(fields["Threads"]))


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """How much the last third after the warm-up has more than the first: medians of memory (MiB), handles, threads."""
    warm = [sample for sample in samples if sample.done >= WARM_UP * samples[-1].done]
    third = max(1, len(warm) // 3)
    return {
        name: round(statistics.median(last) - statistics.median(first), 2)
        for name in ("mib", "handles", "threads")
        for first, last in [[[getattr(s, name) for s in part] for part in (warm[:third], warm[-third:])]]
    }


def grew(found: dict[str, float]) -> list[str]:
    """What of it is too much."""
    most = {"mib": MOST_MIB, "handles": MOST_HANDLES, "threads": MOST_HANDLES}
    return [f"{name} by {found[name]}, at most {bound}" for name, bound in most.items() if found[name] > bound]


def train(folder: Path, steps: int) -> dict[str, Any]:
    """Train a small mean teacher."""
    import torch

    from gleanseg.config import Recipe
    from gleanseg.engine.fit import fit
    from support.data import prepared

    torch.set_num_threads(1)
    prepared(folder, steps=steps)
    often = [f"train.validate_every={max(1, steps // 20)}", f"train.checkpoint_every={max(1, steps // 100)}"]
    watch = Watch(steps)

    class Listener:
        def note(self, text: str) -> None: ...

        def step(self, step: Any, *, stage: str, total: int, rate: float) -> None:
            watch(step.step)

        def validated(self, step: int, result: object) -> None: ...

    fit(Recipe.load(folder / "recipe.toml", overrides=often), out=folder / "run", listener=Listener())
    return watch.result()


def prepare(folder: Path, cases: int) -> dict[str, Any]:
    """Prepare cases of 20 voxels a side."""
    from gleanseg.config import PrepareConfig
    from gleanseg.data.preprocess import prepare

    manifest = many(folder, cases)
    watch = Watch(cases)
    config = PrepareConfig(spacing=(1.0, 1.0, 1.0), window=(-100, 200), crop="none")
    prepare(manifest, config, folder / "store", progress=lambda done, total, what: watch(done))
    return watch.result()


def predict(folder: Path, cases: int) -> dict[str, Any]:
    """Predict the same cases with a network of width 4."""
    import torch

    from gleanseg.data.plan import Intensity, Plan
    from gleanseg.networks import build
    from gleanseg.predict.predictor import Predictor
    from gleanseg.predict.writer import predict_manifest
    from gleanseg.rois.ontology import builtin
    from support.volumes import ROIS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    manifest = many(folder, cases)
    spacing, patch = (1.0, 1.0, 1.0), (16, 16, 16)
    network = build(
        "unet3d", {"width": 4, "levels": 3}, in_channels=1, num_rois=3, patch_ZYX=patch, spacing_ZYX_mm=spacing
    )
    plan = Plan(
        spacing_ZYX_mm=spacing,
        intensity=(Intensity(kind="ct_window", low=-100, high=200, mean=0, std=100),),
        resample="linear",
        crop="none",
        rois=ROIS,
        channels=manifest.channels,
    )
    predictor = Predictor([network.eval()], plan=plan, rois=ROIS, ontology=builtin(), patch_ZYX=patch)
    watch = Watch(cases)
    predict_manifest(predictor, manifest, folder / "out", progress=lambda done, total, what: watch(done))
    return watch.result()


def many(folder: Path, number: int) -> Any:
    """A manifest of small CT cases."""
    from support.volumes import ct_case, ct_manifest

    return ct_manifest(*(ct_case(folder / "raw", f"case{i:05d}", seed=i) for i in range(number)))


PARTS: dict[str, tuple[Callable[[Path, int], dict[str, Any]], str]] = {
    "train": (train, "steps"),
    "prepare": (prepare, "cases"),
    "predict": (predict, "cases"),
}


def main() -> int:
    """Each part in a process of its own, so that none has what another left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=2_000)
    parser.add_argument("--result", type=Path, default=RESULTS / "soak.json")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for name, (part, what) in PARTS.items():
        with tempfile.TemporaryDirectory(prefix="soak-") as folder, ProcessPoolExecutor(1, get_context("spawn")) as one:
            found[name] = one.submit(part, Path(folder), getattr(arguments, what)).result()
        print(f"{name}: {found[name]['total']} {what}, grew by {found[name]['grew']}")
    command = shlex.join(["python", "-m", "drills.soak", *sys.argv[1:]])
    told = {"command": command, "date": now(), "environment": environment(), "most_mib": MOST_MIB, "parts": found}
    write_text(arguments.result, json.dumps(told) + "\n")
    wrong = [f"{name}: {words}" for name, part in found.items() for words in grew(part["grew"])]
    print("\n".join(wrong) or "nothing grows")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

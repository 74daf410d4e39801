"""Time of a training step: gleanseg's engine against the plain fp32 loop of the same network, patch and batch.

    python benchmarks/step_time.py            # V-Net, 112x112x80, batch 2: the Left Atrium setting

Sides, taken in turn so that a drifting machine hurts all alike, in one process:
    fp32 loop            what public reference code does: forward, loss, backward, optimiser step, nothing else
    fp32, channels last  the same with channels_last_3d
    bf16, channels last  and under bf16 autocast, where the processor multiplies bf16; others emulate it, in minutes
    engine step          Trainer.train_step on a ready batch: losses that know what is known, clipping, schedules
    whole step           the same with patches read from a store and augmented: what a user waits for
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from gleanseg import __version__, api
from gleanseg.config import Recipe
from gleanseg.data.loader import Loader, collate
from gleanseg.data.manifest import Manifest
from gleanseg.data.sampler import Patch, Sampler
from gleanseg.engine.fit import Session, make_fabric
from gleanseg.engine.loop import Trainer
from gleanseg.engine.precision import choose
from gleanseg.engine.setup import rows_of, set_up
from gleanseg.engine.signals import StopRequest
from gleanseg.networks import build
from gleanseg.run.deploy import make_method
from gleanseg.run.environment import processor
from gleanseg.types import Batch

RESULT = Path(__file__).parent / "results" / "step_time.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--patch", type=int, nargs=3, default=(112, 112, 80), help="x y z")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = made_up_data(
            Path(folder), network=arguments.network, patch=tuple(arguments.patch), batch=arguments.batch
        )
        sides = {
            "fp32 loop": plain_loop(recipe, bf16=False),
            "fp32, channels last": plain_loop(recipe, bf16=False, channels_last=True),
            "engine step": engine_step(recipe, read=False, out=Path(folder) / "step"),
            "whole step": engine_step(recipe, read=True, out=Path(folder) / "whole"),
        }
        if choose("auto", torch.device("cpu")) == "bf16-mixed":
            sides["bf16, channels last"] = plain_loop(recipe, bf16=True, channels_last=True)
        times: dict[str, list[float]] = {name: [] for name in sides}
        for repeat in range(arguments.repeats + 1):  # the first round warms up
            for name, side in sides.items():
                start = time.perf_counter()
                next(side)
                if repeat:
                    times[name].append(time.perf_counter() - start)
    report(arguments, times)


def made_up_data(folder: Path, *, network: str, patch: tuple[int, ...], batch: int, more: str = "") -> Recipe:
    """Noise volumes half as large again as a patch with a ball, prepared into a store; ``more`` ends the recipe."""
    rng = np.random.default_rng(0)
    cases = []
    shape = [n + n // 2 for n in patch]
    grid = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in shape], indexing="ij"))
    ball = ((grid**2).sum(0) < (min(shape) / 4) ** 2).astype(np.uint8)
    for i in range(4):
        image = (100 * ball + rng.normal(0, 30, shape)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(ball, np.eye(4)), folder / f"{i}_label.nii.gz")
        cases.append(
            {
                "id": str(i),
                "images": [f"{i}.nii.gz"],
                "labels": f"{i}_label.nii.gz",
                "values": {"1": ["left_atrium"]},
                "annotated": ["left_atrium"],
            }
        )
    manifest = {
        "gleanseg": 1,
        "name": "noise",
        "rois": ["left_atrium"],
        "channels": [{"name": "mr", "modality": "MR"}],
        "cases": cases,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "recipe.toml").write_text(
        f'manifest = "manifest.json"\n[network]\nname = "{network}"\n[sampling]\npatch = {list(patch)}\n'
        f'batch = {batch}\n[optimizer]\nname = "sgd"\nlr = 0.01\nweight_decay = 1e-4\n{more}'
    )
    recipe = Recipe.load(folder / "recipe.toml")
    Manifest.load(recipe.manifest)
    api.prepare(recipe)
    return recipe


def plain_loop(recipe: Recipe, *, bf16: bool, channels_last: bool = False) -> Iterator[None]:
    torch.manual_seed(0)
    patch = recipe.sampling.patch
    assert patch != "auto"
    net: nn.Module = build(
        recipe.network.name,
        recipe.network.options,
        in_channels=1,
        num_rois=1,
        patch_ZYX=patch[::-1],
        spacing_ZYX_mm=(1.0, 1.0, 1.0),
    ).train()
    x = torch.randn(recipe.sampling.batch, 1, *patch[::-1])
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last_3d), x.to(memory_format=torch.channels_last_3d)
    y = (torch.rand_like(x) > 0.7).float()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    while True:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            z = net(x).float()
        p = z.sigmoid()
        dice = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
        loss = dice + nn.functional.binary_cross_entropy_with_logits(z, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def engine_step(recipe: Recipe, *, read: bool, out: Path) -> Iterator[None]:
    """Steps of the engine, on one ready batch or with patches as training reads them."""
    trainer, loader = engine(recipe, out=out)
    if read:
        yield from ((None) for _ in trainer.steps(loader, until=10_000))
    patches = next(loader.steps(0, 1))
    batch = ready(trainer, loader, patches)
    while True:
        trainer.train_step([batch], patches, 0.0)
        yield


def engine(recipe: Recipe, *, out: Path) -> tuple[Trainer, Loader]:
    """What `gleanseg train` puts together before its first step."""
    setup = set_up(recipe)
    fabric: Fabric = make_fabric(setup.recipe)
    stage = setup.recipe.stages[0]
    session = Session(setup, fabric, out, resume=False, listener=None, stop=StopRequest())
    method = make_method(session.run, stage)
    trainer = Trainer(fabric, method, recipe=setup.recipe, stage=stage, index=0)
    patch = setup.recipe.sampling.patch
    assert patch != "auto"
    sampler = Sampler(
        setup.store,
        setup.selection,
        patch_ZYX=patch[::-1],
        foreground=0.5,
        augment=recipe.augment,
        mirror_ZYX=setup.mirror_ZYX,
        seed=0,
    )
    num_labelled = rows_of(method.views, setup.recipe, setup.selection, ranks=1)
    return trainer, Loader(sampler, batch=recipe.sampling.batch, num_labelled=num_labelled)


def ready(trainer: Trainer, loader: Loader, patches: list[Patch]) -> Batch:
    """The batch of some patches."""
    patch = trainer.recipe.sampling.patch
    assert patch != "auto"
    return collate(
        patches,
        patch_ZYX=patch[::-1],
        views=trainer.method.views,
        num_labelled=loader.num_labelled,
        device=trainer.fabric.device,
    )


def report(arguments: argparse.Namespace, times: dict[str, list[float]]) -> None:
    rows = {name: {"min_s": min(t), "median_s": statistics.median(t), "max_s": max(t)} for name, t in times.items()}
    median: Callable[[str], float] = lambda name: rows[name]["median_s"]  # noqa: E731  # reads as a formula below
    precision = choose("auto", torch.device("cpu"))
    bare = "bf16, channels last" if precision == "bf16-mixed" else "fp32, channels last"
    result = {
        "command": shlex.join(["python", "benchmarks/step_time.py", *sys.argv[1:]]),
        "what": f"{arguments.network}, patch {'x'.join(map(str, arguments.patch))}, batch {arguments.batch}, in turns, "
        f"{arguments.repeats} repeats",
        "times": rows,
        "speedup_of_engine_over_fp32_loop": round(median("fp32 loop") / median("engine step"), 2),
        "speedup_of_whole_step_over_fp32_loop": round(median("fp32 loop") / median("whole step"), 2),
        "precision": precision,
        "overhead_of_engine_over_bare_network": round(median("engine step") / median(bare) - 1, 3),
        "overhead_of_engine_and_loader_over_bare_network": round(median("whole step") / median(bare) - 1, 3),
        "versions": {"gleanseg": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processor": processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

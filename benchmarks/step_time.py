"""Time of a training step: gleanseg's engine against plain loops and nnU-Net v2's trainer, and against the processor.

    pip install '.[bench]'                 # for nnU-Net, whose side is left out otherwise
    python benchmarks/step_time.py         # V-Net, 112x112x80, batch 2: the Left Atrium setting
    python benchmarks/step_time.py --network unet3d --patch 96 96 96 --name step_time_unet3d

Sides, each in fresh processes that take turns, so that a drifting machine hurts all alike; the same network, patch and
batch:
    fp32 loop            what public reference code does: forward, loss, backward, optimiser step, nothing else
    fp32, channels last  the same with channels_last_3d
    bf16, channels last  and under bf16 autocast, where the processor multiplies bf16; others emulate it, in minutes
    ..., memory kept     the faster of these two with freed memory kept, as the engine does: the bare network
    nnU-Net              ``nnUNetTrainer.train_step`` with its Dice and cross-entropy, clipping, and optimiser
    engine step          Trainer.train_step on a ready batch: losses that know what is known, clipping, schedules
    whole step           the same with patches read from a store and augmented: what a user waits for

A side's time is the median of its rounds' best steps. The limit is the rate of large matrix products, in bf16 where the
processor multiplies it, measured in the same turns; the network's share of it counts its forward and backward pass.
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
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from end_to_end import write
from lightning_fabric import Fabric
from peak import peak_mib
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gleanseg import api
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
from gleanseg.predict.hardware import keep_freed_memory
from gleanseg.run.deploy import make_method
from gleanseg.types import Batch

SIDES = (
    "fp32 loop",
    "fp32, channels last",
    "bf16, channels last",
    "fp32, channels last, memory kept",
    "bf16, channels last, memory kept",
    "nnU-Net",
    "engine step",
    "whole step",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--patch", type=int, nargs=3, default=(112, 112, 80), help="x y z")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--steps", type=int, default=4, help="of a round, after one that warms up")
    parser.add_argument("--name", default="step_time", help="of the result's file")
    parser.add_argument("--side", choices=[*SIDES, "limit"], help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        found = (
            limit()
            if arguments.side == "limit"
            else timed(arguments.side, Recipe.load(arguments.data), arguments.steps)
        )
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        made_up_data(Path(folder), network=arguments.network, patch=tuple(arguments.patch), batch=arguments.batch)
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in [*sides(), "limit"]}
        for _ in range(arguments.repeats):
            for side, found in rounds.items():
                found.append(apart(side, Path(folder) / "recipe.toml", arguments.steps))
        flops = network_flops(Recipe.load(Path(folder) / "recipe.toml"))
    report(arguments, rounds, flops)


def sides() -> list[str]:
    """Those that this machine can take."""
    left_out = set() if find_spec("nnunetv2") else {"nnU-Net"}
    if choose("auto", torch.device("cpu")) == "bf16-mixed":
        left_out |= {"fp32, channels last, memory kept"}
    else:
        left_out |= {"bf16, channels last", "bf16, channels last, memory kept"}
    return [side for side in SIDES if side not in left_out]


def apart(side: str, recipe: Path, steps: int) -> dict[str, Any]:
    """A round of one side, in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--data", str(recipe), "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def timed(side: str, recipe: Recipe, number: int) -> dict[str, Any]:
    """Seconds of each step, and the peak memory, of this process."""
    if side.endswith("memory kept"):
        keep_freed_memory()
    plain = side.removesuffix(", memory kept")
    with tempfile.TemporaryDirectory() as folder:
        steps = {
            "fp32 loop": lambda: plain_loop(recipe, bf16=False),
            "fp32, channels last": lambda: plain_loop(recipe, bf16=False, channels_last=True),
            "bf16, channels last": lambda: plain_loop(recipe, bf16=True, channels_last=True),
            "nnU-Net": lambda: nnunet_loop(recipe),
            "engine step": lambda: engine_step(recipe, read=False, out=Path(folder) / "run"),
            "whole step": lambda: engine_step(recipe, read=True, out=Path(folder) / "run"),
        }[plain]()
        times = []
        for _ in range(number + 1):
            start = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - start)
    return {"steps_s": times[1:], "peak_mib": peak_mib()}


def limit() -> dict[str, Any]:
    """The rate of products of square matrices, in operations per second."""
    dtype = torch.bfloat16 if choose("auto", torch.device("cpu")) == "bf16-mixed" else torch.float32
    side, rates = 2048, []
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    for _ in range(20):
        start = time.perf_counter()
        _ = a @ b
        rates.append(2 * side**3 / (time.perf_counter() - start))
    return {"tflops": max(rates) / 1e12, "type": str(dtype).removeprefix("torch.")}


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


def network_of(recipe: Recipe, *, outputs: int = 1) -> tuple[nn.Module, Tensor]:
    """The bare network and a batch of noise."""
    torch.manual_seed(0)
    patch = recipe.sampling.patch
    assert patch != "auto"
    net: nn.Module = build(
        recipe.network.name,
        recipe.network.options,
        in_channels=1,
        num_rois=outputs,
        patch_ZYX=patch[::-1],
        spacing_ZYX_mm=(1.0, 1.0, 1.0),
    )
    return net.train(), torch.randn(recipe.sampling.batch, 1, *patch[::-1])


def network_flops(recipe: Recipe) -> int:
    """Operations of forward and backward pass, a multiplication and an addition being two."""
    with torch.device("meta"):
        net, x = network_of(recipe)
    with FlopCounterMode(display=False) as counter:
        net(x).sum().backward()
    return int(counter.get_total_flops())


def plain_loop(recipe: Recipe, *, bf16: bool, channels_last: bool = False) -> Iterator[None]:
    net, x = network_of(recipe)
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


def nnunet_loop(recipe: Recipe) -> Iterator[None]:
    """nnU-Net's own step around the same network, which scores background, too, as its soft-max wants."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    net, x = network_of(recipe, outputs=2)
    trainer = nnUNetTrainer.__new__(nnUNetTrainer)  # what reads plans and data sets is left out
    trainer.device, trainer.network, trainer.grad_scaler = torch.device("cpu"), net, None
    trainer.optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    trainer.loss = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
    batch = {"data": x, "target": (torch.rand_like(x) > 0.7).float()}
    while True:
        trainer.train_step(batch)
        yield


def engine_step(recipe: Recipe, *, read: bool, out: Path) -> Iterator[None]:
    """Steps of the engine, on one ready batch or with patches as training reads them."""
    keep_freed_memory()  # as ``fit`` does
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


def report(arguments: argparse.Namespace, rounds: dict[str, list[dict[str, Any]]], flops: int) -> None:
    limits = rounds.pop("limit")
    rows: dict[str, dict[str, float]] = {}
    for name, found in rounds.items():
        best = [min(one["steps_s"]) for one in found]
        every = [t for one in found for t in one["steps_s"]]
        rows[name] = {
            "min_s": min(every),
            "median_s": statistics.median(best),
            "max_s": max(every),
            "peak_mib": max(one["peak_mib"] for one in found),
        }
    median = {name: row["median_s"] for name, row in rows.items()}
    precision = choose("auto", torch.device("cpu"))
    bare = f"{'bf16' if precision == 'bf16-mixed' else 'fp32'}, channels last, memory kept"
    rate = statistics.median(one["tflops"] for one in limits)
    write(
        arguments.name,
        {
            "command": shlex.join(["python", "benchmarks/step_time.py", *sys.argv[1:]]),
            "what": f"{arguments.network}, patch {'x'.join(map(str, arguments.patch))}, batch {arguments.batch}, in "
            f"turns, {arguments.repeats} rounds of {arguments.steps} steps",
            "precision": precision,
            "times": rows,
            "speedup_of_engine_over": {n: round(t / median["engine step"], 2) for n, t in median.items()},
            "speedup_of_whole_step_over": {n: round(t / median["whole step"], 2) for n, t in median.items()},
            "overhead_of_engine_over_bare_network": round(median["engine step"] / median[bare] - 1, 3),
            "overhead_of_engine_and_loader_over_bare_network": round(median["whole step"] / median[bare] - 1, 3),
            "limit": {"tflops": rate, "type": limits[0]["type"]},
            "network_tflop": flops / 1e12,
            "share_of_limit": {n: round(flops / 1e12 / t / rate, 3) for n, t in median.items()},
            "cores": os.cpu_count(),
        },
    )


if __name__ == "__main__":
    main()

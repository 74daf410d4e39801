"""Steps on one rank or several; importable, so that spawned processes find it."""

from dataclasses import fields
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from safetensors.torch import save_file

from gleanseg.config import Named, OptimizerConfig, Recipe, SamplingConfig, StageConfig
from gleanseg.engine.loop import Trainer
from gleanseg.parts.method import Method
from gleanseg.resolve import names, resolve
from support.batches import make_batch, rows_of_rank, small_blueprint
from support.probes import PROBES

TOTAL = 20
SMALL = {"critic_width": 4}
"""In place of defaults that take many steps' time."""


def all_methods() -> list[type[Method]]:
    """Every method of the package and the probes."""
    return [*(resolve("methods", name) for name in names("methods")), *PROBES]


def make_method(cls: type[Method], *, seed: int = 0) -> Method:
    """A method with its default options on small networks and, where it has one, with a small adversary."""
    torch.manual_seed(seed)
    options = {field.name: SMALL[field.name] for field in fields(cls.Config) if field.name in SMALL}
    return cls(small_blueprint(), cls.Config(**options))


def make_trainer(cls: type[Method], fabric: Fabric, *, seed: int = 0, optimizer: str = "adamw") -> Trainer:
    """A trainer whose stage has ``TOTAL`` steps."""
    config = OptimizerConfig.model_validate({"name": optimizer, "lr": 1e-2})
    stage = StageConfig(name="main", method=Named(name="probe"), steps=TOTAL, optimizer=config)
    recipe = Recipe(manifest=Path("none"), sampling=SamplingConfig(patch=(16, 16, 16)))
    return Trainer(fabric, make_method(cls, seed=seed), recipe=recipe, stage=stage, index=0)


def two_rank_steps(fabric: Fabric, folder: str) -> None:
    """In each of two processes: two steps of every method that is not batchwise; the first saves the weights."""
    torch.set_num_threads(1)
    for cls in all_methods():
        if not cls.batchwise:
            trainer = make_trainer(cls, fabric, optimizer="sgd")
            for seed in range(2):
                batch = rows_of_rank(make_batch(seed=seed), fabric.global_rank, fabric.world_size)
                trainer.train_step([batch], [], 0.0)
            if fabric.is_global_zero:
                state = {k: v.contiguous() for k, v in trainer.method.state_dict().items()}
                save_file(state, f"{folder}/{cls.__name__}.safetensors")


def launch_two_ranks(folder: Path) -> None:
    """Run ``two_rank_steps`` on two gloo ranks."""
    strategy = DDPStrategy(start_method="spawn", find_unused_parameters=True, broadcast_buffers=False)
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy, precision="32-true")
    fabric.launch(two_rank_steps, str(folder))

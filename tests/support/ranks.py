"""Steps on one rank or several; importable, so that spawned processes find it."""

from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from safetensors.torch import save_file

from gleanseg.config import Named, OptimizerConfig, Recipe, SamplingConfig, StageConfig
from gleanseg.engine.loop import Trainer
from gleanseg.parts.method import Method
from support.batches import make_batch, rows_of_rank
from support.cases import SPREAD, Case, default_case, defaults_and

TOTAL = 20


def make_trainer(of: type[Method] | Case, fabric: Fabric, *, seed: int = 0, optimizer: str = "adamw") -> Trainer:
    """A trainer whose stage has ``TOTAL`` steps, of a case or of a method with its defaults."""
    case = of if isinstance(of, Case) else default_case(of)
    config = OptimizerConfig.model_validate({"name": optimizer, "lr": 1e-2})
    stage = StageConfig(name="main", method=Named(name="probe"), steps=TOTAL, optimizer=config)
    recipe = Recipe(manifest=Path("none"), sampling=SamplingConfig(patch=(16, 16, 16)))
    return Trainer(fabric, case.make(seed=seed), recipe=recipe, stage=stage, index=0)


def spread_cases() -> tuple[Case, ...]:
    """What one process and two ranks must do alike."""
    return tuple(case for case in defaults_and(SPREAD) if not case.cls.batchwise)


def two_steps(case: Case, fabric: Fabric) -> Method:
    """A method after two steps from the middle of training, where what learns from unlabelled data has its weight."""
    trainer = make_trainer(case, fabric, optimizer="sgd")
    trainer.done = TOTAL // 2
    for seed in range(2):
        trainer.train_step([rows_of_rank(make_batch(seed=seed), fabric.global_rank, fabric.world_size)], [], 0.0)
    return trainer.method


def two_rank_steps(fabric: Fabric, folder: str) -> None:
    """In each of two processes: two steps of every method that is not batchwise; the first saves the weights."""
    torch.set_num_threads(1)
    for case in spread_cases():
        method = two_steps(case, fabric)
        if fabric.is_global_zero:
            state = {k: v.contiguous() for k, v in method.state_dict().items()}
            save_file(state, f"{folder}/{case}.safetensors")


def launch_two_ranks(folder: Path) -> None:
    """Run ``two_rank_steps`` on two gloo ranks."""
    strategy = DDPStrategy(start_method="spawn", find_unused_parameters=True, broadcast_buffers=False)
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy, precision="32-true")
    fabric.launch(two_rank_steps, str(folder))

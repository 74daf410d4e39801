"""Runs of methods that ask more of the engine: two stages, networks of two kinds, players of other names."""

from pathlib import Path
from typing import final

import pytest
import torch
from lightning_fabric import Fabric

from gleanseg.config import OptimizerConfig, Recipe
from gleanseg.engine.fit import fit
from gleanseg.errors import UserError
from gleanseg.losses.bce import partial_bce
from gleanseg.parts.method import Blueprint, Method
from gleanseg.run.checkpoint import load
from gleanseg.run.deploy import load_deployed
from gleanseg.types import Batch, Progress, Term, Views
from support.batches import make_batch
from support.data import prepared
from support.ranks import make_trainer

STAGES = """
[[stage]]
name = "pretraining"
steps = 2
method = {name = "bcp", pretraining = true}
[[stage]]
name = "self-training"
steps = 1
method = {name = "bcp", mu = 1.0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return prepared(tmp_path_factory.mktemp("unusual"), method="mcf", steps=1, more='[optimizer]\nname = "sgd"\n')


def test_self_training_starts_with_what_pretraining_learnt(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("stages.toml")
    path.write_text(recipe.manifest.with_name("recipe.toml").read_text() + STAGES)
    run = fit(Recipe.load(path, overrides=["sampling.batch=4"]), out=tmp_path / "run")
    (first,), (last,) = run.checkpoints("pretraining"), run.checkpoints("self-training")
    before, after = load(first)[0], load(last)[0]
    students = [name for name in before if name.startswith("method.student.")]
    assert students
    for name in students:
        teacher = name.replace("student", "teacher")
        assert torch.equal(before[teacher], before[name])
        assert torch.equal(after[teacher], before[name]), "a teacher with mu = 1 stays where it starts"
    assert any(not torch.equal(after[name], before[name]) for name in students)


def test_two_kinds_of_network_train_and_predict(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    other = 'method.other={name="vnet", encoder="resnet34", width=2, norm="instance"}'
    run = fit(Recipe.load(path, overrides=[other, "sampling.patch=[32,32,32]"]), out=tmp_path / "run")
    a, b = load_deployed(run)
    assert [type(network).__name__ for network in (a, b)] == ["UNet3D", "VNet"]
    assert b.config.encoder == "resnet34"  # type: ignore[attr-defined]
    x = torch.zeros(1, 1, 32, 32, 32)
    assert a(x).shape == b(x).shape


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ('{name="vnett"}', "no 'vnett'; did you mean 'vnet'"),
        ('{name="vnet", widths=2}', "unknown key 'widths'"),
        ('{name="vnet", width=2}', r"patch 16x16x16 .* VNet needs"),
    ],
)
def test_a_second_network_that_cannot_be_is_named(recipe: Recipe, tmp_path: Path, other: str, message: str) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    with pytest.raises(UserError, match=message):
        fit(Recipe.load(path, overrides=[f"method.other={other}"]), out=tmp_path / "run")


@final
class Pair(Method):
    """Two players, neither of whom is called ``main``."""

    views = Views(names=("weak",))
    players = ("a", "b")
    deploys = {"a": ("a",)}

    def __init__(self, build: Blueprint, config: object) -> None:
        super().__init__(build, config)
        self.a, self.b = build(), build()

    def optimizer_of(self, player: str, recipe: OptimizerConfig) -> OptimizerConfig:
        return recipe if player == "a" else recipe.model_copy(update={"lr": 10 * recipe.lr})

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        z = self.get_submodule(player)(batch.x["weak"])
        return {f"ce_{player}": partial_bce(z, batch.y(), batch.known, batch.valid)}


def test_the_log_has_the_rate_of_the_first_player_where_none_is_main() -> None:
    trainer = make_trainer(Pair, Fabric(accelerator="cpu", devices=1, precision="32-true"), optimizer="sgd")
    step = trainer.train_step([make_batch()], [], 0.0)
    assert set(step.terms) == {"ce_a", "ce_b"}
    a, b = (trainer.optimizers[player].param_groups[0]["lr"] for player in ("a", "b"))
    assert step.lr == a == b / 10

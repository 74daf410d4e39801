"""Runs of methods that ask more of the engine: two stages of one method, networks of two kinds."""

from pathlib import Path

import pytest
import torch

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.errors import UserError
from gleanseg.run.checkpoint import load
from gleanseg.run.deploy import load_deployed
from support.data import prepared

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
    run = fit(Recipe.load(path), out=tmp_path / "run")
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

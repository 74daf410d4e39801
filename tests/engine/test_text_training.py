"""A run whose networks are told of their task keeps what they were told, and predicts with it."""

from pathlib import Path

import pytest
import torch

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.errors import UserError
from gleanseg.run.deploy import load_deployed
from gleanseg.run.folder import Run
from gleanseg.run.texts import load_texts
from support.data import prepared

TEXT = {"knowledge": ("liver", "spleen"), "vectors": "random", "beta": 1.0}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = prepared(tmp_path_factory.mktemp("text"), method="llm_segnet", steps=2)
    return told(recipe)


def told(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"text": type(recipe.text)(**{**TEXT, **changes})})


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(recipe, out=tmp_path_factory.mktemp("runs") / "told")


def test_the_run_keeps_the_vectors_and_says_where_they_are_from(run: Run) -> None:
    texts = load_texts(run)
    assert texts is not None
    assert [len(text) for text in texts] == [15, 15]
    told_of = [text["name"] for text in run.info["texts"]["texts"]]
    assert told_of == ["liver", "spleen"]
    assert run.info["texts"]["source"] == "random"


def test_both_networks_are_told_and_predict_with_what_they_learnt(run: Run) -> None:
    a, b = load_deployed(run)
    x = torch.zeros(1, 1, 16, 16, 16)
    for network in (a, b):
        assert network.text is not None
        plain = network(x)
        network.text = None
        assert not torch.equal(network(x), plain)
    assert not torch.equal(a(x), b(x))


def test_texts_are_part_of_what_decides_the_weights(recipe: Recipe, run: Run) -> None:
    with pytest.raises(UserError, match="another recipe"):
        fit(told(recipe, beta=0.5), out=run.path, resume=True)


def test_the_controls_train(recipe: Recipe, tmp_path: Path) -> None:
    off = fit(told(recipe, beta=0.0), out=tmp_path / "off")
    assert load_texts(off) is not None
    without = fit(told(recipe, knowledge=()), out=tmp_path / "without")
    assert load_texts(without) is None
    assert load_deployed(without)[0].text is None


def test_an_unknown_text_leaves_no_run_behind(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="liver"):
        fit(told(recipe, knowledge=("livr",)), out=tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()

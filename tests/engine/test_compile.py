"""Compiled networks train as eager ones do, and what cannot be compiled runs eagerly and says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gleanseg import api
from gleanseg.config import Recipe
from gleanseg.engine import compile as module
from gleanseg.engine.compile import Fallible, compile_networks
from gleanseg.errors import UserError
from gleanseg.methods.mean_teacher import MeanTeacher
from gleanseg.predict.predictor import Predictor
from gleanseg.types import Progress
from support.batches import make_batch
from support.cases import default_case
from support.data import prepared

ONE_GRAPH = """
import torch
from support.small_networks import SMALL, image, small
for name in SMALL:
    net, x = small(name), image(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encode, decode = (torch.compile(part, backend="eager", fullgraph=True) for part in (net.encode, net.decode))
        assert decode(encode(x))[-1].shape[2:] == x.shape[2:]
"""


def broken(function: object) -> object:
    def call(*arguments: object) -> object:
        raise RuntimeError("no C++ compiler\nin a long story")

    return call


def test_what_cannot_be_compiled_runs_eagerly_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch, "compile", broken)
    eager, compiled = default_case(MeanTeacher).make(), default_case(MeanTeacher).make()
    notes: list[str] = []
    compile_networks(compiled, note=notes.append)
    batch, progress = make_batch(), Progress(3, 10)
    expected, found = eager(batch, progress), compiled(batch, progress)
    for name in expected:
        assert torch.equal(expected[name][0], found[name][0])
    assert len(notes) == 1
    assert "student.encode runs eagerly" in notes[0]
    assert "(no C++ compiler)" in notes[0]
    assert list(compiled.state_dict()) == list(eager.state_dict())


def test_a_mistake_of_the_user_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: object) -> object:
        raise UserError("patch too small")

    monkeypatch.setattr(module.torch, "compile", lambda function: function)
    with pytest.raises(UserError, match="patch too small"):
        Fallible(refuse, name="net.encode", note=lambda text: None)(1)


def test_compiled_calls_are_used_where_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch, "compile", lambda function: lambda x: ("compiled", function(x)))
    assert Fallible(lambda x: x + 1, name="net.encode", note=lambda text: None)(1) == ("compiled", 2)


@pytest.mark.slow
def test_encoders_and_decoders_are_one_graph_each() -> None:
    """What breaks a graph runs eagerly without a word. In a fresh process, as checks of types break it, too."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", ONE_GRAPH], stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside PyTorch's compiler, by its own imports
def test_a_compiled_run_predicts_and_resumes_without_the_compiler(tmp_path: Path) -> None:
    recipe = prepared(tmp_path, method="supervised", steps=2)
    compiled = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": True})})
    run = api.fit(compiled, out=tmp_path / "run")
    eager = api.fit(recipe, out=tmp_path / "eager")
    image = torch.randn(1, 20, 22, 24, generator=torch.Generator().manual_seed(0)).numpy()
    found, expected = (Predictor.from_run(r.path, precision="fp32").segment_prepared(image) for r in (run, eager))
    assert (found.flat() == expected.flat()).mean() > 0.99
    assert Recipe.load(run.path / "recipe.toml").train.compile

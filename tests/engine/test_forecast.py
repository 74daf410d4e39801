"""What a stage will take is told before it starts, and is near what is then measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gleanseg.config import OptimizerConfig, Recipe
from gleanseg.data import bounded
from gleanseg.engine import fit as engine
from gleanseg.engine.fit import fit
from gleanseg.engine.forecast import Forecast, num_states
from gleanseg.engine.optim import make_optimizer
from gleanseg.errors import UserError
from gleanseg.predict.forecast import Need
from gleanseg.predict.memory import Meter
from support.data import prepared

MEASURE = """
import json, sys
from support.memory import peak
from pathlib import Path
import torch
from gleanseg.config import Recipe
from gleanseg.engine import fit as engine
torch.set_num_threads(1)
real, found = engine.forecast, []
engine.forecast = lambda *arguments: found.append(real(*arguments)) or found[-1]
engine.fit(Recipe.load(Path(sys.argv[1]), overrides=sys.argv[3:]), out=Path(sys.argv[2]))
print(json.dumps([found[0].peak, peak(), found[0].held]))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return prepared(tmp_path_factory.mktemp("forecast"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process has held")
@pytest.mark.slow
def test_the_forecast_is_near_what_is_measured(recipe: Recipe, tmp_path: Path) -> None:
    """More configurations are in benchmarks/forecast.py."""
    larger = ["network.width=16", "sampling.patch=[48,48,48]", "train.steps=1", "train.validate_every=0"]
    command = [sys.executable, "-c", MEASURE, str(recipe.manifest.with_name("recipe.toml")), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, *larger], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    foretold, measured, held = json.loads(done.stdout.splitlines()[-1])
    assert abs(foretold / measured - 1) < 0.25
    assert measured > held + (200 << 20), "more than the libraries was measured"


def test_the_meter_counts_what_lives() -> None:
    weight = torch.zeros(10, 10, requires_grad=True)
    module = torch.nn.Module()
    module.weight = weight = torch.nn.Parameter(weight)
    with Meter() as meter:
        meter.watch(module)
        a = torch.ones(1000)  # 4000 bytes
        assert meter.live == 4000
        b = a + 1
        a.add_(1)
        b.view(10, 100)
        assert (meter.live, meter.peak) == (8000, 8000)
        del a
        assert (meter.live, meter.peak) == (4000, 8000)
        torch.autograd.backward((weight * 2).sum())
        assert meter.gradients == 400
        assert meter.live == 4400
    with pytest.raises(MemoryError), Meter(limit=3999):
        torch.ones(1000)


@pytest.mark.parametrize(
    "config",
    [OptimizerConfig(), OptimizerConfig(name="sgd"), OptimizerConfig(name="sgd", momentum=0.0, nesterov=False)],
)
def test_the_state_of_optimisers_is_known(config: OptimizerConfig) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1000))
    optimizer = make_optimizer([parameter], config)
    parameter.grad = torch.ones(1000)
    optimizer.step()
    held = [v for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor) and v.numel() == 1000]
    assert len(held) == num_states(config)


def test_a_run_that_cannot_fit_is_refused_and_leaves_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Listener:
        note = staticmethod(told.append)

        def step(self, *arguments: object, **more: object) -> None:
            raise AssertionError("no step is taken")

        validated = step

    real = engine.forecast
    monkeypatch.setattr(
        engine, "forecast", lambda *a: real(*a)._replace(need=Need(1 << 60, 0), per_row=1 << 59, rows=2)
    )
    with pytest.raises(
        UserError, match=r"stage 'main': needs about .* GiB more memory on cpu, .* GiB are free; even one"
    ):
        fit(recipe, out=tmp_path / "run", listener=Listener())
    assert not (tmp_path / "run").exists()
    assert any("stage main: about" in text and "of memory at its peak" in text for text in told)
    monkeypatch.setattr(engine, "forecast", lambda *a: real(*a)._replace(disk=1 << 60))
    with pytest.raises(UserError, match=r"needs about .* GiB of disk, .* GiB are free; free space"):
        fit(recipe, out=tmp_path / "run")


def test_a_patch_that_cannot_fit_is_refused_in_the_small_pass(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gleanseg.predict.memory.available_memory", lambda: 100_000)
    assert bounded.available_memory() > 100_000
    with pytest.raises(UserError, match=r"one patch at a time takes more memory than cpu has .* make sampling\.patch"):
        fit(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_advice_says_how_many_patches_fit() -> None:
    found = Forecast(held=0, need=Need(1000, 0), disk=0, per_row=100, rows=8)
    assert found.advice(room=700) == "set train.accumulate 2 times as high, or sampling.batch to 1/2"
    assert found.advice(room=250).startswith("even one patch at a time is too much")


def test_ranks_of_one_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gleanseg.predict.memory.available_memory", lambda: 2500)
    found = Forecast(held=0, need=Need(1000, 100), disk=0, per_row=100, rows=8)
    cpu = torch.device("cpu")
    found._replace(ranks=2).refuse(cpu, tmp_path, what="run")
    with pytest.raises(UserError, match=r"run: needs about 0\.00 GiB more memory on cpu"):
        found._replace(ranks=3).refuse(cpu, tmp_path, what="run")
    assert "at its peak for each of 3 ranks and" in found._replace(ranks=3).told("main")

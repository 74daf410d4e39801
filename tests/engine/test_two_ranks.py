"""A whole training on two processes equals one on the joined batch; either goes on where the other stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.engine.signals import Interrupted
from gleanseg.run.checkpoint import load
from gleanseg.run.folder import Run, read_lines
from support.data import prepared

SAME = [
    "sampling.batch=4",
    "sampling.labelled_batch=2",
    "network.dropout=0.0",
    "optimizer.name=sgd",
    "optimizer.lr=0.05",
    "train.accelerator=cpu",
]
COMMAND_LINE = ["-m", "gleanseg.cli.main"]
TROUBLED = [str(Path(__file__).parents[1] / "support" / "troubled_rank.py")]


class Stopper:
    """Asks for an end after the second step."""

    def note(self, text: str) -> None: ...

    def step(self, step: object, *, stage: str, total: int, rate: float) -> None:
        if step.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(self, step: int, result: object) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_on_two(recipe: Recipe, out: Path, *more: str, program: list[str]) -> subprocess.CompletedProcess[str]:
    # Looked after once a second: torchrun ends all ranks as soon as it sees one end, whatever they still have to say.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--monitor-interval=1"]
    command += [f"--master-port={free_port()}"]
    command += [*program, "train", str(recipe.manifest.with_name("recipe.toml")), "-o", str(out), *more]
    for override in [*SAME, "train.devices=2"]:
        command += ["--override", override]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    made = prepared(tmp_path_factory.mktemp("ranks"), method="mean_teacher", steps=4)
    return Recipe.load(made.manifest.with_name("recipe.toml"), overrides=SAME)


@pytest.fixture(scope="module")
def one(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(recipe, out=tmp_path_factory.mktemp("runs") / "one")


def assert_equal_up_to_rounding(found: Run, expected: Run) -> None:
    a, b = load(expected.checkpoint("last"))[0], load(found.checkpoint("last"))[0]
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-5, atol=1e-6, msg=name)
    logs = [[row["terms"]["dice"] for row in read_lines(run.path / "log.jsonl")] for run in (expected, found)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert not list(found.path.rglob("*.part"))


@pytest.mark.slow
def test_two_processes_equal_one(recipe: Recipe, one: Run, tmp_path: Path) -> None:
    done = train_on_two(recipe, tmp_path / "two", program=COMMAND_LINE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal_up_to_rounding(Run.open(tmp_path / "two"), one)


@pytest.mark.slow
def test_two_go_on_where_one_stopped(recipe: Recipe, one: Run, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(recipe, out=tmp_path / "run", listener=Stopper())
    done = train_on_two(recipe, tmp_path / "run", "--resume", program=COMMAND_LINE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal_up_to_rounding(Run.open(tmp_path / "run"), one)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_with_its_cause_and_one_goes_on(recipe: Recipe, one: Run, tmp_path: Path) -> None:
    start = time.monotonic()
    ended = train_on_two(recipe, tmp_path / "run", program=[*TROUBLED, "killed"])
    assert time.monotonic() - start < 120, "nobody waits for the dead"
    assert ended.returncode != 0
    assert "lost touch with another rank" in ended.stderr, ended.stderr
    assert "killed for want of memory" in ended.stderr
    assert "SIGKILL" in ended.stderr, "torchrun tells how it ended"
    assert Run.open(tmp_path / "run").checkpoints()[-1].name == "main-00000002.safetensors"
    assert_equal_up_to_rounding(fit(recipe, out=tmp_path / "run", resume=True), one)


@pytest.mark.slow
def test_two_ranks_agree_to_stop_within_a_validation(recipe: Recipe, one: Run, tmp_path: Path) -> None:
    ended = train_on_two(recipe, tmp_path / "run", program=[*TROUBLED, "asked"])
    assert ended.stderr.count("stopped by SIGTERM; a checkpoint is written, use --resume") == 2
    run = Run.open(tmp_path / "run")
    assert run.info["status"] == "interrupted"
    assert run.checkpoints()[-1].name == "main-00000003.safetensors"
    assert not read_lines(run.path / "validation.jsonl")
    assert_equal_up_to_rounding(fit(recipe, out=tmp_path / "run", resume=True), one)


@pytest.mark.slow
def test_ranks_agree_whatever_their_clocks_and_signals_say(recipe: Recipe, one: Run, tmp_path: Path) -> None:
    ended = train_on_two(recipe, tmp_path / "run", program=[*TROUBLED, "slow"])
    assert ended.stderr.count("stopped by SIGTERM; a checkpoint is written, use --resume") == 2, ended.stderr
    assert Run.open(tmp_path / "run").checkpoints()[-1].name == "main-00000002.safetensors"
    assert_equal_up_to_rounding(fit(recipe, out=tmp_path / "run", resume=True), one)

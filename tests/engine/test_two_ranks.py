"""A whole training on two processes equals one on the joined batch, and goes on alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.run.checkpoint import load, save
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train_on_two(recipe: Path, out: Path, overrides: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command += ["-m", "gleanseg.cli.main", "train", str(recipe), "-o", str(out)]
    for override in [*overrides, "train.devices=2"]:
        command += ["--override", override]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_two_processes_equal_one_and_one_goes_on(tmp_path: Path) -> None:
    recipe = prepared(tmp_path, method="mean_teacher", steps=4)
    path = recipe.manifest.with_name("recipe.toml")
    done = train_on_two(path, tmp_path / "two", SAME)
    assert done.returncode == 0, done.stderr[-2000:]
    one = fit(Recipe.load(path, overrides=SAME), out=tmp_path / "one")
    two = Run.open(tmp_path / "two")
    expected, found = load(one.checkpoint("last"))[0], load(two.checkpoint("last"))[0]
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
    logs = [[row["terms"]["dice"] for row in read_lines(run.path / "log.jsonl")] for run in (one, two)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    for path_of_rank in two.path.rglob("*.part"):
        raise AssertionError(f"{path_of_rank} was left")


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_on_one(tmp_path: Path) -> None:
    recipe = prepared(tmp_path, method="supervised", steps=4)
    path = recipe.manifest.with_name("recipe.toml")
    done = train_on_two(path, tmp_path / "two", SAME)
    assert done.returncode == 0, done.stderr[-2000:]
    run = Run.open(tmp_path / "two")
    kept = run.checkpoint("last")
    earlier = kept.with_name("main-00000002.safetensors")
    tensors, info = load(kept)
    save(earlier, tensors, {**info, "step": 2})
    kept.unlink()
    again = fit(Recipe.load(path, overrides=SAME), out=run.path, resume=True)
    assert load(again.checkpoint("last"))[1]["step"] == 4

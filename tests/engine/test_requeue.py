"""SLURM is asked to queue the job again; a failure neither hides the exit code nor loses the checkpoint."""

import os
import signal
from pathlib import Path

import pytest

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.engine.signals import Interrupted
from gleanseg.run.folder import Run
from support.data import prepared


class Stopper:
    """Sends SIGTERM after the second step and remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: object, *, stage: str, total: int, rate: float) -> None:
        if step.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(self, step: int, result: object) -> None: ...


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    made = prepared(tmp_path_factory.mktemp("requeue"))
    return made.model_copy(update={"train": made.train.model_copy(update={"requeue": True})})


def stopped(recipe: Recipe, out: Path) -> list[str]:
    listener = Stopper()
    with pytest.raises(Interrupted) as caught:
        fit(recipe, out=out, listener=listener)
    assert caught.value.exit_code == 75
    assert Run.open(out).checkpoints()[-1].name == "main-00000002.safetensors"
    return [note for note in listener.notes if note.startswith("train.requeue")]


def fake_scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, *, body: str) -> None:
    script = folder / "scontrol"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")


def test_the_job_is_queued_again(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_scontrol(tmp_path, monkeypatch, body=f'echo "$@" > {tmp_path}/called')
    assert stopped(recipe, tmp_path / "run") == ["train.requeue: job 4711 is queued again"]
    assert (tmp_path / "called").read_text() == "requeue 4711\n"


def test_a_refusal_is_told(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_scontrol(tmp_path, monkeypatch, body="echo 'Access denied' >&2; exit 1")
    (note,) = stopped(recipe, tmp_path / "run")
    assert "scontrol requeue 4711 failed (Access denied); start the job again with --resume" in note


def test_a_missing_scontrol_is_told(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    (note,) = stopped(recipe, tmp_path / "run")
    assert "scontrol requeue 4711 failed" in note


def test_without_slurm_nothing_is_queued(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (note,) = stopped(recipe, tmp_path / "run")
    assert "SLURM_JOB_ID is not set" in note

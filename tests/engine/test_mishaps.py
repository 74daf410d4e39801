"""Training when something around it goes wrong: memory, a reading thread, the clock, another process, a crash."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gleanseg.config import Recipe
from gleanseg.data.store import StoredCase
from gleanseg.engine import checkpoints as module
from gleanseg.engine.fit import fit
from gleanseg.engine.judge import Judge
from gleanseg.errors import UserError
from gleanseg.lock import alone_in
from gleanseg.run.checkpoint import load
from gleanseg.run.folder import Run, read_lines
from support.data import prepared
from support.runs import STAGES, assert_same_weights


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return prepared(tmp_path_factory.mktemp("mishaps"), method="supervised")


@pytest.fixture(scope="module")
def straight(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(recipe, out=tmp_path_factory.mktemp("runs") / "straight")


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("patches")]


def failing_after(number: int, error: Exception) -> Callable[..., object]:
    """Reads so many patches, then fails in the reading thread."""
    real, calls = StoredCase.read, []

    def read(self: StoredCase, *box: object) -> object:
        if threading.current_thread().name in reading_threads():
            calls.append(1)
            if len(calls) > number:
                raise error
        return real(self, *box)

    return read


@pytest.mark.parametrize("said", ["", ": Unable to allocate 3.0 GiB for an array"])
def test_a_reading_thread_without_memory_says_so(
    recipe: Recipe, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StoredCase, "read", failing_after(9, MemoryError(said.removeprefix(": "))))
        with pytest.raises(UserError, match=rf"run: out of memory \(reading a patch of case 'c0\d'{said}\);.*--resume"):
            fit(recipe, out=tmp_path / "run")
    assert not reading_threads()
    assert_same_weights(fit(recipe, out=tmp_path / "run", resume=True), straight)


def test_a_reading_thread_that_fails_names_the_file(recipe: Recipe, tmp_path: Path) -> None:
    copy = shutil.copytree(recipe.store_path, tmp_path / "store")
    for volume in copy.glob("cases/*/image.b2nd"):
        volume.write_bytes(b"no volume")
    broken = recipe.model_copy(update={"store": copy})
    with pytest.raises(UserError, match=r"image\.b2nd: missing or broken .*run 'gleanseg prepare' again"):
        fit(broken, out=tmp_path / "run")
    assert not reading_threads()


def test_a_fault_of_our_own_in_a_thread_is_not_dressed_up(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoredCase, "read", failing_after(3, ZeroDivisionError("a fault")))
    with pytest.raises(ZeroDivisionError, match="a fault"):
        fit(recipe, out=tmp_path / "run")


def test_a_step_without_memory_says_so(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("gleanseg.engine.loop.Trainer.train_step", greedy)
    with pytest.raises(UserError, match=r"out of memory \(.*can't allocate memory.*smaller sampling\.patch"):
        fit(recipe, out=tmp_path / "run")


def test_a_rank_that_is_gone_is_named(recipe: Recipe, tmp_path: Path) -> None:
    from gleanseg.engine.failures import failures_named

    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer\nmore")
    with pytest.raises(UserError, match=r"lost touch with another rank \(.*closed by peer\); that rank's own"), \
            failures_named(tmp_path, ranks=2):  # fmt: skip
        raise gloo
    with pytest.raises(RuntimeError, match="gloo"), failures_named(tmp_path, ranks=1):
        raise gloo


def test_a_clock_that_jumps_changes_nothing(
    recipe: Recipe, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = time.time, []

    def jumping() -> float:
        calls.append(1)
        return real() + (-86_400 if len(calls) % 2 else 86_400)

    monkeypatch.setattr(time, "time", jumping)
    run = fit(recipe, out=tmp_path / "run")
    assert calls, "somebody asked"
    assert_same_weights(run, straight)
    times = [row["time_s"] for row in read_lines(run.path / "log.jsonl")]
    assert times == sorted(times)
    assert times[-1] < 600
    assert [p.name for p in run.checkpoints()] == ["main-00000006.safetensors"]


def test_a_second_process_is_refused_and_changes_nothing(recipe: Recipe, straight: Run, tmp_path: Path) -> None:
    out = shutil.copytree(straight.path, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with alone_in(out), pytest.raises(UserError, match="is at work in it"):
        fit(recipe, out=out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with alone_in(tmp_path / "new"), pytest.raises(UserError, match="is at work in it"):
        fit(recipe, out=tmp_path / "new")


def test_what_only_tells_or_reads_ahead_changes_no_weight(recipe: Recipe, straight: Run, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    other = ["sampling.workers=5", "train.validate_every=0", "train.checkpoint_every=1", "train.log_every=4"]
    assert_same_weights(fit(Recipe.load(path, overrides=other), out=tmp_path / "run"), straight)


def test_the_best_of_an_earlier_stage_is_remembered(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe.manifest.with_name("stages.toml")
    path.write_text(recipe.manifest.with_name("recipe.toml").read_text() + STAGES)
    scores, real = iter([0.9, 0.1, 0.2]), Judge.validate

    def scored(self: Judge, method: object, **options: object) -> object:
        return real(self, method, **options)._replace(mean=next(scores))

    monkeypatch.setattr(Judge, "validate", scored)
    saved: list[str] = []

    def crashing(path: Path, *what: object) -> None:
        if path.name.startswith("second"):
            raise KeyboardInterrupt
        saved.append(path.name)
        save(path, *what)

    save = module.save
    with monkeypatch.context() as patched:
        patched.setattr(module, "save", crashing)
        with pytest.raises(KeyboardInterrupt):
            fit(Recipe.load(path), out=tmp_path / "run")
    assert saved.count("best.safetensors") == 1
    run = fit(Recipe.load(path), out=tmp_path / "run", resume=True)
    assert load(run.checkpoint("best"))[1]["dice"] == 0.9


def test_a_presence_run_that_ended_before_its_conclusion_concludes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path, method="presence", steps=1)
    path = tmp_path / "recipe.toml"
    text = path.read_text().replace("patch = [16, 16, 16]", "patch = [16, 16, 32]")
    text = text.replace("validate_every = 3", "validate_every = 0")
    path.write_text(text.replace('name = "unet3d"\nwidth = 4\nlevels = 3', 'name = "resnet18"\nwidth = 2'))

    def killed(self: Judge, method: object) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Judge, "conclude", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(Recipe.load(path), out=tmp_path / "run")
    assert Run.open(tmp_path / "run").checkpoint_path("main", 1).exists()
    run = fit(Recipe.load(path), out=tmp_path / "run", resume=True)
    assert (run.path / "presence.json").exists()
    assert run.info["temperature"] > 0

"""Whole runs on a small data set: logs, resuming after SIGTERM, stages, and mistakes. Kill -9: tests/drills."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import save_file

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.engine.signals import Interrupted
from gleanseg.errors import UserError
from gleanseg.predict.predictor import Predictor
from gleanseg.run.checkpoint import digest, load, save
from gleanseg.run.folder import Run, read_lines
from support.data import prepared
from support.runs import STAGES, assert_same_weights


class Listener:
    """Remembers, and may interfere after a step."""

    def __init__(self, *, at: int = -1, action: object = None) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.validations: list[int] = []
        self.at, self.action = at, action

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: object, *, stage: str, total: int, rate: float) -> None:
        self.steps.append(step.step)
        if step.step == self.at:
            self.action()

    def validated(self, step: int, result: object) -> None:
        self.validations.append(step)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return prepared(tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="module")
def straight(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(recipe, out=tmp_path_factory.mktemp("runs") / "straight")


def assert_same_run(found: Run, expected: Run) -> None:
    assert_same_weights(found, expected)
    for name in ("log.jsonl", "validation.jsonl"):
        rows = [
            [{k: r[k] for k in r if k not in ("time_s", "rate", "wait_s")} for r in read_lines(run.path / name)]
            for run in (found, expected)
        ]
        assert rows[0] == rows[1], name


def test_a_run_folder_holds_what_it_promises(straight: Run) -> None:
    assert straight.info["status"] == "finished"
    assert straight.rois == ("liver", "liver_tumor", "spleen")
    assert [row["step"] for row in read_lines(straight.path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in read_lines(straight.path / "validation.jsonl")] == [3, 6]
    assert [p.name for p in straight.checkpoints()] == ["main-00000006.safetensors"]
    assert straight.checkpoint("best").name == "best.safetensors"
    assert any((straight.path / "tensorboard").iterdir())
    assert straight.overlaps == {frozenset({"liver", "liver_tumor"})}
    assert json.loads((straight.path / "splits.json").read_text())["validation"] == ["c08", "c09"]
    assert not list(straight.path.rglob("*.pt")) + list(straight.path.rglob("*.pkl"))


def test_the_same_recipe_gives_the_same_weights(recipe: Recipe, straight: Run, tmp_path: Path) -> None:
    assert_same_run(fit(recipe, out=tmp_path / "again"), straight)


def test_resuming_a_finished_run_trains_nothing_and_keeps_its_time(
    recipe: Recipe, straight: Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(straight.path, tmp_path / "run")
    listener = Listener()
    again = fit(recipe, out=copy, resume=True, listener=listener)
    assert listener.steps == []
    assert again.info["status"] == "finished"
    trained_s = load(straight.checkpoint("last"))[1]["elapsed_s"]
    assert again.info["elapsed_s"] == pytest.approx(trained_s, abs=0.5)
    assert trained_s > 0.5
    assert_same_run(again, straight)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_sigterm_writes_a_checkpoint_and_resuming_is_bit_exact(
    recipe: Recipe, straight: Run, tmp_path: Path, step: int
) -> None:
    listener = Listener(at=step, action=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM.*--resume") as caught:
        fit(recipe, out=tmp_path / "run", listener=listener)
    assert caught.value.exit_code == 75
    stopped = Run.open(tmp_path / "run")
    assert stopped.info["status"] == "interrupted"
    assert load(stopped.checkpoint("last"))[1]["step"] == step
    assert_same_run(fit(recipe, out=tmp_path / "run", resume=True), straight)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_no_run_stops_without_the_checkpoint_that_it_speaks_of(
    recipe: Recipe, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gleanseg.engine import fit as module

    class Late(module.StopRequest):
        """SIGTERM comes just after somebody looked whether it had."""

        looked = False

        @property
        def received(self) -> str | None:
            self.looked, before = True, self.looked
            return "SIGTERM" if before else None

        @received.setter
        def received(self, value: str | None) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(module, "StopRequest", Late)
        with pytest.raises(Interrupted):
            fit(recipe, out=tmp_path / "run")
    last = read_lines(tmp_path / "run" / "log.jsonl")[-1]["step"]
    assert load(Run.open(tmp_path / "run").checkpoint("last"))[1]["step"] == last
    assert_same_run(fit(recipe, out=tmp_path / "run", resume=True), straight)


def test_sigterm_during_validation_does_not_wait_for_its_end(
    recipe: Recipe, straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gleanseg.engine import validate as module

    real, calls = module.Predictor.segment_prepared, []

    def interrupting(self: object, image: object, **options: object) -> object:
        calls.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self, image, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module.Predictor, "segment_prepared", interrupting)
        with pytest.raises(Interrupted):
            fit(recipe, out=tmp_path / "run")
    assert len(calls) == 1, "the second case was not begun"
    assert not read_lines(tmp_path / "run" / "validation.jsonl")
    assert_same_run(fit(recipe, out=tmp_path / "run", resume=True), straight)


def test_stages_follow_each_other_in_one_folder(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("stages.toml")
    path.write_text(recipe.manifest.with_name("recipe.toml").read_text() + STAGES)
    staged = Recipe.load(path)
    whole = fit(staged, out=tmp_path / "whole")
    assert [p.name for p in whole.checkpoints("first")] == ["first-00000003.safetensors"]
    assert [p.name for p in whole.checkpoints()] == ["second-00000003.safetensors"]
    listener = Listener(at=2, action=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        fit(staged, out=tmp_path / "cut", listener=listener)
    assert_same_run(fit(staged, out=tmp_path / "cut", resume=True), whole)


def test_accumulated_micro_batches_train(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    run = fit(
        Recipe.load(path, overrides=["train.accumulate=2", "sampling.batch=4", "train.steps=2"]), out=tmp_path / "r"
    )
    assert load(run.checkpoint("last"))[1]["consumed"] == 8


def test_a_bound_of_0_leaves_gradients_alone(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    runs = {
        bound: fit(Recipe.load(path, overrides=[f"optimizer.clip={bound}", "train.steps=2"]), out=tmp_path / bound)
        for bound in ("0", "1e9", "1e-9")
    }
    assert runs["0"].recipe.optimizer.clip == 0  # of the recipe in its folder
    assert_same_weights(runs["0"], runs["1e9"])
    with pytest.raises(AssertionError):
        assert_same_weights(runs["0"], runs["1e-9"])


def test_mistakes_are_named(recipe: Recipe, straight: Run, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    with pytest.raises(UserError, match="the run folder exists; continue it with --resume"):
        fit(recipe, out=straight.path)
    with pytest.raises(UserError, match="started with another recipe"):
        fit(Recipe.load(path, overrides=["optimizer.lr=0.5"]), out=straight.path, resume=True)
    with pytest.raises(UserError, match=r"15x16x16 .*nearest that it can is 16x16x16"):
        fit(Recipe.load(path, overrides=["sampling.patch=[15,16,16]"]), out=tmp_path / "a")
    with pytest.raises(UserError, match="cannot be divided among 1 devices x 2"):
        fit(Recipe.load(path, overrides=["train.accumulate=2", "sampling.batch=3"]), out=tmp_path / "b")
    with pytest.raises(UserError, match="not a store"):
        fit(Recipe.load(path, overrides=['store="elsewhere"']), out=tmp_path / "c")


def test_a_resumed_run_must_see_the_same_labels(recipe: Recipe, straight: Run, tmp_path: Path) -> None:
    shutil.copytree(straight.path, tmp_path / "run")
    other = Run.open(tmp_path / "run")
    other.update(splits_digest="0" * 64)
    with pytest.raises(UserError, match=r"another data \(splits, ROIs or visible labels\)"):
        fit(recipe, out=other.path, resume=True)


def test_a_loss_that_is_not_a_number_stops_the_run(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    wild = ["optimizer.lr=1e30", 'optimizer.name="sgd"', 'optimizer.schedule="constant"', "train.validate_every=0"]
    with pytest.raises(UserError, match=r"step \d: the loss is .*lower optimizer.lr"):
        fit(Recipe.load(path, overrides=wild), out=tmp_path / "r")


def test_a_patch_larger_than_every_volume_is_said(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.manifest.with_name("recipe.toml")
    larger = ["sampling.patch=[32,32,32]", "train.steps=1", "train.validate_every=0"]
    listener = Listener()
    fit(Recipe.load(path, overrides=larger), out=tmp_path / "r", listener=listener)
    assert any("larger than every volume (largest 24x22x20)" in note for note in listener.notes)


@pytest.fixture(scope="module")
def stopped(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after steps 2 and 4."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Interrupted):
        fit(recipe, out=out, listener=Listener(at=4, action=lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert [p.name for p in Run.open(out).checkpoints()] == ["main-00000002.safetensors", "main-00000004.safetensors"]
    return out


def flip(whole: bytes) -> bytes:
    return whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:]


@pytest.mark.parametrize("damage", [flip, lambda whole: whole[:-100], lambda whole: b""], ids=["flip", "cut", "empty"])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(
    recipe: Recipe, straight: Run, stopped: Path, tmp_path: Path, damage: object
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    newest = Run.open(out).checkpoint("last")
    newest.write_bytes(damage(newest.read_bytes()))
    listener = Listener()
    run = fit(recipe, out=out, resume=True, listener=listener)
    assert any("main-00000004.safetensors: damaged checkpoint" in note for note in listener.notes)
    assert "continuing stage main after step 2" in listener.notes
    assert listener.steps == [3, 4, 5, 6]
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert_same_run(run, straight)


def test_no_whole_checkpoint_is_no_reason_to_train_anew(recipe: Recipe, stopped: Path, tmp_path: Path) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    for path in Run.open(out).checkpoints():
        path.write_bytes(flip(path.read_bytes()))
    with pytest.raises(UserError, match=r"every checkpoint of stage 'main' is damaged; restore one from a backup"):
        fit(recipe, out=out, resume=True)
    assert len(Run.open(out).checkpoints()) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe_digest": "0" * 64}, "a checkpoint of another recipe or seed"),
        ({"rois": ["liver", "spleen"]}, r"a checkpoint of other ROIs \(liver, spleen\)"),
        ({"stage": "pretraining"}, "of stage 'pretraining'"),
        ({"optimizers": {}}, "does not fit the method of this version"),
    ],
)
def test_checkpoints_of_another_run_are_refused(
    recipe: Recipe, stopped: Path, tmp_path: Path, change: dict, said: str
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    newest = Run.open(out).checkpoint("last")
    tensors, info = load(newest)
    save(newest, tensors, info | change)
    with pytest.raises(UserError, match=said):
        fit(recipe, out=out, resume=True)
    if "optimizers" not in change:
        with pytest.raises(UserError, match=said):
            Predictor.from_run(out)


def test_a_run_with_checkpoints_of_format_1_is_continued(
    recipe: Recipe, straight: Run, stopped: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    for path in Run.open(out).checkpoints():
        tensors, info = load(path)
        old = {key: value for key, value in info.items() if key not in ("format", "sha256")}
        save_file(tensors, path, metadata={"gleanseg": json.dumps(old | {"sha256": digest(tensors)})})
    listener = Listener()
    assert_same_run(fit(recipe, out=out, resume=True, listener=listener), straight)
    assert listener.steps == [5, 6]

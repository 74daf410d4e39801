"""Stores, run folders and disks that are not as training expects: one line, exit code 2, nothing half-written."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gleanseg.cli.main import main
from gleanseg.run.checkpoint import load
from gleanseg.run.folder import Run
from support.data import write_recipe


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("gleanseg: ")
    assert "\n" not in told
    return told


def swap(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def test_a_store_made_by_another_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, steps=2)
    assert main(["prepare", str(recipe)]) == 0
    capsys.readouterr()
    swap(recipe, "spacing = [2.0, 2.0, 2.5]", "spacing = [2.0, 2.0, 2.0]")
    told = refused(["train", str(recipe), "-o", str(tmp_path / "run")], capsys)
    assert "manifest.store" in told
    assert "spacing" in told
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_and_one_of_another_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = write_recipe(tmp_path, steps=2), tmp_path / "run"
    assert main(["train", str(recipe), "-o", str(run)]) == 0
    before = sorted(p.name for p in run.rglob("*"))
    capsys.readouterr()
    told = refused(["train", str(recipe), "-o", str(run)], capsys)
    assert "the run folder exists; continue it with --resume" in told
    swap(recipe, "steps = 2", "steps = 3")
    told = refused(["train", str(recipe), "-o", str(run), "--resume"], capsys)
    assert "was started with another recipe" in told
    assert sorted(p.name for p in run.rglob("*")) == before


def test_a_patch_larger_than_every_volume_pads_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, steps=1)
    swap(recipe, "patch = [16, 16, 16]", "patch = [32, 32, 32]")
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "the patch is larger than every volume (largest 24x22x20); volumes are padded" in told


def mounted(disk: Path, *, size: str) -> Iterator[Path]:
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that fills up."""
    yield from mounted(tmp_path / "disk", size="96k")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room."""
    yield from mounted(tmp_path / "disk", size="64m")


def test_a_full_disk_during_prepare(tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    (small_disk / "filler").write_bytes(bytes(64 * 1024))
    told = refused(["prepare", str(recipe), "-o", str(small_disk / "store")], capsys)
    assert "space" in told
    assert not [p for p in small_disk.rglob("*") if p.name.endswith(".part")]


def test_a_full_disk_while_a_checkpoint_is_written(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path, steps=6), small_disk / "run"
    assert main(["prepare", str(recipe)]) == 0
    capsys.readouterr()
    told = refused(["train", str(recipe), "-o", str(run)], capsys)
    assert "could not write" in told or "space" in told
    assert not [p for p in small_disk.rglob("*") if p.name.endswith(".part")]
    for path in Run.open(run).checkpoints() if (run / "run.json").exists() else []:
        load(path)


def test_full_and_read_only_disks_around_a_finished_run(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path, steps=2), disk / "run"
    assert main(["train", str(recipe), "-o", str(run)]) == 0
    assert main(["predict", str(run), "-o", str(tmp_path / "elsewhere")]) == 0
    shutil.copytree(tmp_path / "elsewhere", run / "predictions" / "test")
    room = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(room))
    capsys.readouterr()
    before = [path for path in disk.rglob("*") if path.is_file()]
    for command, words in [
        (["predict", str(run), "-o", str(disk / "out")], "free disk space|choose another output folder"),
        (["evaluate", str(run)], "free disk space"),
        (["train", str(recipe), "-o", str(disk / "new")], "space"),
    ]:
        assert re.search(words, refused(command, capsys)), command
        assert not [path for path in disk.rglob("*") if path.name.endswith(".part")]
    assert [path for path in disk.rglob("*") if path.is_file()] == before
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for command in (
        ["train", str(recipe), "-o", str(run), "--resume"],
        ["train", str(recipe), "-o", str(disk / "new")],
        ["predict", str(run)],
        ["evaluate", str(run)],
    ):
        assert "Read-only file system" in refused(command, capsys), command
    scan = str(tmp_path / "c10.nii.gz")
    assert main(["predict", str(run), "-i", scan, "-o", str(tmp_path / "own")]) == 0, "a run is read, not written"


def test_a_finished_store_on_a_read_only_disk_is_read(tmp_path: Path, disk: Path) -> None:
    recipe, store = write_recipe(tmp_path, steps=1), disk / "store"
    assert main(["prepare", str(recipe), "-o", str(store)]) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert main(["prepare", str(recipe), "-o", str(store)]) == 0


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    told = refused(["train", str(recipe), "-o", str(tmp_path / "file" / "run")], capsys)
    assert "file/run: cannot be made" in told
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_must_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, locked = write_recipe(tmp_path), tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "locked" in refused(["train", str(recipe), "-o", str(locked / "run")], capsys)

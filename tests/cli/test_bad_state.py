"""Stores, run folders and disks that are not as training expects: one line, exit code 2, nothing half-written."""

import os
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that fills up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


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

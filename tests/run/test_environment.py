"""What a run records of the code that made it."""

import os
import subprocess
from pathlib import Path

import pytest

import gleanseg
from gleanseg.run.environment import commit, environment


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, env={**os.environ, **who}
    )
    return done.stdout.strip()


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    file = tmp_path / "package" / "__init__.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    assert commit(file) is None  # as an installed package inside somebody's checkout: not tracked
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "v1")  # names of tags can move, commits cannot
    first = git(tmp_path, "rev-parse", "HEAD")
    assert len(first) == 40
    assert commit(file) == first
    file.write_text("a = 2\n")
    assert commit(file) == f"{first}-dirty"


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit(tmp_path / "x.py") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(Path(gleanseg.__file__)) is None
    told = environment()
    assert told["gleanseg"] == gleanseg.__version__
    assert "commit" not in told

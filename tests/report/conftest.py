"""The made-up run as fixtures."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_run import make_run


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete run; tests must not change it."""
    return make_run(tmp_path_factory.mktemp("report"))


@pytest.fixture
def copy_run(made_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the run without the named files or folders."""

    def copy(*left_out: str) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(made_run, target, ignore=shutil.ignore_patterns("report.html", *left_out))
        return target

    return copy

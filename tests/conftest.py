"""Fixtures and options of all tests."""

import os
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden curves anew; say why in CHANGELOG")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Golden numbers are those of one thread, and two workers share two cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes, which is not part of the repository."""
    folder = Path(os.environ.get("GLEANSEG_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real volumes at {folder}; set GLEANSEG_SHARED_DATA")
    return folder

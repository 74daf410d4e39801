"""A few moments of the drills; ``make drills`` goes through many, and through every method."""

from pathlib import Path

import pytest

from drills.harness import Drills, Moment, moments, snapshot


@pytest.fixture(scope="module")
def drills(tmp_path_factory: pytest.TempPathFactory) -> Drills:
    return Drills(tmp_path_factory.mktemp("drills"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "predict", "evaluate", "mean_teacher", "bcp"])
def test_killed_and_started_again_equals_undisturbed(drills: Drills, name: str) -> None:
    killed = [drills.kill(name, moment) for moment in moments(name, 2)]
    assert any(killed), "it ended before it could be killed"


@pytest.mark.slow
def test_a_run_killed_while_it_is_made_is_made_anew(drills: Drills) -> None:
    assert drills.kill("supervised", Moment("changes", 0.05))


@pytest.mark.slow
def test_sigterm_ends_training_within_seconds(drills: Drills) -> None:
    changes = drills.undisturbed("supervised").changes
    newest = drills.terminate("supervised", after_change=changes // 2, within_s=10)
    assert newest.name.startswith("main-")


def test_moments_cover_a_whole_command() -> None:
    found = moments("prepare", 100)
    assert found == moments("prepare", 100) != moments("predict", 100)
    assert [int(100 * moment.at) for moment in found] == list(range(100))
    assert {moment.kind for moment in found[:2]} == {"clock", "changes"}


@pytest.fixture
def left(tmp_path: Path) -> Path:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "time_s": 3.5}\n')
    (tmp_path / "case.bin").write_bytes(b"voxels")
    return tmp_path


def test_snapshots_see_contents_and_leftovers_but_no_times(left: Path) -> None:
    before = snapshot(left)
    (left / "log.jsonl").write_text('{"step": 1, "time_s": 9.9}\n')
    assert snapshot(left) == before
    (left / "log.jsonl").write_text('{"step": 2, "time_s": 9.9}\n')
    (left / ".case.bin.part").mkdir()
    assert {name for name, digest in snapshot(left).items() if before.get(name) != digest} == {
        "log.jsonl",
        ".case.bin.part/",
    }

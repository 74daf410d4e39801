"""What the soak test calls growth; ``make soak`` looks for it over thousands of steps and cases."""

from pathlib import Path

import pytest

from drills.soak import Sample, Watch, grew, growth, look


def course(*, mib_per_step: float = 0.0, handles_per_step: float = 0.0) -> list[Sample]:
    """Caches fill over the first fifth; then memory wanders by 2 MiB."""
    return [
        Sample(i, 100 + min(i, 2000) / 20 + i % 3 + mib_per_step * i, int(8 + i % 2 + handles_per_step * i), 5)
        for i in range(0, 10_001, 50)
    ]


def test_warming_up_is_no_growth() -> None:
    assert grew(growth(course())) == []


@pytest.mark.parametrize(
    ("leak", "name"), [({"mib_per_step": 4 / 1024}, "mib"), ({"handles_per_step": 0.001}, "handles")]
)
def test_a_leak_shows(leak: dict[str, float], name: str) -> None:
    (told,) = grew(growth(course(**leak)))
    assert told.startswith(f"{name} by ")


def test_this_process_is_looked_at(tmp_path: Path) -> None:
    before = look(0)
    with (tmp_path / "file").open("w"):
        assert look(1).handles == before.handles + 1
    assert before.mib > 50
    watch = Watch(1000)
    for done in range(1, 1001):
        watch(done)
    assert len(watch.samples) == 201
    assert set(watch.result()["grew"]) == {"mib", "handles", "threads"}

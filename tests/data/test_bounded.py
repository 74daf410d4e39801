import threading
import time

import pytest

from gleanseg.data.bounded import available_memory, bounded_map, num_cores


def run(items, *, num_workers, memory, work=None):
    """Results, and the largest sum of estimates that ran at one time."""
    lock, used, peak = threading.Lock(), [0], [0]

    def busy(item):
        with lock:
            used[0] += item
            peak[0] = max(peak[0], used[0])
        time.sleep(0.01)
        with lock:
            used[0] -= item
        return item * 10

    found = dict(bounded_map(work or busy, ((i, i) for i in items), num_workers=num_workers, memory=memory))
    return found, peak[0]


def test_all_items_are_worked_on_within_the_memory():
    found, peak = run([3, 4, 5, 2, 1, 6], num_workers=4, memory=8)
    assert found == {i: i * 10 for i in (1, 2, 3, 4, 5, 6)}
    assert peak <= 8


def test_what_fits_nowhere_runs_alone():
    found, peak = run([20, 1, 30], num_workers=3, memory=8)
    assert sorted(found) == [1, 20, 30]
    assert peak == 30


def test_one_worker_stays_in_the_callers_thread():
    names = dict(bounded_map(lambda i: threading.current_thread().name, [(1, 0), (2, 0)], num_workers=1))
    assert set(names.values()) == {threading.current_thread().name}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_stops_what_has_not_started(num_workers):
    started = []

    def work(item):
        started.append(item)
        if item == 2:
            raise RuntimeError("item 2")
        return item

    with pytest.raises(RuntimeError, match="item 2"):
        list(bounded_map(work, ((i, 1) for i in range(50)), num_workers=num_workers, memory=100))
    assert len(started) <= 3 + num_workers


def test_the_machine_has_memory_and_cores():
    assert 2**24 < available_memory() < 2**50
    assert 1 <= num_cores() < 10_000

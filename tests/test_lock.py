"""One owner at a time, and none that is dead."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gleanseg.errors import UserError
from gleanseg.lock import LOCK_FILE, alone_in

HOLD = """
import sys, time
from pathlib import Path
from gleanseg.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_owner_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"process {other.pid} on .* is at work in it; wait"), alone_in(tmp_path):
            raise AssertionError("never alone")
        other.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK_FILE).exists(), "the file outlives its owner, the lock does not"
    with alone_in(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / LOCK_FILE).read_text()
    assert not list(tmp_path.iterdir())


def test_who_waits_comes_next(tmp_path: Path) -> None:
    told, order = threading.Event(), []

    def second() -> None:
        with alone_in(tmp_path, on_wait=told.set):
            order.append("second")

    with alone_in(tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert told.wait(10)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("filled", [True, False])
def test_a_folder_that_was_made_for_nothing_goes(tmp_path: Path, filled: bool) -> None:
    folder = tmp_path / "new" / "folder"
    with alone_in(folder):
        if filled:
            (folder / "file").write_text("kept")
    assert folder.exists() == filled
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="File exists"), alone_in(tmp_path / "file"):
        raise AssertionError("never alone")


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"), alone_in(tmp_path / "run"):
        raise AssertionError("never alone")
    assert precious.read_text() == "mine"


def test_where_there_are_no_locks_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unsupported(descriptor: int, operation: int) -> None:
        asked.append(operation)
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("gleanseg.lock.fcntl.flock", unsupported)
    with alone_in(tmp_path), alone_in(tmp_path):
        assert len(asked) == 2

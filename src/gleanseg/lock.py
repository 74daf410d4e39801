"""One process at a time in a folder, by a lock that the system takes back when its owner dies, however it dies."""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gleanseg.errors import UserError

if sys.platform != "win32":
    import fcntl

LOCK_FILE = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def alone_in(folder: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a folder.

    The lock is on a file in it, ``.lock``, which names its owner and goes with the context; after kill -9 the file
    stays, the lock does not. Where a file system knows no locks, nobody is refused.

    Args:
        folder: made when missing, and removed again when nothing was put into it.
        on_wait: called once before waiting for another owner; without it, another owner is an error.

    Raises:
        UserError: another process holds the lock.
        OSError: the folder cannot be made or written.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    descriptor = _locked(path, on_wait)
    try:
        yield
    finally:
        with suppress(OSError):  # a disk that became read-only keeps the file; the lock goes all the same
            if _is_at(path, descriptor):
                path.unlink()
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path, on_wait: Callable[[], None] | None) -> int:
    """A descriptor of the file that holds its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _take(descriptor, path, on_wait)
            if _is_at(path, descriptor):  # else its owner removed it before the lock was ours
                with suppress(OSError):  # on a full disk the lock is as good without a name
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(descriptor: int, path: Path, on_wait: Callable[[], None] | None) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            return
        if on_wait is None:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise UserError(
                f"{path.parent}: {owner} is at work in it; wait for its end, stop it, or choose another folder"
            ) from None
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False

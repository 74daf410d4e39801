"""Files that appear complete or not at all, also after a crash."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place once it is written and on disk; its folder is made.

    Raises:
        OSError: the disk is full or not writable; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        sync(part)
        part.replace(path)
    finally:
        with suppress(OSError):  # a disk that became read-only refuses this, too
            part.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove what killed processes left half-written of a file; not for files that several processes write."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

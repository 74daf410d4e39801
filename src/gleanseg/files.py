"""Files that appear complete or not at all, also after a crash."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""Flag of ``os.open`` that refuses links, in folders that somebody else may have made; not on Windows."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` once it is written and on disk; its folder is made.

    It has the same name and lies alone in a folder beside ``path``, so that whatever else a library writes beside it is
    known by that folder's name.

    Raises:
        OSError: the disk is full or not writable; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    discard(folder)  # of a killed process that had our number; or a link, where somebody else has made all this
    folder.mkdir()
    try:
        part = folder / path.name
        yield part
        sync(part)
        part.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_parts(path: Path) -> None:
    """Remove what killed processes left half-written of a file; not for files that several processes write."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        discard(part)


def discard(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files that appear complete or not at all, and where the cache lies."""

import os
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def cache_folder() -> Path:
    """``$GLEANSEG_CACHE``, else ``gleanseg`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    if own := os.environ.get("GLEANSEG_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gleanseg"

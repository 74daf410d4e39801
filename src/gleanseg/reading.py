"""Text and JSON of files that may be anybody's, and their digests; light, as even the help of commands loads it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 30
"""A manifest of a million cases has a third of it."""


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text, or too large to be JSON or TOML that people work with.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON file, which may be anybody's.

    Args:
        path: the file.
        pairs: makes the value of an object, in place of a dict.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, too large, or nested too deeply.
    """
    try:
        return json.loads(read_text(path), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

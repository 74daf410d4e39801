"""Files that appear complete or not at all, arrays with a JSON text beside them, and where the cache lies."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from gleanseg.errors import UserError
from gleanseg.files import whole

Arrays = Mapping[str, Float[np.ndarray, "..."]]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically; its folder is made."""
    with whole(path) as part:
        part.write_bytes(data)


def write_arrays(path: Path, arrays: Arrays, *, key: str, told: Mapping[str, Any]) -> None:
    """Write a safetensors file that holds ``told`` as JSON under one key of its metadata.

    Raises:
        UserError: not writable.
    """
    try:
        write_bytes(path, to_bytes(dict(arrays), metadata={key: json.dumps(told, ensure_ascii=False)}))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another place with -o") from None


def read_arrays(path: Path, *, key: str, kind: str, make: str) -> tuple[Arrays, Any]:
    """Arrays of a file of ``write_arrays``, half precision as single, and what it tells.

    Args:
        path: of the file.
        key: of the metadata.
        kind: what messages call it.
        make: command that makes one.

    Raises:
        UserError: missing, damaged, or of another kind.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            text = (file.metadata() or {}).get(key)
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such {kind}; make it with '{make} -o {path}'") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as a {kind} ({error}); make it again: {make}") from None
    if text is None:
        raise UserError(f"{path}: a safetensors file, but no {kind} of text vectors; make one: {make}")
    try:
        return arrays, json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: broken {kind} ({error}); make it again: {make}") from None


def has_arrays(path: Path, *, key: str) -> bool:
    """Whether a file of ``write_arrays`` with this key lies there."""
    try:
        with safe_open(str(path), framework="np") as file:
            return key in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def cache_folder() -> Path:
    """``$GLEANSEG_CACHE``, else ``gleanseg`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    if own := os.environ.get("GLEANSEG_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gleanseg"

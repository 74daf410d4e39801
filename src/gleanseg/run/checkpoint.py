"""Checkpoints: one safetensors file each, never a pickle.

Everything that is not a tensor is JSON under one metadata key, with a SHA-256 over the tensors and the rest of that
JSON. A file appears under its name only when it is complete and on disk, so a crash at any moment leaves the older ones
intact. Files of format 1, which had no number and whose SHA-256 was of the tensors alone, are read as well.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gleanseg.errors import UserError
from gleanseg.files import sync, whole

FORMAT = 2
_KEY = "gleanseg"
_AGAIN = "--resume continues from the one before; to predict, name another with --checkpoint, or delete it"


class Damaged(UserError):  # noqa: N818  # what it says of the file, not of us
    """A checkpoint that is not what was written."""


def save(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: where it appears once it is complete.
        tensors: saved contiguous and unshared, on the CPU.
        info: anything JSON can hold.

    Raises:
        UserError: the disk is full or not writable; nothing half-written is left.
    """
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    said = json.loads(json.dumps({**info, "format": FORMAT}))  # as it will be read
    said.pop("sha256", None)  # of the checkpoint that this one was made from
    text = json.dumps({**said, "sha256": _seal(plain, said)}, sort_keys=True)
    try:
        with whole(path) as part:
            save_file(plain, str(part), metadata={_KEY: text})
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: could not write the checkpoint ({error}); free some disk space, then continue with --resume"
        ) from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint and check its bytes.

    Raises:
        Damaged: truncated or changed file, or no checkpoint at all.
        UserError: missing file, or one of a newer format.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise Damaged(f"{path}: damaged checkpoint ({' '.join(str(error).split())}); {_AGAIN}") from None
    if text is None:
        raise Damaged(f"{path}: a safetensors file, but not a checkpoint of gleanseg; {_AGAIN}")
    try:
        info = json.loads(text)
        number, found = info.get("format", 1), info["sha256"]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: damaged checkpoint (its description: {error}); {_AGAIN}") from None
    if isinstance(number, int) and number > FORMAT:
        raise UserError(f"{path}: a checkpoint of format {number}, this gleanseg reads up to {FORMAT}; update gleanseg")
    rest = {key: value for key, value in info.items() if key != "sha256"}
    if found != (digest(tensors) if "format" not in info else _seal(tensors, rest)):
        raise Damaged(f"{path}: damaged checkpoint (its SHA-256 differs); {_AGAIN}")
    return tensors, info


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, independent of order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def _seal(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> str:
    """SHA-256 over all of a checkpoint of format 2."""
    text = json.dumps(info, sort_keys=True)
    return hashlib.sha256(f"{digest(tensors)}|{text}".encode()).hexdigest()

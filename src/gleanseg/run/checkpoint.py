"""Checkpoints: one safetensors file each, never a pickle.

Everything that is not a tensor is JSON under one metadata key, with the SHA-256 of the tensors' bytes. A file appears
under its name only when it is complete and on disk, so a crash at any moment leaves the older ones intact.
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

_KEY = "gleanseg"


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
    text = json.dumps({**info, "sha256": digest(plain)}, sort_keys=True)
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
        UserError: missing, truncated or changed file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged checkpoint ({error}); delete it to continue from the one before") from None
    if text is None:
        raise UserError(f"{path}: a safetensors file, but not a checkpoint of gleanseg")
    info: dict[str, Any] = json.loads(text)
    if digest(tensors) != info["sha256"]:
        raise UserError(f"{path}: damaged checkpoint (its SHA-256 differs); delete it to continue from the one before")
    return tensors, info


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, independent of order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()

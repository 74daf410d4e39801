"""First weights from a local file that others published."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from gleanseg.errors import UserError

_log = logging.getLogger(__name__)
_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which published files hold the weights, beside the epoch and the like."""


def load_matching(module: nn.Module, path: str | Path, *, rename: Callable[[str], str]) -> None:
    """Copy the tensors of a file into those of a module that have the same name and shape; log what was copied.

    A module on the meta device, which only answers questions about shapes, is left alone.

    Args:
        module: changed in place.
        path: a ``torch.save`` file of tensors by name, as they are or under ``state_dict`` or ``model``. It is read
            with ``weights_only=True``, so it cannot run code.
        rename: turns a name of the file into one of the module.

    Raises:
        UserError: no such file, not a file of weights, or at least half of the tensors it shares with the module by
            name have another shape (then, or without a shared name, it is of another network).
    """
    own = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if any(tensor.is_meta for tensor in own.values()):
        return
    found = {rename(name): tensor for name, tensor in _read(Path(path)).items()}
    shared = [name for name in own if name in found]
    misfits = [name for name in shared if own[name].shape != found[name].shape]
    if not shared:
        raise UserError(
            f"{path}: none of its {len(found)} tensors fits; expected names such as {next(iter(own))!r}, found "
            f"{next(iter(found), 'no tensor')!r}; use weights of this network, or leave 'pretrained' out"
        )
    if 2 * len(misfits) >= len(shared):
        name = misfits[0]
        raise UserError(
            f"{path}: {len(misfits)} of {len(shared)} tensors have another shape; expected {list(own[name].shape)} for "
            f"{name!r}, found {list(found[name].shape)}; build the network as wide as the file's, or leave "
            "'pretrained' out"
        )
    with torch.no_grad():
        for name in set(shared) - set(misfits):
            own[name].copy_(found[name])
    fresh = misfits + [name for name in own if name not in found]
    rest = f"; still random: {', '.join(fresh[:4])}{', ...' if len(fresh) > 4 else ''}" if fresh else ""
    _log.info("%s: loaded %d of %d tensors%s", path, len(own) - len(fresh), len(own), rest)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; give the path of downloaded weights, or leave 'pretrained' out"
        ) from None
    except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: expected a torch.save file that holds nothing but tensors and plain values, found: {reason}; "
            "download it again, or save its state_dict alone"
        ) from None
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected tensors by name, found {type(content).__name__}; save a state_dict")
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}

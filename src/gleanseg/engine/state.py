"""The engine's state as tensors and JSON, and back: what a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gleanseg.run.deploy import METHOD

_OPTIMIZER = "optimizer."


def pack(method: nn.Module, optimizers: Mapping[str, Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the method and of each player's optimiser, and what of the optimisers is not a tensor."""
    tensors = {f"{METHOD}{name}": value for name, value in method.state_dict().items()}
    plain: dict[str, Any] = {}
    for player, optimizer in optimizers.items():
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for index, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{_OPTIMIZER}{player}.{index}.{key}"] = value
                else:
                    numbers.setdefault(str(index), {})[key] = value
        plain[player] = {"numbers": numbers, "groups": state["param_groups"]}
    return tensors, plain


def unpack(
    method: nn.Module,
    optimizers: Mapping[str, Optimizer],
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
) -> None:
    """Put back what ``pack`` took; memory formats of parameters are kept, and their optimiser state follows them."""
    method.load_state_dict({k.removeprefix(METHOD): v for k, v in tensors.items() if k.startswith(METHOD)})
    for player, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {
            int(row): dict(entries) for row, entries in plain[player]["numbers"].items()
        }
        prefix = f"{_OPTIMIZER}{player}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".")
                state.setdefault(int(index), {})[key] = tensor
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, entries in ((parameters[i], e) for i, e in state.items()):
            for key, value in entries.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    entries[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        groups = [_tuples(group) for group in plain[player]["groups"]]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def adopt(method: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Start from another stage: copy every tensor of the same name and shape; their names are returned."""
    own = method.state_dict()
    shared = {
        name: value
        for key, value in tensors.items()
        if (name := key.removeprefix(METHOD)) in own and key.startswith(METHOD) and own[name].shape == value.shape
    }
    method.load_state_dict(shared, strict=False)
    return sorted(shared)


def _tuples(group: Mapping[str, Any]) -> dict[str, Any]:
    """JSON turned tuples (AdamW's betas) into lists."""
    return {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}

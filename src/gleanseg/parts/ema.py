"""Running averages of weights: teachers."""

from copy import deepcopy
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def ema_copy(module: ModuleT) -> ModuleT:
    """A copy that takes no gradient, to be moved by ``ema_update``.

    The copy keeps the module's mode, and ``train()`` or ``eval()`` of a method that holds it switches it as well.
    A teacher that must not drop out or use batch statistics calls ``teacher.eval()`` before each pass; the teachers of
    the semi-supervised literature stay in training mode, drop-out included, and keep their own batch statistics
    (``ema_update(..., buffers="own")``).
    """
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(
    teacher: nn.Module, student: nn.Module, alpha: float, *, buffers: Literal["copy", "own"] = "copy"
) -> None:
    r"""In place, $\theta' \leftarrow \alpha \theta' + (1 - \alpha) \theta$ for all parameters in a few kernels.

    Args:
        teacher: from ``ema_copy`` of the student.
        student: after its optimizer step.
        alpha: momentum in [0, 1]; 0 copies the student exactly.
        buffers: ``copy`` the student's buffers (running statistics of batch norm), for a teacher in evaluation mode, or
            leave the teacher its ``own``, which its passes in training mode update.
    """
    theirs, ours = _same(dict(teacher.named_parameters()), dict(student.named_parameters()))
    torch._foreach_lerp_(theirs, ours, 1.0 - alpha)
    if buffers == "copy":
        theirs, ours = _same(dict(teacher.named_buffers()), dict(student.named_buffers()))
        if theirs:
            torch._foreach_copy_(theirs, ours)


def warm_alpha(step: int, alpha: float) -> float:
    r"""$\min(1 - 1 / (t + 1), \alpha)$: a true mean of all weights so far until the average's horizon is reached.

    Args:
        step: optimizer steps done before the one that was just taken, from 0.
        alpha: final momentum.
    """
    return min(1.0 - 1.0 / (step + 1), alpha)


def capped_alpha(alpha: float, total: int, *, share: float = 0.1) -> float:
    r"""Momentum whose horizon, $1 / (1 - \alpha)$ steps, is at most a share of the run.

    A teacher with $\alpha = 0.999$ remembers 1000 steps and would never catch up in a run of 500.

    Args:
        alpha: wanted momentum, in [0, 1).
        total: steps of the run.
        share: of the run, greater than 0.
    """
    return min(alpha, max(0.0, 1.0 - 1.0 / max(1.0, share * total)))


def _same(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    assert theirs.keys() == ours.keys(), "a teacher is a copy of its student"
    return list(theirs.values()), list(ours.values())

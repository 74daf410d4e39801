"""Sums of a pointwise function over the valid voxels of chosen (case, ROI) pairs: what every loss here is made of.

Axes: B cases, R ROIs, P chosen pairs of one case, K functions, Z Y X voxels.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

Pointwise = Callable[..., tuple[Tensor, ...]]
"""Maps logits and targets, or several logits, all (P, Z, Y, X) in float32, to K tensors of the same shape."""

_CHUNK = {"cpu": 2**20, "cuda": 2**25}
"""Voxels handled at once: on a CPU what stays in the cache, elsewhere what keeps the device busy."""


def pair_sums(
    pointwise: Pointwise,
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    target_BRZYX: Shaped[Tensor, "B R Z Y X"],
    chosen_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Float[Tensor, "K B R"]:
    """Add up each function over the valid voxels of each chosen pair; 0 for pairs that are not chosen.

    Computed in float32 (float64 for float64 logits) whatever autocast says. Pairs that are not chosen are never read,
    and nothing of the size of the logits is kept for the backward pass but logits and targets themselves: it computes
    the function again, a few pairs at a time, and writes into one gradient of the logits' type. That gradient is
    exactly 0 for pairs that are not chosen and for invalid voxels. Targets get none.
    """
    return joint_sums(pointwise, (logits_BRZYX, target_BRZYX.detach()), chosen_BR, valid_BZYX)


def joint_sums(
    pointwise: Pointwise,
    tensors_BRZYX: Sequence[Shaped[Tensor, "B R Z Y X"]],
    chosen_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Float[Tensor, "K B R"]:
    """``pair_sums`` of any number of predictions and targets, each of which gets a gradient if it requires one.

    The first is a prediction: its type and device are those that all is computed in.
    """
    sums: Tensor = _PairSums.apply(chosen_BR, valid_BZYX, pointwise, *tensors_BRZYX)  # type: ignore[no-untyped-call]
    return sums


def valid_voxels(valid_BZYX: Bool[Tensor, "B Z Y X"]) -> Float[Tensor, " B"]:
    """Number of valid voxels of each case."""
    return valid_BZYX.flatten(1).sum(1).float()


def mean_over_pairs(
    sums_BR: Float[Tensor, "B R"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    count_BR: Float[Tensor, "B R"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Weighted sum of the pairs' voxel means, and what to divide it by; a case without a valid voxel has no pairs.

    Args:
        sums_BR: over valid voxels.
        weight_BR: which pairs take part, or how strongly each does.
        valid_BZYX: False in padding.
        count_BR: what each pair adds to the divisor; by default 1 for each that takes part, so that turning one pair
            down does not turn the others up.
    """
    num_valid_B = valid_voxels(valid_BZYX)
    counted_BR = (weight_BR > 0) & (num_valid_B > 0)[:, None]
    means_BR = sums_BR * weight_BR / num_valid_B.clamp_min(1)[:, None].to(sums_BR.dtype)
    return means_BR.sum(), (counted_BR if count_BR is None else count_BR * counted_BR).sum().float()


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chosen: Tensor, valid: Tensor, pointwise: Pointwise, *tensors: Tensor) -> Tensor:
        first = tensors[0]
        ctx.save_for_backward(valid, *tensors)
        ctx.pointwise, ctx.chunks = pointwise, list(_chunks(chosen, valid))
        # One voxel of zeros tells how many functions there are, also when no pair is chosen.
        num_functions = len(pointwise(*(torch.zeros(1, 1, 1, 1, device=first.device) for _ in tensors)))
        sums = torch.zeros(num_functions, *chosen.shape, dtype=_working_type(first), device=first.device)
        with torch.autocast(first.device.type, enabled=False):
            for case, rois, all_valid in ctx.chunks:
                values = pointwise(*(_rows(tensor, case, rois, like=first) for tensor in tensors))
                for k, value in enumerate(values):
                    kept = value if all_valid else torch.where(valid[case], value, 0)
                    sums[k, case, rois] = kept.sum((1, 2, 3))
        return sums

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_KBR: Tensor) -> tuple[Tensor | None, ...]:
        valid, *tensors = ctx.saved_tensors
        first, learning = tensors[0], ctx.needs_input_grad[3:]
        grads = [torch.zeros_like(tensor) if learns else None for tensor, learns in zip(tensors, learning, strict=True)]
        with torch.enable_grad(), torch.autocast(first.device.type, enabled=False):
            for case, rois, all_valid in ctx.chunks:
                rows = [_rows(tensor, case, rois, like=first).detach() for tensor in tensors]
                inputs = [row.requires_grad_() for row, learns in zip(rows, learning, strict=True) if learns]
                values = ctx.pointwise(*rows)
                pulls = grad_KBR[:, case, rois, None, None, None].expand(-1, -1, *rows[0].shape[1:])
                moving = [(value, pull) for value, pull in zip(values, pulls, strict=True) if value.requires_grad]
                parts = torch.autograd.grad([v for v, _ in moving], inputs, [pull for _, pull in moving])
                for grad, part in zip((g for g in grads if g is not None), parts, strict=True):
                    grad[case, rois] = part if all_valid else torch.where(valid[case], part, 0)
        return None, None, None, *grads


def _chunks(chosen_BR: Tensor, valid_BZYX: Tensor) -> Iterator[tuple[int, slice, bool]]:
    """Runs of neighbouring chosen ROIs of one case, and whether all its voxels are valid; skips cases without any."""
    num_valid = valid_BZYX.flatten(1).sum(1)
    facts = torch.cat([num_valid[:, None], chosen_BR.long()], dim=1).tolist()  # the one wait for the device
    num_voxels = valid_BZYX[0].numel()
    longest = max(1, _CHUNK.get(chosen_BR.device.type, _CHUNK["cuda"]) // max(1, num_voxels))
    for case, (num, *chosen) in enumerate(facts):
        start = 0
        for is_chosen, run in groupby(chosen if num else ()):
            stop = start + len(list(run))
            for first in range(start, stop if is_chosen else start, longest):
                yield case, slice(first, min(first + longest, stop)), num == num_voxels
            start = stop


def _rows(tensor: Tensor, case: int, rois: slice, *, like: Tensor) -> Tensor:
    return tensor[case, rois].to(_working_type(like)).contiguous()


def _working_type(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32

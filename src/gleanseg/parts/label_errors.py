"""Which voxels of a drawn mask are probably wrong, judged by somebody else's probabilities.

Axes: B cases, R ROIs, Z Y X voxels, V voxels in a row.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def label_errors(
    drawn_BRZYX: Bool[Tensor, "B R Z Y X"], p_BRZYX: Float[Tensor, "B R Z Y X"], valid_BZYX: Bool[Tensor, "B Z Y X"]
) -> Bool[Tensor, "B R Z Y X"]:
    """Confident learning, apart for each (case, ROI) pair.

    A voxel is confidently of a class if its probability reaches the mean that voxels drawn as that class have. Of those
    drawn as a class, the share that is confidently of the other one (among those that are confidently of either) is
    wrong: the least probable ones. With two classes pruning by class and by noise rate are one.

    Args:
        drawn_BRZYX: mask to judge.
        p_BRZYX: probability of the ROI, in [0, 1].
        valid_BZYX: False in padding, which is never judged.

    Returns:
        Wrong voxels; none where a mask is empty or full, as nothing then says what its class looks like.

    Reference: Northcutt et al., Confident Learning, JAIR 2021, https://arxiv.org/abs/1911.00068
    """
    drawn, p = drawn_BRZYX.flatten(2), p_BRZYX.flatten(2)
    valid = valid_BZYX.flatten(1)[:, None].expand_as(drawn)
    sides = {True: (drawn & valid, p), False: (~drawn & valid, 1 - p)}
    sure = {side: probability >= _mean(probability, mask) for side, (mask, probability) in sides.items()}
    both = sure[True] & sure[False]
    confident = {True: sure[True] & (~both | (p > 0.5)), False: sure[False] & (~both | (p <= 0.5))}
    wrong = torch.zeros_like(drawn)
    for side, (mask, probability) in sides.items():
        other = (mask & confident[not side]).sum(2)
        either = other + (mask & confident[side]).sum(2)
        num_BR = (mask.sum(2) * other / either.clamp_min(1)).round().long()
        wrong |= _least(probability, mask, num_BR)
    judged = sides[True][0].any(2) & sides[False][0].any(2)
    return (wrong & judged[:, :, None]).reshape(drawn_BRZYX.shape)


def _mean(values_BRV: Tensor, mask_BRV: Tensor) -> Tensor:
    return (values_BRV * mask_BRV).sum(2, keepdim=True) / mask_BRV.sum(2, keepdim=True).clamp_min(1)


def _least(values_BRV: Tensor, mask_BRV: Tensor, num_BR: Tensor) -> Tensor:
    """The ``num_BR`` least values within each mask."""
    order_BRV = torch.where(mask_BRV, values_BRV, torch.inf).argsort(dim=2, stable=True)
    among_BRV = torch.arange(order_BRV.shape[2], device=order_BRV.device) < num_BR[:, :, None]
    return torch.zeros_like(mask_BRV).scatter(2, order_BRV, among_BRV)

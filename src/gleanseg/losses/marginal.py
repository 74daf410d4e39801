r"""Partially labelled cases under one soft-max: what is not annotated is merged into background.

All functions but ``exclusion_bce`` take logits of ROIs of which a voxel belongs to one at most: one ``exclusive`` group
of the ontology, and of nested ROIs only the leaves (an organ without its tumor, and the tumor). Background has no
channel, its logit is 0: adding a number to all logits of a voxel leaves their soft-max alone, so any set of R + 1
logits says the same as its R differences from the background's, and the differences of a linear head are linear too.

Paper: Shi et al., Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Medical Image
Analysis 2021, https://arxiv.org/abs/2007.03868

Axes: B cases, R ROIs, Z Y X voxels; C = R + 1 classes, background first; K statistics.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gleanseg.losses.dice import mean_lost
from gleanseg.losses.pairs import mean_over_pairs, pair_sums, valid_voxels
from gleanseg.types import Mean, Pooled

OfCase = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Maps one case's logits (R, Z, Y, X), masks, known and valid to statistics."""


def marginal_ce(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean over cases of the mean over valid voxels of $-\log \sum_{c \in S} p_c$, with p the soft-max.

    S is the voxel's ROI where a known one is annotated, and background with all unknown ROIs elsewhere. Where all are
    known this is the cross-entropy; a case of which nothing is known says nothing and is not counted.

    Args:
        logits_BRZYX: raw scores of disjoint ROIs.
        y_BRZYX: disjoint masks, bool or 0 and 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
        valid_BZYX: False in padding and where nobody judged.

    Returns:
        Sum over cases that have a known ROI and a valid voxel, and their number; with no such case the term adds 0.
    """
    means_B = _of_cases(_marginal_sum, logits_BRZYX, y_BRZYX, known_BR, valid_BZYX) / _at_least_one(valid_BZYX)
    counted_B = known_BR.any(1) & (valid_voxels(valid_BZYX) > 0)
    return Mean(means_B.sum(), counted_B.sum().float())


def marginal_dice(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    smooth: float = 1e-5,
    margin: float = 0.0,
) -> Pooled:
    r"""``dice.pooled_dice`` of the soft-max's probabilities: known pairs only, sums over the whole batch.

    Merging unknown ROIs into background changes no probability of a known one. Unknown ROIs still learn, as they share
    the soft-max with the known ones.

    Args:
        logits_BRZYX: raw scores of disjoint ROIs.
        y_BRZYX: disjoint masks, bool or 0 and 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
        valid_BZYX: False in padding and where nobody judged.
        smooth: s of ``pooled_dice``.
        margin: m of ``pooled_dice``.

    Returns:
        ``sums`` (3, R): overlap, denominator without s and m, reference voxels.

    Deviation: merged background is no class of its own, as its extent differs between the cases that are pooled.
    """
    sums_BKR = _of_cases(_softmax_overlap, logits_BRZYX, y_BRZYX, known_BR, valid_BZYX)
    return Pooled(sums_BKR.sum(0), partial(mean_lost, smooth=smooth, margin=margin))


def exclusion_ce(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean over cases of the mean over valid voxels of $-\log (1 - \sum_{u} p_u)$ inside annotated masks, else 0.

    u runs over the unknown ROIs: none of them can be where a known one is annotated.

    Args:
        logits_BRZYX: raw scores of disjoint ROIs.
        y_BRZYX: disjoint masks, bool or 0 and 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
        valid_BZYX: False in padding and where nobody judged.

    Returns:
        Sum over cases that have a known ROI, an unknown one and a valid voxel, and their number; with no such case the
        term adds 0.

    Deviation: a cross-entropy instead of the overlap's Dice, which also falls when the unknown ROI grows elsewhere.
    """
    means_B = _of_cases(_exclusion_sum, logits_BRZYX, y_BRZYX, known_BR, valid_BZYX) / _at_least_one(valid_BZYX)
    counted_B = known_BR.any(1) & ~known_BR.all(1) & (valid_voxels(valid_BZYX) > 0)
    return Mean(means_B.sum(), counted_B.sum().float())


def exclusion_bce(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    exclusive_RR: Bool[Tensor, "R R"],
) -> Mean:
    r"""The same for heads of one sigmoid per ROI: mean over pairs of the mean over valid voxels of $-\log (1 - p_u)$.

    A pair is an unknown ROI u of a case with a known ROI that excludes it; only voxels annotated as such a ROI add to
    the sum. A voxel weighs as one of ``partial_bce`` does, where it would stand had someone annotated u as well.

    Args:
        logits_BRZYX: raw scores; each ROI is its own sigmoid, so ROIs may nest or overlap.
        y_BRZYX: masks, bool or 0 and 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
        valid_BZYX: False in padding and where nobody judged.
        exclusive_RR: whether no voxel can belong to both (``not ontology.may_overlap(a, b)``): symmetric, False
            between an ROI and itself, its parts and its containers.

    Returns:
        Sum over pairs and their number. A case without a valid voxel has no pairs; with no pair the term adds 0.

    Deviation: as ``exclusion_ce``.
    """
    excluding_BRR = exclusive_RR & known_BR[:, None]  # ROI of the pair, then the ROIs that speak of it
    chosen_BR = ~known_BR & excluding_BRR.any(2)
    taken_BRZYX = torch.stack(
        [_taken(*case) for case in zip(y_BRZYX.unbind(), known_BR.unbind(), excluding_BRR.unbind(), strict=True)]
    )
    (sums_BR,) = pair_sums(_negative, logits_BRZYX, taken_BRZYX, chosen_BR, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, chosen_BR, valid_BZYX))


def _taken(y_RZYX: Tensor, known_R: Tensor, excluding_RR: Tensor) -> Tensor:
    """Where a known ROI is annotated that excludes each ROI."""
    # A product of numbers, since a broadcast "and" would be R times as large as the masks.
    num_RV = excluding_RR.float() @ _masks(y_RZYX, known_R).flatten(1).float()
    return (num_RV > 0).reshape(y_RZYX.shape)


def _negative(z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (functional.softplus(z) * y,)


def _of_cases(function: OfCase, logits_BRZYX: Tensor, y_BRZYX: Tensor, known_BR: Tensor, valid_BZYX: Tensor) -> Tensor:
    """Statistics of each case, stacked, in float32 (float64 for float64 logits) whatever autocast says.

    Nothing of the size of the logits is kept for the backward pass but logits and targets themselves: it computes a
    case again, one at a time.
    """
    cases = zip(logits_BRZYX.unbind(), y_BRZYX.unbind(), known_BR.unbind(), valid_BZYX.unbind(), strict=True)
    with torch.autocast(logits_BRZYX.device.type, enabled=False):
        return torch.stack(
            [checkpoint(function, *case, use_reentrant=False, preserve_rng_state=False) for case in cases]
        )


def _marginal_sum(logits_RZYX: Tensor, y_RZYX: Tensor, known_R: Tensor, valid_ZYX: Tensor) -> Tensor:
    masks_RZYX = _masks(y_RZYX, known_R)
    elsewhere_ZYX = ~masks_RZYX.any(0)
    allowed_RZYX = masks_RZYX | (elsewhere_ZYX & ~known_R[:, None, None, None])
    allowed_CZYX = torch.cat([elsewhere_ZYX[None], allowed_RZYX])
    return _surprise(logits_RZYX, allowed_CZYX, valid_ZYX & known_R.any())


def _exclusion_sum(logits_RZYX: Tensor, y_RZYX: Tensor, known_R: Tensor, valid_ZYX: Tensor) -> Tensor:
    masks_RZYX = _masks(y_RZYX, known_R)
    possible_C = torch.cat([known_R.new_ones(1), known_R])
    allowed_CZYX = possible_C[:, None, None, None].expand(-1, *valid_ZYX.shape)
    return _surprise(logits_RZYX, allowed_CZYX, valid_ZYX & masks_RZYX.any(0) & ~known_R.all())


def _softmax_overlap(logits_RZYX: Tensor, y_RZYX: Tensor, known_R: Tensor, valid_ZYX: Tensor) -> Tensor:
    asked_ZYX = valid_ZYX & known_R.any()
    z_CZYX = _with_background(logits_RZYX, asked_ZYX)
    counted_RZYX = asked_ZYX & known_R[:, None, None, None]
    p_RZYX = torch.where(counted_RZYX, z_CZYX.softmax(0)[1:], 0)
    y_RZYX = (_masks(y_RZYX, known_R) & counted_RZYX).to(p_RZYX.dtype)
    return torch.stack([(p_RZYX * y_RZYX).sum((1, 2, 3)), (p_RZYX + y_RZYX).sum((1, 2, 3)), y_RZYX.sum((1, 2, 3))])


def _surprise(logits_RZYX: Tensor, allowed_CZYX: Tensor, asked_ZYX: Tensor) -> Tensor:
    """Sum over voxels that are asked of -log of the probability that the class is an allowed one.

    As the logarithm of 1 + odds of the other classes: a difference of two log-sum-exps over all would cancel where the
    prediction is right and sure. Where a voxel is asked, some classes are allowed and some are not.
    """
    z_CZYX = _with_background(logits_RZYX, asked_ZYX)
    # Unasked voxels get any proper split, since a log-sum-exp over nothing has no gradient.
    is_background_C = torch.arange(len(z_CZYX), device=z_CZYX.device) == 0
    allowed_CZYX = torch.where(asked_ZYX, allowed_CZYX, is_background_C[:, None, None, None])
    inside_ZYX = z_CZYX.masked_fill(~allowed_CZYX, -torch.inf).logsumexp(0)
    outside_ZYX = z_CZYX.masked_fill(allowed_CZYX, -torch.inf).logsumexp(0)
    return torch.where(asked_ZYX, functional.softplus(outside_ZYX - inside_ZYX), 0).sum()


def _with_background(logits_RZYX: Tensor, asked_ZYX: Tensor) -> Tensor:
    """Logits of all classes in the working type; 0 in voxels that are not asked, whatever stands there."""
    z_RZYX = logits_RZYX if logits_RZYX.dtype == torch.float64 else logits_RZYX.float()
    z_RZYX = torch.where(asked_ZYX, z_RZYX, 0)
    return torch.cat([torch.zeros_like(z_RZYX[:1]), z_RZYX])


def _masks(y_RZYX: Tensor, known_R: Tensor) -> Tensor:
    return (y_RZYX > 0.5) & known_R[:, None, None, None]


def _at_least_one(valid_BZYX: Tensor) -> Tensor:
    return valid_voxels(valid_BZYX).clamp_min(1)

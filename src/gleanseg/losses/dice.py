"""Soft Dice over what is known and valid.

Axes: B cases, R ROIs, Z Y X voxels; K statistics.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from gleanseg.losses.pairs import joint_sums, pair_sums, valid_voxels
from gleanseg.types import Mean, Pooled


def pooled_dice(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    smooth: float = 1e-5,
    margin: float = 0.0,
    squared: bool = False,
) -> Pooled:
    r"""Mean over ROIs of $1 - \frac{2 \sum p y + s}{\sum p + \sum y + s + m}$, with sums over all known cases together.

    Pooling over the global batch makes small ROIs steady: a patch that holds ten voxels of a tumor counts as ten
    voxels, not as a Dice of its own. ROIs without a reference voxel in the global batch are left out, as their Dice
    would be 0 whatever is predicted; when all are, the value is 0 with gradient 0.

    Args:
        logits_BRZYX: raw scores; each ROI is its own sigmoid, so ROIs may nest or overlap.
        y_BRZYX: masks, bool or 0 to 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
        valid_BZYX: False in padding and where nobody judged.
        smooth: s.
        margin: m; with ``smooth=0, margin=1`` the form of DoDNet.
        squared: $\sum p^2 + \sum y^2$ in the denominator, as V-Net and UA-MT.

    Returns:
        ``sums`` (3, R): overlap, denominator without s and m, reference voxels.

    References:
        Milletari et al., V-Net, 3DV 2016, https://arxiv.org/abs/1606.04797 (squared form)
        Isensee et al., nnU-Net, Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z (batch Dice)
    """
    sums_KBR = pair_sums(_squared if squared else _linear, logits_BRZYX, y_BRZYX, known_BR, valid_BZYX)
    return Pooled(sums_KBR.sum(1), partial(mean_lost, smooth=smooth, margin=margin))


def mean_lost(sums_KR: Float[Tensor, "3 R"], *, smooth: float, margin: float) -> Float[Tensor, ""]:
    """1 - Dice from overlap, size and reference voxels, mean over ROIs that have a reference voxel; 0 if none has."""
    counted_R = sums_KR[2] > 0
    lost_R = lost_of_each(sums_KR, smooth=smooth, margin=margin)
    mean: Tensor = torch.where(counted_R, lost_R, 0).sum() / counted_R.sum().clamp_min(1)
    return mean


def lost_of_each(sums_KR: Float[Tensor, "3 R"], *, smooth: float = 1e-5, margin: float = 0.0) -> Float[Tensor, " R"]:
    """1 - Dice of each ROI from its overlap, size and reference voxels; meaningless where it has no reference voxel."""
    overlap_R, size_R, reference_R = sums_KR
    # Where nothing is counted the quotient may be 0/0, whose gradient would spoil the others.
    size_R = torch.where(reference_R > 0, size_R, 1)
    lost_R: Tensor = 1 - (2 * overlap_R + smooth) / (size_R + smooth + margin)
    return lost_R


def mutual_dice(
    one_BRZYX: Float[Tensor, "B R Z Y X"],
    other_BRZYX: Float[Tensor, "B R Z Y X"],
    chosen_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    temperature: float = 1.0,
    smooth: float = 1e-5,
) -> Pooled:
    r"""Mean over ROIs of $1 - \frac{2 \sum p q + s}{\sum p^2 + \sum q^2 + s}$ of two predictions, both of which learn.

    With $p = \sigma(z / T)$ of the one's logits and q of the other's. Squares make it 0 where p = q; the linear form of
    two soft predictions is least elsewhere.

    Args:
        one_BRZYX: raw scores, with gradient.
        other_BRZYX: raw scores of the same voxels, with gradient.
        chosen_BR: which pairs take part; ROIs of which none does are left out.
        valid_BZYX: False in padding.
        temperature: T, greater than 0; above 1 it softens both.
        smooth: s.

    Returns:
        ``sums`` (3, R): overlap, and twice the denominator without s.

    Reference: Xie et al., DMD, MICCAI 2023, https://doi.org/10.1007/978-3-031-43898-1_52
    """

    def pointwise(one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        p, q = (one / temperature).sigmoid(), (other / temperature).sigmoid()
        return p * q, p * p + q * q

    overlap_BR, size_BR = joint_sums(pointwise, (one_BRZYX, other_BRZYX), chosen_BR, valid_BZYX)
    overlap_R, size_R = overlap_BR.sum(0), size_BR.sum(0)
    return Pooled(torch.stack([overlap_R, size_R, size_R.detach()]), partial(mean_lost, smooth=smooth, margin=0.0))


def case_dice(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    smooth: float = 1e-5,
    margin: float = 0.0,
    squared: bool = False,
) -> Mean:
    r"""Mean over known (case, ROI) pairs of $1 - \frac{2 \sum p y + s}{\sum p + \sum y + s + m}$.

    An empty reference is known and takes part: its loss is 0 for an empty prediction and close to 1 for any other, with
    a gradient of order $s / (\sum p)^2$. Prefer ``pooled_dice`` for patches that often miss an ROI.

    Args:
        logits_BRZYX: raw scores; each ROI is its own sigmoid, so ROIs may nest or overlap.
        y_BRZYX: masks, bool or 0 to 1 in any type; not read where the pair is unknown or the voxel invalid.
        weight_BR: which pairs have a target, usually ``known``; as floats, how strongly each takes part.
        valid_BZYX: False in padding and where nobody judged.
        smooth: s; s + m must be greater than 0.
        margin: m; with ``smooth=0, margin=1`` the form of DoDNet.
        squared: $\sum p^2 + \sum y^2$ in the denominator.

    Returns:
        Weighted sum over pairs and their count. A case without a valid voxel has no pairs; with none the term adds 0.

    Reference: Milletari et al., V-Net, 3DV 2016, https://arxiv.org/abs/1606.04797
    """
    overlap_BR, size_BR, _ = pair_sums(
        _squared if squared else _linear, logits_BRZYX, y_BRZYX, weight_BR > 0, valid_BZYX
    )
    counted_BR = (valid_voxels(valid_BZYX) > 0)[:, None] & (weight_BR > 0)
    lost_BR = 1 - (2 * overlap_BR + smooth) / (size_BR + smooth + margin)
    return Mean(torch.where(counted_BR, lost_BR * weight_BR, 0).sum(), counted_BR.sum().float())


def _linear(z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    p = z.sigmoid()
    return p * y, p + y, y


def _squared(z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    p = z.sigmoid()
    return p * y, p * p + y * y, y

"""Binary cross-entropy over what is known and valid.

Axes: B cases, R ROIs, Z Y X voxels.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from gleanseg.losses.pairs import mean_over_pairs, pair_sums
from gleanseg.types import Mean


def partial_bce(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    count_BR: Float[Tensor, "B R"] | None = None,
    positive_weight: float = 1.0,
) -> Mean:
    r"""Mean over known (case, ROI) pairs of the mean over valid voxels of $-y \log p - (1 - y) \log (1 - p)$.

    Each pair counts the same, however many of its voxels are valid: a patch at the image's border, half of it padding,
    teaches as much as one from the middle, and a term does not change with the patch's size. On complete batches this
    is the plain mean over voxels; with two-channel soft-max logits z0, z1 it is their cross-entropy for z = z1 - z0.

    Args:
        logits_BRZYX: raw scores; each ROI is its own sigmoid.
        y_BRZYX: targets, bool or 0 to 1 in any type; not read where the weight is 0 or the voxel invalid.
        weight_BR: which pairs have a target, usually ``known``; as floats, how strongly each takes part.
        valid_BZYX: False in padding and where nobody judged.
        count_BR: what each pair adds to the count; by default 1, whatever its weight.
        positive_weight: factor of $-y \log p$, above 1 for small ROIs.

    Returns:
        Weighted sum over pairs and their count. A case without a valid voxel has no pairs; with none the term adds 0.
    """

    def pointwise(z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        weight = None if positive_weight == 1.0 else z.new_tensor(positive_weight)
        return (functional.binary_cross_entropy_with_logits(z, y, reduction="none", pos_weight=weight),)

    (sums_BR,) = pair_sums(pointwise, logits_BRZYX, y_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX, count_BR))


def bce_where(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Bool[Tensor, "B R Z Y X"],
    taught_BRZYX: Bool[Tensor, "B R Z Y X"],
    weight_BRZYX: Float[Tensor, "B R Z Y X"],
    chosen_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    """Mean of w BCE(z, y) over the taught, valid voxels of all chosen (case, ROI) pairs together.

    Args:
        logits_BRZYX: raw scores z, with gradient.
        y_BRZYX: hard labels.
        taught_BRZYX: voxels that count.
        weight_BRZYX: w of each voxel, 0 or more; it does not change the count.
        chosen_BR: which pairs take part.
        valid_BZYX: False in padding.

    Returns:
        Weighted sum over voxels, and their number; where nothing is taught the term adds 0.
    """
    signed = torch.where(y_BRZYX, weight_BRZYX, -weight_BRZYX) * taught_BRZYX
    (sums_BR,) = pair_sums(_weighted_by_target, logits_BRZYX, signed, chosen_BR, valid_BZYX)
    counted = taught_BRZYX & chosen_BR[:, :, None, None, None] & valid_BZYX[:, None]
    return Mean(sums_BR.sum(), counted.sum().float())


def _weighted_by_target(z: Tensor, signed: Tensor) -> tuple[Tensor, ...]:
    y = (signed > 0).to(z.dtype)
    return (signed.abs() * functional.binary_cross_entropy_with_logits(z, y, reduction="none"),)

r"""Losses of signed distances, which a network predicts as $\tanh(h)$: negative inside an ROI, 0 on its surface.

Axes: B cases, R ROIs, Z Y X voxels.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from gleanseg.losses.pairs import joint_sums, mean_over_pairs, pair_sums
from gleanseg.types import Mean


def distance_mse(
    scores_BRZYX: Float[Tensor, "B R Z Y X"],
    distances_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean over chosen (case, ROI) pairs of the mean over valid voxels of $(\tanh(h) - d)^2$.

    Args:
        scores_BRZYX: raw scores h.
        distances_BRZYX: d, in [-1, 1]; get no gradient, not read where the weight is 0 or the voxel invalid.
        weight_BR: which pairs have distances, usually ``known``; as floats, how strongly each takes part.
        valid_BZYX: False in padding and where nobody judged.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.

    Reference: Li et al., SASSNet, MICCAI 2020, https://arxiv.org/abs/2007.10732
    """
    (sums_BR,) = pair_sums(_squared_error, scores_BRZYX, distances_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX))


def task_consistency(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    scores_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    steepness: float,
) -> Mean:
    r"""Mean over chosen pairs of the mean over valid voxels of $(\sigma(z) - \sigma(-k \tanh(h)))^2$.

    Both predictions learn. With k = 1500 the mask of a distance is sharp to some thousandths, so that beyond these only
    the logits get a gradient.

    Args:
        logits_BRZYX: raw scores z of masks.
        scores_BRZYX: raw scores h of distances.
        weight_BR: which pairs take part; as floats, how strongly each does (0: not at all).
        valid_BZYX: False in padding.
        steepness: k.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.

    Reference: Luo et al., DTC, AAAI 2021, https://arxiv.org/abs/2009.04448
    """

    def pointwise(z: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return ((z.sigmoid() - (-steepness * h.tanh()).sigmoid()).square(),)

    (sums_BR,) = joint_sums(pointwise, (logits_BRZYX, scores_BRZYX), weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX))


def _squared_error(h: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    return ((h.tanh() - d).square(),)

"""How undecided a prediction is; needs no label.

Axes: B cases, R ROIs, Z Y X voxels.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.losses.pairs import mean_over_pairs, pair_sums
from gleanseg.types import Mean


def entropy(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean over chosen (case, ROI) pairs of the mean over valid voxels of $-(p \ln p + (1 - p) \ln (1 - p)) / \ln 2$.

    Between 0 and 1. Computed from logits as $\mathrm{softplus}(z) - z\,\sigma(z)$, with no constant inside a logarithm.

    Args:
        logits_BRZYX: raw scores; each ROI is its own sigmoid.
        weight_BR: which pairs take part; as floats, how strongly each does (0: not at all).
        valid_BZYX: False in padding.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.

    Reference: Vu et al., ADVENT, CVPR 2019, https://arxiv.org/abs/1811.12833, eqs. 1 and 2.
    """
    (sums_BR,) = pair_sums(_pointwise, logits_BRZYX, logits_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX))


def bits(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Binary entropy of probabilities in bits: 0 where they are 0 or 1, 1 at one half."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


def _pointwise(z: Tensor, same: Tensor) -> tuple[Tensor, ...]:
    return ((functional.softplus(z) - z * z.sigmoid()) / math.log(2),)

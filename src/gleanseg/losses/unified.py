"""LLM-SegNet's unified loss: how one network's prediction teaches another, by how sure it is at each voxel.

Axes: B cases, R ROIs, Z Y X voxels.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.losses.pairs import mean_over_pairs, pair_sums
from gleanseg.types import Mean

Kind = Literal["unified", "nll", "mse"]


def unified(
    learner_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    teacher_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    t1: float = 0.9,
    t2: float = 0.1,
    kind: Kind = "unified",
    count_BR: Float[Tensor, "B R"] | None = None,
) -> Mean:
    r"""Mean over chosen pairs of the mean over valid voxels of the unified segmentation loss.

    With the teacher's probability p, the learner's logit z, and $c = \max(p, 1 - p)$:

    $$c\,\mathrm{BCE}(z, [p > \tfrac12])\,\big([c > t_1] + [1 - c < t_2]\big)
    + (\sigma(z) - p)^2\,[t_2 < 1 - c]\,[c < t_1]$$

    A confident voxel is learnt twice, as what it is and as what it is not; with $t_2 = 1 - t_1$ every voxel is either
    confident or takes the squared distance.

    Args:
        learner_logits_BRZYX: raw scores, with gradient.
        teacher_logits_BRZYX: raw scores of the same voxels; get no gradient.
        weight_BR: which pairs take part, usually ``~known``; as floats, how strongly each does (0: not at all).
        valid_BZYX: False in padding.
        t1: above this the larger probability is confident, in [0.5, 1].
        t2: below this the smaller one is, in [0, 0.5].
        kind: ``nll`` learns the pseudo label at weight 1 everywhere, ``mse`` takes the squared distance everywhere
            (the paper's Table 7).
        count_BR: what each pair adds to the count; by default 1.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.

    Reference: Kumari et al., LLM-SegNet, 2024, https://arxiv.org/abs/2407.05088, eqs. 4 and 8-11.
    """

    def nll(z: Tensor, p: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(z, (p > 0.5).to(z.dtype), reduction="none")

    def squared(z: Tensor, p: Tensor) -> Tensor:
        return (z.sigmoid() - p).square()

    def pointwise(z: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
        p = teacher.sigmoid()
        if kind == "nll":
            return (nll(z, p),)
        if kind == "mse":
            return (squared(z, p),)
        high = torch.maximum(p, 1 - p)
        low = 1 - high
        times = (high > t1).to(z.dtype) + (low < t2)
        unsure = (low > t2) & (high < t1)
        return (high * times * nll(z, p) + unsure * squared(z, p),)

    (sums_BR,) = pair_sums(pointwise, learner_logits_BRZYX, teacher_logits_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX, count_BR))

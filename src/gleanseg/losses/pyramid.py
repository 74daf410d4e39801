"""Agreement of predictions at several scales with their mean, where they do not differ too much.

Axes: B cases, R ROIs, S scales, Z Y X voxels.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.losses.pairs import joint_sums
from gleanseg.types import Pooled

_SMOOTH = 1e-8


def pyramid_consistency(
    logits_S: Sequence[Float[Tensor, "B R Z Y X"]],
    weight_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Pooled:
    r"""Mean over scales, then over ROIs, of the rectified distance from the mean and of the doubt itself.

    $$\frac{\langle (m - p_s)^2 e^{-D_s} \rangle}{\langle e^{-D_s} \rangle + 10^{-8}} + \langle D_s \rangle,
    \qquad m = \tfrac1S \sum_s p_s,\quad D_s = \mathrm{KL}(m \,\|\, p_s)$$

    with means over the valid voxels of all chosen cases together. The mean m learns, too. All logarithms are taken of
    logits, so that certain predictions stay finite.

    Args:
        logits_S: raw scores of each scale on the full grid; each ROI is its own sigmoid, D the divergence of two
            coins, which is that of a soft-max over two classes.
        weight_BR: which pairs take part, usually ``~known``.
        valid_BZYX: False in padding.

    Returns:
        ``sums`` (3 S + 1, R): rectified distances, their weights, divergences of each scale, and voxels. ROIs without
        a voxel are left out of the mean; with none the term adds 0.

    Reference: Luo et al., URPC, MICCAI 2021, https://arxiv.org/abs/2012.07042
    """
    sums_KBR = joint_sums(_pointwise, logits_S, weight_BR, valid_BZYX)
    return Pooled(sums_KBR.sum(1), _value)


def _value(sums_KR: Float[Tensor, "K R"]) -> Float[Tensor, ""]:
    scales = (len(sums_KR) - 1) // 3
    distance_SR, weight_SR, doubt_SR, (voxels_R,) = torch.split(sums_KR, [scales, scales, scales, 1])
    counted_R = voxels_R > 0
    per_voxel_R = 1 / torch.where(counted_R, voxels_R, 1)
    rectified_SR = distance_SR * per_voxel_R / (weight_SR * per_voxel_R + _SMOOTH)
    mean: Tensor = (rectified_SR + doubt_SR * per_voxel_R).mean(0).sum() / counted_R.sum().clamp_min(1)
    return mean


def _pointwise(*logits_S: Tensor) -> tuple[Tensor, ...]:
    z = torch.stack(logits_S)
    ln_p, ln_q = functional.logsigmoid(z), functional.logsigmoid(-z)
    ln_m, ln_n = (torch.logsumexp(ln, 0) - math.log(len(z)) for ln in (ln_p, ln_q))
    m = ln_m.exp()
    doubt = m * (ln_m - ln_p) + ln_n.exp() * (ln_n - ln_q)
    sure = (-doubt).exp()
    return (*((m - z.sigmoid()).square() * sure), *sure, *doubt, torch.ones_like(m))

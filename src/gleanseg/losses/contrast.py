"""Losses that compare features of voxels with features that stand for a class.

Axes: B cases, K classes, M voxels of a case, N rows of a memory, D numbers of a feature.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.types import Mean


def pull(
    features_BMD: Float[Tensor, "B M D"],
    memory_KND: Float[Tensor, "K N D"],
    member_BKM: Bool[Tensor, "B K M"],
    *,
    weight_BKM: Float[Tensor, "B K M"],
    weight_KN: Float[Tensor, "K N"],
) -> Mean:
    r"""Mean over (case, class) pairs of the weighted mean of $1 - \cos(f_i, m_j)$ over a class's voxels and memory.

    $$\frac{\sum_{ij} a_i b_j (1 - \cos(f_i, m_j))}{\sum_i a_i \sum_j b_j} =
    1 - \frac{\sum_i a_i \hat f_i}{\sum_i a_i} \cdot \frac{\sum_j b_j \hat m_j}{\sum_j b_j}$$

    The right side needs no table of voxels times rows.

    Args:
        features_BMD: of voxels, with gradient.
        memory_KND: rows of each class; a row of zeros is empty. They get no gradient.
        member_BKM: which voxels belong to which classes; a voxel may belong to several.
        weight_BKM: a, 0 or more, with gradient; one per class.
        weight_KN: b, likewise.

    Returns:
        Sum over pairs and their number; a class without a member or without a memory has no pair.

    Reference: Alonso et al., Semi-supervised semantic segmentation with pixel-level contrastive learning from a
    class-wise memory bank, ICCV 2021, https://arxiv.org/abs/2104.13415, eqs. 9 and 10.
    """
    wide = torch.promote_types(features_BMD.dtype, torch.float32)
    with torch.autocast(features_BMD.device.type, enabled=False):
        stored_KN = memory_KND.ne(0).any(2)
        f_BMD = functional.normalize(features_BMD.to(wide), dim=2)
        m_KD = _weighted(functional.normalize(memory_KND.detach().to(wide), dim=2), weight_KN.to(wide) * stored_KN)
        a_BKM = weight_BKM.to(wide) * member_BKM
        f_BKD = torch.einsum("bkm,bmd->bkd", a_BKM, f_BMD) / a_BKM.sum(2, keepdim=True).clamp_min(_LEAST)
        paired_BK = member_BKM.any(2) & stored_KN.any(1)
        apart_BK = 1 - (f_BKD * m_KD).sum(2)
        return Mean(torch.where(paired_BK, apart_BK, 0).sum(), paired_BK.sum().float())


_LEAST = 1e-12
"""Where nothing weighs, sums are divided by this."""


def _weighted(rows_KND: Tensor, weight_KN: Tensor) -> Tensor:
    return (rows_KND * weight_KN[..., None]).sum(1) / weight_KN.sum(1, keepdim=True).clamp_min(_LEAST)

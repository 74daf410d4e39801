"""Losses that compare features of voxels with features that stand for a class.

Axes: B cases, K classes, M voxels of a case, Q queries, N rows of a memory, D numbers of a feature.
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


def info_nce(
    query_KQD: Float[Tensor, "K Q D"],
    positive_KD: Float[Tensor, "K D"],
    negative_KND: Float[Tensor, "K N D"],
    *,
    found_KQ: Bool[Tensor, "K Q"],
    found_KN: Bool[Tensor, "K N"],
    temperature: float,
) -> Mean:
    r"""Mean over classes of how much else their queries resemble.

    $$-\ln \frac{e^{q \cdot p / \tau}}{e^{q \cdot p / \tau} + \sum_n e^{q \cdot n / \tau}}$$

    is averaged over the queries of a class first, so that classes count the same however many voxels ask.

    Args:
        query_KQD: features q of each class, with gradient; their directions are compared.
        positive_KD: what each class's queries should resemble; gets no gradient.
        negative_KND: what they should not; gets none.
        found_KQ: which queries there are; those of a class without a negative are left out.
        found_KN: which negatives there are.
        temperature: $\tau$.

    Returns:
        Sum over classes of their queries' means, and the number of classes that have any.

    Reference: Liu et al., ReCo, ICLR 2022, https://arxiv.org/abs/2104.04465, eq. 1.
    """
    wide = torch.promote_types(query_KQD.dtype, torch.float32)
    with torch.autocast(query_KQD.device.type, enabled=False):
        q, p, n = (functional.normalize(t.to(wide), dim=-1) for t in (query_KQD, positive_KD, negative_KND))
        alike_KQ = torch.einsum("kqd,kd->kq", q, p.detach()) / temperature
        others_KQN = torch.einsum("kqd,knd->kqn", q, n.detach()) / temperature
        others_KQN = others_KQN.masked_fill(~found_KN[:, None], -torch.inf)
        loss_KQ = torch.cat([alike_KQ[..., None], others_KQN], dim=2).logsumexp(2) - alike_KQ
        return _mean_of_classes(loss_KQ, found_KQ & found_KN.any(1, keepdim=True))


def centred_contrast(
    query_KQD: Float[Tensor, "K Q D"],
    pair_KQD: Float[Tensor, "K Q D"],
    queue_KND: Float[Tensor, "K N D"],
    centre_KD: Float[Tensor, "K D"],
    *,
    found_KQ: Bool[Tensor, "K Q"],
    temperature: float,
    centre_weight: float,
) -> Mean:
    r"""Mean over classes of how far their queries are from what they should resemble.

    $$-\frac{1}{\sum_j [w_j > 0]} \sum_j w_j \ln s_j$$

    with s the soft-max of cosines over all j: the query's own pair, all queued features and all centres; w is 1 for the
    pair and the features of the query's class, ``centre_weight`` for its centre, 0 for all others. It is averaged over
    the queries of a class first, so that classes count the same.

    Args:
        query_KQD: features of each class, with gradient.
        pair_KQD: a teacher's features of the same voxels; get no gradient, like all others.
        queue_KND: features of each class; a row of zeros is empty.
        centre_KD: where each class should lie.
        found_KQ: which queries there are.
        temperature: cosines are divided by it.
        centre_weight: above 0.

    Returns:
        Sum over classes of their queries' means, and the number of classes that have any.

    Reference: You et al., ACTION++, MICCAI 2023, https://arxiv.org/abs/2304.02689; Li et al., Targeted supervised
    contrastive learning, CVPR 2022, https://arxiv.org/abs/2111.13998.
    """
    wide = torch.promote_types(query_KQD.dtype, torch.float32)
    K = len(queue_KND)
    with torch.autocast(query_KQD.device.type, enabled=False):
        q, pair, queue, centre = (
            functional.normalize(t.to(wide), dim=-1)
            for t in (query_KQD, pair_KQD.detach(), queue_KND.detach(), centre_KD.detach())
        )
        own = torch.eye(K, dtype=wide, device=q.device)
        stored_KN = queue_KND.any(2)
        cosines = [(q * pair).sum(2, keepdim=True), q @ queue.flatten(0, 1).T, q @ centre.T]
        w_queue = (own[:, :, None] * stored_KN).flatten(1)
        w = torch.cat([torch.ones_like(own[:, :1]), w_queue, centre_weight * own], dim=1)
        empty = torch.cat([stored_KN.new_ones(1), stored_KN.flatten(), stored_KN.new_ones(K)]).logical_not()
        log_s = (torch.cat(cosines, dim=2) / temperature).masked_fill(empty, -1e9).log_softmax(2)
        loss_KQ = -torch.einsum("kqj,kj->kq", log_s, w) / (w > 0).sum(1, keepdim=True)
        return _mean_of_classes(loss_KQ, found_KQ)


_LEAST = 1e-12
"""Where nothing weighs, sums are divided by this."""


def _mean_of_classes(loss_KQ: Tensor, counted_KQ: Tensor) -> Mean:
    num_K = counted_KQ.sum(1)
    mean_K = torch.where(counted_KQ, loss_KQ, 0).sum(1) / num_K.clamp_min(1)
    return Mean(mean_K.sum(), (num_K > 0).sum().float())


def _weighted(rows_KND: Tensor, weight_KN: Tensor) -> Tensor:
    return (rows_KND * weight_KN[..., None]).sum(1) / weight_KN.sum(1, keepdim=True).clamp_min(_LEAST)

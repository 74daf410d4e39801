"""Memories of features, alike on all ranks: what each rank offers, and what all of them keep (``Memo``).

Axes: B cases, K classes, M voxels of a case, N rows of a class's memory, D numbers of a feature.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def best_rows(
    features_BMD: Float[Tensor, "B M D"],
    score_BKM: Float[Tensor, "B K M"],
    chosen_BKM: Bool[Tensor, "B K M"],
    num: int,
) -> Float[Tensor, "N K D1"]:
    """The chosen voxels of the highest score in each class, best first.

    Args:
        features_BMD: one per voxel.
        score_BKM: above 0.
        chosen_BKM: who may enter the memory of which class.
        num: N.

    Returns:
        Features, and as their last number the score; rows of zeros where there are fewer.
    """
    score_KV = torch.where(chosen_BKM, score_BKM.float(), 0).transpose(0, 1).flatten(1)
    best, index = score_KV.topk(min(num, score_KV.shape[1]), dim=1)
    rows = features_BMD.flatten(0, 1)[index].float() * (best > 0)[..., None]
    found = torch.cat([rows, best[..., None]], dim=2).transpose(0, 1)
    return functional.pad(found, (0, 0, 0, 0, 0, num - len(found)))


@torch.no_grad()
def keep_best(memory_KND: Float[Tensor, "K N D"], offered_nKD: Float[Tensor, "n K D1"]) -> None:
    """Overwrite each class's memory by the best of what all ranks offer; a class that nobody offers keeps its own.

    Args:
        memory_KND: changed in place; rows of zeros are empty.
        offered_nKD: from ``best_rows``, any number of them joined.
    """
    score_nK = offered_nKD[..., -1]
    order_NK = score_nK.argsort(dim=0, descending=True, stable=True)[: memory_KND.shape[1]]
    rows_KND = offered_nKD[order_NK, torch.arange(offered_nKD.shape[1], device=offered_nKD.device)].transpose(0, 1)
    found_K = score_nK.gt(0).any(0)
    memory_KND.copy_(torch.where(found_K[:, None, None], rows_KND[..., :-1].to(memory_KND.dtype), memory_KND))


@torch.no_grad()
def push(queue_KND: Float[Tensor, "K N D"], rows_nKD: Float[Tensor, "n K D"]) -> None:
    """Put rows in front of each class's queue, whose oldest ones fall out.

    Args:
        queue_KND: changed in place, newest first; rows of zeros are empty and lie behind.
        rows_nKD: new ones; rows of zeros are none.
    """
    joined_KnD = torch.cat([rows_nKD.transpose(0, 1).to(queue_KND.dtype), queue_KND], dim=1)
    empty_Kn = ~joined_KnD.any(2)
    order_KN = empty_Kn.long().argsort(dim=1, stable=True)[:, : queue_KND.shape[1]]
    queue_KND.copy_(joined_KnD.gather(1, order_KN[..., None].expand(-1, -1, queue_KND.shape[2])))

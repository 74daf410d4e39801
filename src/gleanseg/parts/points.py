"""Some voxels of every row: what compares voxels with each other cannot afford all of them.

Axes: B cases, C channels, R ROIs, K classes, M drawn voxels, N chosen ones, Z Y X voxels, z y x those of a coarser map.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gleanseg.networks.network import Network
from gleanseg.parts.draws import drawn, row_generators
from gleanseg.types import Batch

_POINTS, _CHOICE = 21, 23


class Points(NamedTuple):
    """Drawn voxels and what is known of them.

    Attributes:
        positions: among the voxels of a row, laid out in the order Z Y X.
        y: whether the voxel lies in the ROI; meaningless where the pair is unknown.
        valid: False in padding and where nobody judged.
        size_ZYX: of the patch.
    """

    positions: Int[Tensor, "B M"]
    y: Bool[Tensor, "B R M"]
    valid: Bool[Tensor, "B M"]
    size_ZYX: tuple[int, int, int]

    def of(self, map_BCzyx: Shaped[Tensor, "B C z y x"]) -> Shaped[Tensor, "B C M"]:
        """A map at these voxels, with gradient; of a coarser one the voxel that each lies in."""
        (Z, Y, X), (z, y, x) = self.size_ZYX, map_BCzyx.shape[2:]
        plane, row, column = self.positions // (Y * X), self.positions // X % Y, self.positions % X
        coarse = (plane * z // Z * y + row * y // Y) * x + column * x // X
        return map_BCzyx.flatten(2).gather(2, coarse[:, None].expand(-1, map_BCzyx.shape[1], -1))

    def score(self, network: Network, features: tuple[Tensor, ...]) -> Float[Tensor, "B R M"]:
        """Logits of all ROIs at these voxels alone, in single precision or better."""
        here = tuple(self.of(f)[:, :, None, None] if f.ndim == 5 else f for f in features)
        z_BRM = network.score(here)[:, :, 0, 0]
        return z_BRM.to(torch.promote_types(z_BRM.dtype, torch.float32))


def draw_points(batch: Batch, num: int, *, salt: int = 0) -> Points:
    """Voxels of each row, uniform and with repetition, from its key; if there are no more than ``num``, each once.

    Args:
        batch: the rows.
        num: how many of each row; 0: all.
        salt: two draws of a row differ by it.
    """
    B, V = len(batch.codes), batch.codes[0].numel()
    device = batch.codes.device
    if num == 0 or num >= V:
        index = torch.arange(V, device=device).expand(B, -1)
    else:
        generators = row_generators(batch.key, device, purpose=_POINTS, salt=salt)
        index = torch.stack([torch.randint(V, (num,), generator=g, device=device) for g in generators])
    codes = batch.codes.flatten(1).gather(1, index)
    y = batch._replace(codes=codes[:, None, None]).y()[:, :, 0, 0] > 0
    Z, Y, X = batch.codes.shape[1:]
    return Points(index, y, batch.valid.flatten(1).gather(1, index), (Z, Y, X))


def choose(
    weight_BKM: Float[Tensor, "B K M"], key_B: Int[Tensor, " B"], num: int, *, salt: int
) -> tuple[Int[Tensor, "K N"], Bool[Tensor, "K N"]]:
    """For each class so many voxels of all rows together, drawn by weight and without repetition.

    Args:
        weight_BKM: 0 for who may not be chosen.
        key_B: random keys of the rows; what is drawn depends on the keys alone, not on the order of rows.
        num: of each class, at most.
        salt: two draws differ by it.

    Returns:
        Positions among the (row, voxel) pairs, row by row, and which of them count; False where there are fewer.

    Reference: Efraimidis & Spirakis, Weighted random sampling with a reservoir, 2006 (each u becomes u^(1/w)).
    """
    chance_BM = drawn(
        weight_BKM[:, 0].float(), key_B, lambda row, g: row.uniform_(generator=g), purpose=_CHOICE, salt=salt
    )
    order_BKM = torch.where(weight_BKM > 0, chance_BM.log()[:, None] / weight_BKM.float(), -torch.inf)
    order_KV = order_BKM.transpose(0, 1).flatten(1)
    best, index = order_KV.topk(min(num, order_KV.shape[1]), dim=1)
    return index, best > -torch.inf

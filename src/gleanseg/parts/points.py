"""Some voxels of every row: what compares voxels with each other cannot afford all of them.

Axes: B cases, C channels, R ROIs, M drawn voxels, Z Y X voxels.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gleanseg.parts.draws import row_generators
from gleanseg.types import Batch

_POINTS = 21


class Points(NamedTuple):
    """Drawn voxels and what is known of them.

    Attributes:
        positions: among the voxels of a row, laid out in the order Z Y X.
        y: whether the voxel lies in the ROI; meaningless where the pair is unknown.
        valid: False in padding and where nobody judged.
    """

    positions: Int[Tensor, "B M"]
    y: Bool[Tensor, "B R M"]
    valid: Bool[Tensor, "B M"]

    def of(self, map_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B C M"]:
        """A map at these voxels, with gradient."""
        flat_BCV = map_BCZYX.flatten(2)
        return flat_BCV.gather(2, self.positions[:, None].expand(-1, flat_BCV.shape[1], -1))

    def of_features(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A network's ``features`` as if the image had these voxels alone; what has no voxels stays."""
        return tuple(self.of(f)[:, :, None, None] if f.ndim == 5 else f for f in features)


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
    return Points(index, y, batch.valid.flatten(1).gather(1, index))

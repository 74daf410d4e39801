"""What a method lets the log see of its decisions.

Axes: B cases, R ROIs, Z Y X voxels.
"""

from jaxtyping import Bool
from torch import Tensor

from gleanseg.types import Monitor


def voxel_share(
    chosen_BRZYX: Bool[Tensor, "B R Z Y X"], pairs_BR: Bool[Tensor, "B R"], valid_BZYX: Bool[Tensor, "B Z Y X"]
) -> Monitor:
    """Share of the valid voxels of some (case, ROI) pairs that are chosen."""
    counted = pairs_BR[:, :, None, None, None] & valid_BZYX[:, None]
    return Monitor((chosen_BRZYX & counted).sum().float(), counted.sum().float())

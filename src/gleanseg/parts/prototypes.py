"""Prototypes: the mean feature of a class, and segmentation by which prototype a voxel resembles.

All of it passes gradients, and a row's prototypes may segment another row. ``class_prototypes`` judges a prediction by
the prototypes of its own patch, and teaches nothing itself.

Axes: B cases, C channels, R ROIs, z y x voxels of a map inside a network, Z Y X voxels.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gleanseg.types import Batch


def prototypes(
    map_BCzyx: Float[Tensor, "B C z y x"], weight_BRZYX: Float[Tensor, "B R Z Y X"]
) -> Float[Tensor, "B R C"]:
    """Weighted mean of a map's features, for each ROI; zeros where nothing weighs.

    Args:
        map_BCzyx: activations, with gradient.
        weight_BRZYX: 0 or more, such as a mask times how sure it is; averaged onto the map's grid, which is
            cheaper than stretching all channels of the map.
    """
    wide = torch.promote_types(map_BCzyx.dtype, torch.float32)
    z, y, x = map_BCzyx.shape[2:]
    with torch.autocast(map_BCzyx.device.type, enabled=False):
        weight_BRzyx = functional.adaptive_avg_pool3d(weight_BRZYX.to(wide), (z, y, x))
        sums_BRC = torch.einsum("bczyx,brzyx->brc", map_BCzyx.to(wide), weight_BRzyx)
        return sums_BRC / weight_BRzyx.sum((2, 3, 4))[..., None].clamp_min(1e-6)


def resemblance(
    map_BCzyx: Float[Tensor, "B C z y x"],
    inside_BRC: Float[Tensor, "B R C"],
    outside_BRC: Float[Tensor, "B R C"],
    size_ZYX: tuple[int, ...],
    *,
    scale: float,
) -> Float[Tensor, "B R Z Y X"]:
    r"""Logits $\alpha\,(\cos(f, p_{in}) - \cos(f, p_{out}))$ of a soft-max over two cosines times $\alpha$.

    Args:
        map_BCzyx: activations f, with gradient.
        inside_BRC: prototypes of each ROI; one of zeros resembles nothing, its cosine is 0.
        outside_BRC: those of all else.
        size_ZYX: grid of the result; similarities are interpolated, which takes one map per ROI, not C.
        scale: $\alpha$.

    Reference: Wang et al., PANet, ICCV 2019, https://arxiv.org/abs/1908.06391, eq. 2.
    """
    wide = torch.promote_types(map_BCzyx.dtype, torch.float32)
    with torch.autocast(map_BCzyx.device.type, enabled=False):
        f_BCzyx = functional.normalize(map_BCzyx.to(wide), dim=1)
        direction_BRC = functional.normalize(inside_BRC, dim=2) - functional.normalize(outside_BRC, dim=2)
        z_BRzyx = scale * torch.einsum("bczyx,brc->brzyx", f_BCzyx, direction_BRC.to(wide))
        return functional.interpolate(z_BRzyx, size=size_ZYX, mode="trilinear", align_corners=False)


def partners(batch: Batch) -> Int[Tensor, " B"]:
    """The labelled row that each row takes prototypes from.

    Row j of the unlabelled stream takes labelled row j, from the first again where there are fewer; a labelled row
    takes the next one. Without labelled rows they are as if there was one.
    """
    num = max(1, batch.num_labelled)
    found = [(row + 1 if row < num else row - num) % num for row in range(len(batch.key))]
    return torch.tensor(found, device=batch.key.device)

"""What prototypes of an ROI and of its surroundings in one patch say of the prediction that they were made of.

Masks and weights for others to use, on the prediction's grid and without gradient; ``prototypes`` makes the prototypes,
and segments by them in a way that learns.

Axes: B cases, C channels, R ROIs, Z Y X voxels, Z2 Y2 X2 those of a map that may be coarser.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.parts.prototypes import prototypes


@torch.no_grad()
def prototype_labels(
    map_BCZYX: Float[Tensor, "B C Z2 Y2 X2"],
    p_BRZYX: Float[Tensor, "B R Z Y X"],
    certain_BRZYX: Bool[Tensor, "B R Z Y X"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Bool[Tensor, "B R Z Y X"]:
    """Where features lie nearer to the ROI's prototype than to that of what is not the ROI, in squared distance.

    A prototype is the mean feature over certain voxels that are predicted as its class, weighted by their probability.

    Args:
        map_BCZYX: features, on the grid of the probabilities or a coarser one.
        p_BRZYX: probability of the ROI, in [0, 1].
        certain_BRZYX: voxels that the prototypes are made of.
        valid_BZYX: False in padding, which they are not made of.

    Returns:
        The mask; the prediction itself where a class has no certain voxel.

    Reference: Xu et al., AC-MT, Medical Image Analysis 2023, https://arxiv.org/abs/2210.08549
    """
    predicted, counted = p_BRZYX > 0.5, certain_BRZYX & valid_BZYX[:, None]
    weights = [p_BRZYX * (counted & predicted), (1 - p_BRZYX) * (counted & ~predicted)]
    features = map_BCZYX.to(p_BRZYX.dtype)
    inside_BRC, outside_BRC = (prototypes(features, w) for w in weights)
    # |f - o|^2 - |f - i|^2, which is linear in f, so that it may be stretched afterwards.
    gap_BR = outside_BRC.square().sum(2) - inside_BRC.square().sum(2)
    nearer = _products(features, 2 * (inside_BRC - outside_BRC)) + gap_BR[:, :, None, None, None]
    nearer = functional.interpolate(nearer, size=p_BRZYX.shape[2:], mode="trilinear")
    both_BR = torch.stack([w.flatten(2).any(2) for w in weights]).all(0)
    return torch.where(both_BR[:, :, None, None, None], nearer > 0, predicted)


@torch.no_grad()
def reliability(
    map_BCZYX: Float[Tensor, "B C Z Y X"],
    p_BRZYX: Float[Tensor, "B R Z Y X"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Float[Tensor, "B R Z Y X"]:
    r"""$\tfrac12 \sum_c 1 - (\cos(f, \bar f_c) - p_c)^2$ over the ROI and what is not the ROI, at least 0.

    How far the likeness to a class, whose mean feature is taken over the voxels that are predicted as it, tells the
    same as its probability. A class that nothing is predicted as is like nothing.

    Args:
        map_BCZYX: features f, on the grid of the probabilities.
        p_BRZYX: probability of the ROI, in [0, 1].
        valid_BZYX: False in padding, which the means leave out.

    Returns:
        Between 0 and 1.

    Reference: Su et al., MLRPL, Medical Image Analysis 2024, https://doi.org/10.1016/j.media.2024.103111
    """
    features = map_BCZYX.to(p_BRZYX.dtype)
    directions = functional.normalize(features, dim=1)
    found = torch.zeros_like(p_BRZYX)
    for mask, p in ((p_BRZYX > 0.5, p_BRZYX), (p_BRZYX <= 0.5, 1 - p_BRZYX)):
        towards_BRC = functional.normalize(prototypes(features, (mask & valid_BZYX[:, None]).to(p.dtype)), dim=2)
        found += 0.5 * (1 - (_products(directions, towards_BRC) - p).square())
    return found.clamp_min(0)


def _products(map_BCZYX: Tensor, vector_BRC: Tensor) -> Tensor:
    """Inner products of every voxel's feature with a vector per ROI."""
    with torch.autocast(map_BCZYX.device.type, enabled=False):
        return torch.einsum("bczyx,brc->brzyx", map_BCZYX, vector_BRC)

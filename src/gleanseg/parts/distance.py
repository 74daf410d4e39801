"""Signed distance maps: the second task of methods whose networks learn shapes.

Axes: B cases, R ROIs, Z Y X voxels.
"""

import edt
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from gleanseg.networks.heads.fixed import FixedHead
from gleanseg.networks.network import Network


def distance_head(network: Network) -> FixedHead:
    """A row of weights per ROI on a network's last map; the distance is the tanh of its score, which starts at 0."""
    head = FixedHead(network.decoder_channels[-1], network.num_rois)
    head.start_at(0.0)
    return head


@torch.no_grad()
def signed_distances(
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    spacing_B3: Float[Tensor, "B 3"],
) -> Float[Tensor, "B R Z Y X"]:
    r"""Normalised signed distance of each voxel from the ROI's surface within its patch, in [-1, 1].

    Outside $d / \max d$ with d the distance to the nearest voxel of the ROI, inside $-d' / \max d'$ with d' that to the
    nearest voxel outside, and 0 on the ROI's outermost voxels, which have a face neighbour outside.

    Args:
        y_BRZYX: masks, bool or 0 and 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: pairs whose distances are wanted; the others are 0.
        valid_BZYX: False in padding and where nobody judged; such voxels are neither inside nor outside.
        spacing_B3: voxel size in mm (Z, Y, X).

    Returns:
        In float32, on the masks' device; meaningless where not valid. An ROI of which the patch has no voxel is 1
        everywhere, one that fills the patch -1.

    References:
        Xue et al., Signed distance maps, AAAI 2020, https://arxiv.org/abs/1912.03849
        Li et al., SASSNet, MICCAI 2020, https://arxiv.org/abs/2007.10732
    """
    maps = torch.zeros(y_BRZYX.shape, dtype=torch.float32)
    pairs = known_BR.nonzero().tolist()
    valid, spacing = valid_BZYX.cpu().numpy(), spacing_B3.tolist()
    for b, r in pairs:
        inside = (y_BRZYX[b, r] > 0).cpu().numpy()
        maps[b, r] = torch.from_numpy(_signed_distance(inside, valid[b], spacing[b]))
    return maps.to(y_BRZYX.device)


def _signed_distance(
    mask: NDArray[np.bool_], valid: NDArray[np.bool_], spacing_ZYX_mm: list[float]
) -> NDArray[np.float32]:
    inside, outside = mask & valid, ~mask & valid
    if not inside.any():
        return np.ones(mask.shape, np.float32)
    if not outside.any():
        return -np.ones(mask.shape, np.float32)
    signed = np.where(mask, -_share(inside, outside, spacing_ZYX_mm), _share(outside, inside, spacing_ZYX_mm))
    signed[inside & _beside(outside)] = 0
    return signed


def _share(of: NDArray[np.bool_], to: NDArray[np.bool_], spacing_ZYX_mm: list[float]) -> NDArray[np.float32]:
    """Distance to one set of voxels, as a share of the largest among another's."""
    distance: NDArray[np.float32] = edt.edt(~to, anisotropy=spacing_ZYX_mm, parallel=torch.get_num_threads())
    share: NDArray[np.float32] = distance / distance[of].max()
    return share


def _beside(one: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels that have a face neighbour in a set."""
    near = np.zeros_like(one)
    for axis in range(one.ndim):
        there, here = np.moveaxis(near, axis, 0), np.moveaxis(one, axis, 0)
        there[1:] |= here[:-1]
        there[:-1] |= here[1:]
    return near

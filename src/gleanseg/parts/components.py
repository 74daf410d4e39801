"""Connected components of masks.

Axes: B cases, R ROIs, N components, Z Y X voxels.
"""

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Integer
from torch import Tensor


def components(mask: Bool[np.ndarray, "z y x"]) -> tuple[Integer[np.ndarray, "z y x"], Integer[np.ndarray, " N"]]:
    """The number of each voxel's 26-connected component, 0 outside, and the voxels of each; number 0 counts none."""
    # cc3d 4.1 fails on thin boxes such as 1 x 1 x 3; a rim of background makes every box thick enough.
    parts = cc3d.connected_components(np.pad(mask, 1), connectivity=26)[1:-1, 1:-1, 1:-1]
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts, sizes


def largest_components(
    mask_BRZYX: Bool[Tensor, "B R Z Y X"], chosen_BR: Bool[Tensor, "B R"]
) -> Bool[Tensor, "B R Z Y X"]:
    """Of each chosen pair's mask the largest 26-connected component, found on the processor.

    Args:
        mask_BRZYX: masks; an empty one stays empty.
        chosen_BR: the others stay as they are, and are not looked at.
    """
    kept = mask_BRZYX.clone()
    for case, roi in chosen_BR.nonzero().tolist():
        parts, sizes = components(mask_BRZYX[case, roi].cpu().numpy())
        if np.count_nonzero(sizes) > 1:
            kept[case, roi] = torch.from_numpy(parts == sizes.argmax()).to(kept.device)
    return kept

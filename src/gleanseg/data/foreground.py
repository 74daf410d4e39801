"""Where the voxels of each ROI are: a sample to centre patches on.

Axes: V codes, R ROIs, N voxels, Z Y X.
"""

import hashlib

import numpy as np
from jaxtyping import Bool, Int64, UInt, UInt16

from gleanseg.data.recode import roi_boxes

MAX_VOXELS = 20_000
"""Of each ROI; a patch centre is drawn from them, so that a large organ needs no more."""


def sample_foreground(
    codes: UInt[np.ndarray, "Z Y X"], table: Bool[np.ndarray, "V R"], key: str
) -> tuple[UInt16[np.ndarray, "N 3"], Int64[np.ndarray, " S"]]:
    """Draw up to 20,000 voxels of each ROI without replacement, in the order of the volume.

    Args:
        codes: rows of ``table``.
        table: which ROIs each code contains.
        key: the draw is a function of it and of the ROI's voxels.

    Returns:
        Coordinates (Z, Y, X) of all ROIs one after another, and R + 1 offsets: those of ROI r start at ``offsets[r]``
        and end before ``offsets[r + 1]``.

    Raises:
        ValueError: an axis of more than 65536 voxels.
    """
    if max(codes.shape) > 65536:
        raise ValueError(f"volumes of at most 65536 voxels an axis are indexed, found {codes.shape}")
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])
    found = []
    for roi, box in enumerate(roi_boxes(codes, table)):
        if box is None:
            found.append(np.zeros((0, 3), dtype=np.uint16))
            continue
        part = codes[box]
        inside = np.flatnonzero(np.take(table[:, roi], part))
        if len(inside) > MAX_VOXELS:
            drawn = np.random.default_rng([seed, roi]).choice(len(inside), MAX_VOXELS, replace=False)
            inside = inside[np.sort(drawn)]
        place = np.stack(np.unravel_index(inside, part.shape), axis=1) + [axis.start for axis in box]
        found.append(place.astype(np.uint16))
    offsets = np.cumsum([0, *(len(voxels) for voxels in found)], dtype=np.int64)
    return np.concatenate([np.zeros((0, 3), dtype=np.uint16), *found]), offsets

"""One channel onto a common intensity scale, in place.

Sums are in double precision over single slices, so results do not depend on the scale of the intensities.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gleanseg.data.plan import Intensity

_BINS = 256
_SHARE = 0.999
"""Of all voxels, below the gray level that ``brain_zscore`` clips at."""


def normalize(channel: NDArray[np.float32], intensity: Intensity, *, whole: NDArray[Any]) -> None:
    """Bring a channel onto the scale of ``Intensity``; a constant one becomes 0 where deviations are scaled.

    Args:
        channel: Z Y X, the part of the volume that is kept, all finite; written to.
        intensity: what to do.
        whole: the same channel before cropping; may hold values that are not finite.
    """
    if intensity.kind == "ct_window":
        np.clip(channel, intensity.low, intensity.high, out=channel)
        channel -= np.float32(intensity.mean)
        channel *= np.float32(1 / intensity.std)
    elif intensity.kind == "window_zscore":
        np.clip(channel, intensity.low, intensity.high, out=channel)
        _scale(channel, *_moments(channel))
    elif intensity.kind == "volume_zscore":
        finite = np.isfinite(whole)
        _scale(channel, *_moments(whole, None if finite.all() else finite))
    elif intensity.kind == "brain_zscore":
        np.minimum(channel, _highest_level(channel), out=channel)
        inside = channel > 0
        if inside.any():
            _scale(channel, *_moments(channel, inside))
    elif intensity.kind == "zscore":
        kept = channel != 0 if intensity.nonzero else None
        if kept is None or kept.any():
            _scale(channel, *_moments(channel, kept))
        if kept is not None:
            channel *= kept


def _moments(array: NDArray[Any], inside: NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Mean and population standard deviation, of some voxels only when asked."""
    count = array.size if inside is None else np.count_nonzero(inside)
    mean = float(np.sum(array, dtype=np.float64, where=True if inside is None else inside)) / count
    total = 0.0
    for z, part in enumerate(array):
        deviation = part - mean
        total += float(np.sum(deviation * deviation, where=True if inside is None else inside[z]))
    return mean, float(np.sqrt(total / count))


def _scale(channel: NDArray[np.float32], mean: float, std: float) -> None:
    channel -= np.float32(mean)
    # Below float32's resolution of the mean, what is left is rounding noise (or nothing).
    channel *= np.float32(1 / std) if std > 1e-7 * abs(mean) else np.float32(0)


def _highest_level(channel: NDArray[np.float32]) -> np.float32:
    """Middle of the first of 256 bins up to which 99.9 % of all voxels lie."""
    counts, edges = np.histogram(channel, bins=_BINS)
    first = int(np.searchsorted(np.cumsum(counts), _SHARE * channel.size))
    return np.float32((edges[first] + edges[first + 1]) / 2)

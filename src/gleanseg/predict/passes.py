"""How often each window is run: flipped copies, and windows of air that need no run at all.

Axes: C image channels, Z Y X voxels; X runs from left to right.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

from torch import Tensor

from gleanseg.data.plan import Intensity
from gleanseg.errors import UserError
from gleanseg.predict.sliding import Flip
from gleanseg.rois.ontology import Ontology

_AIR_HU = -800.0
"""A window below it throughout holds nothing but air: lung reaches above it in its vessels and by its noise."""
_TOLERANCE = 1e-4


def trained_flips(
    mirror: Literal["auto"] | Sequence[str], rois: Sequence[str], ontology: Ontology
) -> tuple[bool, bool, bool]:
    """Axes (Z, Y, X) that a recipe's ``augment.mirror`` flips: ``auto`` leaves X out when a sided ROI is learnt."""
    if mirror == "auto":
        return True, True, all(ontology[roi].side is None for roi in rois)
    return "z" in mirror, "y" in mirror, "x" in mirror


def all_flips(mirror_ZYX: tuple[bool, bool, bool]) -> tuple[Flip, ...]:
    """Every combination of the axes, as tensor axes (-3, -2, -1); the first leaves the image alone."""
    axes = [axis for axis, flips in zip((-3, -2, -1), mirror_ZYX, strict=True) if flips]
    return tuple(flip for length in range(len(axes) + 1) for flip in combinations(axes, length))


def side_swap(rois: Sequence[str], ontology: Ontology) -> tuple[int, ...] | None:
    """The channel that an image flipped from left to right shows each ROI in; None when no ROI has a side.

    Raises:
        UserError: an ROI has a side, and its counterpart is not predicted or does not exist.
    """
    index = {roi: r for r, roi in enumerate(rois)}
    swap = []
    for roi in rois:
        other = ontology.mirror(roi)
        if ontology[roi].side is not None and (other == roi or other not in index):
            missing = "has no counterpart" if other == roi else f"needs {other!r}, which is not predicted"
            raise UserError(f"mirroring along x: {roi!r} lies on one side and {missing}; mirror along y and z only")
        swap.append(index[other])
    return None if swap == list(range(len(rois))) else tuple(swap)


def presence_gate(presence: Callable[[Tensor], Tensor] | None, least: float) -> Callable[[Tensor], Tensor] | None:
    """A test of which ROIs windows may hold: those that the ROI-aware network scores at ``least`` or more.

    Raises:
        UserError: a gate without an ROI-aware network.
    """
    if least == 0.0:
        return None
    if presence is None:
        raise UserError(
            f"predict.gate = {least}: the run has no ROI-aware network; train with [presence] run, or set gate to 0"
        )
    return lambda windows_BCZYX: presence(windows_BCZYX) >= least


def air_test(intensity: Sequence[Intensity]) -> Callable[[Tensor], bool]:
    """A test of prepared windows (C Z Y X): CT below -800 HU throughout, or constant channels of another kind."""
    limits = [_air_limit(channel) for channel in intensity]

    def is_air(window_CZYX: Tensor) -> bool:
        for channel, limit in zip(window_CZYX, limits, strict=True):
            highest = float(channel.max())
            if highest > (float(channel.min()) if limit is None else limit) + _TOLERANCE:
                return False
        return True

    return is_air


def _air_limit(intensity: Intensity) -> float | None:
    if intensity.kind != "ct_window":
        return None
    return (min(max(_AIR_HU, intensity.low), intensity.high) - intensity.mean) / intensity.std

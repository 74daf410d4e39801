"""Predicted masks as a protocol wants them: enlarged by their parts, cleaned, overwritten by others."""

from typing import NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from gleanseg.evaluate.labels import Labels
from gleanseg.evaluate.protocol import Cleanup, Protocol
from gleanseg.evaluate.surface import Box, join_boxes


class Crop(NamedTuple):
    """A mask that is empty outside ``box``; ``mask`` is what lies inside. An empty mask may have no box."""

    box: Box | None
    mask: NDArray[np.bool_]

    def seen_in(self, box: Box) -> NDArray[np.bool_]:
        """The part of the mask that lies in another box."""
        seen = np.zeros(tuple(s.stop - s.start for s in box), dtype=np.bool_)
        if self.box is None:
            return seen
        shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.box, box, strict=True)]
        if all(s.start < s.stop for s in shared):
            there = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(shared, box, strict=True))
            here = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(shared, self.box, strict=True))
            seen[there] = self.mask[here]
        return seen


class ProtocolMasks:
    """The predicted masks of one case under a protocol; those that it leaves alone are not copied."""

    def __init__(self, labels: Labels, protocol: Protocol) -> None:
        self._labels, self._protocol = labels, protocol
        self._steps = {step.roi: step for step in protocol.cleanup}
        overwritten = (roi for lost in protocol.overwrite.values() for roi in lost)
        changed = [roi for roi in dict.fromkeys((*protocol.enlarge, *self._steps, *overwritten)) if roi in labels]
        self._cleaned: dict[str, Crop] = {}
        self._changed = {roi: self._final(roi) for roi in changed}

    def box(self, roi: str) -> Box | None:
        """A box that holds the ROI's mask; None when there is none."""
        return self._changed[roi].box if roi in self._changed else self._labels.box(roi)

    def mask(self, roi: str, box: Box) -> NDArray[np.bool_]:
        """The ROI's mask inside ``box``."""
        return self._changed[roi].seen_in(box) if roi in self._changed else self._labels.mask(roi, box)

    def _final(self, roi: str) -> Crop:
        crop = self._clean(roi)
        if crop.box is None or self._protocol.overwrite_by == "raw":
            return crop
        mask = crop.mask.copy()
        for other in self._overwriting(roi):
            mask &= ~self._clean(other).seen_in(crop.box)
        return Crop(crop.box, mask)

    def _clean(self, roi: str) -> Crop:
        """The mask after its own cleanup, which may need another's."""
        if roi not in self._cleaned:
            crop, step = self._raw(roi), self._steps.get(roi)
            if crop.box is not None and step is not None:
                mask = crop.mask
                if step.within is not None and step.within in self._labels:
                    mask = mask & self._clean(step.within).seen_in(crop.box)
                crop = Crop(crop.box, clean(mask, step))
            self._cleaned[roi] = crop
        return self._cleaned[roi]

    def _raw(self, roi: str) -> Crop:
        """The mask of the files with the ROIs that enlarge it, without those that overwrite it in the files."""
        parts = [part for part in (roi, *self._protocol.enlarge.get(roi, ())) if part in self._labels]
        box = join_boxes(*(self._labels.box(part) for part in parts))
        if box is None:
            return Crop(None, np.zeros((0, 0, 0), dtype=np.bool_))
        mask = np.logical_or.reduce([self._labels.mask(part, box) for part in parts])
        if self._protocol.overwrite_by == "raw":
            for other in self._overwriting(roi):
                mask &= ~self._labels.mask(other, box)
        return Crop(box, mask)

    def _overwriting(self, roi: str) -> list[str]:
        return [other for other, lost in self._protocol.overwrite.items() if roi in lost]


def clean(mask: NDArray[np.bool_], step: Cleanup) -> NDArray[np.bool_]:
    """Remove components of a mask (Z Y X) as ``step`` says; ``within`` needs other masks and is not done here."""
    if step.keep_largest is None and step.drop_up_to == 0:
        return mask
    # cc3d 4.1 fails on very thin boxes with 26-connectivity, hence a border of one voxel.
    padded, count = cc3d.connected_components(np.pad(mask, 1), connectivity=step.connectivity, return_N=True)
    components = padded[1:-1, 1:-1, 1:-1]
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes > 0
    if step.keep_largest is not None:
        keep[np.argsort(-sizes, kind="stable")[step.keep_largest :]] = False
    if not (step.spare_single and count == 1):
        keep &= sizes > step.drop_up_to
    kept: NDArray[np.bool_] = keep[components]
    return kept

"""Which voxels belong to which ROI, held as label maps so that a hundred ROIs cost no hundred volumes.

Axes: Z Y X voxels, V values of a label map, R ROIs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gleanseg.evaluate.surface import Box, bounding_box, join_boxes


class Layer(NamedTuple):
    """One label map and what its values mean.

    Attributes:
        codes_ZYX: uint8 or uint16.
        table_VR: whether value v belongs to ROI r; every value of ``codes_ZYX`` has a row.
    """

    codes_ZYX: NDArray[np.uint8] | NDArray[np.uint16]
    table_VR: NDArray[np.bool_]


class Labels:
    """Masks of several ROIs on one grid, made on demand and only inside a box.

    Args:
        layers: label maps of one shape; an ROI is the union of its voxels in all of them.
        rois: ids, in the order of the tables' columns.
        shape_ZYX: of the image; needed because there may be no layer (then every mask is empty).
    """

    def __init__(self, layers: Sequence[Layer], *, rois: Sequence[str], shape_ZYX: tuple[int, int, int]) -> None:
        for layer in layers:
            if layer.codes_ZYX.shape != shape_ZYX:
                raise ValueError(f"a layer has shape {layer.codes_ZYX.shape}, the image {shape_ZYX}")
        self.layers, self.rois, self.shape_ZYX = tuple(layers), tuple(rois), shape_ZYX
        self._parts: dict[str, list[_Part]] = {roi: [] for roi in rois}
        for layer in layers:
            boxes = _boxes_of_values(layer)
            for roi, inside_V in zip(rois, layer.table_VR.T, strict=True):
                values = np.flatnonzero(inside_V)
                if values.size:
                    box = join_boxes(*(boxes[v] for v in values))
                    self._parts[roi].append(_Part(layer.codes_ZYX, inside_V, values, box))

    @classmethod
    def from_masks(cls, masks: dict[str, NDArray[np.bool_]]) -> "Labels":
        """One layer per mask (Z Y X, all of one shape, at least one)."""
        rois, shape = list(masks), next(iter(masks.values())).shape
        tables = [np.stack([np.zeros(len(rois), dtype=np.bool_), np.array(rois) == roi]) for roi in rois]
        layers = [Layer(m.view(np.uint8), t) for m, t in zip(masks.values(), tables, strict=True)]
        return cls(layers, rois=rois, shape_ZYX=(shape[0], shape[1], shape[2]))

    def __contains__(self, roi: str) -> bool:
        return roi in self._parts

    def box(self, roi: str) -> Box | None:
        """Bounding box of an ROI over all layers; None when it has no voxel or is not among the ROIs."""
        return join_boxes(*(part.box for part in self._parts.get(roi, ())))

    def mask(self, roi: str, box: Box) -> NDArray[np.bool_]:
        """The ROI's voxels inside ``box``; all False when it is not among the ROIs."""
        masks = [part.mask(box) for part in self._parts.get(roi, ())]
        if not masks:
            return np.zeros(tuple(s.stop - s.start for s in box), dtype=np.bool_)
        return masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)


class _Part(NamedTuple):
    """What one layer holds of an ROI.

    Attributes:
        codes_ZYX: the layer's.
        inside_V: whether value v belongs to the ROI.
        values: those that do, at least one.
        box: holds all their voxels; None when there is none.
    """

    codes_ZYX: NDArray[np.uint8] | NDArray[np.uint16]
    inside_V: NDArray[np.bool_]
    values: NDArray[np.intp]
    box: Box | None

    def mask(self, box: Box) -> NDArray[np.bool_]:
        """The ROI's voxels inside ``box``."""
        codes_ZYX = self.codes_ZYX[box]
        inside: NDArray[np.bool_] = codes_ZYX == self.values[0] if self.values.size == 1 else self.inside_V[codes_ZYX]
        return inside


def _boxes_of_values(layer: Layer) -> list[Box | None]:
    """Bounding box of each value of a label map, in one pass; None for value 0 and for values without a voxel."""
    background, *others = layer.table_VR
    if len(others) == 1 and not background.any():  # a mask, whose box is found sooner
        mask = layer.codes_ZYX.view(np.bool_) if layer.codes_ZYX.itemsize == 1 else layer.codes_ZYX != 0
        return [None, bounding_box(mask)]
    boxes: list[Any] = ndimage.find_objects(layer.codes_ZYX, max_label=max(1, len(layer.table_VR) - 1))
    return [_full(layer.codes_ZYX) if layer.table_VR[0].any() else None, *boxes][: len(layer.table_VR)]


def _full(codes_ZYX: NDArray[Any]) -> Box:
    z, y, x = (slice(0, s) for s in codes_ZYX.shape)
    return z, y, x

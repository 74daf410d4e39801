"""Which ROI goes into which label map: overlapping ROIs lie in different layers.

A value means the same ROI in every layer and in the flat map: channel ``r`` (from 0) has value ``r + 1``.
Axes: Z Y X voxels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt

from gleanseg.rois.ontology import Ontology

Labels = UInt[np.ndarray, "Z Y X"]


@dataclass(frozen=True, kw_only=True)
class Layering:
    """A colouring of the overlap graph.

    Attributes:
        rois: ROI ids in channel order.
        layer_of: layer of each ROI.
        paint_order: channels in the order in which the flat map is painted: parents first, then parts.
    """

    rois: tuple[str, ...]
    layer_of: tuple[int, ...]
    paint_order: tuple[int, ...]

    @classmethod
    def of(
        cls, rois: Sequence[str], ontology: Ontology, *, overlaps: Collection[frozenset[str]] = frozenset()
    ) -> "Layering":
        """Colour greedily, parents first, so that the first layer holds the organs.

        Args:
            rois: ROI ids in channel order.
            ontology: says which ROIs may overlap.
            overlaps: further pairs, seen together in the training data.
        """
        order = sorted(range(len(rois)), key=lambda r: (len(_around(rois[r], ontology).intersection(rois)), r))
        layers: list[list[int]] = []
        for r in order:
            fits = (
                layer
                for layer in layers
                if not any(_clash(rois[r], rois[other], ontology, overlaps) for other in layer)
            )
            layer = next(fits, None)
            if layer is None:
                layers.append(layer := [])
            layer.append(r)
        layer_of = {r: number for number, layer in enumerate(layers) for r in layer}
        return cls(rois=tuple(rois), layer_of=tuple(layer_of[r] for r in range(len(rois))), paint_order=tuple(order))

    @property
    def num_layers(self) -> int:
        """Label maps that are needed; at least one."""
        return max(self.layer_of, default=0) + 1

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Smallest type that holds every value."""
        return np.uint8 if len(self.rois) < 256 else np.uint16

    def value_of(self, roi: int) -> int:
        """Value of a channel in its layer and in the flat map."""
        return roi + 1

    def mask(self, layers: Sequence[Labels], roi: str) -> Bool[np.ndarray, "Z Y X"]:
        """Voxels of an ROI.

        Raises:
            KeyError: the ROI is not among ``rois``.
        """
        r = self._index[roi]
        mask: Bool[np.ndarray, "Z Y X"] = layers[self.layer_of[r]] == self.value_of(r)
        return mask

    def flat(self, layers: Sequence[Labels]) -> Labels:
        """One map for viewers: where ROIs overlap, the one painted last shows."""
        if len(layers) == 1:
            return layers[0]
        # Values are turned into places in the painting order; the largest wins and is turned back.
        place_of_value = np.zeros(len(self.rois) + 1, dtype=self.dtype)
        place_of_value[[self.value_of(r) for r in self.paint_order]] = np.arange(1, len(self.rois) + 1)
        value_at_place = np.zeros_like(place_of_value)
        value_at_place[1:] = [self.value_of(r) for r in self.paint_order]
        places = place_of_value[layers[0]]
        for layer in layers[1:]:
            np.maximum(places, place_of_value[layer], out=places)
        flat: Labels = value_at_place[places]
        return flat

    def to_json(self) -> dict[str, Any]:
        """Contents of ``labels.json``: which ROI each value stands for, in each layer and in the flat map."""
        tables: list[dict[str, list[str]]] = [{} for _ in range(self.num_layers)]
        for r, roi in enumerate(self.rois):
            tables[self.layer_of[r]][str(self.value_of(r))] = [roi]
        return {
            "gleanseg": 1,
            "rois": list(self.rois),
            "layers": [{"file_suffix": f"_layer{n}", "values": table} for n, table in enumerate(tables, start=1)],
            "flat": {str(self.value_of(r)): [roi] for r, roi in enumerate(self.rois)},
        }

    @cached_property
    def _index(self) -> Mapping[str, int]:
        return {roi: r for r, roi in enumerate(self.rois)}


def _clash(a: str, b: str, ontology: Ontology, overlaps: Collection[frozenset[str]]) -> bool:
    chained = a in ontology.ancestors(b) or b in ontology.ancestors(a)
    return chained or ontology.may_overlap(a, b) or frozenset((a, b)) in overlaps


def _around(roi: str, ontology: Ontology) -> set[str]:
    """All that contains an ROI, the places where it is found, and what is around those in turn."""
    around = {*ontology.containing(roi), *ontology[roi].found_in}
    for outer in tuple(around):
        around |= _around(outer, ontology)
    return around

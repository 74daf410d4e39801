"""Optional clean-up of label layers: largest and small components, and parts that lie outside their parents.

Every step works in the box around the ROI it changes. A voxel taken from an ROI becomes background of its layer.
Axes: Z Y X voxels.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from gleanseg.errors import UserError, nearest
from gleanseg.parts.components import components
from gleanseg.predict.layers import Labels, Layering
from gleanseg.rois.ontology import Ontology

Repair = Literal["leave", "remove", "extend"]


def check_rois(names: Collection[str], rois: Sequence[str], *, option: str) -> None:
    """Refuse an option that names an ROI which the network does not predict.

    Raises:
        UserError: names the ROI and its nearest neighbors.
    """
    for name in names:
        if name not in rois:
            raise UserError(f"{option}: {name!r} is not predicted by this run{nearest(name, rois)}")


def keep_largest(layers: Sequence[Labels], layering: Layering, rois: Collection[str]) -> None:
    """Keep the largest 26-connected component of each named ROI, in place; an empty ROI stays empty."""
    for roi, box in _boxes(layers, layering).items():
        if roi not in rois:
            continue
        value, layer = _value_and_layer(layers, layering, roi)
        parts, sizes = components(layer[box] == value)
        if np.count_nonzero(sizes) > 1:
            layer[box][(parts > 0) & (parts != sizes.argmax())] = 0


def drop_small(layers: Sequence[Labels], layering: Layering, *, voxels: float) -> None:
    """Remove every 26-connected component of any ROI that has fewer voxels than this, in place."""
    for roi, box in _boxes(layers, layering).items():
        value, layer = _value_and_layer(layers, layering, roi)
        parts, sizes = components(layer[box] == value)
        layer[box][(parts > 0) & (sizes < voxels)[parts]] = 0


def repair_hierarchy(
    layers: Sequence[Labels], layering: Layering, ontology: Ontology, *, how: Literal["remove", "extend"]
) -> None:
    """Make every part lie inside its parent, in place.

    ``remove`` takes away voxels of a part outside its parent, outermost parents first. ``extend`` gives them to the
    parent instead, innermost parts first, where the parent's layer is free; other voxels outside are removed. The
    parent is the nearest one that the network predicts; a union is also predicted through all of its members, but
    cannot be extended then. A part of which no parent is predicted is left alone.
    """
    order = layering.paint_order if how == "remove" else layering.paint_order[::-1]
    for roi in (layering.rois[r] for r in order):
        holders = _holders(roi, layering, ontology)
        if not holders:
            continue
        value, layer = _value_and_layer(layers, layering, roi)
        box = _box(layer, value)
        if box is None:
            continue
        part = layer[box]
        outside = (part == value) & ~_union(layers, layering, holders, box)
        if how == "extend" and len(holders) == 1:
            parent_value, parent_layer = _value_and_layer(layers, layering, holders[0])
            parent = parent_layer[box]
            free = outside & (parent == 0)
            parent[free] = parent_value
            outside &= ~free
        part[outside] = 0


def _holders(roi: str, layering: Layering, ontology: Ontology) -> tuple[str, ...]:
    """The nearest predicted parent, or the predicted members that make it up."""
    for parent in ontology.ancestors(roi):
        if parent in layering.rois:
            return (parent,)
        members = ontology[parent].members
        if members and all(member in layering.rois for member in members):
            return () if roi in members else members
    return ()


def _union(
    layers: Sequence[Labels], layering: Layering, rois: Sequence[str], box: tuple[slice, ...]
) -> Bool[np.ndarray, "z y x"]:
    found = [_value_and_layer(layers, layering, roi) for roi in rois]
    union: Bool[np.ndarray, "z y x"] = np.logical_or.reduce([layer[box] == value for value, layer in found])
    return union


def _value_and_layer(layers: Sequence[Labels], layering: Layering, roi: str) -> tuple[int, Labels]:
    r = layering.rois.index(roi)
    return layering.value_of(r), layers[layering.layer_of[r]]


def _boxes(layers: Sequence[Labels], layering: Layering) -> dict[str, tuple[slice, ...]]:
    """The box around each ROI that has voxels."""
    found = [ndimage.find_objects(layer) for layer in layers]
    boxes: dict[str, tuple[slice, ...]] = {}
    for r, roi in enumerate(layering.rois):
        objects, value = found[layering.layer_of[r]], layering.value_of(r)
        if value <= len(objects) and objects[value - 1] is not None:
            boxes[roi] = objects[value - 1]
    return boxes


def _box(layer: Labels, value: int) -> tuple[slice, ...] | None:
    found = ndimage.find_objects((layer == value).view(np.uint8))
    return found[0] if found else None

"""From a recipe and a store to everything that a run needs, fixed before the first step."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.config import Recipe
from gleanseg.data.manifest import Manifest
from gleanseg.data.selection import Selection, select
from gleanseg.data.store import Store
from gleanseg.errors import UserError
from gleanseg.methods import method_class
from gleanseg.networks import legal_patch
from gleanseg.networks.network import Size
from gleanseg.predict.passes import trained_flips
from gleanseg.reading import file_digest
from gleanseg.rois.ontology import Ontology, builtin
from gleanseg.types import Views

_MULTIPLE = 16
"""Sides of automatic patches: most networks here accept them, the others take the nearest that they can."""


class Setup(NamedTuple):
    """A run before its first step.

    Attributes:
        recipe: with nothing left automatic.
        store: prepared volumes.
        selection: what of it the run may see.
        own_rois: definitions of ROIs that the built-in ontology lacks.
        ontology: built-in and own ROIs.
        mirror_ZYX: axes that are flipped in training.
        notes: what the user should know.
    """

    recipe: Recipe
    store: Store
    selection: Selection
    own_rois: dict[str, dict[str, Any]]
    ontology: Ontology
    mirror_ZYX: tuple[bool, bool, bool]
    notes: tuple[str, ...]


def set_up(recipe: Recipe) -> Setup:
    """Open the store, apply ``[data]``, and settle patch and mirroring.

    Raises:
        UserError: no store, a store of another manifest, or a recipe that does not fit the data.
    """
    store = Store.open(recipe.store_path)
    own_rois = _own_rois(recipe, store)
    selection = select(store, recipe.data)
    ontology = builtin().extended(own_rois)
    _check_presence(recipe)
    row = {id: i for i, id in enumerate(store.ids)}
    shapes = store.shapes_ZYX[[row[case.id] for case in selection.train]]
    notes = []
    patch_ZYX, legal = _patch(recipe, store, shapes)
    if recipe.sampling.patch == "auto":
        patch_ZYX = legal
        notes.append(f"patch {_xyz(legal)} (x, y, z) from the median volume")
    elif patch_ZYX != legal:
        raise UserError(
            f"sampling.patch = {_xyz(patch_ZYX)} (x, y, z): network {recipe.network.name!r} cannot take it; "
            f"the nearest that it can is {_xyz(legal)}"
        )
    sampling = recipe.sampling.model_copy(update={"patch": patch_ZYX[::-1]})
    recipe = recipe.model_copy(update={"sampling": sampling})
    patch = np.array(patch_ZYX)
    if (shapes <= patch).all() and (shapes < patch).any(1).all():
        largest = _xyz(shapes.max(0).tolist())
        notes.append(f"the patch is larger than every volume (largest {largest}); volumes are padded")
    mirror_ZYX = mirror_axes(recipe, selection, ontology)
    return Setup(recipe, store, selection, own_rois, ontology, mirror_ZYX, tuple(notes))


def _own_rois(recipe: Recipe, store: Store) -> dict[str, dict[str, Any]]:
    """Those of the recipe's manifest, which is parsed only when its file is not the one that was stored.

    Raises:
        UserError: the store is of another manifest.
    """
    try:
        same = store.manifest_file == file_digest(recipe.manifest)
    except OSError:
        same = False  # loading says what is wrong
    if same:
        return dict(store.own_rois)
    manifest = Manifest.load(recipe.manifest)
    if store.manifest_digest != manifest.digest():
        raise UserError(
            f"{recipe.store_path}: made from another version of {recipe.manifest}; run `gleanseg prepare` again"
        )
    return manifest.own_rois


def _patch(recipe: Recipe, store: Store, shapes_N3: NDArray[np.int64]) -> tuple[Size, Size]:
    """The patch as wished (or from the volumes), and the nearest that the network can take."""
    wished = recipe.sampling.patch
    patch_ZYX = automatic_patch(shapes_N3, max_voxels=recipe.sampling.max_voxels) if wished == "auto" else wished[::-1]
    if any(method_class(stage.method)[0].networks != "networks" for stage in recipe.stages):
        return patch_ZYX, patch_ZYX  # a classifier takes any patch that is not too small, and says so itself
    legal = legal_patch(
        recipe.network.name, recipe.network.options, patch_ZYX=patch_ZYX, spacing_ZYX_mm=store.plan.spacing_ZYX_mm
    )
    return patch_ZYX, legal


def _xyz(size_ZYX: Sequence[int]) -> str:
    return "x".join(str(side) for side in reversed(size_ZYX))


def automatic_patch(shapes_N3: NDArray[np.int64], *, max_voxels: int) -> Size:
    """The median shape in multiples of 16, its longest side shortened until it has at most ``max_voxels``."""
    sides = [max(_MULTIPLE, int(-(-side // _MULTIPLE)) * _MULTIPLE) for side in np.median(shapes_N3, axis=0)]
    while np.prod(sides) > max_voxels and max(sides) > _MULTIPLE:
        sides[int(np.argmax(sides))] -= _MULTIPLE
    return sides[0], sides[1], sides[2]


def mirror_axes(recipe: Recipe, selection: Selection, ontology: Ontology) -> tuple[bool, bool, bool]:
    """Which axes (Z, Y, X) training flips.

    Raises:
        UserError: the recipe asks to flip left and right while sided ROIs are learnt.
    """
    methods = [method_class(stage.method) for stage in recipe.stages]
    if not any(cls.tells_sides(config) for cls, config in methods):
        return trained_flips(recipe.augment.mirror, (), ontology)
    sided = [roi for roi in selection.rois if ontology[roi].side is not None]
    if "x" in recipe.augment.mirror and recipe.augment.mirror != "auto" and sided:
        raise UserError(
            f"augment.mirror: flipping x turns {sided[0]} into {ontology.mirror(sided[0])}; leave x out, or use 'auto'"
        )
    return trained_flips(recipe.augment.mirror, selection.rois, ontology)


def _check_presence(recipe: Recipe) -> None:
    """[presence] is there where a method needs it, and only there."""
    methods = {stage.method.name: method_class(stage.method) for stage in recipe.stages}
    needing = [name for name, (cls, config) in methods.items() if cls.needs_presence(config)]
    if needing and recipe.presence.run is None:
        raise UserError(
            f"method {needing[0]!r} needs a trained ROI-aware network: train a recipe with method = 'presence' and "
            f"set [presence] run to its folder"
        )
    if recipe.predict.gate > 0 and recipe.presence.run is None:
        raise UserError(f"predict.gate = {recipe.predict.gate}: needs the ROI-aware network of [presence] run")


def rows_of(views: Views, recipe: Recipe, selection: Selection, *, ranks: int) -> int:
    """How many rows of the global batch come from the labelled stream.

    Raises:
        UserError: the batch cannot be divided among ranks and micro-batches.
    """
    batch, parts = recipe.sampling.batch, ranks * recipe.train.accumulate
    labelled = batch
    if views.unlabelled and selection.unlabelled:
        labelled = recipe.sampling.labelled_batch or max(1, batch // 2)
    if batch % parts or labelled % parts:
        raise UserError(
            f"sampling.batch = {batch} with {labelled} labelled rows cannot be divided among {ranks} devices x "
            f"{recipe.train.accumulate} micro-batches; use multiples of {parts}"
        )
    return labelled

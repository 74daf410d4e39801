"""From a recipe and a store to everything that a run needs, fixed before the first step."""

from typing import NamedTuple

import numpy as np

from gleanseg.config import Recipe
from gleanseg.data.manifest import Manifest
from gleanseg.data.selection import Selection, select
from gleanseg.data.store import Store
from gleanseg.errors import UserError
from gleanseg.rois.ontology import Ontology
from gleanseg.types import Views

_MULTIPLE = 16
"""Sides of automatic patches: every network here accepts them."""


class Setup(NamedTuple):
    """A run before its first step.

    Attributes:
        recipe: with nothing left automatic.
        manifest: what the store was made from.
        store: prepared volumes.
        selection: what of it the run may see.
        ontology: built-in and own ROIs.
        mirror_ZYX: axes that are flipped in training.
        notes: what the user should know.
    """

    recipe: Recipe
    manifest: Manifest
    store: Store
    selection: Selection
    ontology: Ontology
    mirror_ZYX: tuple[bool, bool, bool]
    notes: tuple[str, ...]


def set_up(recipe: Recipe) -> Setup:
    """Open the store, apply ``[data]``, and settle patch and mirroring.

    Raises:
        UserError: no store, a store of another manifest, or a recipe that does not fit the data.
    """
    manifest = Manifest.load(recipe.manifest)
    store = Store.open(recipe.store_path)
    if store.manifest_digest != manifest.digest():
        raise UserError(
            f"{recipe.store_path}: made from another version of {recipe.manifest}; run `gleanseg prepare` again"
        )
    selection = select(store, recipe.data)
    ontology = manifest.ontology()
    row = {id: i for i, id in enumerate(store.ids)}
    shapes = store.shapes_ZYX[[row[case.id] for case in selection.train]]
    notes = []
    if recipe.sampling.patch == "auto":
        patch = automatic_patch(shapes, max_voxels=recipe.sampling.max_voxels)
        sampling = recipe.sampling.model_copy(update={"patch": patch[::-1]})
        recipe = recipe.model_copy(update={"sampling": sampling})
        notes.append(f"patch {'x'.join(map(str, patch[::-1]))} (x, y, z) from the median volume")
    assert recipe.sampling.patch != "auto"
    patch_ZYX = np.array(recipe.sampling.patch[::-1])
    if (shapes <= patch_ZYX).all() and (shapes < patch_ZYX).any(1).all():
        largest = "x".join(str(n) for n in shapes.max(0)[::-1])
        notes.append(f"the patch is larger than every volume (largest {largest}); volumes are padded")
    return Setup(recipe, manifest, store, selection, ontology, mirror_axes(recipe, selection, ontology), tuple(notes))


def automatic_patch(
    shapes_N3: np.ndarray[tuple[int, ...], np.dtype[np.int64]], *, max_voxels: int
) -> tuple[int, int, int]:
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
    sided = [roi for roi in selection.rois if ontology[roi].side is not None]
    if recipe.augment.mirror == "auto":
        return True, True, not sided
    if "x" in recipe.augment.mirror and sided:
        raise UserError(
            f"augment.mirror: flipping x turns {sided[0]} into {ontology.mirror(sided[0])}; leave x out, or use 'auto'"
        )
    return "z" in recipe.augment.mirror, "y" in recipe.augment.mirror, "x" in recipe.augment.mirror


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

"""A new run folder: what it says of recipe, data and machine, and what else it must hold to stand alone."""

from functools import partial
from pathlib import Path

from gleanseg import __version__
from gleanseg.data.selection import overlaps
from gleanseg.engine.setup import Setup
from gleanseg.run.codes import is_dynamic, write_codes
from gleanseg.run.environment import environment
from gleanseg.run.folder import Part, Run
from gleanseg.run.roi_aware import adopt_roi_aware
from gleanseg.run.texts import write_texts


def create_run(setup: Setup, out: Path, *, resume: bool) -> None:
    """Write the run folder of what is about to be trained.

    Args:
        setup: recipe, store and roles.
        out: run folder.
        resume: one that was killed while it was made is made anew.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    store, selection, recipe = setup.store, setup.selection, setup.recipe
    pairs = sorted(sorted(pair) for pair in overlaps(store, selection))
    roles = {
        "train": {c.id: [r for r, a in zip(selection.rois, c.annotated, strict=True) if a] for c in selection.train},
        "validation": [c.id for c in selection.validation],
    }
    info = {
        "version": __version__,
        "environment": environment(),
        "rois": list(selection.rois),
        "channels": [channel.model_dump() for channel in store.plan.channels],
        "own_rois": setup.own_rois,
        "manifest": str(recipe.manifest),
        "manifest_digest": store.manifest_digest,
        "store": str(recipe.store_path),
        "overlaps": pairs,
        "recipe_digest": recipe.digest(),
        "splits_digest": selection.digest(),
        "seed": recipe.seed,
        "status": "running",
    }
    Run.create(out, recipe=recipe, plan=store.plan, info=info, splits=roles, parts=_parts(setup), resume=resume)


def _parts(setup: Setup) -> list[Part]:
    """What else the run must hold to stand alone."""
    recipe, rois, ontology = setup.recipe, setup.selection.rois, setup.ontology
    parts: list[Part] = []
    if is_dynamic(recipe):
        modality = setup.store.plan.channels[0].modality
        parts.append(partial(write_codes, recipe=recipe, rois=rois, ontology=ontology, modality=modality))
    if recipe.text.knowledge:
        parts.append(partial(write_texts, recipe=recipe))
    if recipe.presence.run is not None:
        parts.append(
            partial(adopt_roi_aware, config=recipe.presence, plan=setup.store.plan, rois=rois, ontology=ontology)
        )
    return parts

"""The ROI-aware network of a run: copied from a presence run when the run is created, so that it stands alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gleanseg.config import PresenceConfig
from gleanseg.data.plan import Plan
from gleanseg.errors import UserError
from gleanseg.networks.classifiers import build
from gleanseg.parts.presence import RoiAware, sources
from gleanseg.rois.ontology import Ontology
from gleanseg.run.checkpoint import digest, load, save
from gleanseg.run.folder import Run

_FILE = "roi_aware.safetensors"
_NET = "method.net."
_COMPARED = ("spacing_ZYX_mm", "orientation", "intensity", "channels")


def adopt_roi_aware(
    folder: Path, config: PresenceConfig, *, plan: Plan, rois: Sequence[str], ontology: Ontology
) -> dict[str, Any]:
    """Copy a presence run's weights into a run folder; what is returned belongs into its run.json.

    Raises:
        UserError: no presence run, one whose volumes were prepared otherwise, or one that knows none of the ROIs.
    """
    assert config.run is not None, "checked when the run is set up"
    presence = Run.open(config.run)
    if presence.recipe.method.name != "presence":
        raise UserError(
            f"[presence] run: {config.run} was trained by method {presence.recipe.method.name!r}; expected 'presence'"
        )
    refuse_other_plan(presence, plan)
    sources(rois, presence.rois, ontology, tumors=config.tumors)
    tensors, info = presence.read(presence.checkpoint())
    weights = {name.removeprefix(_NET): value for name, value in tensors.items() if name.startswith(_NET)}
    network = presence.recipe.network
    save(folder / _FILE, weights, {"stage": info["stage"], "step": info["step"]})
    facts = {
        "from": str(config.run),
        "outputs": list(presence.rois),
        "network": {"name": network.name, **network.options},
        "temperature": presence.info.get("temperature", 1.0),
        "tumors": config.tumors,
        "sha256": digest(weights),
    }
    return {"roi_aware": facts}


def refuse_other_plan(presence: Run, plan: Plan) -> None:
    """A classifier is only right on volumes of the voxel size and intensities that it was trained on.

    Raises:
        UserError: names what differs.
    """
    for name in _COMPARED:
        theirs, ours = getattr(presence.plan, name), getattr(plan, name)
        if theirs != ours:
            raise UserError(
                f"[presence] run: {presence.path} was trained with {name} {theirs}, this store has {ours}; prepare "
                f"both alike (set spacing, intensity and window in [prepare] of both recipes)"
            )


def load_roi_aware(run: Run) -> RoiAware:
    """The frozen network of a run folder.

    Raises:
        UserError: damaged file.
    """
    facts = run.info["roi_aware"]
    options = dict(facts["network"])
    classifier = build(
        options.pop("name"), options, in_channels=len(run.info["channels"]), num_outputs=len(facts["outputs"])
    )
    classifier.load_state_dict(load(run.path / _FILE)[0])
    found = sources(run.rois, facts["outputs"], run.ontology, tumors=facts["tumors"])
    return RoiAware(classifier, found, temperature=facts["temperature"])

"""The table of codes that a run's dynamic head reads: made once, when the run is created, and kept in its folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gleanseg.config import Recipe
from gleanseg.networks.attach import code_groups, head_config
from gleanseg.networks.heads.dynamic import DynamicHead
from gleanseg.rois.ontology import Ontology
from gleanseg.run.checkpoint import load, save
from gleanseg.run.folder import Run
from gleanseg.text.sources import table_for

_FILE = "codes.safetensors"


def is_dynamic(recipe: Recipe) -> bool:
    """Whether the recipe's head reads codes."""
    return isinstance(head_config(recipe.head.name, recipe.head.options), DynamicHead.Config)


def write_codes(
    folder: Path, *, recipe: Recipe, rois: Sequence[str], ontology: Ontology, modality: str
) -> dict[str, Any]:
    """Make a row per group of ROIs and write them into a run folder; what is returned belongs into its run.json.

    A group of several ROIs takes the mean of their rows, or one of its own among one-hot codes.

    Raises:
        UserError: unknown encoder, no such file, or an own ROI without an embedding.
    """
    config = head_config(recipe.head.name, recipe.head.options)
    assert isinstance(config, DynamicHead.Config), "only a dynamic head reads codes"
    groups = code_groups(config, rois)
    if config.codes == "one_hot":
        table_Kd, provenance = torch.eye(len(groups)), {"encoder": "one_hot"}
    else:
        table_Rd, provenance = table_for(rois, ontology, source=config.codes, modality=modality, seed=recipe.seed)
        table_Kd = torch.stack([table_Rd[[rois.index(roi) for roi in group]].mean(0) for group in groups])
    save(folder / _FILE, {"table": table_Kd}, {"provenance": provenance})
    return {"codes": {**provenance, "groups": [list(group) for group in groups]}}


def load_codes(run: Run) -> Float[Tensor, "K d"] | None:
    """The run's table, or None.

    Raises:
        UserError: damaged file.
    """
    path = run.path / _FILE
    return load(path)[0]["table"] if path.exists() else None

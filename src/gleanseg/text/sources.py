"""Where the engine takes the vectors of its ROIs from: shipped with gleanseg, a table's file, or a control.

Axes: R ROIs, D numbers per row.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gleanseg.errors import UserError, nearest
from gleanseg.rois.ontology import Ontology
from gleanseg.text.controls import one_hot_rows, random_rows
from gleanseg.text.encoders import build_encoder
from gleanseg.text.prompts import DEFAULT, modality_named, prompt_of
from gleanseg.text.table import Table

if TYPE_CHECKING:
    from torch import Tensor

SOURCES = ("minilm", "random", "one_hot")
"""Names of ``table_for``'s sources that are no files."""
_TABLES = Path(__file__).parent / "tables"  # package data lies beside the modules, also in an installed wheel


def table_for(
    rois: Sequence[str], ontology: Ontology, *, source: str, modality: str, seed: int, center: bool = True
) -> "tuple[Tensor, dict[str, Any]]":
    """One frozen vector per ROI; needs no encoder and no network for built-in ROIs.

    Args:
        rois: ids, in the order of the rows.
        ontology: that knows them.
        source: ``minilm`` (shipped for the built-in ROIs; a manifest's own ROIs are encoded if the encoder is
            installed), ``random``, ``one_hot``, or the path of a table's file.
        modality: of the images, ``CT`` or ``MR``; chooses the shipped table's prompts, otherwise unused.
        seed: of ``random``, otherwise unused.
        center: subtract the table's mean row, then normalize; controls are left as they are.

    Returns:
        float32 [R, D] on the CPU, and what a run should keep of their origin, as JSON can hold it.

    Raises:
        UserError: an unknown ROI or source, a broken table, one that lacks an ROI, or an own ROI without its encoder.
    """
    import torch

    known = [ontology[roi].id for roi in rois]
    if source in ("random", "one_hot"):
        rows_RD = random_rows(known, ontology, seed=seed) if source == "random" else one_hot_rows(known)
        facts: dict[str, Any] = {"source": source, "dim": rows_RD.shape[1]}
        facts |= {"seed": seed} if source == "random" else {}
    else:
        table = _shipped_and_own(known, ontology, modality) if source == "minilm" else _from_file(source, known)
        table = table.center() if center else table
        rows_RD, facts = table.vectors_KD, {"source": source, **table.provenance()}
    return torch.from_numpy(np.ascontiguousarray(rows_RD)), facts


@cache
def shipped(modality: str) -> Table:
    """The table of all built-in ROIs that gleanseg ships, made by MiniLM.

    Args:
        modality: ``CT`` or ``MR``.

    Raises:
        UserError: another modality.
    """
    return Table.load(_TABLES / f"minilm-{modality_named(modality).lower()}.safetensors")


def _from_file(source: str, rois: Sequence[str]) -> Table:
    path = Path(source)
    if not path.suffix and not path.exists():
        raise UserError(
            f"text source {source!r}: expected {', '.join(SOURCES)}, or a table's file{nearest(source, SOURCES)}"
        )
    return Table.load(path).of(rois)


def _shipped_and_own(rois: Sequence[str], ontology: Ontology, modality: str) -> Table:
    """Rows of the shipped table, and of ROIs that it cannot know, from the encoder."""
    table = shipped(modality)
    own = {roi: prompt_of(ontology[roi], modality=modality) for roi in rois if roi not in table.names}
    if not own:
        return table.of(rois)
    try:
        encoder = build_encoder("minilm")
    except UserError as error:
        raise UserError(
            f"ROI {next(iter(own))!r}: declared by the manifest, so not in the shipped table, and {error}; or make a"
            " table elsewhere (gleanseg text encode --manifest M.json -o table.safetensors) and name its file as source"
        ) from None
    prompts = {roi: [text] for roi, text in own.items()}
    made = Table.make(encoder, prompts, template=DEFAULT, modality=table.origin.modality, reference=())
    return table.joined(made).of(rois)

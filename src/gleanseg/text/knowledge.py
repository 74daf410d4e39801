"""What a run's networks are told of its task: vectors of the responses of each text, from where the recipe says.

Axes: N responses of a text, D numbers per response.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gleanseg.errors import UserError, nearest
from gleanseg.text.controls import RANDOM_DIM
from gleanseg.text.encoders import build_encoder
from gleanseg.text.table import unit_rows
from gleanseg.text.texts import Text, text_named
from gleanseg.text.vectors import Vectors, digest, shipped_vectors

if TYPE_CHECKING:
    from torch import Tensor

SOURCES = ("minilm", "random")
"""Names of sources that are no files."""


def vectors_of(knowledge: Sequence[str], *, source: str, seed: int) -> "tuple[list[Tensor], dict[str, Any]]":
    """Frozen vectors of the responses of each text; needs no encoder and no network for shipped texts.

    Args:
        knowledge: names of shipped texts, or JSON files.
        source: ``minilm`` (shipped for the shipped texts; others are encoded if the encoder is installed), ``random``
            (unit rows that know nothing of the text, a control), or a file of ``gleanseg text encode --knowledge``.
        seed: of ``random``, otherwise unused.

    Returns:
        float32 [N, D] for each text, and what a run should keep of their origin, as JSON can hold it.

    Raises:
        UserError: an unknown text or source, a broken file, vectors that belong to other responses, or a text of the
            user's own without its encoder.
    """
    import torch

    texts = [text_named(name) for name in knowledge]
    facts: dict[str, Any] = {"source": source}
    if source == "random":
        rows = [_random_rows(text, seed=seed) for text in texts]
        facts |= {"seed": seed}
    elif source == "minilm":
        rows = [_minilm_rows(text, name=name) for text, name in zip(texts, knowledge, strict=True)]
        facts |= asdict(shipped_vectors().made)
    else:
        vectors = _from_file(source)
        rows = [vectors.of(text, source=source) for text in texts]
        facts |= asdict(vectors.made)
    facts["texts"] = [_facts_of(text, rows_ND) for text, rows_ND in zip(texts, rows, strict=True)]
    return [torch.from_numpy(np.array(rows_ND)) for rows_ND in rows], facts


def _facts_of(text: Text, rows_ND: Float[np.ndarray, "N D"]) -> dict[str, Any]:
    return {
        "name": text.name,
        "structure": text.structure,
        "modality": text.modality,
        "provenance": dict(text.provenance),
        "responses_sha256": text.sha256,
        "vectors_sha256": digest(rows_ND),
        "shape": list(rows_ND.shape),
    }


def _random_rows(text: Text, *, seed: int) -> Float[np.ndarray, "N D"]:
    """They depend on the seed and on which text it is, not on the run's other texts."""
    generator = np.random.default_rng((seed, int(text.sha256[:16], 16)))
    return unit_rows(generator.standard_normal((len(text.responses), RANDOM_DIM)))


def _minilm_rows(text: Text, *, name: str) -> Float[np.ndarray, "N D"]:
    """Shipped ones, else from the encoder."""
    if shipped_vectors().holds(text):
        return shipped_vectors().of(text, source="minilm")
    try:
        encoder = build_encoder("minilm")
    except UserError as error:
        raise UserError(
            f"text {name!r}: not one that gleanseg ships, and {error}; or make its vectors elsewhere (gleanseg text"
            f" encode --knowledge {name} -o vectors.safetensors) and name their file under [text] vectors"
        ) from None
    return Vectors.make(encoder, [text]).of(text, source="minilm")


def _from_file(source: str) -> Vectors:
    path = Path(source)
    if not path.suffix and not path.exists():
        raise UserError(
            f"[text] vectors = {source!r}: expected {', '.join(SOURCES)}, or a file of 'gleanseg text encode"
            f" --knowledge'{nearest(source, SOURCES)}"
        )
    return Vectors.load(path)

"""What language says of a task: responses of a language model, and the vectors that stand for them.

Axes: N responses of a text, D numbers per response.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gleanseg.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

RESPONSES = 15
"""Responses of one text, as published."""
_RANDOM_DIM = 384


def vectors_of(knowledge: Sequence[str], *, source: str, seed: int) -> "tuple[list[Tensor], dict[str, Any]]":
    """Frozen vectors of the responses of each text.

    Args:
        knowledge: names of shipped texts.
        source: ``random``, unit rows that know nothing of the text (a control).
        seed: of ``random``.

    Returns:
        float32 [N, D] for each text, and what a run should keep of their origin, as JSON can hold it.

    Raises:
        UserError: another source.
    """
    import torch

    if source != "random":
        raise UserError(f"[text] vectors = {source!r}: expected 'random'")
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(RESPONSES, _RANDOM_DIM, generator=generator) for _ in knowledge]
    facts = {"source": source, "knowledge": list(knowledge), "seed": seed, "dim": _RANDOM_DIM}
    return [torch.nn.functional.normalize(r, dim=1) for r in rows], facts

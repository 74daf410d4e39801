"""Random numbers of rows, from nothing but the rows' keys.

Axes: B cases.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Fill = Callable[[Tensor, torch.Generator], object]
"""Fills a tensor in place from a generator."""


def row_generators(
    key_B: Int[Tensor, " B"], device: torch.device, *, purpose: int, salt: int
) -> Iterator[torch.Generator]:
    """A generator for each row, from its key.

    Args:
        key_B: random keys.
        device: that it draws on.
        purpose: kinds of draws differ by it; each is a constant of its file.
        salt: two draws of a kind differ by it.
    """
    for key in key_B.tolist():
        seed = int(np.random.SeedSequence([purpose, salt, key]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        yield torch.Generator(device).manual_seed(seed)


def drawn(
    like: Float[Tensor, " B *any"], key_B: Int[Tensor, " B"], fill: Fill, *, purpose: int, salt: int
) -> Float[Tensor, " B *any"]:
    """Draws of every row, of another tensor's shape, type, device and memory format.

    They are made in single precision and in the order of the axes, so that networks of any precision and memory format
    see the same ones.

    Args:
        like: what the draws are for.
        key_B: random keys of its rows.
        fill: draws one row.
        purpose: see ``row_generators``.
        salt: as above.
    """
    numbers = torch.empty(like.shape, dtype=torch.float32, device=like.device)
    for row, generator in zip(numbers, row_generators(key_B, like.device, purpose=purpose, salt=salt), strict=True):
        fill(row, generator)
    return torch.empty_like(like).copy_(numbers)

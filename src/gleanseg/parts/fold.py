"""The loss of a few ROIs at a time, so that a step's memory does not grow with the number of ROIs.

Axes: B cases, R ROIs, r ROIs of a chunk, K statistics.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gleanseg.types import Batch, Mean, Monitor, Pooled, Progress, Term

Chunk = Int[Tensor, " r"]
ValueT = TypeVar("ValueT")
_BUDGET = 2**24
"""Logits of one chunk: with three dynamic layers of eight channels about 1.5 GB are alive at once."""


def over_rois(terms: Callable[[Chunk], dict[str, Term]], batch: Batch, rois: Int[Tensor, " n"]) -> dict[str, Term]:
    """Loss terms of chunks of ROIs, added up.

    With more than one chunk, each is computed again in the backward pass (``torch.utils.checkpoint``), so that logits
    of one chunk exist at a time. The sums do not depend on how ROIs are chunked, up to rounding.

    Args:
        terms: maps positions of ROIs to loss terms. The last axis of a ``Pooled`` term's sums is those ROIs, and its
            ``value`` works on any number of them.
        batch: its shape and number of ROIs decide how many ROIs fit a chunk.
        rois: positions of the ROIs that take part; if there are none, the terms of the first ROI are returned, which
            are 0 where no pair is chosen.

    Returns:
        The terms; ``Pooled`` ones with one column per ROI of the batch, 0 for those that take no part.
    """
    num_rois = batch.known.shape[1]
    if len(rois) == 0:
        rois = torch.zeros(1, dtype=torch.long, device=batch.known.device)
    folded: dict[str, Term] = {}
    for chunk, found in _of_chunks(terms, batch, rois):
        for name, term in found.items():
            spread = _spread(term, chunk, num_rois)
            folded[name] = _plus(folded[name], spread) if name in folded else spread
    return folded


def sum_over_rois(part: Callable[[Chunk], Tensor], batch: Batch) -> Tensor:
    """A tensor that each chunk of ROIs adds to, such as what a convolution makes of the predictions of all ROIs.

    Args:
        part: maps positions of ROIs to their share of the sum.
        batch: as in ``over_rois``.
    """
    rois = torch.arange(batch.known.shape[1], device=batch.known.device)
    (_, total), *others = _of_chunks(part, batch, rois)
    for _, more in others:
        total = total + more
    return total


def carrying(batch: Batch, progress: Progress, *, unknown: bool, rois_per_step: int = 0) -> Int[Tensor, " n"]:
    """Positions of the ROIs that carry a loss in this batch.

    Args:
        batch: the rows of this rank.
        progress: seeds the order of the draw, the same on all ranks.
        unknown: whether unknown pairs carry a loss, too.
        rois_per_step: of the ROIs that no row of this rank knows, at most so many, drawn afresh each step; 0: all.
            Ranks whose rows know other ROIs may draw others, so that two ranks equal one process only with 0.
    """
    known_R = batch.known.any(0)
    if not unknown:
        return known_R.nonzero()[:, 0]
    if rois_per_step == 0:
        return torch.arange(len(known_R), device=known_R.device)
    order = torch.randperm(len(known_R), generator=torch.Generator().manual_seed(progress.step)).to(known_R.device)
    drawn = order[~known_R[order]][:rois_per_step]
    return torch.cat([known_R.nonzero()[:, 0], drawn]).sort().values


def _of_chunks(
    function: Callable[[Chunk], ValueT], batch: Batch, rois: Int[Tensor, " n"]
) -> Iterator[tuple[Chunk, ValueT]]:
    """A function of each chunk; of more than one, computed again in the backward pass."""
    chunks = torch.split(rois, max(1, _BUDGET // batch.codes.numel()))
    for chunk in chunks:
        yield chunk, function(chunk) if len(chunks) == 1 else checkpoint(function, chunk, use_reentrant=False)


def _spread(term: Term, chunk: Chunk, num_rois: int) -> Term:
    if not isinstance(term, Pooled) or len(chunk) == num_rois:
        return term
    sums = term.sums.new_zeros(*term.sums.shape[:-1], num_rois)
    return term._replace(sums=sums.index_copy(-1, chunk, term.sums))


def _plus(one: Term, other: Term) -> Term:
    if isinstance(one, Pooled) and isinstance(other, Pooled):
        return one._replace(sums=one.sums + other.sums)
    if isinstance(one, Mean) and isinstance(other, Mean):
        return one._replace(total=one.total + other.total, count=one.count + other.count)
    assert isinstance(one, Monitor), "a sum is made of terms"
    assert isinstance(other, Monitor), "a term keeps its kind from chunk to chunk"
    return Monitor(one.total + other.total, one.count + other.count)

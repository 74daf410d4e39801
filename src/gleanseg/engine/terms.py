"""From loss terms to one loss, exact over ranks.

A mean of rank means is wrong when ranks hold unequal numbers of annotated ROIs, so statistics are added up over ranks
first. DDP averages gradients; each rank's loss is therefore multiplied by the number of ranks.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gleanseg.types import Mean, Memo, Monitor, Pooled, Term

AllReduce = Callable[[Tensor], Tensor]
"""Sum of a tensor over all ranks."""


def combine(terms: Mapping[str, Term], *, world: int, all_reduce: AllReduce) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss whose gradient DDP's average makes exact, and the unweighted global value of each term.

    Args:
        terms: what the method returned on this rank.
        world: number of ranks.
        all_reduce: sums over ranks; the identity when there is one.
    """
    losing = {name: term for name, term in terms.items() if isinstance(term, Mean | Pooled)}
    reduced = _reduce(losing, world=world, all_reduce=all_reduce)
    losses, values = [], {}
    for (name, term), global_part in zip(losing.items(), reduced, strict=True):
        if isinstance(term, Mean):
            total, count = global_part[0], global_part[1].clamp_min(1.0)
            losses.append(term.weight * world * term.total / count)
            values[name] = total / count
        else:
            # The value of the global sums, with the gradient of the local ones.
            sums = term.sums + (global_part.reshape(term.sums.shape) - term.sums).detach()
            value = term.value(sums)
            losses.append(term.weight * world * value)
            values[name] = value.detach()
    return torch.stack(losses).sum(), values


def observe(terms: Mapping[str, Term], *, world: int, all_reduce: AllReduce) -> dict[str, Tensor]:
    """The monitors among the terms: (total, count) of each over all ranks."""
    watched = {name: term for name, term in terms.items() if isinstance(term, Monitor)}
    return dict(zip(watched, _reduce(watched, world=world, all_reduce=all_reduce), strict=True))


def gather(terms: Mapping[str, Term], *, rank: int, world: int, all_reduce: AllReduce) -> dict[str, Tensor]:
    """The memos among the terms: rows of all ranks, one below the other."""
    memos = {name: term.rows for name, term in terms.items() if isinstance(term, Memo)}
    if world == 1:
        return memos
    found = {}
    for name, rows in memos.items():
        of_ranks = rows.new_zeros(world, *rows.shape)
        of_ranks[rank] = rows
        found[name] = all_reduce(of_ranks).flatten(0, 1)
    return found


def _reduce(terms: Mapping[str, Mean | Pooled | Monitor], *, world: int, all_reduce: AllReduce) -> list[Tensor]:
    """Global statistics of each term; one collective for all terms together."""
    local = [_statistics(term) for term in terms.values()]
    if world == 1 or not local:
        return local
    joined = all_reduce(torch.cat(local))
    return list(torch.split(joined, [len(part) for part in local]))


def _statistics(term: Mean | Pooled | Monitor) -> Tensor:
    if isinstance(term, Pooled):
        return term.sums.detach().float().reshape(-1)
    return torch.stack([term.total.detach().float(), term.count.detach().float()])

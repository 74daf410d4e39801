"""One step of a method, looked at: what tests of single methods share."""

import torch

from gleanseg.engine.terms import combine
from gleanseg.parts.method import Method
from gleanseg.types import Batch, Progress, Term
from support.batches import small_blueprint

LATE = Progress(20, 20)


def made(cls: type[Method], **options: object) -> Method:
    """A method on small networks, in training mode."""
    torch.manual_seed(0)
    return cls(small_blueprint(), cls.Config(**options)).train()


def values(method: Method, batch: Batch, progress: Progress = LATE) -> dict[str, float]:
    """The terms' values, without their weights."""
    _, found = combine(method(batch, progress), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


def mean(term: Term) -> float:
    """Value of a mean or of what is only watched."""
    return float(term.total.detach() / term.count)  # type: ignore[union-attr]


def moved_by(method: Method, batch: Batch, *terms: str) -> set[str]:
    """Names of the parameters that some terms move."""
    found = method(batch, LATE)
    loss, _ = combine({name: found[name] for name in terms}, world=1, all_reduce=lambda t: t)
    method.zero_grad()
    loss.backward()
    return {name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}

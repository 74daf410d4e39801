"""One step of a method, looked at: what tests of single methods share."""

from typing import TypeVar

import torch

from gleanseg.engine.terms import combine
from gleanseg.networks.network import Network
from gleanseg.parts.method import Method
from gleanseg.types import Batch, Progress, Term
from support.batches import small_blueprint

LATE = Progress(20, 20)
MethodT = TypeVar("MethodT", bound=Method)


def made(cls: type[MethodT], **options: object) -> MethodT:
    """A method on small networks, in training mode."""
    torch.manual_seed(0)
    return cls(small_blueprint(), cls.Config(**options)).train()


def sees_alike(network: Network, logit: float) -> None:
    """Let a network give every voxel the same logit."""
    with torch.no_grad():
        network.head.classifier.weight.zero_()  # type: ignore[operator, union-attr]
        network.head.classifier.bias.fill_(logit)  # type: ignore[operator, union-attr]


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

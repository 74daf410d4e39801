"""The abstract learning algorithm. Every method is one final class in ``gleanseg.methods``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from gleanseg.networks.network import Network
from gleanseg.types import Batch, Progress, Term, Views


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of a method that has none."""


class Method(nn.Module, ABC):
    """A learning algorithm: its networks and its one-step loss.

    All state lives in ``state_dict()``. A method sees no loader, optimiser, rank, file or logger; what it draws at
    random comes from generators keyed by ``batch.key``.

    Args:
        build: makes a freshly initialised network; a method with two networks calls it twice.
        config: an instance of the method's own ``Config``.
    """

    views: ClassVar[Views]
    players: ClassVar[tuple[str, ...]] = ("main",)
    """One optimiser each. A player other than ``main`` owns the sub-module of its name; ``main`` owns the rest."""
    deploys: ClassVar[Mapping[str, tuple[str, ...]]]
    """Name -> sub-modules that a predictor loads and averages; the first name is the default."""
    batchwise: ClassVar[bool] = False
    """Whether a row's loss depends on the other rows of its rank (memories, queues, batch norm in a new head)."""
    Config: ClassVar[type] = NoOptions

    @abstractmethod
    def __init__(self, build: Callable[[], Network], config: object) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """The step: the loss terms of one batch for one player, one line per term."""

    def turns(self, progress: Progress) -> Sequence[str]:
        """Which players step on this batch, in order."""
        return self.players

    def after_step(self, progress: Progress) -> None:
        """Called once after the optimisers have stepped: averages of weights and the like.

        Args:
            progress: steps done before this one.
        """

    def parameters_of(self, player: str) -> Iterator[nn.Parameter]:
        """The trainable parameters of a player."""
        others = [p for p in self.players if p != "main"]
        for name, parameter in self.named_parameters():
            owner = next((p for p in others if name.split(".")[0] == p), "main")
            if owner == player and parameter.requires_grad:
                yield parameter

"""The abstract learning algorithm. Every method is one final class in ``gleanseg.methods``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool
from torch import Tensor, nn

from gleanseg.config import Named, OptimizerConfig
from gleanseg.errors import UserError, nearest
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.network import Network
from gleanseg.parts.presence import RoiAware
from gleanseg.rois.ontology import Ontology
from gleanseg.types import Batch, Monitor, Progress, Term, Views


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a method is made from. Called, it gives a freshly initialised network with the recipe's head.

    Attributes:
        network: makes a network.
        rois: ids in channel order.
        ontology: relations between them.
        classifier: makes a classifier of patches, for methods whose ``[network]`` is one.
        roi_aware: makes the frozen ROI-aware network of the recipe's ``[presence]`` table.
        other: makes a network of another kind than the recipe's, with the recipe's head and text, for methods that need
            two kinds.
        num_channels: of the image, for adversaries and other networks that a method makes itself.
    """

    network: Callable[[], Network]
    rois: tuple[str, ...]
    ontology: Ontology
    classifier: Callable[[], Classifier] | None = None
    roi_aware: Callable[[], RoiAware] | None = None
    other: Callable[[Named], Network] | None = None
    num_channels: int = 1

    def __call__(self) -> Network:
        """One more network."""
        return self.network()


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of a method that has none."""


def check_rois(*options: tuple[str, Mapping[str, object]], rois: Sequence[str]) -> None:
    """Refuse options per ROI that name an ROI the run does not learn.

    Raises:
        UserError: names the option, the ROI and the nearest one.
    """
    for option, given in options:
        for roi in given:
            if roi not in rois:
                raise UserError(f"[method] {option}: {roi!r} is not one of the run's ROIs{nearest(roi, rois)}")


class Method(nn.Module, ABC):
    """A learning algorithm: its networks and its one-step loss.

    All state lives in ``state_dict()``. A method sees no loader, optimiser, rank, file or logger; what it draws at
    random comes from generators keyed by ``batch.key``.

    Args:
        build: makes a freshly initialised network; a method with two networks calls it twice. It also knows the ROIs.
        config: an instance of the method's own ``Config``.
    """

    views: ClassVar[Views]
    players: ClassVar[tuple[str, ...]] = ("main",)
    """One optimiser each. A player other than ``main`` owns the sub-module of its name; ``main`` owns the rest."""
    deploys: ClassVar[Mapping[str, tuple[str, ...]]]
    """Name -> sub-modules that a predictor loads and averages; the first name is the default."""
    batchwise: ClassVar[bool] = False
    """Whether a row's loss depends on the other rows of its rank (pairs of rows, batch norm in a new head).

    A memory need not: see ``Memo`` and ``remember``.
    """
    networks: ClassVar[str] = "networks"
    """Room that the name in ``[network]`` is looked up in."""
    Config: ClassVar[type[Any]] = NoOptions

    @abstractmethod
    def __init__(self, build: Blueprint, config: Any) -> None:
        super().__init__()

    @classmethod
    def needs_presence(cls, config: Any) -> bool:
        """Whether the recipe must name a trained ROI-aware network under ``[presence]``."""
        return False

    @classmethod
    def tells_sides(cls, config: Any) -> bool:
        """Whether left and right are told apart; if not, training may mirror patients from left to right."""
        return True

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """The step: the loss terms of one batch for one player, one line per term."""

    def turns(self, progress: Progress) -> Sequence[str]:
        """Which players step on this batch, in order."""
        return self.players

    def optimizer_of(self, player: str, recipe: OptimizerConfig) -> OptimizerConfig:
        """Settings of a player's optimiser: the recipe's, unless a player needs its own."""
        return recipe

    def remember(self, memos: Mapping[str, Tensor]) -> None:
        """Called before ``after_step`` of a step that left memos, so that memories are alike on all ranks.

        Args:
            memos: rows of each ``Memo``, of all ranks and micro-batches one below the other. Their order depends on how
                cases are spread over ranks: add them up, or sort them.
        """

    def after_step(self, progress: Progress) -> None:
        """Called once after the optimisers have stepped: averages of weights and the like.

        Args:
            progress: steps done before this one.
        """

    def diagnose(self, present_BR: Bool[Tensor, "B R"], judged_BR: Bool[Tensor, "B R"]) -> dict[str, Monitor]:
        """What hidden labels say of the last step's decisions. For the log only: nothing of it may be kept.

        Args:
            present_BR: whether the ROI is in the patch.
            judged_BR: unknown to the method, but annotated in the manifest and hidden by the recipe.
        """
        return {}

    def parameters_of(self, player: str) -> Iterator[nn.Parameter]:
        """The trainable parameters of a player."""
        others = [p for p in self.players if p != "main"]
        for name, parameter in self.named_parameters():
            owner = next((p for p in others if name.split(".")[0] == p), "main")
            if owner == player and parameter.requires_grad:
                yield parameter

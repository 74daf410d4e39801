"""What every classifier of patches offers. Axes: B cases, C channels, R outputs, Z Y X voxels, z y x cells."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.networks.network import Size


class Classifier(nn.Module, ABC):
    """One logit per output for a whole patch, each its own sigmoid; ``forward`` is ``classify(encode(x))``.

    Subclasses are final, own a frozen ``Config`` and are made as ``Net(config, in_channels=..., num_outputs=...)``.
    """

    Config: ClassVar[type[Any]]
    num_outputs: int

    @abstractmethod
    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B D z y x"]:
        """The last map before pooling."""

    @abstractmethod
    def classify(self, map_BDzyx: Float[Tensor, "B D z y x"]) -> Float[Tensor, "B R"]:
        """Logits of the pooled map."""

    @abstractmethod
    def check_patch(self, patch_ZYX: Size) -> None:
        """Refuse a patch that is too small.

        Raises:
            UserError: names the patch and the smallest side.
        """

    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R"]:
        """Logits of a patch."""
        return self.classify(self.encode(x_BCZYX))

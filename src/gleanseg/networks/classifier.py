"""What every classifier of patches offers. Axes: B cases, C channels, F features, K outputs, Z Y X voxels."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn


class Classifier(nn.Module, ABC):
    """One logit per output for a whole patch, each its own sigmoid; ``forward`` is ``classify(encode(x))``.

    Subclasses are final, own a frozen ``Config`` and are made as ``Net(config, in_channels=..., num_outputs=...)``.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B F Z2 Y2 X2"]:
        """The last feature map.

        Raises:
            UserError: the patch is too small.
        """

    @abstractmethod
    def classify(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K"]:
        """Logits of the patch from ``encode``'s map."""

    @abstractmethod
    def heat_map(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K Z Y X"]:
        """What each voxel of ``encode``'s map says."""

    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B K"]:
        """Logits of the patch."""
        return self.classify(self.encode(x_BCZYX))

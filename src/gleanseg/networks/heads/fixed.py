"""The head of most networks: a row of weights per ROI.

Axes: B cases, C channels, R ROIs, Z Y X voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.networks.head import Head, Rois


@final
class FixedHead(Head):
    """A 1x1x1 convolution: one row of weights per ROI.

    Args:
        channels: of the last map.
        num_rois: R.
    """

    linear = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """There is nothing to choose."""

    def __init__(self, channels: int, num_rois: int) -> None:
        super().__init__()
        self.classifier = nn.Conv3d(channels, num_rois, 1)
        self.start_at_prior()

    def start_at(self, logit: float) -> None:
        """See ``Head``."""
        assert self.classifier.bias is not None
        nn.init.constant_(self.classifier.bias, logit)

    def features(
        self, encoded: Sequence[Tensor], last_BCZYX: Float[Tensor, "B C Z Y X"]
    ) -> tuple[Float[Tensor, "B ..."], ...]:
        """The last map itself."""
        return (last_BCZYX,)

    def score(self, features: tuple[Float[Tensor, "B ..."], ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """See ``Head``."""
        weight, bias = self.classifier.weight, self.classifier.bias
        assert bias is not None, "the head has a bias"
        if rois is None:
            return functional.conv3d(features[0], weight, bias)
        weight, bias = weight[rois], bias[rois]
        if torch.is_grad_enabled() or not features[0].is_contiguous():
            return functional.conv3d(features[0], weight, bias)
        return _of_few(features[0], weight, bias)


def _of_few(
    maps_BCZYX: Float[Tensor, "B C Z Y X"], weight_RC111: Float[Tensor, "R C 1 1 1"], bias_R: Float[Tensor, " R"]
) -> Float[Tensor, "B R Z Y X"]:
    """The convolution as a matrix product, on processors several times as fast for a few ROIs of many voxels."""
    (B, C, *size_ZYX), R = maps_BCZYX.shape, len(bias_R)
    weight_BRC = weight_RC111.view(1, R, C).expand(B, R, C)
    return torch.baddbmm(bias_R[:, None], weight_BRC, maps_BCZYX.view(B, C, -1)).view(B, R, *size_ZYX)

"""The abstract head: from a network's maps to one logit per ROI.

Axes: B cases, C channels, R ROIs, Z Y X voxels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

PRIOR = 0.02
"""Probability that a fresh head gives to every ROI, about.

An ROI fills about 2 % of a patch. Heads that start at 50 % spend their first hundreds of steps on unlearning it, in
which Dice has next to no gradient (Lin et al., Focal Loss, ICCV 2017, section 4.1).
"""
Rois = slice | Int[Tensor, " r"] | None
"""Some of the ROIs, by position; None: all."""
PRIOR_LOGIT = log(PRIOR / (1 - PRIOR))


class Head(nn.Module, ABC):
    """Two steps, so that a predictor or a loss can score few ROIs at a time: ``features`` once, ``score`` often.

    Attributes:
        linear: ``score`` is affine in the single feature map at each voxel, so it commutes with resampling and
            averaging of that map.
    """

    linear: ClassVar[bool]
    Config: ClassVar[type[Any]]

    @abstractmethod
    def features(
        self, encoded: Sequence[Tensor], last_BCZYX: Float[Tensor, "B C Z Y X"]
    ) -> tuple[Float[Tensor, "B ..."], ...]:
        """All that ``score`` needs.

        Args:
            encoded: the encoder's maps, bottleneck last.
            last_BCZYX: a decoder's map at full resolution.
        """

    @abstractmethod
    def score(self, features: tuple[Float[Tensor, "B ..."], ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs, or of some."""

    @abstractmethod
    def start_at(self, logit: float) -> None:
        """Set the biases such that a fresh head gives every ROI this logit, about."""

    def start_at_prior(self) -> None:
        """Give every ROI ``PRIOR``; networks that initialise all their convolutions alike call this afterwards."""
        self.start_at(PRIOR_LOGIT)

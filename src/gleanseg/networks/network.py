"""What every network offers, so that methods attach heads, text and further decoders from outside.

Axes: B cases, C channels, R ROIs, Z Y X voxels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.errors import UserError

Size = tuple[int, int, int]
PRIOR = 0.02
"""Probability that a fresh network gives to every ROI, about."""


class Network(nn.Module, ABC):
    """Encoder, decoder and a linear head with one logit per ROI, each its own sigmoid.

    ``forward`` is ``head(decode(encode(x))[-1])``. Subclasses are final, own a frozen ``Config`` and are made as
    ``Net(config, in_channels=..., num_rois=...)``; ``dataclasses.asdict(net.config)`` are options that rebuild it.

    Args:
        config: the options this network was made from, with everything planned filled in.
        channels: see ``channels``.
        strides: see ``strides``.
        num_rois: number of logits.

    Attributes:
        channels: of ``encode``'s maps, finest first.
        strides: voxels of the input per voxel of each of ``encode``'s maps, (Z, Y, X).
        decoder_channels: of ``decode``'s maps, coarsest first, full resolution last. Map i lies on the grid of
            ``encode``'s map ``-2 - i``.
        linear_head: ``head`` is affine in ``decode``'s last map at each voxel, so it commutes with resampling and
            averaging of that map.
    """

    Config: ClassVar[type[Any]]
    linear_head: bool = True

    def __init__(self, config: object, *, channels: Sequence[int], strides: Sequence[Size], num_rois: int) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.decoder_channels = self.channels[-2::-1]
        self.num_rois = num_rois
        self.classifier = nn.Conv3d(self.decoder_channels[-1], num_rois, 1)
        # An ROI fills about 2 % of a patch. Heads that start at 50 % spend their first hundreds of steps on unlearning
        # it, in which Dice has next to no gradient (Lin et al., Focal Loss, ICCV 2017, section 4.1).
        assert self.classifier.bias is not None
        nn.init.constant_(self.classifier.bias, log(PRIOR / (1 - PRIOR)))

    @classmethod
    def planned(cls, config: Any, *, patch_ZYX: Size, spacing_ZYX_mm: tuple[float, float, float]) -> Any:
        """Replace every ``"auto"`` of a config by what suits the patch and voxel size; by default there is none."""
        return config

    @abstractmethod
    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> list[Tensor]:
        """Maps of the image, finest first and bottleneck last, with ``channels`` and ``strides``.

        Raises:
            UserError: the patch is not one this network can take.
        """

    @abstractmethod
    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps on the way up, coarsest first and full resolution last, with ``decoder_channels``."""

    @abstractmethod
    def new_decoder(self) -> nn.Module:
        """A freshly initialised module of its own that maps ``encode``'s list as ``decode`` does."""

    def head(self, map_BCZYX: Float[Tensor, "B C Z Y X"], rois: slice | None = None) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs, or of those in ``rois``, from ``decode``'s last map."""
        weight, bias = self.classifier.weight, self.classifier.bias
        assert bias is not None, "the head has a bias"
        if rois is not None:
            weight, bias = weight[rois], bias[rois]
        return functional.conv3d(map_BCZYX, weight, bias)

    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs at every voxel of the input."""
        return self.head(self.decode(self.encode(x_BCZYX))[-1])

    def features(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        """All that ``score`` needs, batch axis first; a predictor keeps these instead of logits of every ROI."""
        return (self.decode(self.encode(x_BCZYX))[-1],)

    def score(self, features: tuple[Tensor, ...], rois: slice | None = None) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs, or of those in ``rois``, from ``features``."""
        return self.head(features[0], rois)

    @property
    def divisor(self) -> Size:
        """Each side of a patch must be a multiple of this, (Z, Y, X)."""
        z, y, x = self.strides[-1]
        return z, y, x

    def legal_patch(self, patch_ZYX: Size) -> Size:
        """The patch this network takes that is nearest to ``patch_ZYX``; ties become larger.

        Sides are multiples of ``divisor``, and the bottleneck has at least two voxels (one has no variance).
        """
        z, y, x = (d * max(1, (2 * side + d) // (2 * d)) for side, d in zip(patch_ZYX, self.divisor, strict=True))
        if (z, y, x) != self.divisor:
            return z, y, x
        return z, y, 2 * x

    def check_patch(self, patch_ZYX: Size) -> None:
        """Refuse a patch this network cannot take.

        Raises:
            UserError: names the patch and the nearest legal one, as x, y, z.
        """
        legal = self.legal_patch(patch_ZYX)
        if legal == patch_ZYX:
            return
        name = type(self).__name__
        raise UserError(
            f"patch {_xyz(patch_ZYX)} (x, y, z): {name} needs multiples of {_xyz(self.divisor)}, and more "
            f"than {_xyz(self.divisor)} itself; use {_xyz(legal)}"
        )

    def _check_input(self, x_BCZYX: Tensor) -> None:
        z, y, x = x_BCZYX.shape[2:]
        self.check_patch((z, y, x))


def _xyz(size_ZYX: Size) -> str:
    return "x".join(str(side) for side in reversed(size_ZYX))

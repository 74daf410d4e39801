"""What every network offers, so that methods attach heads, text and further decoders from outside.

Axes: B cases, C channels, R ROIs, Z Y X voxels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.fusion import TextFusion
from gleanseg.networks.head import Head, Rois
from gleanseg.networks.heads.fixed import FixedHead

Size = tuple[int, int, int]


class Network(nn.Module, ABC):
    """Encoder, decoder and a head with one logit per ROI, each its own sigmoid.

    Without text, ``forward`` is ``logits(maps, decode(maps)[-1])`` of ``maps = encode(x)``.

    Subclasses are final, own a frozen ``Config`` and are made as
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
        decoder: what ``decode`` runs, laid out as ``new_decoder``'s.
        head: a ``FixedHead``, or what ``attach`` put in its place.
        text: what ``add_text`` put there, or None.
    """

    Config: ClassVar[type[Any]]
    decoder: nn.Module

    def __init__(self, config: object, *, channels: Sequence[int], strides: Sequence[Size], num_rois: int) -> None:
        super().__init__()
        self.config = config
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.decoder_channels = self.channels[-2::-1]
        self.num_rois = num_rois
        self.head: Head = FixedHead(self.decoder_channels[-1], num_rois)
        self.text: TextFusion | None = None

    def attach(self, head: Head) -> None:
        """Exchange the head; it must read this network's bottleneck and last map."""
        self.head = head

    def add_text(self, text: TextFusion) -> None:
        """Let language knowledge act on the bottleneck in ``features`` and ``forward``.

        Raises:
            UserError: ``at = "pre-activation"``, and this network has no activation at the end of its encoder.
        """
        self.text = text
        if text.config.at == "pre-activation":
            activation = self.last_activation
            if activation is None:
                raise UserError(
                    f"[text] at = 'pre-activation': {type(self).__name__} has no activation at the end of its encoder; "
                    f"use 'latent'"
                )
            # A bound method, so that copies of the network call their own text.
            activation.register_forward_pre_hook(text.before_activation)

    @property
    def last_activation(self) -> nn.Module | None:
        """The activation that ends the bottleneck, if there is one."""
        return None

    @property
    def linear_head(self) -> bool:
        """See ``Head.linear``."""
        return type(self.head).linear

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

    def logits(self, encoded: Sequence[Tensor], last_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs from ``encode``'s maps and the last map of any decoder."""
        return self.head.score(self.head.features(encoded, last_BCZYX))

    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs at every voxel of the input."""
        return self.score(self.features(x_BCZYX))

    def features(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        """All that ``score`` needs, batch axis first; a predictor keeps these instead of logits of every ROI."""
        maps = self.encoded(x_BCZYX)
        return self.head.features(maps, self.decode(maps)[-1])

    def encoded(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> list[Tensor]:
        """``encode``, with what the text says at the bottleneck."""
        maps = self.encode(x_BCZYX)
        if self.text is not None and self.text.config.at == "latent":
            maps = [*maps[:-1], self.text(maps[-1])]
        return maps

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """Logits of all ROIs, or of those in ``rois``, from ``features``."""
        return self.head.score(features, rois)

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

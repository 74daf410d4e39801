"""The V-Net that the semi-supervised literature compares with (Left Atrium, Pancreas-CT)."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.networks.blocks import Norm, Rate, Width, last_relu, make_norm, units
from gleanseg.networks.network import Network
from gleanseg.networks.resnet34 import ResNet34Encoder

_ENCODER_UNITS = (1, 2, 3, 3, 3)
_DECODER_UNITS = (3, 3, 2, 1)


@final
class VNet(Network):
    """Five levels, strided convolutions down and transposed ones up, encoder maps added (not concatenated).

    With one channel, two outputs and defaults: 9,448,866 parameters, as the line of work around UA-MT, SASSNet, DTC
    and MC-Net; with ``norm="instance"`` 9,443,266, as its instance-norm variant; with ``encoder="resnet34"``
    17,930,354, as MCF's second network. Weights start as PyTorch's defaults. Drop-out acts on the bottleneck (not on
    that of the residual encoder) and on the last decoder map, so heads that methods attach see the same dropped map.

    Paper: Milletari et al., V-Net, 3DV 2016, https://arxiv.org/abs/1606.04797
    Deviations (those of the line of work above): units are not residual, 3x3x3 kernels, normalization and ReLU.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the recipe's ``[network]`` table."""

        width: Width = 16
        """Channels at full resolution; each level doubles them."""
        norm: Norm = "batch"
        """``batch``, or ``instance`` without learned parameters (batches of one or two)."""
        dropout: Rate = 0.5
        """Share of channels dropped at the bottleneck and before the head, in [0, 1)."""
        encoder: Literal["plain", "resnet34"] = "plain"
        """``resnet34``: residual blocks behind a 7x7x7 stem, and no drop-out at the bottleneck."""

    def __init__(self, config: Config, *, in_channels: int, num_rois: int) -> None:
        channels = [config.width * 2**level for level in range(5)]
        super().__init__(
            config,
            channels=channels,
            strides=[(2**level, 2**level, 2**level) for level in range(5)],
            num_rois=num_rois,
        )
        self.norm, self.dropout_rate = config.norm, config.dropout
        self.encoder: nn.Module
        if config.encoder == "plain":
            self.encoder = _Encoder(in_channels, channels, norm=config.norm, dropout=config.dropout)
        else:
            self.encoder = ResNet34Encoder(in_channels, channels, norm=config.norm)
        self.decoder = self.new_decoder()

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> list[Tensor]:
        """Five maps; see ``Network.encode``."""
        self._check_input(x_BCZYX)
        maps: list[Tensor] = self.encoder(x_BCZYX)
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """Four maps; see ``Network.decode``."""
        decoded: list[Tensor] = self.decoder(maps)
        return decoded

    @property
    def last_activation(self) -> nn.Module | None:
        """The bottleneck's last ReLU."""
        return last_relu(self.encoder)

    def new_decoder(self) -> nn.Module:
        """Another decoder of the same layout."""
        return _Decoder(self.channels, norm=self.norm, dropout=self.dropout_rate)


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, channels: list[int], *, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(fine, coarse, 2, stride=2), make_norm(norm, coarse), nn.ReLU(inplace=True))
            for fine, coarse in pairwise(channels)
        )
        first = [in_channels, *channels[1:]]
        self.levels = nn.ModuleList(
            units(num, cin, cout, norm=norm) for num, cin, cout in zip(_ENCODER_UNITS, first, channels, strict=True)
        )
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.levels[0](x)]
        for down, level in zip(self.downs, list(self.levels)[1:], strict=True):
            maps.append(level(down(maps[-1])))
        return [*maps[:-1], self.dropout(maps[-1])]


class _Decoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], *, norm: Norm, dropout: float) -> None:
        super().__init__()
        up = channels[::-1]
        self.ups = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(coarse, fine, 2, stride=2), make_norm(norm, fine), nn.ReLU(inplace=True))
            for coarse, fine in pairwise(up)
        )
        self.levels = nn.ModuleList(
            units(num, fine, fine, norm=norm) for num, fine in zip(_DECODER_UNITS, up[1:], strict=True)
        )
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, decoded = maps[-1], []
        for up, level, skip in zip(self.ups, self.levels, maps[-2::-1], strict=True):
            x = level(up(x) + skip)
            decoded.append(x)
        return [*decoded[:-1], self.dropout(x)]

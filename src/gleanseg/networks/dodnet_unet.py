"""The residual U-Net of DoDNet, without its dynamic head."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.networks.blocks import StandardizedConv3d
from gleanseg.networks.network import Network
from gleanseg.networks.upsampling import Upsample

_GROUPS = 16
_CHANNELS = (1, 2, 4, 8, 8)
"""Multiples of the width, finest first."""
_BLOCKS = (1, 2, 2, 2, 2)


@final
class DoDNetUNet(Network):
    """Pre-activated residual blocks, group norm, weight standardization, trilinear upsampling, encoder maps added.

    With one channel and defaults: 17,285,920 parameters without the head, as DoDNet's stem, stages, fusion and
    decoder. DoDNet's dynamic head takes the bottleneck (its fused map, 256 channels) and the last decoder map (32).
    Weights start as PyTorch's defaults; standardization takes their scale out.

    Paper: Zhang et al., DoDNet, CVPR 2021, https://arxiv.org/abs/2011.10217
    Deviations:
        1. The last decoder map is group-normalized without learned parameters. The dynamic head's own group norm makes
           that invisible, and a plain head needs it: standardized filters without a gain let residual sums grow.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the recipe's ``[network]`` table."""

        width: Annotated[int, Field(gt=0, multiple_of=_GROUPS)] = 32
        """Channels at full resolution, a multiple of 16 (groups of the norm); each level but the last doubles them."""

    def __init__(self, config: Config, *, in_channels: int, num_rois: int) -> None:
        channels = [config.width * factor for factor in _CHANNELS]
        super().__init__(
            config,
            channels=channels,
            strides=[(2**level, 2**level, 2**level) for level in range(len(channels))],
            num_rois=num_rois,
        )
        # Blocks narrow after the sum, so a decoder map has the channels of the finer level's sum.
        self.decoder_channels = (*self.channels[-3::-1], self.channels[0])
        self.encoder = _Encoder(in_channels, channels)
        self.decoder = self.new_decoder()

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> list[Tensor]:
        """Five maps, the last one fused; see ``Network.encode``."""
        self._check_input(x_BCZYX)
        maps: list[Tensor] = self.encoder(x_BCZYX)
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """Four maps; see ``Network.decode``."""
        decoded: list[Tensor] = self.decoder(maps)
        return decoded

    def new_decoder(self) -> nn.Module:
        """Another decoder of the same layout."""
        return _Decoder((self.channels[-1], *self.decoder_channels))


class _Block(nn.Module):
    """Norm, ReLU, convolution, twice, plus the input (through norm, ReLU and 1x1x1 where the shape changes)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_activated(in_channels, out_channels, kernel=3, stride=stride),
            *_activated(out_channels, out_channels, kernel=3),
        )
        same = stride == 1 and in_channels == out_channels
        projection = _activated(in_channels, out_channels, kernel=1, stride=stride)
        self.shortcut = nn.Identity() if same else nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stem = StandardizedConv3d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stages = nn.ModuleList(
            nn.Sequential(
                _Block(cin, cout, stride=2 if level else 1), *(_Block(cout, cout) for _ in range(_BLOCKS[level] - 1))
            )
            for level, (cin, cout) in enumerate(pairwise([channels[0], *channels]))
        )
        self.fusion = nn.Sequential(*_activated(channels[-1], channels[-1], kernel=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[:-1], self.fusion(x)]


class _Decoder(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.ups = nn.ModuleList(Upsample(wide) for wide in channels[:-1])
        self.levels = nn.ModuleList(_Block(wide, narrow) for wide, narrow in pairwise(channels))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, decoded = maps[-1], []
        for up, level, skip in zip(self.ups, self.levels, maps[-2::-1], strict=True):
            x = level(up(x) + skip)
            decoded.append(x)
        return [*decoded[:-1], functional.group_norm(x, _GROUPS)]


def _activated(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Norm, ReLU, convolution without bias."""
    conv = StandardizedConv3d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [nn.GroupNorm(_GROUPS, in_channels), nn.ReLU(inplace=True), conv]

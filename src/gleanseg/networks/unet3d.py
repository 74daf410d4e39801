"""The 3D U-Net that the semi-supervised literature compares with (BraTS 2019); a good default for newcomers."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.networks.blocks import Dropout, Rate, Width, last_relu, units
from gleanseg.networks.network import Network
from gleanseg.networks.upsampling import Upsample


@final
class UNet3D(Network):
    """Max-pooling down, trilinear interpolation up, encoder maps concatenated, instance norm without parameters.

    With one channel, two outputs and defaults: 5,884,050 parameters, as SSL4MIS. Convolutions start Kaiming-normal
    (fan-in), biases as PyTorch's defaults. Drop-out (of single elements) acts on the bottleneck and on the last decoder
    map, so heads that methods attach see the same dropped map.

    Paper: Cicek et al., 3D U-Net, MICCAI 2016, https://arxiv.org/abs/1606.06650
    Deviations (those of SSL4MIS): instance norm, five levels from 16 channels, interpolation instead of transposed
    convolutions, drop-out.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the recipe's ``[network]`` table."""

        width: Width = 16
        """Channels at full resolution; each level doubles them."""
        levels: Annotated[int, Field(ge=2, le=8)] = 5
        """Resolutions; sides of a patch must be multiples of 2^(levels - 1)."""
        dropout: Rate = 0.3
        """Share of elements dropped at the bottleneck and before the head, in [0, 1)."""

    def __init__(self, config: Config, *, in_channels: int, num_rois: int) -> None:
        channels = [config.width * 2**level for level in range(config.levels)]
        super().__init__(
            config,
            channels=channels,
            strides=[(2**level, 2**level, 2**level) for level in range(config.levels)],
            num_rois=num_rois,
        )
        self.dropout_rate = config.dropout
        self.encoder = _Encoder(in_channels, channels, dropout=config.dropout)
        self.decoder = self.new_decoder()
        self.apply(_initialize)

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> list[Tensor]:
        """One map per level; see ``Network.encode``."""
        self._check_input(x_BCZYX)
        maps: list[Tensor] = self.encoder(x_BCZYX)
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """One map per level but the bottleneck; see ``Network.decode``."""
        decoded: list[Tensor] = self.decoder(maps)
        return decoded

    @property
    def last_activation(self) -> nn.Module | None:
        """The bottleneck's last ReLU."""
        return last_relu(self.encoder)

    def new_decoder(self) -> nn.Module:
        """Another decoder of the same layout."""
        return _Decoder(self.channels, dropout=self.dropout_rate).apply(_initialize)


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, channels: list[int], *, dropout: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            units(2, cin, cout, norm="instance") for cin, cout in zip([in_channels, *channels], channels, strict=False)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.levels[0](x)]
        for level in list(self.levels)[1:]:
            maps.append(level(functional.max_pool3d(maps[-1], 2)))
        return [*maps[:-1], self.dropout(maps[-1])]


class _Decoder(nn.Module):
    def __init__(self, channels: tuple[int, ...], *, dropout: float) -> None:
        super().__init__()
        up = channels[::-1]
        self.ups = nn.ModuleList(Upsample(coarse) for coarse in up[:-1])
        self.levels = nn.ModuleList(units(2, coarse + fine, fine, norm="instance") for coarse, fine in pairwise(up))
        self.dropout = Dropout(dropout)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, decoded = maps[-1], []
        for up, level, skip in zip(self.ups, self.levels, maps[-2::-1], strict=True):
            x = level(torch.cat([skip, up(x)], dim=1))
            decoded.append(x)
        return [*decoded[:-1], self.dropout(x)]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight)

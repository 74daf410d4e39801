"""nnU-Net's plain convolutional U-Net, from ``dynamic-network-architectures``."""

from dataclasses import dataclass
from typing import Any, final

from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.networks import nnunet
from gleanseg.networks.blocks import last_relu
from gleanseg.networks.network import Network, Size

_CONVS = (2,)


@final
class PlainUNet(Network):
    """Two convolutions per level, strided ones down and transposed ones up, encoder maps concatenated.

    Paper: Isensee et al., nnU-Net, Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z
    Deviations:
        1. No head per level: deep supervision is a method's matter, which attaches heads to ``decode``'s maps.
        2. Instance norm keeps channels-last memory; its values are the same.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(nnunet.UNetConfig):
        """Options of the recipe's ``[network]`` table."""

    def __init__(self, config: Config, *, in_channels: int, num_rois: int) -> None:
        shape = nnunet.shape_of(config, blocks=_CONVS)
        super().__init__(config, channels=shape.features, strides=shape.strides, num_rois=num_rois)
        arguments = nnunet.encoder_arguments(shape, in_channels=in_channels, dropout=config.dropout)
        self.encoder = PlainConvEncoder(n_conv_per_stage=list(shape.blocks), **arguments)
        self.decoder = self.new_decoder()
        nnunet.initialize(self.encoder)
        nnunet.initialize(self.head)
        self.head.start_at_prior()

    @classmethod
    def planned(cls, config: Any, *, patch_ZYX: Size, spacing_ZYX_mm: tuple[float, float, float]) -> Any:
        """Fill in automatic strides and kernels; see ``planning.plan``."""
        return nnunet.planned(config, patch_ZYX=patch_ZYX, spacing_ZYX_mm=spacing_ZYX_mm)

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
        """The bottleneck's last leaky ReLU."""
        return last_relu(self.encoder)

    def new_decoder(self) -> nn.Module:
        """Another decoder of the same layout."""
        return nnunet.SkipDecoder(self.encoder, num_convs=_CONVS[0])

"""What our two networks of ``dynamic-network-architectures`` share: options, planning, decoder, initialization."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Any, Literal, TypeVar

import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from pydantic import Field
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.blocks import Conv3d, InstanceNorm, Rate, Width
from gleanseg.networks.network import Size
from gleanseg.networks.planning import check_levels, plan

Factor = Annotated[int, Field(ge=1, le=8)]
Kernel = Annotated[int, Field(ge=1, le=7)]


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Options of the recipe's ``[network]`` table; ``auto`` is planned from patch and voxel size."""

    width: Width = 32
    """Channels at full resolution; each level doubles them."""
    max_width: Width = 320
    """Bound of a level's channels."""
    strides: Literal["auto"] | tuple[tuple[Factor, Factor, Factor], ...] = "auto"
    """Step (x, y, z) of each level against the one above; the first is [1, 1, 1]."""
    kernels: Literal["auto"] | tuple[tuple[Kernel, Kernel, Kernel], ...] = "auto"
    """Kernel (x, y, z) of each level, odd; 3 everywhere when ``strides`` are given and ``kernels`` are not."""
    dropout: Rate = 0.0
    """Share of channels dropped after each convolution of a block, in [0, 1)."""


ConfigT = TypeVar("ConfigT", bound=UNetConfig)


def planned(config: ConfigT, *, patch_ZYX: Size, spacing_ZYX_mm: tuple[float, float, float]) -> ConfigT:
    """Fill in ``auto``.

    Raises:
        UserError: the patch is too small for two levels.
    """
    if config.strides != "auto":
        return config
    topology = plan(patch_ZYX, spacing_ZYX_mm)
    check_levels(topology.strides, patch_ZYX=patch_ZYX)
    kernels = tuple(k[::-1] for k in topology.kernels) if config.kernels == "auto" else config.kernels
    return replace(config, strides=tuple(s[::-1] for s in topology.strides), kernels=kernels)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers that ``dynamic-network-architectures`` wants, (Z, Y, X).

    Attributes:
        features: channels of each level.
        steps: stride of each level against the one above.
        kernels: of each level.
        blocks: convolutions or residual blocks of each level.
    """

    features: tuple[int, ...]
    steps: tuple[Size, ...]
    kernels: tuple[Size, ...]
    blocks: tuple[int, ...]

    @property
    def strides(self) -> tuple[Size, ...]:
        """Cumulative steps."""
        return tuple(accumulate(self.steps, lambda a, b: (a[0] * b[0], a[1] * b[1], a[2] * b[2])))


def shape_of(config: UNetConfig, *, blocks: Sequence[int]) -> Shape:
    """Turn options into numbers; ``blocks`` is continued with its last entry.

    Raises:
        UserError: strides are not planned, too few, or of another number than kernels.
    """
    if config.strides == "auto":
        raise UserError("[network] strides: 'auto' needs the patch and voxel size; give strides, or build with both")
    steps = tuple(step[::-1] for step in config.strides)
    check_levels(steps)
    kernels = tuple(k[::-1] for k in config.kernels) if config.kernels != "auto" else ((3, 3, 3),) * len(steps)
    if len(kernels) != len(steps):
        raise UserError(f"[network] kernels: expected one for each of {len(steps)} strides, found {len(kernels)}")
    if any(side % 2 == 0 for kernel in kernels for side in kernel):
        raise UserError(f"[network] kernels: sides must be odd, found {[list(k) for k in config.kernels]}")
    if steps[0] != (1, 1, 1):
        raise UserError(f"[network] strides: the first must be [1, 1, 1], found {list(config.strides[0])}")
    features = tuple(min(config.max_width, config.width * 2**level) for level in range(len(steps)))
    padded = tuple(blocks[min(level, len(blocks) - 1)] for level in range(len(steps)))
    return Shape(features=features, steps=steps, kernels=kernels, blocks=padded)


def encoder_arguments(shape: Shape, *, in_channels: int, dropout: float) -> dict[str, Any]:
    """What both encoders take; nnU-Net's choices of norm and activation."""
    return {
        "input_channels": in_channels,
        "n_stages": len(shape.steps),
        "features_per_stage": list(shape.features),
        "conv_op": Conv3d,
        "kernel_sizes": [list(k) for k in shape.kernels],
        "strides": [list(s) for s in shape.steps],
        "conv_bias": True,
        "norm_op": InstanceNorm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": nn.Dropout3d if dropout else None,
        "dropout_op_kwargs": {"p": dropout} if dropout else None,
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "return_skips": True,
    }


class SkipDecoder(nn.Module):
    """The package's decoder without its heads and without its reference to the encoder; gives all maps.

    Args:
        encoder: tells channels, strides and kernels; not kept.
        num_convs: convolutions per level.
    """

    def __init__(self, encoder: PlainConvEncoder | ResidualEncoder, *, num_convs: int) -> None:
        super().__init__()
        whole = UNetDecoder(encoder, 1, num_convs, deep_supervision=False)
        self.transpconvs, self.stages = whole.transpconvs, whole.stages
        initialize(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps of the decoder, coarsest first, from the encoder's, finest first."""
        x, decoded = maps[-1], []
        for up, stage, skip in zip(self.transpconvs, self.stages, maps[-2::-1], strict=True):
            x = stage(torch.cat([up(x), skip], dim=1))
            decoded.append(x)
        return decoded


def initialize(module: nn.Module) -> None:
    """He weights, zero biases, last norm of a residual branch 0; then drop second names of the same module.

    The package registers each convolution under two names, which doubles it in ``state_dict()``.
    """
    module.apply(InitWeights_He(1e-2))
    module.apply(init_last_bn_before_add_to_0)
    for block in module.modules():
        if isinstance(block, ConvDropoutNormReLU):
            for name in ("conv", "dropout", "norm", "nonlin"):
                block._modules.pop(name, None)

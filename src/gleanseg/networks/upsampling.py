"""How decoders enlarge their maps, and giving a decoder another way.

Axes: B cases, C channels, Z Y X voxels.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.networks.blocks import Conv3d

Way = Literal["transposed", "trilinear", "nearest"]
"""A transposed convolution, or interpolation."""
WAYS: tuple[Way, ...] = get_args(Way)


class Upsample(nn.Module):
    """Interpolation as a module without state, so that ``enlarge_by`` finds it.

    Args:
        channels: of the map.
        factor: (Z, Y, X).
        way: how.
    """

    def __init__(
        self,
        channels: int,
        factor: tuple[int, ...] = (2, 2, 2),
        way: Literal["trilinear", "nearest"] = "trilinear",
    ) -> None:
        super().__init__()
        self.channels, self.factor, self.way = channels, factor, way

    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B C Z2 Y2 X2"]:
        """The map with as many times the voxels."""
        factor = tuple(float(f) for f in self.factor)
        aligned = False if self.way == "trilinear" else None
        enlarged = functional.interpolate(x_BCZYX, scale_factor=factor, mode=self.way, align_corners=aligned)
        if enlarged.requires_grad and not torch.compiler.is_compiling():
            enlarged.register_hook(_dense)  # type: ignore[no-untyped-call]
        return enlarged

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.channels}, factor={self.factor}, way={self.way}"


def _dense(slope_BCZYX: Tensor) -> Tensor:
    """Slopes that come back through a concatenation are a part of a larger map, which a processor would copy slowly.

    PyTorch takes a part of a channels-last map for channels-first, in the copy and in the backward pass after it.
    """
    last = slope_BCZYX.stride(1) == 1
    return slope_BCZYX.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


def way_of(decoder: nn.Module) -> Way | None:
    """How a decoder enlarges its maps; None where that is no module of its own."""
    for module in decoder.modules():
        if isinstance(module, Upsample):
            return module.way
        if isinstance(module, nn.ConvTranspose3d):
            return "transposed"
    return None


def enlarge_by(decoder: nn.Module, way: Way, *, kernel: Literal[1, 3] = 3) -> nn.Module:
    """Let a decoder enlarge its maps another way, in place; new convolutions start as PyTorch's defaults.

    A transposed convolution becomes interpolation and a convolution to its number of channels, which comes first where
    its kernel is 1 (the order then makes no difference but to time). Interpolation becomes the other kind of it, or a
    transposed convolution that keeps the number of channels. What comes after stays.

    Args:
        decoder: with modules ``nn.ConvTranspose3d`` or ``Upsample``.
        way: how; the decoder's own changes nothing.
        kernel: side of the convolution's kernel.
    """
    for name, child in decoder.named_children():
        if isinstance(child, nn.ConvTranspose3d):
            if way != "transposed":
                setattr(decoder, name, _interpolating(child, way, kernel=kernel))
        elif not isinstance(child, Upsample):
            enlarge_by(child, way, kernel=kernel)
        elif way == "transposed":
            # A kernel as large as the stride, so that the boxes of neighbours do not overlap.
            z, y, x = child.factor
            setattr(decoder, name, nn.ConvTranspose3d(child.channels, child.channels, (z, y, x), stride=(z, y, x)))
        else:
            setattr(decoder, name, Upsample(child.channels, child.factor, way))
    return decoder


def _interpolating(
    one: nn.ConvTranspose3d, way: Literal["trilinear", "nearest"], *, kernel: Literal[1, 3]
) -> nn.Sequential:
    convolution = Conv3d(one.in_channels, one.out_channels, kernel, padding=kernel // 2)
    if kernel == 1:
        return nn.Sequential(convolution, Upsample(one.out_channels, one.stride, way))
    return nn.Sequential(Upsample(one.in_channels, one.stride, way), convolution)

"""Building blocks that several networks share."""

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

Norm = Literal["batch", "instance"]
Width = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` with three of its faults on processors mended. Values are the same.

    Wrong gradients where bf16 is computed without matrix units: oneDNN 3.12 (PyTorch 2.13) gives garbage weight
    gradients there, and may corrupt memory, when the input has fewer planes (Z) than the kernel and the convolution
    pads them: two planes with 3x3x3. Such inputs, the lowest levels of a U-Net, are small; padding them beforehand
    takes another path.

    NaN out of nowhere where bf16 is computed with matrix units: strided convolutions of maps that are smaller than the
    kernel along some axis (256 channels of 2x4x2) read memory that nobody wrote. Every step of such small maps is
    computed, and the others left out.

    Slow prediction of single small patches: PyTorch keeps those away from oneDNN (``slow_conv3d``), three times slower.
    """

    def forward(self, input: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B D Z2 Y2 X2"]:
        """The convolution."""
        return self.convolve(input, self.weight)

    def convolve(
        self, input: Float[Tensor, "B C Z Y X"], weight: Float[Tensor, "D E K L M"]
    ) -> Float[Tensor, "B D Z2 Y2 X2"]:
        """The convolution with another weight in place of its own."""
        padding = self.padding
        assert not isinstance(padding, str), "padding is given as numbers"
        assert self.padding_mode == "zeros", "other borders need their own padding"
        if input.device.type == "cpu" and input.shape[2] < self.kernel_size[0] and padding[0] > 0:
            input = functional.pad(input, (0, 0, 0, 0, padding[0], padding[0]))
            padding = (0, *padding[1:])
        stride = self.stride
        if _misread(input, self.kernel_size) and max(stride) > 1:
            every = functional.conv3d(input, weight, self.bias, 1, padding, self.dilation, self.groups)
            return every[:, :, :: stride[0], :: stride[1], :: stride[2]]
        if _kept_from_onednn(input):
            found: Tensor = torch.ops.aten.mkldnn_convolution(
                input, weight, self.bias, padding, self.stride, self.dilation, self.groups
            )
            return found
        return functional.conv3d(input, weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _misread(input: Tensor, kernel_size: tuple[int, ...]) -> bool:
    """Whether oneDNN may read beyond this map, which is smaller than the kernel, in bf16."""
    in_bf16 = input.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    is_small = any(n < k for n, k in zip(input.shape[2:], kernel_size, strict=True))
    return input.device.type == "cpu" and in_bf16 and is_small


def _kept_from_onednn(input: Tensor) -> bool:
    """Whether PyTorch may convolve this with its own kernel; where gradients are wanted, theirs would stay slow."""
    return (
        len(input) == 1
        and input.device.type == "cpu"
        and input.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not is_traced()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def is_traced() -> bool:
    """Whether operations are recorded for a compiler, which wants PyTorch's usual ones."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


class StandardizedConv3d(Conv3d):
    """A convolution whose filters have mean 0 and variance 1 over their inputs and kernel; no gain is learned.

    Paper: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019,
    https://arxiv.org/abs/1903.10520
    """

    def forward(self, input: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B D Z2 Y2 X2"]:
        """The convolution with the standardized weight."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3, 4), keepdim=True)
        return self.convolve(input, (self.weight - mean) / (variance + 1e-12).sqrt())


class InstanceNorm(nn.Module):
    """Instance normalization that keeps the memory format; values as ``nn.InstanceNorm3d``.

    PyTorch's own kernel turns channels-last input into contiguous copies and returns them contiguous, which costs more
    than the normalization itself. The statistics of one sample are those of batch normalization over a batch of that
    sample alone, whose kernels know channels-last.

    Args:
        num_channels: of the input.
        eps: added to the variance.
        affine: learn a scale and a shift per channel.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, affine: bool = False) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B C Z Y X"]:
        """Zero mean and unit variance per sample and channel, then the learned scale and shift."""
        if is_traced():  # a compiler knows this form, and fuses it
            return functional.instance_norm(x_BCZYX, weight=self.weight, bias=self.bias, eps=self.eps)
        if x_BCZYX.device.type != "cpu" or torch.compiler.is_compiling():
            samples = [
                functional.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
                for sample in torch.tensor_split(x_BCZYX, len(x_BCZYX))
            ]
            return samples[0] if len(samples) == 1 else torch.cat(samples)
        # In single precision even where there is nothing to learn: without them statistics would be rounded to bf16.
        precision = torch.promote_types(x_BCZYX.dtype, torch.float32)
        weight = x_BCZYX.new_ones(self.num_channels, dtype=precision) if self.weight is None else self.weight
        bias = torch.zeros_like(weight) if self.bias is None else self.bias
        normalized: Tensor = _NormalizedOneByOne.apply(x_BCZYX, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        return normalized

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


class _NormalizedOneByOne(torch.autograd.Function):
    """Samples normalized into one tensor; taken apart and joined, they would be copied four times forth and back."""

    @staticmethod
    def forward(ctx: Any, x_BCZYX: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
        """See ``InstanceNorm``."""
        y_BCZYX = torch.empty_like(x_BCZYX)
        means, scales = (weight_C.new_empty(len(x_BCZYX), len(weight_C)) for _ in range(2))
        for x, y, mean, scale in zip(torch.split(x_BCZYX, 1), torch.split(y_BCZYX, 1), means, scales, strict=True):
            torch.ops.aten.native_batch_norm.out(
                x, weight_C, bias_C, None, None, True, 0.0, eps, out=y, save_mean=mean, save_invstd=scale
            )
        ctx.save_for_backward(x_BCZYX, weight_C, means, scales)
        ctx.eps = eps
        return y_BCZYX

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope_BCZYX: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Slopes of input, weight and bias."""
        x_BCZYX, weight_C, means, scales = ctx.saved_tensors
        found = torch.empty_like(x_BCZYX)
        of_weight, of_bias = torch.zeros_like(weight_C), torch.zeros_like(weight_C)
        parts = zip(
            torch.split(slope_BCZYX, 1), torch.split(x_BCZYX, 1), torch.split(found, 1), means, scales, strict=True
        )
        for slope, x, into, mean, scale in parts:
            one, weight, bias = torch.ops.aten.native_batch_norm_backward(
                slope, x, weight_C, None, None, mean, scale, True, ctx.eps, [True, True, True]
            )
            into.copy_(one)
            of_weight += weight
            of_bias += bias
        return found, of_weight, of_bias, None


def adopt(module: nn.Module) -> nn.Module:
    """Give a module that another package built our convolutions and instance norms; parameters stay its own.

    Values are the same: see ``Conv3d`` for what is wrong with PyTorch's, and ``InstanceNorm`` for what is slow.

    Args:
        module: changed in place; its instance norms have no learned parameters.
    """
    for name, child in module.named_children():
        if type(child) is nn.Conv3d:
            child.__class__ = Conv3d  # which adds no state: a new object would draw random weights for nothing
        elif type(child) is nn.InstanceNorm3d:
            assert not child.affine, "learned parameters would be lost"
            setattr(module, name, InstanceNorm(child.num_features, eps=child.eps))
        else:
            adopt(child)
    return module


class Dropout(nn.Module):
    """Drop single elements, as ``nn.Dropout``, at a third of its time on a CPU.

    There, drawing one number per element costs more than a convolution; this draws 64 bits for four elements. The rate
    is rounded to a multiple of 2^-16, and draws come from PyTorch's default generator.

    Args:
        rate: share of elements set to 0 in training mode, in [0, 1); the others grow to keep the mean.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B C Z Y X"]:
        """The input in evaluation mode, a random part of it in training mode."""
        if not self.training or self.rate == 0.0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return functional.dropout(x, self.rate)
        return x * _noise(x, round(self.rate * 2**16))

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"rate={self.rate}"


def _noise(like: Tensor, dropped: int) -> Tensor:
    """0 with probability ``dropped`` / 2^16, else what keeps the mean, in type and memory format of ``like``."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[: like.numel()] >= dropped - 2**15
    scaled = kept.to(like.dtype).mul_(2**16 / (2**16 - dropped))
    return scaled.as_strided(like.shape, torch.empty_like(like).stride())


def make_norm(kind: Norm, num_channels: int) -> nn.Module:
    """Batch normalization, or instance normalization without learned parameters."""
    return nn.BatchNorm3d(num_channels) if kind == "batch" else InstanceNorm(num_channels)


def unit(in_channels: int, out_channels: int, *, norm: Norm) -> nn.Sequential:
    """3x3x3 convolution with bias, normalization, ReLU."""
    return nn.Sequential(
        Conv3d(in_channels, out_channels, 3, padding=1), make_norm(norm, out_channels), nn.ReLU(inplace=True)
    )


def units(num: int, in_channels: int, out_channels: int, *, norm: Norm) -> nn.Sequential:
    """``num`` units after another; the first one changes the number of channels."""
    return nn.Sequential(*(unit(out_channels if i else in_channels, out_channels, norm=norm) for i in range(num)))


def last_relu(encoder: nn.Module) -> nn.Module:
    """The last ReLU, leaky or not, of an encoder whose modules are registered in the order they run."""
    return [m for m in encoder.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU)][-1]

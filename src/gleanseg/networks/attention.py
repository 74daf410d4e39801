"""Attention within windows, as the Swin transformer has it, without holding all of its weights at once.

Axes: B windows of all images, W windows of one image, N voxels of a window, S query, key and value, H heads, D channels
of a head, C = H D channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gleanseg.networks.blocks import is_traced

_PIECE_BYTES = 2**23
"""Weights that are made at once on a processor; they stay in its cache."""
_CLEARER = 100
"""Masks are -100; exp(-100) is a subnormal number, with which processors are slow; that of -10,000 is 0."""


class WindowAttention(nn.Module):
    """Attention within windows under a learned bias for relative positions; values as MONAI's.

    MONAI makes the weights of all windows, heads and pairs of voxels at once and keeps them for the backward pass:
    windows of 7x7x7 have 117,649 pairs, and a patch of 96x96x96 takes gigabytes. Here a few windows at a time are
    computed, and again in the backward pass. GPUs take PyTorch's fused kernel.

    Paper: Liu et al., Swin Transformer, ICCV 2021, https://arxiv.org/abs/2103.14030, section 3.2

    Args:
        other: MONAI's module; its parameters become this one's, under the same names.
    """

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.num_heads, self.scale = other.num_heads, other.scale
        self.relative_position_bias_table: nn.Parameter = other.relative_position_bias_table
        self.register_buffer("relative_position_index", other.relative_position_index)
        self.qkv, self.attn_drop, self.proj, self.proj_drop = other.qkv, other.attn_drop, other.proj, other.proj_drop

    def forward(self, x: Float[Tensor, "B N C"], mask: Float[Tensor, "W N N"] | None) -> Float[Tensor, "B N C"]:
        """Attended voxels.

        Args:
            x: windows, image by image.
            mask: added to the weights' logits, so that voxels see those of their own region only; None: they see all.
        """
        B, N, C = x.shape
        qkv_BNSHD = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        rate = self.attn_drop.p if self.training else 0.0
        if x.device.type != "cpu" or rate > 0 or is_traced() or torch.compiler.is_compiling():
            attended = self._at_once(qkv_BNSHD, mask, rate)
        else:
            attended = _InPieces.apply(qkv_BNSHD, self._bias(N), mask, self.scale)  # type: ignore[no-untyped-call]
        found: Tensor = self.proj_drop(self.proj(attended))
        return found

    def _bias(self, num_voxels: int) -> Float[Tensor, "H N N"]:
        index: Int[Tensor, "M M"] = self.get_buffer("relative_position_index")[:num_voxels, :num_voxels]
        return self.relative_position_bias_table[index.reshape(-1)].T.reshape(-1, *index.shape)

    def _at_once(self, qkv_BNSHD: Tensor, mask_WNN: Tensor | None, rate: float) -> Float[Tensor, "B N C"]:
        B, N, _, H, D = qkv_BNSHD.shape
        q, k, v = qkv_BNSHD.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self._bias(N)[None]
        if mask_WNN is not None:
            W = len(mask_WNN)
            bias = (bias + mask_WNN[:, None]).expand(B // W, W, H, N, N).reshape(B, H, N, N)
        found = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.to(q.dtype), dropout_p=rate, scale=self.scale
        )
        return found.transpose(1, 2).reshape(B, N, H * D)


class _InPieces(torch.autograd.Function):
    """A few windows at a time, whose weights fit the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_BNSHD: Float[Tensor, "B N S H D"],
        bias_HNN: Float[Tensor, "H N N"],
        mask_WNN: Float[Tensor, "W N N"] | None,
        scale: float,
    ) -> Float[Tensor, "B N C"]:
        """See ``WindowAttention``."""
        B, N, _, H, D = qkv_BNSHD.shape
        attended = qkv_BNSHD.new_empty(B, N, H, D)
        with torch.autocast("cpu", enabled=False):
            for piece, mask_BNN in _pieces(qkv_BNSHD, mask_WNN):
                q, k, v = _parts(qkv_BNSHD[piece], scale)
                weights = _weights(q, k, bias_HNN, mask_BNN)
                attended[piece] = (weights.to(v.dtype) @ v).transpose(1, 2)
        ctx.save_for_backward(qkv_BNSHD, bias_HNN, mask_WNN)
        ctx.scale = scale
        return attended.reshape(B, N, H * D)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope_BNC: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Slopes of query, key and value, and of the bias."""
        qkv_BNSHD, bias_HNN, mask_WNN = ctx.saved_tensors
        B, N, _, H, D = qkv_BNSHD.shape
        slope_BNHD = slope_BNC.reshape(B, N, H, D).to(qkv_BNSHD.dtype)
        found, of_bias = torch.empty_like(qkv_BNSHD), torch.zeros_like(bias_HNN).flatten()
        with torch.autocast("cpu", enabled=False):
            for piece, mask_BNN in _pieces(qkv_BNSHD, mask_WNN):
                q, k, v = _parts(qkv_BNSHD[piece], ctx.scale)
                weights = _weights(q, k, bias_HNN, mask_BNN)
                slope = slope_BNHD[piece].transpose(1, 2).contiguous()
                of_weights = (slope @ v.transpose(-2, -1)).to(weights.dtype)
                of_logits = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                of_bias.addmv_(of_logits.flatten(1).T, of_logits.new_ones(len(of_logits)))
                rounded, into = of_logits.to(q.dtype), found[piece].permute(2, 0, 3, 1, 4)
                into[0] = (rounded @ k).mul_(ctx.scale)
                into[1] = rounded.transpose(-2, -1) @ q
                into[2] = weights.to(q.dtype).transpose(-2, -1) @ slope
        return found, of_bias.reshape(bias_HNN.shape), None, None


def _pieces(qkv_BNSHD: Tensor, mask_WNN: Tensor | None) -> Iterator[tuple[slice, Tensor | None]]:
    """Windows that are computed together, and their masks where any of them hides anything; few do."""
    B, N, _, H, _ = qkv_BNSHD.shape
    size = max(1, _PIECE_BYTES // (4 * H * N * N))
    hides_W = torch.zeros(B, dtype=torch.bool) if mask_WNN is None else mask_WNN.flatten(1).any(1)
    for image in range(0, B, len(hides_W)):
        for i in range(0, len(hides_W), size):
            j = min(i + size, len(hides_W))
            mask = mask_WNN[i:j] if mask_WNN is not None and hides_W[i:j].any() else None
            yield slice(image + i, image + j), mask


def _parts(qkv_BNSHD: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled query, key and value, B H N D."""
    q, k, v = qkv_BNSHD.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
    return q * scale, k, v


def _weights(q: Tensor, k: Tensor, bias_HNN: Tensor, mask_BNN: Tensor | None) -> Float[Tensor, "B H N N"]:
    """In the precision of the bias."""
    logits = (q @ k.transpose(-2, -1)).to(bias_HNN.dtype).add_(bias_HNN)
    if mask_BNN is not None:
        logits.add_(mask_BNN[:, None], alpha=_CLEARER)
    return logits.softmax(-1)

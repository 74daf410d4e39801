"""What the machine at hand offers."""

import ctypes
import sys
from functools import cache

import torch
from torch import nn


def best_device() -> torch.device:
    """The first GPU, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is clearly faster than fp32 on ``device``: processors with AMX, NVIDIA Ampere and later.

    AVX512-BF16 alone does not count: a V-Net step took 1.09 times as long as in fp32
    (benchmarks/results/step_time.json), and oneDNN's weight gradients are wrong there for very flat maps.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def channels_last(module: nn.Module, *, bf16: bool) -> None:
    """Lay out the weights of 3D convolutions channels-last, the order in which they are computed fastest.

    Weights of one input channel count as contiguous in both layouts; only with the strides that ``to`` gives them does
    a convolution of a one-channel image make channels-last maps, too. That is left to bf16: on processors PyTorch's
    norms add up such maps in single precision, less exactly the larger they are, which bf16 rounds away.

    Args:
        module: changed in place.
        bf16: whether it is computed in bf16.
    """
    for parameter in module.parameters():
        if parameter.ndim == 5:
            one_channel = parameter.shape[1] == 1
            if bf16 or not one_channel:
                parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for the next step to use; once, and for good.

    glibc returns large blocks to the kernel at once, and the kernel hands out pages full of zeros at the next request:
    large patches spend much of a training step on that. The price is that a process never shrinks.

    Returns:
        whether the allocator is one that can be told; musl's and other systems' are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names in malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, -1), mallopt(top_pad, 64 * 2**20)])

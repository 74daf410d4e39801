import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from gleanseg.predict.hardware import best_device, channels_last, has_fast_bf16


def test_only_known_hardware_is_called_fast() -> None:
    assert not has_fast_bf16(torch.device("meta"))
    assert has_fast_bf16(torch.device("cpu")) == torch.cpu._is_amx_tile_supported()
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_channels_last_changes_the_order_in_memory_only() -> None:
    module = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Linear(4, 2))
    weight = module[0].weight
    before = weight.detach().clone()
    channels_last(module, bf16=False)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert weight.stride(1) == 1
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("in_channels", "bf16", "expected"), [(1, True, True), (1, False, False), (2, False, True)])
def test_maps_of_an_image_are_channels_last_from_the_first_convolution_on(
    in_channels: int, bf16: bool, expected: bool
) -> None:
    # In single precision norms add up channels-last maps less exactly, and the first one is the largest.
    convolution = nn.Conv3d(in_channels, 4, 3)
    channels_last(convolution, bf16=bf16)
    found = convolution(torch.randn(2, in_channels, 8, 8, 8))
    assert found.is_contiguous(memory_format=torch.channels_last_3d) is expected


_STEPS = """
import resource, sys
import torch
from torch import nn
from gleanseg.predict.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
net = nn.Sequential(nn.Conv3d(4, 4, 1), nn.ReLU())
x = torch.ones(1, 4, 136, 136, 136)  # maps of 40 MB, which glibc always gives back; of smaller ones it may keep some
faults = []
for step in range(4):
    net(x).mean().backward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-3])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is for glibc")
def test_freed_memory_is_used_again_instead_of_fetched() -> None:
    kept, fetched = (
        int(subprocess.run([sys.executable, "-c", _STEPS, how], capture_output=True, check=True, text=True).stdout)
        for how in ("keep", "leave")
    )
    assert kept < fetched / 3

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
    channels_last(module)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert weight.stride(1) == 1
    assert torch.equal(weight, before)

"""DoDNet's U-Net against its published counts and a plain transcription of its layout."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gleanseg import networks
from gleanseg.errors import UserError
from gleanseg.networks.network import Network


def made(**options: object) -> Network:
    torch.manual_seed(0)
    return networks.build("dodnet_unet", options, in_channels=1, num_rois=2)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_each_part() -> None:
    with torch.device("meta"):
        net = made()
    assert count(net.encoder.stem) == 864
    assert [count(stage) for stage in net.encoder.stages] == [55_424, 389_632, 1_557_504, 6_227_968, 7_145_984]
    assert count(net.encoder.fusion) == 66_048
    assert [count(level) for level in net.decoder.levels] == [1_361_152, 340_608, 85_312, 55_424]
    # The whole without controller, pre-classifier and norm of the pooled bottleneck.
    assert count(net) - count(net.head) == 17_329_528 - 42_768 - 328 - 512


def test_a_head_finds_what_it_needs() -> None:
    net = made()
    assert net.channels == (32, 64, 128, 256, 256)
    assert net.decoder_channels == (128, 64, 32, 32)
    assert net.strides[-1] == (16, 16, 16)


def activated(x: Tensor, part: nn.Module, stride: int = 1) -> Tensor:
    """Norm of 16 groups, ReLU, convolution with standardized filters, from the parameters of three modules."""
    norm, conv = part[0], part[2]
    flat = conv.weight.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=1, keepdim=True) + 1e-12).sqrt()
    weight = flat.reshape(conv.weight.shape)
    x = F.relu(F.group_norm(x, 16, norm.weight, norm.bias, eps=1e-5))
    return F.conv3d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def block(x: Tensor, module: nn.Module, stride: int = 1) -> Tensor:
    y = activated(activated(x, module.branch[:3], stride), module.branch[3:])
    return y + (x if isinstance(module.shortcut, nn.Identity) else activated(x, module.shortcut, stride))


def transcribed(net: Network, x: Tensor) -> Tensor:
    """The last decoder map as published, which is not normalized."""
    weight = net.encoder.stem.weight.flatten(1)
    weight = (weight - weight.mean(1, keepdim=True)) / (weight.var(1, keepdim=True) + 1e-12).sqrt()
    x = F.conv3d(x, weight.reshape(net.encoder.stem.weight.shape), padding=1)
    skips = []
    for stage, blocks, stride in zip(net.encoder.stages, (1, 2, 2, 2, 2), (1, 2, 2, 2, 2), strict=True):
        assert len(stage) == blocks
        for i, module in enumerate(stage):
            x = block(x, module, stride if i == 0 else 1)
        skips.append(x)
    x = activated(x, net.encoder.fusion)
    for level, skip in zip(net.decoder.levels, skips[-2::-1], strict=True):
        x = block(F.interpolate(x, scale_factor=2, mode="trilinear") + skip, level)
    return x


def test_forward_equals_the_transcription_under_a_dynamic_head() -> None:
    net = made(width=16).double().eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    x = torch.randn(2, 1, 16, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        published, ours = transcribed(net, x), net.features(x)[0]
        torch.testing.assert_close(ours, F.group_norm(published, 16), rtol=1e-9, atol=1e-9)
        # DoDNet's head starts with its own group norm, to which ours is invisible.
        weight, bias = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
        seen = [F.relu(F.group_norm(m, 16, weight, bias)) for m in (ours, published)]
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)


def test_a_plain_head_starts_small() -> None:
    logits = made(width=16)(torch.randn(1, 1, 32, 32, 32))
    assert logits.std() < 1
    assert logits.sigmoid().mean() < 0.1


def test_one_sample_does_not_see_the_other() -> None:
    net = made(width=16)
    x = torch.randn(2, 1, 16, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-3, atol=1e-4)


def test_width_is_a_multiple_of_the_groups() -> None:
    with pytest.raises(UserError, match="width: input should be a multiple of 16, found 24"):
        made(width=24)

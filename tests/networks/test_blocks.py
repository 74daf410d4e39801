from typing import Any

import pytest
import torch
from torch import nn

from gleanseg.networks.blocks import Conv3d, Dropout, InstanceNorm, StandardizedConv3d, adopt


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_conv_gradients_in_bf16(planes: int, stride: int, memory_format: torch.memory_format) -> None:
    """With two planes, PyTorch's own gives NaN or garbage within a few repetitions on some processors."""
    torch.manual_seed(0)
    conv = Conv3d(16, 16, 3, stride=stride, padding=1).to(memory_format=memory_format)
    x = torch.randn(2, 16, planes, 4, 4).bfloat16().float().to(memory_format=memory_format)
    conv.weight.data = conv.weight.data.bfloat16().float()
    wanted = torch.nn.functional.conv3d(x, conv.weight, conv.bias, stride=stride, padding=1)
    torch.testing.assert_close(conv(x), wanted)
    pull = torch.randn_like(wanted).bfloat16().float()
    (reference,) = torch.autograd.grad(wanted, conv.weight, pull)
    for _ in range(10):
        del_soon = [torch.full((n,), float("nan")) for n in (1_000, 7_000, 14_000, 100_000)]
        del del_soon  # so that memory that nobody writes holds NaN
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (grad,) = torch.autograd.grad(conv(x), conv.weight, pull.bfloat16())
        assert (grad - reference).norm() < 0.02 * reference.norm()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "groups": 2},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 1},
    ],
)
def test_single_patches_are_convolved_alike_without_gradients(
    options: dict[str, Any], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    conv, x = Conv3d(4, 6, **options), torch.randn(1, 4, 8, 6, 10).to(memory_format=memory_format)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), nn.Conv3d.forward(conv, x))


def test_standardized_filters_by_hand() -> None:
    """Filters 1, 2, 3 and 0, 0, 6 over one kernel of three voxels: unbiased variances 1 and 12."""
    conv = StandardizedConv3d(1, 2, (1, 1, 3), bias=False)
    conv.weight.data = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]).reshape(2, 1, 1, 1, 3)
    eye = torch.eye(3).reshape(3, 1, 1, 1, 3)
    root = 12**0.5
    expected = torch.tensor([[-1.0, 0.0, 1.0], [-2 / root, -2 / root, 4 / root]])
    torch.testing.assert_close(conv(eye).flatten(1).T, expected)
    conv.weight.data = 100 * conv.weight.data + 7
    torch.testing.assert_close(conv(eye).flatten(1).T, expected)


def test_standardized_filters_of_one_value_stay_finite() -> None:
    conv = StandardizedConv3d(2, 3, 3, padding=1)
    nn.init.ones_(conv.weight)
    out = conv(torch.randn(1, 2, 2, 4, 4))
    out.sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.isfinite().all()
    assert conv.bias is not None
    torch.testing.assert_close(out, conv.bias[None, :, None, None, None].expand_as(out))


def test_adopted_modules_keep_parameters_and_values() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.InstanceNorm3d(4, eps=1e-3))
    module = nn.Sequential(nn.Conv3d(2, 3, 1), inner, nn.ConvTranspose3d(4, 2, 2))
    x, parameters = torch.randn(2, 2, 2, 5, 5), list(module.parameters())
    expected = module(x)
    assert adopt(module) is module
    assert [type(m).__module__ for m in (module[0], *inner)] == ["gleanseg.networks.blocks"] * 3
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_norm_equals_pytorch(affine: bool, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(6, affine=affine), nn.InstanceNorm3d(6, affine=affine)
    if affine:
        assert ours.weight is not None
        assert ours.bias is not None
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
        theirs.load_state_dict(ours.state_dict())
    x = (torch.randn(3, 6, 5, 7, 4) * 3 + 10).to(memory_format=memory_format).requires_grad_()
    pull = torch.randn(3, 6, 5, 7, 4)
    found = ours(x)
    assert found.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(found, theirs(x), rtol=1e-5, atol=1e-5)
    found_grads = torch.autograd.grad(found, [x, *ours.parameters()], pull)
    wanted_grads = torch.autograd.grad(theirs(x), [x, *theirs.parameters()], pull)
    assert found_grads[0].is_contiguous(memory_format=memory_format)
    for grad, wanted in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def test_instance_norm_keeps_its_statistics_in_single_precision() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 16, 16, 16).to(torch.bfloat16)
    exact = nn.InstanceNorm3d(4)(x.float())
    error = (InstanceNorm(4)(x).float() - exact).abs()
    assert error.max() <= 2**-8 * exact.abs().max()  # a rounding to bf16, and no more


def test_instance_norm_is_the_same_in_evaluation_mode() -> None:
    x = torch.randn(2, 3, 4, 4, 4)
    norm = InstanceNorm(3)
    torch.testing.assert_close(norm.train()(x), norm.eval()(x), rtol=0, atol=0)
    assert norm(x).mean((2, 3, 4)).abs().max() < 1e-6
    assert (norm(x).var((2, 3, 4), correction=0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    y = Dropout(rate)(torch.ones(2, 8, 20, 30, 21))
    assert y.eq(0).float().mean().item() == pytest.approx(rate, abs=0.005)
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=2e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_gradient_follows_what_was_kept(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, 7).to(dtype).to(memory_format=memory_format).requires_grad_()
    y = Dropout(0.5)(x)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, torch.where(y != 0, 2.0, 0.0).to(dtype))
    # Neighbors are dropped independently of each other: about a quarter of all pairs.
    dropped = y.eq(0)
    assert (dropped[..., 1:] & dropped[..., :-1]).float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert (dropped[:, 1:] & dropped[:, :-1]).float().mean().item() == pytest.approx(0.25, abs=0.06)


def test_dropout_follows_the_seed_and_the_mode() -> None:
    x, drop = torch.ones(1, 2, 4, 4, 4), Dropout(0.5)
    torch.manual_seed(3)
    first = drop(x)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x))
    assert not torch.equal(first, drop(x))
    assert drop.eval()(x) is x


def test_strided_convolutions_of_small_maps_are_finite_in_bf16() -> None:
    torch.manual_seed(0)
    conv, x = Conv3d(256, 256, 3, stride=2, padding=1), torch.randn(5, 256, 2, 4, 2)
    wanted = conv(x)
    for _ in range(20):
        junk = [torch.full((n,), float("nan")) for n in (10**5, 10**6)]  # what unwritten memory then holds
        del junk
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = conv(x)
        torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.05)

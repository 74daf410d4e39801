"""What holds for every network of the room, and the published numbers of those that have some."""

import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gleanseg import networks
from gleanseg.errors import UserError
from gleanseg.networks.network import Network
from gleanseg.networks.unet3d import UNet3D
from gleanseg.networks.upsampling import Upsample
from gleanseg.networks.vnet import VNet
from gleanseg.resolve import names
from support.small_networks import SMALL, every_network, image, patch, small


def test_all_networks_are_tested() -> None:
    assert set(names("networks")) == set(SMALL)


@every_network
def test_maps_have_published_channels_and_strides(name: str) -> None:
    net = small(name)
    maps = net.encode(image(name))
    for found, channels, stride in zip(maps, net.channels, net.strides, strict=True):
        assert found.shape == (2, channels, *(side // s for side, s in zip(patch(name), stride, strict=True)))
    decoded = net.decode(maps)
    for found, channels, stride in zip(decoded, net.decoder_channels, net.strides[-2::-1], strict=True):
        assert found.shape == (2, channels, *(side // s for side, s in zip(patch(name), stride, strict=True)))
    assert net.strides[0] == (1, 1, 1)
    assert net.divisor == net.strides[-1]


@every_network
def test_forward_is_the_composition(name: str) -> None:
    net = small(name).eval()
    x = image(name)
    logits = net(x)
    assert logits.shape == (2, 3, *patch(name))
    torch.testing.assert_close(logits, net.logits(maps := net.encode(x), net.decode(maps)[-1]), rtol=0, atol=0)
    torch.testing.assert_close(logits, net.score(net.features(x)), rtol=0, atol=0)
    assert logits.std() > 1e-3


@every_network
def test_head_of_some_rois_is_a_part_of_the_whole(name: str) -> None:
    net = small(name, num_rois=5).eval()
    features = net.features(image(name))
    whole = net.score(features)
    torch.testing.assert_close(net.score(features, slice(1, 4)), whole[:, 1:4])
    torch.testing.assert_close(net.score(features, slice(4, 9)), whole[:, 4:])


@every_network
def test_head_is_affine(name: str) -> None:
    net = small(name).eval()
    assert net.linear_head
    a, b = (torch.randn(1, net.decoder_channels[-1], 4, 4, 4) for _ in range(2))
    torch.testing.assert_close(net.score((0.25 * a + 0.75 * b,)), 0.25 * net.score((a,)) + 0.75 * net.score((b,)))


@every_network
def test_new_decoder_is_fresh_and_of_one_layout(name: str) -> None:
    net = small(name).eval()
    maps = net.encode(image(name))
    other = net.new_decoder().eval()
    assert not {id(p) for p in other.parameters()} & {id(p) for p in net.parameters()}
    own, fresh = net.decode(maps), other(maps)
    assert [m.shape for m in own] == [m.shape for m in fresh]
    assert (own[-1] - fresh[-1]).abs().max() > 1e-3
    other.load_state_dict(net.decoder.state_dict())
    torch.testing.assert_close(other(maps)[-1], own[-1], rtol=0, atol=0)


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_every_parameter_learns(name: str, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    net = small(name).to(memory_format=memory_format)
    x = image(name).to(memory_format=memory_format)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        (last,) = net.features(x)
        logits = net.score((last,))
    assert logits.dtype == dtype
    if dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():  # others have no bf16 convolution
        assert last.is_contiguous(memory_format=memory_format)
    (logits.float() * torch.randn_like(logits.float())).sum().backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    if name == "resenc_unet":  # the last norm of a branch starts at 0, so convolutions before it wait one step
        weights = [net.head.classifier.weight]
    assert all(w.grad is not None and w.grad.abs().max() > 0 for w in weights)


@every_network
def test_memory_format_and_bf16_change_little(name: str) -> None:
    net = small(name).eval()
    x = image(name)
    with torch.no_grad():
        reference = net(x)
        torch.testing.assert_close(
            net.to(memory_format=torch.channels_last_3d)(x.to(memory_format=torch.channels_last_3d)),
            reference,
            rtol=1e-3,
            atol=1e-4,
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = net(x).float()
    assert (low - reference).square().mean().sqrt() < 0.05 * reference.std() + 0.02


@every_network
def test_illegal_patch_names_the_nearest_legal_one(name: str) -> None:
    net = small(name)
    z, y, x = net.divisor
    assert net.legal_patch((3 * z, 3 * y, 3 * x)) == (3 * z, 3 * y, 3 * x)
    assert net.legal_patch((3 * z - 1, 3 * y + 1, 3 * x)) == (3 * z, 3 * y, 3 * x)
    with pytest.raises(UserError, match=rf"patch {3 * x + 1}x{2 * y}x{2 * z} .*; use {3 * x}x{2 * y}x{2 * z}$"):
        net(torch.zeros(1, 2, 2 * z, 2 * y, 3 * x + 1))


@every_network
def test_bottleneck_of_one_voxel_is_refused(name: str) -> None:
    net = small(name)
    with pytest.raises(UserError, match="use"):
        net.check_patch(net.divisor)
    z, y, x = net.legal_patch((1, 1, 1))
    assert net.encode(torch.zeros(1, 2, z, y, x))[-1].shape[2:].numel() == 2


@every_network
def test_resolved_config_rebuilds_the_network(name: str) -> None:
    net = small(name)
    again = networks.build(name, asdict(net.config), in_channels=2, num_rois=3)  # type: ignore[call-overload]
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(image(name)), net.eval()(image(name)), rtol=0, atol=0)


@every_network
def test_state_holds_each_tensor_once(name: str) -> None:
    state = small(name).state_dict()
    assert len({t.data_ptr() for t in state.values()}) == len(state)


@every_network
def test_same_seed_same_weights(name: str) -> None:
    a, b = small(name).state_dict(), small(name).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_build_is_strict() -> None:
    with pytest.raises(UserError, match="vnet"):
        networks.build("vnett", {}, in_channels=1, num_rois=1)
    with pytest.raises(UserError, match="did you mean 'width'"):
        networks.build("vnet", {"widths": 8}, in_channels=1, num_rois=1)
    with pytest.raises(UserError, match="width"):
        networks.build("unet3d", {"width": 0}, in_channels=1, num_rois=1)
    with pytest.raises(UserError, match="dropout"):
        networks.build("unet3d", {"dropout": 1.0}, in_channels=1, num_rois=1)


# --- published numbers -------------------------------------------------------------------------------------------


def count(net: Network) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_with_two_outputs() -> None:
    def made(name: str, **options: object) -> int:
        return count(networks.build(name, options, in_channels=1, num_rois=2))

    assert made("vnet") == 9_448_866
    assert made("vnet", norm="instance") == 9_443_266
    assert made("vnet", encoder="resnet34") == 17_930_354
    assert made("unet3d") == 5_884_050
    assert made("dodnet_unet") == 17_285_920 + 2 * (32 + 1)


GOLDEN = {
    "vnet": (0.3725806772708893, 0.12213898450136185, 0.05978479981422424, 0.5042203664779663, 0.06202913075685501),
    "unet3d": (0.3240099549293518, 0.880640983581543, 0.009999999776482582, 0.009999999776482582, 0.009999999776482582),
}
"""Mean, standard deviation and three voxels of the reference implementations' output."""


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_forward_equals_the_reference(name: str, memory_format: torch.memory_format) -> None:
    net = networks.build(name, {}, in_channels=1, num_rois=2).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.fill_(1 / (module.in_channels * module.kernel_size[0] ** 3))
            if isinstance(module, nn.ConvTranspose3d):
                module.weight.fill_(1 / module.in_channels)
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                assert module.bias is not None
                module.bias.fill_(0.01)
        i, j, k = torch.meshgrid(torch.arange(32), torch.arange(32), torch.arange(16), indexing="ij")
        x = (((3 * i + 5 * j + 7 * k) % 11) / 11 - 0.3)[None, None]
    y = net.to(memory_format=memory_format)(x.to(memory_format=memory_format))
    with torch.no_grad():  # one window is what it is among others, to the rounding of the kernel that batches take
        one, two = (net(x.repeat(n, 1, 1, 1, 1).to(memory_format=memory_format))[:1] for n in (1, 2))
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    assert y.shape == (1, 2, 32, 32, 16)
    found = (y.mean(), y.std(), y[0, 0, 0, 0, 0], y[0, 0, 5, 17, 9], y[0, 0, 31, 31, 15])
    assert [v.item() for v in found] == pytest.approx(GOLDEN[name], abs=1e-5)


def test_unet3d_starts_kaiming_normal() -> None:
    torch.manual_seed(0)
    net = UNet3D(UNet3D.Config(), in_channels=1, num_rois=2)
    conv = net.encoder.levels[3][0][0]
    assert isinstance(conv, nn.Conv3d)
    assert conv.in_channels == 64
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 27)), rel=0.01)
    assert conv.bias is not None
    assert conv.bias.abs().max().item() <= 1 / math.sqrt(64 * 27)


def test_vnet_starts_as_pytorch_does() -> None:
    torch.manual_seed(0)
    net = VNet(VNet.Config(), in_channels=1, num_rois=2)
    conv = net.encoder.levels[4][1][0]
    assert isinstance(conv, nn.Conv3d)
    bound = 1 / math.sqrt(256 * 27)
    assert bound * 0.99 < conv.weight.abs().max().item() <= bound


@pytest.mark.parametrize(("name", "rate"), [("vnet", 0.5), ("unet3d", 0.3)])
def test_dropout_acts_on_bottleneck_and_last_map(name: str, rate: float) -> None:
    net = small(name, num_rois=2, width=16)
    maps = net.encode(image())
    decoded = net.decode(maps)

    def share_of_zeros(dropped: Tensor) -> float:
        if name == "vnet":  # whole channels
            return dropped.abs().amax((2, 3, 4)).eq(0).float().mean().item()
        # ReLU's zeros are about half; of the others, dropout takes its share.
        return 1 - dropped.ne(0).float().mean().item() / 0.5

    assert share_of_zeros(maps[-1]) == pytest.approx(rate, abs=0.1)
    assert share_of_zeros(decoded[-1]) == pytest.approx(rate, abs=0.35 if name == "vnet" else 0.1)
    assert not torch.equal(net(image()), net(image()))
    net.eval()
    torch.testing.assert_close(net(image()), net(image()), rtol=0, atol=0)
    without = small(name, dropout=0.0)
    torch.testing.assert_close(without.encode(image())[-1], without.encode(image())[-1], rtol=0, atol=0)


def test_the_residual_encoder_has_the_maps_of_the_plain_one() -> None:
    net = small("vnet", encoder="resnet34")
    maps, plain = net.encode(image()), small("vnet").encode(image())
    assert [m.shape for m in maps] == [m.shape for m in plain]
    torch.testing.assert_close(net.encode(image())[-1], maps[-1], rtol=0, atol=0)  # nothing is dropped there
    assert not torch.equal(net.decode(maps)[-1], net.decode(maps)[-1])
    assert net.last_activation is net.encoder.stages[-1][-1].relu  # type: ignore[union-attr, index]
    net(image()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_interpolation_gets_its_slopes_in_its_own_layout() -> None:
    # Through a concatenation they come as a part of a larger map, which PyTorch would copy channels-first.
    layouts: list[bool] = []
    x = torch.randn(2, 4, 4, 4, 4).to(memory_format=torch.channels_last_3d).requires_grad_()
    enlarged = Upsample(4)(x)
    assert enlarged.grad_fn is not None
    enlarged.grad_fn.register_prehook(
        lambda slopes: layouts.append(slopes[0].is_contiguous(memory_format=torch.channels_last_3d))
    )
    both = torch.cat([torch.ones_like(enlarged), enlarged], dim=1)
    pull = torch.randn_like(both)
    (found,) = torch.autograd.grad(both, x, pull)
    wanted = torch.autograd.grad(functional.interpolate(x, scale_factor=2.0, mode="trilinear"), x, pull[:, 4:])
    torch.testing.assert_close(found, wanted[0])
    assert layouts == [True]


def test_vnet_with_instance_norm_treats_samples_alone() -> None:
    net = small("vnet", norm="instance", dropout=0.0)
    both = net(image())
    torch.testing.assert_close(both[:1], net(image()[:1]), rtol=1e-3, atol=1e-3)
    assert (both[0] - both[1]).abs().max() > 0.1

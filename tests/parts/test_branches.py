"""Decoders that differ in how they enlarge maps, on every network of the library."""

import pytest
import torch
from torch import nn

from gleanseg.errors import UserError
from gleanseg.networks.upsampling import WAYS, Upsample, enlarge_by, way_of
from gleanseg.networks.vnet import VNet
from gleanseg.parts.branches import Branches
from support.small_networks import every_network, image, small


@every_network
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_other_ways_fit_every_network(name: str, kernel: int) -> None:
    net = small(name).eval()
    branches = Branches(lambda: small(name).eval(), 3, kernel=kernel).eval()
    maps = net.encode(image(name))
    assert sorted([way_of(net.decoder), *(way_of(branch.decoder) for branch in branches)]) == sorted(WAYS)
    own, *others = [m.shape for m in net.decode(maps)], *([m.shape for m in b.decoder(maps)] for b in branches)
    assert all(shapes == own for shapes in others)
    logits = branches.scores(net, branches.features(net, maps), slice(1, 3))
    assert [z.shape[1] for z in logits] == [2, 2, 2]
    torch.testing.assert_close(logits[0], net(image(name))[:, 1:3])
    assert not {id(p) for p in branches.parameters()} & {id(p) for p in net.parameters()}


@pytest.mark.parametrize(
    ("num", "kernel", "parameters"),
    [(2, 3, 12_347_716), (3, 3, 15_246_566), (3, 1, 23_604_966 - 2 * 5_310_720)],  # MC-Net, MC-Net+, CauSSL
)
def test_parameters_are_those_published(num: int, kernel: int, parameters: int) -> None:
    with torch.device("meta"):
        net = VNet(VNet.Config(), in_channels=1, num_rois=2)
        branches = Branches(lambda: VNet(VNet.Config(), in_channels=1, num_rois=2), num, kernel=kernel)
    assert sum(p.numel() for p in (*net.parameters(), *branches.parameters())) == parameters


def test_a_small_kernel_comes_first_as_order_does_not_matter() -> None:
    torch.manual_seed(0)
    decoder = enlarge_by(nn.Sequential(nn.ConvTranspose3d(3, 2, (1, 2, 2), stride=(1, 2, 2))), "trilinear", kernel=1)
    convolution, upsample = decoder[0]
    x = torch.randn(1, 3, 4, 4, 4)
    assert decoder(x).shape == (1, 2, 4, 8, 8)
    torch.testing.assert_close(decoder(x), convolution(upsample(x)), rtol=1e-4, atol=1e-5)


def test_nearest_repeats_voxels() -> None:
    x = torch.arange(4.0).reshape(1, 1, 1, 2, 2)
    found = Upsample(1, (1, 2, 1), "nearest")(x)
    assert found.flatten().tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_a_decoder_that_hides_its_way_is_refused() -> None:
    net = small("unet3d")
    net.decoder = nn.Sequential(nn.Conv3d(1, 1, 1))
    with pytest.raises(UserError, match=r"UNet3D: expected a decoder with nn.ConvTranspose3d or Upsample"):
        Branches(lambda: net, 2, kernel=3)

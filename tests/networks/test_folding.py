"""Folded networks give what they gave, with fewer passes over each map."""

import pytest
import torch
from torch import nn

from gleanseg.networks.blocks import Conv3d, StandardizedConv3d
from gleanseg.networks.folding import fold_batch_norms
from support.small_networks import every_network, image, small


def taught(module: nn.Module) -> nn.Module:
    """Statistics, scales and shifts that change something."""
    rng = torch.Generator().manual_seed(3)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm3d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(generator=rng)
            norm.running_var.uniform_(0.5, 2.0, generator=rng)
            norm.weight.data.uniform_(0.5, 2.0, generator=rng)
            norm.bias.data.normal_(generator=rng)
    return module.eval().requires_grad_(False)


@every_network
def test_every_network_gives_the_same(name: str) -> None:
    net, x = taught(small(name)), image(name)
    with torch.no_grad():
        expected = net(x)
        assert fold_batch_norms(net) is net
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_no_norm_of_the_v_net_is_left() -> None:
    net = taught(small("vnet"))
    assert any(isinstance(m, nn.BatchNorm3d) for m in net.modules())
    fold_batch_norms(net)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in net.modules())
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [Conv3d, nn.Conv3d, nn.ConvTranspose3d])
def test_convolutions_take_in_what_follows(kind: type[nn.Conv3d], bias: bool) -> None:
    torch.manual_seed(0)
    net = taught(nn.Sequential(kind(3, 4, 2, stride=2, bias=bias), nn.BatchNorm3d(4), nn.ReLU()))
    x = torch.randn(2, 3, 4, 4, 4)
    expected = net(x)
    kinds = [type(m) for m in fold_batch_norms(net)]
    assert kinds == [kind, nn.Identity, nn.ReLU]
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_affine_or_not_a_neighbour_stays() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        StandardizedConv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Conv3d(4, 4, 1), nn.ReLU(), nn.BatchNorm3d(4)
    )
    taught(net)
    before = [type(m) for m in net]
    assert [type(m) for m in fold_batch_norms(net)] == before


def test_a_norm_that_learns_is_refused() -> None:
    with pytest.raises(AssertionError, match="still learns"):
        fold_batch_norms(nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)))

"""One small network of every kind, and images for them."""

import pytest
import torch
from torch import Tensor

from gleanseg import networks
from gleanseg.networks.network import Network

SMALL = {
    "vnet": {"width": 4},
    "unet3d": {"width": 4},
    "plain_unet": {"width": 4},
    "resenc_unet": {"width": 4},
    "dodnet_unet": {"width": 16},
    "swin_unetr": {"width": 12},
}
PATCH, SPACING = (16, 32, 32), (1.0, 1.0, 1.0)
LARGER = {"swin_unetr": (32, 32, 64)}
"""Patches of networks that cannot take the usual one."""
every_network = pytest.mark.parametrize("name", sorted(SMALL))


def small(name: str, *, in_channels: int = 2, num_rois: int = 3, **options: object) -> Network:
    torch.manual_seed(0)
    return networks.build(
        name,
        SMALL[name] | options,
        in_channels=in_channels,
        num_rois=num_rois,
        patch_ZYX=patch(name),
        spacing_ZYX_mm=SPACING,
    )


def patch(name: str) -> tuple[int, int, int]:
    return LARGER.get(name, PATCH)


def image(name: str = "unet3d", *, channels: int = 2, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, channels, *patch(name), generator=torch.Generator().manual_seed(seed))

"""The 3D ResNet-18 of the ROI-aware network. Axes: B cases, C channels, R outputs, Z Y X voxels, z y x cells."""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from gleanseg.errors import UserError
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.network import Size


@final
class ResNet18(Classifier):
    """MONAI's 3D ResNet-18: a 7x7x7 stem, four stages of two basic blocks, global average pooling.

    With one channel and 104 outputs: 33,214,248 parameters, or 33,039,528 with shortcut A.

    Paper: He et al., CVPR 2016, https://arxiv.org/abs/1512.03385; in 3D: Hara et al., CVPR 2018.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the recipe's ``[network]`` table."""

        width: Annotated[float, Field(gt=0)] = 1.0
        """Factor of all channel counts; 0.25 suits small machines."""
        shortcut: Literal["A", "B"] = "B"
        """Where shapes change: A pads with zeros (as Med3D's weights), B projects."""
        stem_stride: Annotated[int, Field(gt=0)] = 1
        stem_pool: bool = True
        """Halve the map after the stem; off for small patches, where four halvings leave little."""

    def __init__(self, config: Config, *, in_channels: int, num_outputs: int) -> None:
        super().__init__()
        # MONAI takes a second to import, which other networks need not pay.
        from monai.networks.nets.resnet import resnet18

        self.config, self.num_outputs = config, num_outputs
        self.net: Any = resnet18(
            spatial_dims=3,
            n_input_channels=in_channels,
            num_classes=num_outputs,
            conv1_t_size=7,
            conv1_t_stride=config.stem_stride,
            no_max_pool=not config.stem_pool,
            shortcut_type=config.shortcut,
            widen_factor=config.width,
            bias_downsample=False,
        )
        self.stride = config.stem_stride * (2 if config.stem_pool else 1) * 8

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B D z y x"]:
        """The last map before pooling, at 1/16 of the resolution (1/8 without the stem's pooling)."""
        z, y, x = x_BCZYX.shape[2:]
        self.check_patch((z, y, x))
        net = self.net
        maps = net.act(net.bn1(net.conv1(x_BCZYX)))
        if not net.no_max_pool:
            maps = net.maxpool(maps)
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            maps = stage(maps)
        encoded: Tensor = maps
        return encoded

    def classify(self, map_BDzyx: Float[Tensor, "B D z y x"]) -> Float[Tensor, "B R"]:
        """Logits of the pooled map."""
        logits: Tensor = self.net.fc(torch.flatten(self.net.avgpool(map_BDzyx), 1))
        return logits

    def check_patch(self, patch_ZYX: Size) -> None:
        """See ``Classifier``: at least two cells in all, as batch norm knows no variance of one."""
        cells = prod(-(-side // self.stride) for side in patch_ZYX)
        if cells < 2:
            sides = "x".join(str(side) for side in reversed(patch_ZYX))
            raise UserError(
                f"patch {sides} (x, y, z): too small for resnet18, which reduces it {self.stride}-fold to one cell; "
                f"use a side above {self.stride}, or [network] stem_pool = false"
            )

"""The residual encoder of MCF's second network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from gleanseg.networks.blocks import Conv3d, Norm, make_norm

_BLOCKS = (3, 4, 6, 3)


class ResNet34Encoder(nn.Module):
    """A 7x7x7 stem at full resolution, and ResNet-34's four stages of two-convolution blocks, each half as fine.

    Convolutions have no bias. ResNet's max-pooling is left out, and its stages are as wide as the levels of a V-Net.

    Papers: He et al., Deep Residual Learning, CVPR 2016, https://arxiv.org/abs/1512.03385; Wang et al., MCF, CVPR 2023
    (as an encoder for a V-Net's decoder)

    Args:
        in_channels: of the image.
        channels: of the stem and of the four stages, finest first.
        norm: after each convolution.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            Conv3d(in_channels, channels[0], 7, padding=3, bias=False),
            make_norm(norm, channels[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                _Block(fine, coarse, stride=2, norm=norm),
                *(_Block(coarse, coarse, stride=1, norm=norm) for _ in range(num - 1)),
            )
            for num, (fine, coarse) in zip(_BLOCKS, pairwise(channels), strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Five maps, finest first."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class _Block(nn.Module):
    """Convolution, norm, ReLU, convolution, norm, plus the input (1x1x1 and norm where it changes), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            make_norm(norm, out_channels),
            nn.ReLU(inplace=True),
            Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
            make_norm(norm, out_channels),
        )
        same = stride == 1 and in_channels == out_channels
        projection = Conv3d(in_channels, out_channels, 1, stride=stride, bias=False)
        self.shortcut = nn.Identity() if same else nn.Sequential(projection, make_norm(norm, out_channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return found

"""3D ResNet-18 from MONAI: which structures are present in a patch."""

from dataclasses import dataclass, replace
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.errors import UserError
from gleanseg.networks.blocks import Width, adopt
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.pretrained import load_matching

_BASE = 64
_STRIDE = 16
"""Of the last map, in voxels of the stem's map."""


@final
class ResNet18(Classifier):
    """A 7x7x7 stem at full resolution, max-pooling, four stages of two residual blocks, mean, one linear layer.

    ``forward`` is ``classify(encode(x))``. With one channel and 104 outputs: 33,214,248 parameters, with
    ``shortcut="A"`` 33,039,528, as MONAI's. Weights start as MONAI's do.

    Paper: Chen et al., Med3D, 2019, https://arxiv.org/abs/1904.00625
    Deviations (those of MONAI):
        1. The stem has stride 1; ``stem_stride = 2`` is the paper's.
    Deviations from MONAI:
        1. Gradients pass the shortcuts of type A, where MONAI's stop; values are the same.
        2. Convolutions avoid a fault of flat maps in bf16; values are the same.

    Args:
        config: options.
        in_channels: image channels.
        num_outputs: logits, each its own sigmoid.

    Attributes:
        config: options that rebuild it.
        num_features: channels of ``encode``'s map.
        stride: voxels of the input per voxel of that map, along each axis (a remainder gives one more voxel).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options."""

        width: Width = _BASE
        """Channels of the stem; the last map has 8 times as many. 64 is ResNet-18; 16 does for quick checks."""
        stem_stride: Literal[1, 2] = 1
        """Voxels from one window of the stem to the next. 2 takes an eighth of the arithmetic, and patches of 32 voxels
        a side at least."""
        shortcut: Literal["A", "B"] = "B"
        """Where a stage changes the shape: A pads with zero channels, as Med3D; B learns a 1x1x1 convolution."""
        pretrained: str | None = None
        """File of Med3D's ResNet-18 weights; they are of one channel, width 64 and shortcut A."""

    def __init__(self, config: Config, *, in_channels: int, num_outputs: int) -> None:
        super().__init__()
        # Imported here, as MONAI takes seconds to import.
        from monai.networks.nets.resnet import resnet18

        # A rebuilt network gets its weights from a checkpoint: the file may be gone by then.
        self.config = replace(config, pretrained=None)
        self.num_features, self.stride = 8 * config.width, _STRIDE * config.stem_stride
        self.backbone = resnet18(
            spatial_dims=3,
            n_input_channels=in_channels,
            num_classes=num_outputs,
            conv1_t_stride=config.stem_stride,
            shortcut_type=config.shortcut,
            widen_factor=config.width / _BASE,
        )
        if config.shortcut == "A":
            for stage in (self.backbone.layer2, self.backbone.layer3, self.backbone.layer4):
                stage[0].downsample = _PadShortcut()
        adopt(self.backbone)
        if config.pretrained is not None:
            load_matching(self.backbone, config.pretrained, rename=lambda name: name.removeprefix("module."))

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B F Z2 Y2 X2"]:
        """The last feature map, before the mean over its voxels.

        Raises:
            UserError: the patch is too small.
        """
        self._check_input(x_BCZYX)
        net = self.backbone
        x = net.maxpool(net.act(net.bn1(net.conv1(x_BCZYX))))
        last: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        return last

    def classify(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K"]:
        """Logits of the patch from ``encode``'s map."""
        logits: Tensor = self._linear(map_BFZYX.mean((2, 3, 4)))
        return logits

    def heat_map(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K Z Y X"]:
        """What each voxel of ``encode``'s map says; the mean over voxels is ``classify``, as its layer is linear.

        Paper: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016,
        https://arxiv.org/abs/1512.04150
        """
        logits: Tensor = self._linear(map_BFZYX.movedim(1, -1)).movedim(-1, 1)
        return logits

    @property
    def _linear(self) -> nn.Linear:
        assert self.backbone.fc is not None, "it was built with its last layer"
        return self.backbone.fc

    def _check_input(self, x_BCZYX: Tensor) -> None:
        sides, least = x_BCZYX.shape[2:], self.stride
        if min(sides) >= least and max(sides) > least:
            return
        found = "x".join(str(int(side)) for side in reversed(sides))
        raise UserError(
            f"patch {found} (x, y, z): ResNet18 needs sides of at least {least} voxels, one of them longer, as its "
            f"last map is {least} times coarser and one voxel has no variance; use a larger patch"
        )


class _PadShortcut(nn.Module):
    """Every second voxel, and as many zero channels as there are channels."""

    def forward(self, x: Tensor) -> Tensor:
        thinned = x[:, :, ::2, ::2, ::2]
        return functional.pad(thinned, (0, 0, 0, 0, 0, 0, 0, x.shape[1]))

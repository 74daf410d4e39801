"""Batch norms become part of the convolutions before them, in networks that will not learn again."""

from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gleanseg.networks.blocks import Conv3d

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_AFFINE = (Conv3d, nn.Conv3d, nn.ConvTranspose3d)
"""Convolutions that are affine in their own weight; a standardized one is not."""


def fold_batch_norms(module: ModuleT) -> ModuleT:
    """Let the convolution before each batch norm, where they are neighbours in an ``nn.Sequential``, do its work.

    With running statistics a norm is one affine map for every input: its scale goes into the weight, its shift into the
    bias, and each map is read and written once less. Values are the same up to rounding.

    Args:
        module: in evaluation mode, for good; changed in place. ``nn.Identity`` takes the norms' places.

    Returns:
        the module.
    """
    for sequence in module.modules():
        if isinstance(sequence, nn.Sequential):
            for (_, one), (name, other) in pairwise(list(sequence.named_children())):
                if type(one) in _AFFINE and type(other) is nn.BatchNorm3d:
                    _fold(one, other)
                    setattr(sequence, name, nn.Identity())
    return module


def _fold(convolution: nn.Module, norm: nn.BatchNorm3d) -> None:
    assert isinstance(convolution, nn.Conv3d | nn.ConvTranspose3d)
    assert norm.running_mean is not None, "norms of networks keep statistics"
    assert norm.running_var is not None
    assert not norm.training, "a norm that still learns is not the same for every input"
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=isinstance(convolution, nn.ConvTranspose3d),
    )

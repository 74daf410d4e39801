"""The wrapped networks against the package's own."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from gleanseg import networks
from gleanseg.errors import UserError

STRIDES = [[1, 1, 1], [2, 2, 1], [2, 2, 2]]
KERNELS = [[3, 3, 1], [3, 3, 3], [3, 3, 3]]


def theirs(name: str) -> nn.Module:
    common = {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": [4, 8, 10],
        "conv_op": nn.Conv3d,
        "kernel_sizes": [k[::-1] for k in KERNELS],
        "strides": [s[::-1] for s in STRIDES],
        "num_classes": 2,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    if name == "plain_unet":
        return PlainConvUNet(n_conv_per_stage=2, n_conv_per_stage_decoder=2, **common)
    return ResidualEncoderUNet(n_blocks_per_stage=[1, 3, 4], n_conv_per_stage_decoder=1, **common)


@pytest.mark.parametrize("name", ["plain_unet", "resenc_unet"])
def test_same_values_as_the_package(name: str) -> None:
    torch.manual_seed(0)
    options = {"width": 4, "max_width": 10, "strides": STRIDES, "kernels": KERNELS}
    ours = networks.build(name, options, in_channels=1, num_rois=2)
    assert ours.channels == (4, 8, 10)
    reference = theirs(name)
    source = reference.state_dict()
    renamed: dict[str, Tensor] = {}
    for key in ours.state_dict():
        renamed[key] = source[key.replace("head.classifier", "decoder.seg_layers.1")]
    for tensor in source.values():
        tensor.normal_()  # biases, norms and skipped branches count, too
    ours.load_state_dict(renamed)
    x = torch.randn(2, 1, 4, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), rtol=1e-4, atol=1e-4)


def test_resenc_blocks_start_as_identity() -> None:
    net = networks.build("resenc_unet", {"width": 4, "strides": STRIDES}, in_channels=1, num_rois=1)
    last_norms = [p for n, p in net.encoder.named_parameters() if "conv2.all_modules.1" in n]
    assert len(last_norms) == 2 * (1 + 3 + 4)
    assert all(p.eq(0).all() for p in last_norms)


def test_biases_start_at_zero_and_dropout_is_built() -> None:
    net = networks.build("plain_unet", {"width": 4, "strides": STRIDES, "dropout": 0.2}, in_channels=1, num_rois=1)
    convolutions = [
        m
        for part in (net.encoder, net.decoder)
        for m in part.modules()
        if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)
    ]
    assert len(convolutions) == 6 + 2 + 4
    assert all(m.bias is not None and m.bias.eq(0).all() for m in convolutions)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout3d)] == [0.2] * (6 + 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'auto' needs the patch and voxel size"),
        ({"strides": [[1, 1, 1]]}, "needs two levels"),
        ({"strides": [[2, 2, 2], [2, 2, 2]]}, r"the first must be \[1, 1, 1\], found \[2, 2, 2\]"),
        ({"strides": STRIDES, "kernels": KERNELS[:2]}, "expected one for each of 3 strides, found 2"),
        ({"strides": STRIDES, "kernels": [[2, 3, 3]] * 3}, "must be odd"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        networks.build("plain_unet", options, in_channels=1, num_rois=1)


def test_patch_too_small_to_plan() -> None:
    with pytest.raises(UserError, match=r"patch 6x5x4 \(x, y, z\): a U-Net needs two levels"):
        networks.build(
            "resenc_unet", {}, in_channels=1, num_rois=1, patch_ZYX=(4, 5, 6), spacing_ZYX_mm=(1.0, 1.0, 1.0)
        )

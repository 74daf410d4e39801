"""The presence classifier: MONAI's values, sizes, and what heat maps stand on."""

from dataclasses import asdict

import pytest
import torch
from monai.networks.nets.resnet import resnet18 as reference
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.classifiers import build
from gleanseg.networks.classifiers.resnet18 import ResNet18
from gleanseg.resolve import names

SHORTCUTS = pytest.mark.parametrize("shortcut", ["A", "B"])


def small(*, in_channels: int = 1, num_outputs: int = 5, **options: object) -> ResNet18:
    torch.manual_seed(0)
    net = build("resnet18", {"width": 16} | options, in_channels=in_channels, num_outputs=num_outputs)
    assert isinstance(net, ResNet18)
    return net


def image(sides: tuple[int, int, int] = (24, 24, 24), *, channels: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *sides, generator=torch.Generator().manual_seed(1))


def test_it_is_no_segmentation_network() -> None:
    assert names("networks.classifiers") == ["resnet18"]
    assert not {"resnet18", "classifiers"} & set(names("networks"))


@pytest.mark.parametrize(
    ("options", "num_outputs", "count"),
    [({"shortcut": "A"}, 104, 33_039_528), ({"shortcut": "B"}, 104, 33_214_248), ({}, 7, 33_164_487)],
)
def test_parameter_counts(options: dict[str, object], num_outputs: int, count: int) -> None:
    with torch.device("meta"):
        net = build("resnet18", options, in_channels=1, num_outputs=num_outputs)
    assert sum(p.numel() for p in net.parameters()) == count


@SHORTCUTS
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_forward_equals_monai(shortcut: str, training: bool, stride: int) -> None:
    ours = small(shortcut=shortcut, stem_stride=stride, in_channels=2).train(training)
    theirs = reference(
        spatial_dims=3,
        n_input_channels=2,
        num_classes=5,
        conv1_t_stride=stride,
        shortcut_type=shortcut,
        widen_factor=0.25,
    ).train(training)
    theirs.load_state_dict(ours.backbone.state_dict())
    x = image((24 * stride,) * 3, channels=2)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("sides", "last"),
    [((32, 32, 32), (2, 2, 2)), ((24, 24, 24), (2, 2, 2)), ((16, 17, 50), (1, 2, 4)), ((64, 16, 16), (4, 1, 1))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_patch_that_is_not_too_small(sides, last, channels: int) -> None:
    net = small(in_channels=channels)
    features = net.encode(image(sides, channels=channels, batch=1))  # in training mode: batch norm needs two values
    assert features.shape == (1, net.num_features, *last)
    assert net.classify(features).shape == (1, 5)


@pytest.mark.parametrize(("sides", "named"), [((32, 15, 40), "40x15x32"), ((16, 16, 16), "16x16x16")])
def test_too_small_a_patch_is_refused(sides, named: str) -> None:
    with pytest.raises(UserError, match=rf"patch {named} \(x, y, z\): ResNet18 needs sides of at least 16 voxels"):
        small()(image(sides))


def test_a_stem_of_stride_2_halves_the_last_map_and_needs_larger_patches() -> None:
    net = small(stem_stride=2).eval()
    assert net.stride == 32
    assert net.encode(image((64, 32, 33))).shape == (2, net.num_features, 2, 1, 2)
    with pytest.raises(UserError, match="at least 32 voxels"):
        net(image((64, 31, 64)))


def test_the_heat_map_averages_to_the_logits() -> None:
    net = small().eval()
    features = net.encode(image((32, 48, 32)))
    heat = net.heat_map(features)
    assert heat.shape == (2, 5, 2, 3, 2)
    torch.testing.assert_close(heat.mean((2, 3, 4)), net.classify(features))
    torch.testing.assert_close(net(image((32, 48, 32))), net.classify(features), rtol=0, atol=0)
    assert heat.std((2, 3, 4)).min() > 0


@SHORTCUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_every_parameter_learns(shortcut: str, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    net = small(shortcut=shortcut).to(memory_format=memory_format)
    x = image().to(memory_format=memory_format)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        features = net.encode(x)
        logits = net.classify(features)
    assert logits.dtype == dtype
    if dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported():  # others have no bf16 convolution
        assert features.is_contiguous(memory_format=memory_format)
    (logits.float() * torch.randn_like(logits.float())).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(m.weight.grad.abs().max() > 0 for m in net.modules() if isinstance(m, nn.Conv3d))


def test_gradients_pass_shortcuts_of_type_a() -> None:
    net = small(shortcut="A").eval()
    first = net.backbone.layer2[0]
    nn.init.zeros_(first.bn2.weight)  # the branch gives nothing, so the shortcut is all there is
    x = torch.randn(1, 16, 6, 6, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(first(x).sum(), x)
    assert torch.equal(grad[:, :, ::2, ::2, ::2], (x > 0)[:, :, ::2, ::2, ::2].float())
    assert grad[:, :, 1::2].eq(0).all()


def test_bf16_changes_little() -> None:
    net = small().eval()
    with torch.no_grad():
        expected = net(image((32, 32, 32)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = net(image((32, 32, 32))).float()
    assert (low - expected).abs().max() < 0.05 * expected.std() + 0.02


def test_config_rebuilds_it() -> None:
    net = small(shortcut="A")
    again = build("resnet18", asdict(net.config), in_channels=1, num_outputs=5)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(image()), net.eval()(image()), rtol=0, atol=0)


def test_build_is_strict() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        build("resnet19", {}, in_channels=1, num_outputs=1)
    with pytest.raises(UserError, match="did you mean 'shortcut'"):
        build("resnet18", {"shortcuts": "A"}, in_channels=1, num_outputs=1)
    with pytest.raises(UserError, match="shortcut"):
        build("resnet18", {"shortcut": "C"}, in_channels=1, num_outputs=1)

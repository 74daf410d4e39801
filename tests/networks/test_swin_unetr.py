"""Swin UNETR against MONAI's, its published counts, and its options."""

import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR as Reference
from torch import Tensor, nn

from gleanseg import networks
from gleanseg.errors import UserError
from gleanseg.networks.network import Network


def made(**options: object) -> Network:
    torch.manual_seed(0)
    return networks.build("swin_unetr", {"width": 12} | options, in_channels=1, num_rois=3)


def image(sides: tuple[int, int, int] = (32, 32, 64)) -> Tensor:
    return torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(1))


def in_ours(name: str) -> str:
    """MONAI's name of a tensor in our layout."""
    part, rest = name.split(".", 1)
    if part == "out":
        return f"head.classifier.{rest.removeprefix('conv.conv.')}"
    if part.startswith("decoder"):
        return f"decoder.levels.{5 - int(part.removeprefix('decoder'))}.{rest}"
    return f"encoder.{name}"


@pytest.mark.parametrize("options", [{}, {"depths": [1, 2, 1, 2], "heads": [2, 4, 8, 16]}])
def test_forward_equals_monai(options: dict[str, list[int]]) -> None:
    ours = made(**options).eval()
    reference = Reference(
        1,
        3,
        feature_size=12,
        depths=options.get("depths", (2, 2, 2, 2)),
        num_heads=options.get("heads", (3, 6, 12, 24)),
    ).eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases and norms count, too
    ours.load_state_dict({in_ours(name): tensor for name, tensor in reference.state_dict().items()})
    expected = reference(image()).detach()
    torch.testing.assert_close(ours(image()).detach(), expected, rtol=1e-5, atol=1e-5 * expected.std().item())


@pytest.mark.parametrize(("width", "count"), [(12, 4_078_181), (24, 15_703_229), (48, 62_187_149)])
def test_parameter_counts(width: int, count: int) -> None:
    with torch.device("meta"):
        net = networks.build("swin_unetr", {"width": width}, in_channels=1, num_rois=11)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net.channels == (width, width, 2 * width, 4 * width, 8 * width, 16 * width)


def test_use_checkpoint_keeps_less_and_changes_nothing() -> None:
    plain, frugal = made(), made(use_checkpoint=True)
    frugal.load_state_dict(plain.state_dict())
    kept: list[int] = []
    for net in (plain, frugal):
        weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
        maps: dict[int, int] = {}

        def keep(tensor: Tensor, weights: set[int] = weights, maps: dict[int, int] = maps) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                maps[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            held = net.encoder.swinViT(image())
        kept.append(sum(maps.values()))
        del held
        net(image()).square().mean().backward()
    assert kept[1] < 0.8 * kept[0], "maps that the transformer keeps"
    for ours, theirs in zip(frugal.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "path_dropout"])
def test_each_dropout_acts_in_training_only(option: str) -> None:
    net = made(**{option: 0.5})
    with torch.no_grad():
        assert not torch.equal(net(image()), net(image()))
        net.eval()
        assert torch.equal(net(image()), net(image()))


def test_bad_options() -> None:
    with pytest.raises(UserError, match=r"width: input should be a multiple of 12, found 32"):
        made(width=32)
    with pytest.raises(UserError, match="stage 2 has 24 channels, which 5 heads do not divide"):
        made(heads=[3, 5, 12, 24])
    with pytest.raises(UserError, match="depths"):
        made(depths=[2, 2, 2])


def test_a_rebuilt_network_needs_no_weight_file(tmp_path) -> None:
    torch.save({"state_dict": Reference(1, 3, feature_size=12).state_dict()}, tmp_path / "weights.pt")
    net = made(pretrained=str(tmp_path / "weights.pt"))
    (tmp_path / "weights.pt").unlink()
    again = networks.build("swin_unetr", asdict(net.config), in_channels=1, num_rois=3)  # type: ignore[call-overload]
    again.load_state_dict(net.state_dict())
    sides, spacing = (32, 32, 64), (1.0, 1.0, 1.0)
    options = {"width": 12, "pretrained": str(tmp_path / "weights.pt")}
    assert networks.legal_patch("swin_unetr", options, patch_ZYX=sides, spacing_ZYX_mm=spacing) == sides


def test_listing_networks_does_not_import_monai() -> None:
    code = "import sys; from gleanseg.resolve import names; names('networks'); sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""First weights from files as others publish them."""

import logging
from pathlib import Path

import pytest
import torch
from monai.networks.nets.resnet import resnet18
from monai.networks.nets.swin_unetr import SwinUNETR as Reference
from torch import Tensor, nn

from gleanseg import networks
from gleanseg.errors import UserError
from gleanseg.networks import classifiers
from gleanseg.networks.network import Network
from gleanseg.networks.pretrained import load_matching

State = dict[str, Tensor]


def swin(path: Path, *, in_channels: int = 1, width: int = 12) -> Network:
    torch.manual_seed(1)
    options = {"width": width, "pretrained": str(path)}
    return networks.build("swin_unetr", options, in_channels=in_channels, num_rois=2)


@pytest.fixture(scope="module")
def reference() -> State:
    torch.manual_seed(0)
    return Reference(1, 3, feature_size=12).state_dict()


def self_supervised(reference: State) -> State:
    """As ``model_swinvit.pt``: no prefix but that of several devices, and other names in the perceptrons."""
    state = {k.removeprefix("swinViT."): v for k, v in reference.items() if k.startswith("swinViT.")}
    return {f"module.{k.replace('mlp.linear', 'mlp.fc')}": v for k, v in state.items()}


def autoencoder(reference: State) -> State:
    """As ``ssl_pretrained_weights.pth``: stages stand in one more list, and there are parts that nobody needs."""
    state = {k.removeprefix("swinViT."): v for k, v in reference.items() if k.startswith("swinViT.")}
    renamed = {f"encoder.{k.replace('.0.', '.0.0.', 1) if k.startswith('layers') else k}": v for k, v in state.items()}
    return renamed | {"encoder.mask_token": torch.zeros(1), "encoder.norm.weight": torch.zeros(192)}


@pytest.mark.parametrize(
    ("key", "form"), [("state_dict", self_supervised), ("model", autoencoder), (None, lambda state: state)]
)
def test_published_forms_of_swin_weights(key, form, reference: State, tmp_path: Path, caplog) -> None:
    state = form(reference)
    torch.save({"epoch": 3, key: state} if key else state, tmp_path / "weights.pt")
    with caplog.at_level(logging.INFO, logger="gleanseg.networks"):
        net = swin(tmp_path / "weights.pt")
    found = net.encoder.state_dict()
    parts = [name for name in found if name.startswith("swinViT.") or key is None]
    assert len(parts) > 100
    assert all(torch.equal(found[name], reference[name]) for name in parts)
    floats = [name for name in found if found[name].is_floating_point()]
    loaded = [name for name in parts if found[name].is_floating_point()]
    (record,) = caplog.records
    assert f"weights.pt: loaded {len(loaded)} of {len(floats)} tensors" in record.getMessage()
    assert ("still random: encoder1." in record.getMessage()) == (key is not None)


def test_other_image_channels_leave_the_first_layer_random(reference: State, tmp_path: Path, caplog) -> None:
    torch.save({"state_dict": self_supervised(reference)}, tmp_path / "weights.pt")
    with caplog.at_level(logging.INFO, logger="gleanseg.networks"):
        net = swin(tmp_path / "weights.pt", in_channels=4)
    num_swin = sum(t.is_floating_point() for name, t in reference.items() if name.startswith("swinViT."))
    assert (
        f"loaded {num_swin - 1} of {num_swin + 11} tensors; still random: swinViT.patch_embed.proj.weight, encoder1"
        in caplog.text
    )
    assert net.encoder.swinViT.patch_embed.proj.weight.shape == (12, 4, 2, 2, 2)
    bias = "swinViT.patch_embed.proj.bias"
    assert torch.equal(net.encoder.state_dict()[bias], reference[bias])


def test_weights_of_another_size_are_refused(reference: State, tmp_path: Path) -> None:
    """Tables of positions do not depend on the width: a few matches are no match."""
    torch.save({"state_dict": self_supervised(reference)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"expected \[24, 1, 2, 2, 2\] for 'swinViT.patch_embed.proj.weight', found"):
        swin(tmp_path / "weights.pt", width=24)


def test_files_that_do_not_serve(reference: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(UserError, match=r"weights.pt: no such file"):
        swin(path)
    torch.save({k: v for k, v in reference.items() if k.startswith("decoder")}, path)
    with pytest.raises(UserError, match=r"none of its 20 tensors fits; expected names such as 'swinViT.patch_embed"):
        swin(path)
    torch.save({}, path)
    with pytest.raises(UserError, match="none of its 0 tensors fits"):
        swin(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(UserError, match="expected tensors by name, found list"):
        swin(path)
    path.write_bytes(b"PK not a file of weights")
    with pytest.raises(UserError, match=r"expected a torch.save file"):
        swin(path)


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"module.pt: expected a torch.save file that holds nothing but tensors"):
        load_matching(nn.Linear(2, 2), tmp_path / "module.pt", rename=str)


def test_med3d_weights_of_the_classifier(tmp_path: Path) -> None:
    theirs = resnet18(spatial_dims=3, n_input_channels=1, shortcut_type="A", feed_forward=False)
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "med3d.pth")
    options = {"shortcut": "A", "pretrained": str(tmp_path / "med3d.pth")}
    net = classifiers.build("resnet18", options, in_channels=1, num_outputs=7).eval()
    x = torch.randn(1, 1, 24, 24, 24)
    features = net.encode(x)
    theirs.eval()
    torch.testing.assert_close(features.mean((2, 3, 4)), theirs(x), rtol=1e-4, atol=1e-5)
    assert net.config.pretrained is None
    with pytest.raises(UserError, match=r"expected \[16, 1, 7, 7, 7\] for 'conv1.weight', found \[64, 1, 7, 7, 7\]"):
        classifiers.build("resnet18", options | {"width": 16}, in_channels=1, num_outputs=7)

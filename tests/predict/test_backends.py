"""Compiled networks give what PyTorch gives, and are taken where they pay."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from stand_ins import Threshold, make_plan, make_predictor
from torch import nn

from gleanseg.errors import UserError
from gleanseg.networks.attach import attach_head, head_config
from gleanseg.networks.classifiers import build
from gleanseg.networks.fusion import FusionConfig, TextFusion
from gleanseg.networks.network import Network
from gleanseg.parts.presence import RoiAware
from gleanseg.predict import backends, openvino
from gleanseg.predict.backends import Backends
from gleanseg.predict.openvino import Form, OpenVinoNetwork, OpenVinoPresence
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.rois.ontology import builtin
from support.small_networks import PATCH, every_network, image, patch, small

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not openvino.is_installed(), reason="OpenVINO is not installed")


@pytest.fixture(autouse=True)
def no_runtime_types() -> Iterator[None]:
    """While PyTorch traces a network, sizes are tensors, which the type checker of the tests refuses."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def compiled(net: Network, name: str = "unet3d") -> OpenVinoNetwork:
    return OpenVinoNetwork(net.eval().requires_grad_(False), Form(2, patch(name), bf16=False))


def assert_same(net: Network, name: str = "unet3d") -> None:
    fast = compiled(net, name)
    for batch in (1, 3):
        x = image(name, batch=batch)
        with torch.no_grad():
            expected, found = (net(x),) if fast.scored else net.features(x), fast.features(x)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
            torch.testing.assert_close(fast.score(found), net(x), rtol=1e-3, atol=1e-3)
            some = torch.tensor([2, 0])
            torch.testing.assert_close(fast.score(found, some), net(x)[:, some], rtol=1e-3, atol=1e-3)


@needs_openvino
@every_network
@pytest.mark.parametrize("few", [16, 0])
def test_every_network_compiles_to_the_same(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "FEW_ROIS", few)
    assert_same(small(name), name)


@needs_openvino
@pytest.mark.parametrize("few", [16, 0])
def test_maps_are_handed_over_in_the_precision_of_the_network(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "FEW_ROIS", few)
    net, x = small("unet3d").eval().requires_grad_(False), image("unet3d", batch=2)
    (found,) = OpenVinoNetwork(net, Form(2, patch("unet3d"), bf16=True)).features(x)
    exact = net(x) if few else net.features(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        usual = net(x) if few else net.features(x)[0]
    assert found.dtype == usual.dtype == torch.bfloat16
    assert found.shape == exact.shape
    assert float((found - exact).norm()) < 1.5 * float((usual - exact).norm()), "no less exact than PyTorch in bf16"


@needs_openvino
@pytest.mark.parametrize("few", [16, 0])
def test_dynamic_heads_and_text_are_compiled_along(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "FEW_ROIS", few)
    net = small("unet3d")
    texts = [torch.randn(4, 8, generator=torch.Generator().manual_seed(0))]
    net.add_text(TextFusion(FusionConfig(beta=1.0, kind="film"), texts, channels=net.channels[-1]))
    config = head_config("dynamic", {"codes": "one_hot", "projection": 0})
    attach_head(net, config, rois=("liver", "spleen", "stomach"), table_Kd=torch.eye(3))
    assert not net.linear_head
    assert_same(net)


@needs_openvino
def test_signals_reach_python_after_compiled_networks_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_FREED_IN_ORDER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


TWO_FREED_IN_ORDER = """
import os, signal
from gleanseg.networks.classifiers import build
from gleanseg.parts.presence import RoiAware
from gleanseg.predict.openvino import Form, OpenVinoPresence

roi_aware = RoiAware(build("resnet18", {"width": 4}, in_channels=1, num_outputs=1), [[0]])
first, second = (OpenVinoPresence(roi_aware, Form(1, (16, 16, 32), bf16=False)) for _ in range(2))
del first
del second
signal.signal(signal.SIGTERM, lambda *_: print("stopped"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@needs_openvino
def test_compiling_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: tried.append(address))
    monkeypatch.setattr(socket, "create_connection", lambda address, *args, **options: tried.append(address))
    assert isinstance(compiled(small("vnet")), OpenVinoNetwork)
    assert tried == []


def predictor(net: nn.Module, **options: object) -> Predictor:
    plan = make_plan(("liver", "spleen", "stomach"))
    plan = plan.model_copy(update={"channels": plan.channels * 2, "intensity": plan.intensity * 2})
    return Predictor(
        [net], plan=plan, rois=plan.rois, ontology=builtin(), patch_ZYX=PATCH, options=Options(**options),
    )  # fmt: skip


@needs_openvino
@pytest.mark.parametrize("backend", ["openvino", "auto"])
def test_volumes_are_segmented_alike(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_WORTH_COMPILING", 1)
    net = small("unet3d").eval()
    net.head.classifier.bias.data.zero_()  # else all is background
    volume = np.random.default_rng(0).normal(size=(2, 24, 50, 40)).astype(np.float32)
    fast, eager = predictor(net, backend=backend), predictor(net, backend="eager")
    found, expected = fast.segment_prepared(volume), eager.segment_prepared(volume)
    assert isinstance(fast.backends.of(100).networks[0], OpenVinoNetwork)
    for roi in expected.layering.rois:
        a, b = found.mask(roi), expected.mask(roi)
        assert b.any()
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.999


@needs_openvino
def test_compiling_gives_modes_back() -> None:
    net = small("vnet").train()
    net.head.eval()
    predictor(net, backend="openvino").segment_prepared(np.zeros((2, *PATCH), np.float32))
    assert net.training
    assert net.encoder.training
    assert not net.head.training


@needs_openvino
def test_auto_compiles_where_it_pays() -> None:
    net = small("vnet").eval()
    made = Backends([net], backend="auto", channels=2, patch_ZYX=PATCH, device=CPU, bf16=False)
    enough = backends._WORTH_COMPILING // int(np.prod(PATCH))
    assert made.of(enough - 1) == ((net,), None)
    (fast,), presence = made.of(enough)
    assert isinstance(fast, OpenVinoNetwork)
    assert presence is None
    assert made.of(enough + 1) == ((fast,), None), "compiled once"
    assert made.of(enough - 1) == ((net,), None), "whatever came before"


@needs_openvino
def test_the_gate_is_compiled_along_and_says_the_same() -> None:
    classifier = build("resnet18", {"width": 8}, in_channels=2, num_outputs=3)
    roi_aware = RoiAware(classifier, [[0], [1, 2], []], temperature=0.5)
    net = small("vnet").eval()
    made = Backends(
        [net], backend="auto", channels=2, patch_ZYX=PATCH, device=CPU, bf16=False, roi_aware=roi_aware
    )  # fmt: skip
    assert made.of(1) == ((net,), roi_aware)
    presence = made.of(10**9).presence
    assert isinstance(presence, OpenVinoPresence)
    for batch in (1, 3):
        x = image(batch=batch)
        scores_BR = presence(x)
        torch.testing.assert_close(scores_BR, roi_aware(x), rtol=1e-3, atol=1e-3)
        assert scores_BR[:, 2].eq(0.5).all(), "nothing stands for it"


def test_auto_without_openvino_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda: False)
    net = small("vnet")
    made = Backends([net], backend="auto", channels=2, patch_ZYX=PATCH, device=CPU, bf16=False)
    assert made.of(10**9) == ((net,), None)


def test_wanting_openvino_without_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"OpenVINO is not installed; pip install 'gleanseg\[fast\]'"):
        predictor(small("vnet"), backend="openvino").segment_prepared(np.zeros((2, *PATCH), np.float32))


@needs_openvino
def test_what_cannot_be_compiled_is_named_or_left_to_pytorch() -> None:
    class Odd(type(small("vnet"))):  # type: ignore[misc]
        def encode(self, x_BCZYX: torch.Tensor) -> list[torch.Tensor]:
            return super().encode(torch.special.bessel_j0(x_BCZYX))

    net = small("vnet").eval()
    net.__class__ = Odd
    with pytest.raises(UserError, match=r"backend openvino: cannot compile Odd.*use --backend eager"):
        Backends([net], backend="openvino", channels=2, patch_ZYX=PATCH, device=CPU, bf16=False).of(1)
    auto = Backends([net], backend="auto", channels=2, patch_ZYX=PATCH, device=CPU, bf16=False)
    assert auto.of(10**9) == ((net,), None)


def test_stand_ins_and_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="compiles gleanseg's networks only"):
        make_predictor(Threshold(0.5), options=Options(backend="openvino")).segment_prepared(
            np.zeros((1, 16, 16, 16), np.float32)
        )
    with pytest.raises(UserError, match="is for processors, and the networks are on cuda"):
        Backends([], backend="openvino", channels=1, patch_ZYX=PATCH, device=torch.device("cuda"), bf16=False)

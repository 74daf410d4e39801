"""Window attention in pieces against MONAI's, which holds everything at once."""

import copy

import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention as Reference
from monai.networks.nets.swin_unetr import compute_mask
from torch import Tensor, nn

from gleanseg.networks import attention
from gleanseg.networks.attention import WindowAttention

WINDOW, GRID = (2, 3, 3), (4, 6, 6)
WINDOWS, VOXELS, WIDTH = 8, 18, 12


def pair(*, dropout: float = 0.0) -> tuple[Reference, WindowAttention]:
    torch.manual_seed(0)
    theirs = Reference(WIDTH, 3, WINDOW, qkv_bias=True, attn_drop=dropout)
    nn.init.normal_(theirs.relative_position_bias_table)
    ours = WindowAttention(copy.deepcopy(theirs))
    assert {n: p.shape for n, p in ours.state_dict().items()} == {n: p.shape for n, p in theirs.state_dict().items()}
    return theirs, ours


def gradients(net: nn.Module, mask: Tensor | None, *, bf16: bool, images: int = 2) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(images * WINDOWS, VOXELS, WIDTH, generator=rng).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        y = net(x, mask)
    (y.float() * torch.randn(y.shape, generator=rng)).sum().backward()
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in net.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("at_once", [1, 3, 100], ids=lambda n: f"{n} windows at once")
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shifted", [False, True])
def test_values_and_gradients_equal_monai(
    shifted: bool, bf16: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_PIECE_BYTES", 4 * 3 * VOXELS**2 * at_once)
    theirs, ours = pair()
    mask = compute_mask(GRID, WINDOW, (1, 1, 1), "cpu") if shifted else None
    expected, found = (gradients(net, mask, bf16=bf16) for net in (theirs, ours))
    assert found.keys() == expected.keys()
    assert len(found) == 7, "output, input, bias table, and weight and bias of two projections"
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_hidden_voxels_are_not_heard() -> None:
    _, ours = pair()
    mask = torch.zeros(1, VOXELS, VOXELS)
    mask[:, :9, 9:] = mask[:, 9:, :9] = -100.0
    x = torch.randn(1, VOXELS, WIDTH, requires_grad=True)
    (of_x,) = torch.autograd.grad(ours(x, mask)[:, :9].sum(), x)
    assert of_x[:, :9].abs().sum() > 0
    assert of_x[:, 9:].eq(0).all(), "a mask of -100 hides to the last bit"


@pytest.mark.parametrize("shifted", [False, True])
def test_the_fused_kernel_of_gpus_gives_the_same(shifted: bool) -> None:
    _, ours = pair()
    mask = compute_mask(GRID, WINDOW, (1, 1, 1), "cpu") if shifted else None
    qkv_BNSHD = torch.randn(2 * WINDOWS, VOXELS, 3, 3, WIDTH // 3)
    in_pieces = attention._InPieces.apply(qkv_BNSHD, ours._bias(VOXELS), mask, ours.scale)
    torch.testing.assert_close(ours._at_once(qkv_BNSHD, mask, 0.0), in_pieces, rtol=1e-4, atol=1e-5)


def test_dropout_drops_weights_in_training_only() -> None:
    theirs, ours = pair(dropout=0.5)
    x = torch.randn(WINDOWS, VOXELS, WIDTH)
    with torch.no_grad():
        assert not torch.equal(ours(x, None), ours(x, None))
        torch.testing.assert_close(ours.eval()(x, None), theirs.eval()(x, None), rtol=1e-4, atol=1e-5)


def test_little_is_kept_for_the_backward_pass() -> None:
    sizes: dict[str, int] = {}
    for name, net in zip(("theirs", "ours"), pair(), strict=True):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: k.append(t.numel()) or t, lambda t: t):
            gradients(net, None, bf16=False, images=8)
        sizes[name] = sum(kept)
    assert sizes["ours"] < 0.6 * sizes["theirs"]

"""What holds for every loss: unknown and invalid things change nothing, pairs count the same, nothing gives 0."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gleanseg.losses import pairs
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse
from gleanseg.losses.dice import case_dice, pooled_dice
from gleanseg.losses.distance import distance_mse, task_consistency
from gleanseg.losses.focal import partial_focal
from gleanseg.losses.pyramid import pyramid_consistency
from gleanseg.types import Mean, Term

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Term]


def consistency(z: Tensor, y: Tensor, known: Tensor, valid: Tensor) -> Term:
    """Targets 0 and 1 become teacher logits -2 and 2."""
    return mse(z, 4 * y.to(z.dtype) - 2, known, valid)


def distance(z: Tensor, y: Tensor, known: Tensor, valid: Tensor) -> Term:
    """Targets 0 and 1 become distances 1 and -1."""
    return distance_mse(z, 1 - 2 * y.to(z.dtype), known, valid)


def agreement(z: Tensor, y: Tensor, known: Tensor, valid: Tensor) -> Term:
    """Targets 0 and 1 become scores of distances of about 1/2 and -1/2."""
    return task_consistency(z, 0.5 - y.to(z.dtype), known, valid, steepness=3.0)


def pyramid(z: Tensor, y: Tensor, known: Tensor, valid: Tensor) -> Term:
    """Targets 0 and 1 become another scale's logits -2 and 2."""
    return pyramid_consistency((z, 4 * y.to(z.dtype) - 2), known, valid)


LOSSES: dict[str, Loss] = {
    "pooled_dice": pooled_dice,
    "pooled_dice_squared": lambda *a: pooled_dice(*a, squared=True),
    "pooled_dice_no_smooth": lambda *a: pooled_dice(*a, smooth=0.0),
    "case_dice": case_dice,
    "case_dice_squared": lambda *a: case_dice(*a, squared=True),
    "bce": partial_bce,
    "bce_positive": lambda *a: partial_bce(*a, positive_weight=3.0),
    "focal": partial_focal,
    "focal_balanced": lambda *a: partial_focal(*a, gamma=0.5, alpha=0.25),
    "consistency": consistency,
    "distance": distance,
    "task_consistency": agreement,
    "pyramid": pyramid,
}
OWN_TARGETS = (consistency, distance, agreement, pyramid)
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def value(term: Term) -> Tensor:
    """As the engine does on one rank."""
    if isinstance(term, Mean):
        return term.total / term.count.clamp_min(1)
    return term.value(term.sums)


def example(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 3, 4, 5, generator=g)
    y = torch.rand(3, 4, 3, 4, 5, generator=g) < 0.4
    known = torch.tensor([[True, True, False, True], [False, True, True, False], [True, False, False, False]])
    valid = torch.rand(3, 3, 4, 5, generator=g) < 0.7
    valid[0] = True
    return logits, y, known, valid


def gradient(loss: Loss, logits: Tensor, *rest: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(loss(leaf, *rest)), leaf)
    return grad


@every_loss
def test_unknown_pairs_and_invalid_voxels_change_nothing(loss: Loss) -> None:
    logits, y, known, valid = example()
    term, grad = loss(logits, y, known, valid), gradient(loss, logits, y, known, valid)
    ignored = ~(known[:, :, None, None, None] & valid[:, None])
    other = loss(torch.where(ignored, -logits + 3, logits), y ^ ignored, known, valid)
    assert torch.equal(value(term), value(other))
    assert torch.equal(gradient(loss, torch.where(ignored, 7.0, logits), y ^ ignored, known, valid), grad)
    assert grad[ignored].eq(0).all()
    assert grad[~ignored].ne(0).all()


@every_loss
def test_not_even_nan_leaks(loss: Loss) -> None:
    logits, y, known, valid = example()
    ignored = ~(known[:, :, None, None, None] & valid[:, None])
    poisoned = torch.where(ignored, float("nan"), logits)
    assert torch.equal(value(loss(poisoned, y, known, valid)), value(loss(logits, y, known, valid)))
    assert torch.equal(gradient(loss, poisoned, y, known, valid), gradient(loss, logits, y, known, valid))


@every_loss
@pytest.mark.parametrize("nothing", ["known", "valid"])
def test_nothing_gives_zero(loss: Loss, nothing: str) -> None:
    logits, y, known, valid = example()
    if nothing == "known":
        known = torch.zeros_like(known)
    else:
        valid = torch.zeros_like(valid)
    term = loss(logits, y, known, valid)
    assert value(term).item() == 0
    if isinstance(term, Mean):
        assert term.count.item() == 0
    assert torch.equal(gradient(loss, logits, y, known, valid), torch.zeros_like(logits))


@every_loss
def test_mask_types_agree(loss: Loss) -> None:
    logits, y, known, valid = example()
    expected = value(loss(logits, y, known, valid))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.uint8):
        assert torch.equal(value(loss(logits, y.to(dtype), known, valid)), expected)


@every_loss
def test_gradient_against_finite_differences(loss: Loss) -> None:
    logits, y, known, valid = example()
    logits = logits[:, :, :2, :2, :2].double().requires_grad_()
    y, valid = y[:, :, :2, :2, :2], valid[:, :2, :2, :2]
    assert torch.autograd.gradcheck(lambda z: value(loss(z, y, known, valid)), logits)


@every_loss
def test_bf16_logits_are_computed_in_fp32(loss: Loss) -> None:
    logits, y, known, valid = example()
    low = logits.bfloat16()
    term = loss(low, y, known, valid)
    assert value(term).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value(loss(low, y, known, valid))
        grad = gradient(loss, low, y, known, valid)
    assert torch.equal(inside, value(term))
    assert torch.equal(inside, value(loss(low.float(), y, known, valid)))
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.float(), gradient(loss, low.float(), y, known, valid), rtol=2**-8, atol=0)


@every_loss
def test_parts_of_a_batch_add_up(loss: Loss) -> None:
    """Two ranks with one and two cases: sums of statistics give what the joined batch gives."""
    batch = example()
    whole = loss(*batch)
    first, second = (loss(*(t[rows] for t in batch)) for rows in (slice(0, 1), slice(1, 3)))
    if isinstance(whole, Mean):
        assert isinstance(first, Mean)
        assert isinstance(second, Mean)
        joined = whole._replace(total=first.total + second.total, count=first.count + second.count)
        assert joined.count == whole.count
        torch.testing.assert_close(joined.total, whole.total)
    else:
        assert not isinstance(first, Mean)
        assert not isinstance(second, Mean)
        torch.testing.assert_close(whole.value(first.sums + second.sums), value(whole))


@every_loss
def test_chunks_and_memory_format_do_not_matter(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, y, known, valid = example()
    known = torch.ones_like(known)
    expected, grad = value(loss(logits, y, known, valid)), gradient(loss, logits, y, known, valid)
    monkeypatch.setitem(pairs._CHUNK, "cpu", 2 * valid[0].numel())
    last = logits.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(value(loss(last, y, known, valid)), expected)
    torch.testing.assert_close(gradient(loss, last, y, known, valid), grad)


@every_loss
@pytest.mark.parametrize("magnitude", [30.0, 1e4])
def test_huge_logits_stay_finite(loss: Loss, magnitude: float) -> None:
    logits, y, known, valid = example()
    huge = logits.sign() * magnitude
    assert value(loss(huge, y, known, valid)).isfinite()
    assert gradient(loss, huge, y, known, valid).isfinite().all()


@every_loss
def test_nothing_of_the_size_of_the_logits_is_kept(loss: Loss) -> None:
    logits, y, known, valid = example()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    leaf = logits.bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        term = loss(leaf, y, known, valid)
    large = [t for t in kept if t.numel() >= logits.numel()]
    owned = {leaf.data_ptr(), y.data_ptr()}
    assert len(large) == 2  # logits and targets
    assert value(term).requires_grad
    if loss not in OWN_TARGETS:
        assert {t.data_ptr() for t in large} == owned

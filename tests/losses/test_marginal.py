"""Marginal and exclusion losses: values by hand, and what must change nothing.

In the examples by hand, exponentials of the logits are whole numbers: background 1, ROIs 2, 3 and 4 of 10 together.
"""

from collections.abc import Callable
from math import log

import pytest
import torch
from torch import Tensor

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.marginal import exclusion_bce, exclusion_ce, marginal_ce, marginal_dice
from gleanseg.rois.ontology import builtin
from gleanseg.types import Mean, Term

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Term]


def all_exclude_each_other(logits: Tensor, y: Tensor, known: Tensor, valid: Tensor) -> Mean:
    return exclusion_bce(logits, y, known, valid, ~torch.eye(y.shape[1], dtype=torch.bool))


LOSSES: dict[str, Loss] = {
    "marginal_ce": marginal_ce,
    "marginal_dice": marginal_dice,
    "exclusion_ce": exclusion_ce,
    "exclusion_bce": all_exclude_each_other,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
soft_max_loss = pytest.mark.parametrize("loss", [marginal_ce, marginal_dice, exclusion_ce])


def value(term: Term) -> Tensor:
    """As the engine does on one rank."""
    if isinstance(term, Mean):
        return term.total / term.count.clamp_min(1)
    return term.value(term.sums)


def scene(*cases: str, rois: str = "abc") -> tuple[Tensor, Tensor]:
    """Masks and validity of lines of voxels: an ROI's letter, ``.`` for none of them, ``?`` for an invalid voxel."""
    y = torch.tensor([[[voxel == roi for voxel in case] for roi in rois] for case in cases])
    valid = torch.tensor([[voxel != "?" for voxel in case] for case in cases])
    return y[:, :, None, None], valid[:, None, None]


def ten(like: Tensor) -> Tensor:
    return torch.tensor([2.0, 3.0, 4.0]).log()[None, :, None, None, None].expand(like.shape).clone()


def knowing(*cases: str, rois: str = "abc") -> Tensor:
    return torch.tensor([[roi in case for roi in rois] for case in cases])


@pytest.mark.parametrize(
    ("voxels", "known", "expected"),
    [
        ("a", "a", -log(0.2)),
        (".", "a", -log(0.8)),  # background, or b, or c; as plain background it would be -log(0.1)
        (".", "abc", -log(0.1)),
        (".", "ab", -log(0.5)),
        ("b", "bc", -log(0.3)),
        ("b", "a", -log(0.8)),  # the mask of an unknown ROI is not read
        ("a.", "a", -(log(0.2) + log(0.8)) / 2),
        ("a?", "a", -log(0.2)),
    ],
)
def test_marginal_cross_entropy_by_hand(voxels: str, known: str, expected: float) -> None:
    y, valid = scene(voxels)
    term = marginal_ce(ten(y), y, knowing(known), valid)
    assert term.count == 1
    assert value(term).item() == pytest.approx(expected, rel=1e-6)


def test_marginal_is_cross_entropy_where_all_is_known() -> None:
    logits, y, _, valid = example()
    known = torch.ones(3, 4, dtype=torch.bool)
    target = torch.where(y.any(1), y.float().argmax(1) + 1, 0)
    classes = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    voxels = torch.nn.functional.cross_entropy(classes, target, reduction="none")
    expected = torch.stack([case[ok].mean() for case, ok in zip(voxels, valid, strict=True)]).mean()
    torch.testing.assert_close(value(marginal_ce(logits, y, known, valid)), expected)


def test_one_roi_is_its_sigmoid() -> None:
    """With one ROI, soft-max over it and background 0 is the sigmoid of its logit."""
    logits, y, _, valid = example()
    z, y, known = logits[:, :1], y[:, :1], torch.ones(3, 1, dtype=torch.bool)
    torch.testing.assert_close(value(marginal_ce(z, y, known, valid)), value(partial_bce(z, y, known, valid)))
    torch.testing.assert_close(value(marginal_dice(z, y, known, valid)), value(pooled_dice(z, y, known, valid)))


def test_a_logit_for_background_would_change_nothing() -> None:
    """Subtracting background's own logit from the others leaves the probabilities."""
    own = torch.randn(1, 4, 2, 3, 4)
    difference = own[:, 1:] - own[:, :1]
    y, valid = torch.zeros(1, 3, 2, 3, 4, dtype=torch.bool), torch.ones(1, 2, 3, 4, dtype=torch.bool)
    term = marginal_ce(difference, y, knowing("b"), valid)
    expected = -(1 - own.softmax(1)[:, 2]).log().mean()
    torch.testing.assert_close(value(term), expected)


def test_cases_count_the_same() -> None:
    y, valid = scene("a...", ".???", "????", "abc.")
    known = knowing("a", "ab", "abc", "")
    term = marginal_ce(ten(y), y, known, valid)
    assert term.count == 2  # nothing is valid in the third case and nothing known in the fourth
    assert term.total.item() == pytest.approx(-(log(0.2) + 3 * log(0.8)) / 4 - log(0.5), rel=1e-6)


def test_marginal_dice_by_hand() -> None:
    y, valid = scene("aab.", "?a..")
    known = knowing("a", "ab")
    term = marginal_dice(ten(y), y, known, valid, smooth=0.0)
    # a: 3 voxels in the reference, 0.2 in each of 7 valid ones. b: known in the second case, where it is absent.
    expected = [[3 * 0.2, 0, 0], [7 * 0.2 + 3, 3 * 0.3, 0], [3, 0, 0]]
    torch.testing.assert_close(term.sums, torch.tensor(expected))
    assert value(term).item() == pytest.approx(1 - 2 * 0.6 / 4.4, rel=1e-6)
    with_margin = marginal_dice(ten(y), y, known, valid, smooth=0.0, margin=1.0)
    assert value(with_margin).item() == pytest.approx(1 - 2 * 0.6 / 5.4, rel=1e-6)


@pytest.mark.parametrize(
    ("voxels", "known", "expected"),
    [
        ("a", "a", -log(0.3)),  # neither b nor c: background or a
        ("a", "ab", -log(0.6)),
        ("b", "ab", -log(0.6)),
        (".", "a", 0.0),
        ("c", "a", 0.0),  # the mask of an unknown ROI is not read
        ("a...", "a", -log(0.3) / 4),
        ("a???", "a", -log(0.3)),
    ],
)
def test_exclusion_by_hand(voxels: str, known: str, expected: float) -> None:
    y, valid = scene(voxels)
    term = exclusion_ce(ten(y), y, knowing(known), valid)
    assert term.count == 1
    assert value(term).item() == pytest.approx(expected, rel=1e-6)


def test_exclusion_counts_cases_in_which_it_can_say_something() -> None:
    y, valid = scene("a", "a", "a", "?", ".")
    term = exclusion_ce(ten(y), y, knowing("abc", "", "a", "a", "a"), valid)
    assert term.count == 2
    assert term.total.item() == pytest.approx(-log(0.3), rel=1e-6)


def test_exclusion_of_sigmoids_by_hand() -> None:
    """Sigmoids 2/3, 3/4 and 4/5; c lies in a, b excludes both."""
    y, valid = scene("a.", "b.", "..")
    exclusive = torch.tensor([[False, True, False], [True, False, True], [False, True, False]])
    term = exclusion_bce(ten(y), y, knowing("a", "b", "c"), valid, exclusive)
    # Case 1: b must not be where a is, c may. Case 2: neither a nor c. Case 3: b has nowhere to be kept from.
    assert term.count == 4
    assert term.total.item() == pytest.approx((-log(1 / 4) - log(1 / 3) - log(1 / 5)) / 2, rel=1e-6)


def test_exclusion_of_sigmoids_is_the_missing_annotation() -> None:
    """Inside a mask, the gradient is that of ``partial_bce`` had someone annotated the other ROI as well."""
    y, valid = scene("aa", rois="ab")
    logits = torch.randn(1, 2, 1, 1, 2, requires_grad=True)
    known = knowing("a", rois="ab")
    (grad,) = torch.autograd.grad(value(all_exclude_each_other(logits, y, known, valid)), logits)
    (full,) = torch.autograd.grad(value(partial_bce(logits, y, ~known, valid)), logits)
    torch.testing.assert_close(grad, full)
    assert grad[:, 0].eq(0).all()


def test_a_tumor_is_never_kept_from_its_organ() -> None:
    ontology = builtin()
    rois = ("liver", "liver_tumor", "spleen")
    exclusive = torch.tensor([[not ontology.may_overlap(a, b) for b in rois] for a in rois])
    y = torch.zeros(1, 3, 1, 1, 4, dtype=torch.bool)
    y[:, 0, ..., :2] = True
    logits = torch.zeros(1, 3, 1, 1, 4, requires_grad=True)
    term = exclusion_bce(
        logits, y, torch.tensor([[True, False, False]]), torch.ones(1, 1, 1, 4, dtype=torch.bool), exclusive
    )
    (grad,) = torch.autograd.grad(value(term), logits)
    assert term.count == 1
    assert grad[0, 2, 0, 0].tolist() == pytest.approx([0.125, 0.125, 0, 0])
    assert grad[0, :2].eq(0).all()


# --- what must change nothing -------------------------------------------------------------------------------------


def example(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four disjoint ROIs in three cases; in the third nothing is known."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 3, 4, 5, generator=g)
    label = torch.randint(0, 5, (3, 3, 4, 5), generator=g)
    y = torch.stack([label == roi for roi in range(1, 5)], dim=1)
    known = torch.tensor([[True, True, False, True], [False, True, True, False], [False] * 4])
    valid = torch.rand(3, 3, 4, 5, generator=g) < 0.7
    valid[0] = True
    return logits, y, known, valid


def gradient(loss: Loss, logits: Tensor, *rest: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(loss(leaf, *rest)), leaf)
    return grad


@every_loss
def test_invalid_voxels_unknown_masks_and_unknown_cases_change_nothing(loss: Loss) -> None:
    logits, y, known, valid = example()
    expected, grad = value(loss(logits, y, known, valid)), gradient(loss, logits, y, known, valid)
    unread = ~(known[:, :, None, None, None] & valid[:, None])
    ignored = ~(known.any(1)[:, None, None, None] & valid)[:, None].expand_as(logits)
    poisoned = torch.where(ignored, float("nan"), logits)
    assert torch.equal(value(loss(poisoned, y ^ unread, known, valid)), expected)
    assert torch.equal(gradient(loss, poisoned, y ^ unread, known, valid), grad)
    assert grad[ignored].eq(0).all()
    assert grad.abs().max() > 0


@soft_max_loss
def test_unknown_rois_learn(loss: Loss) -> None:
    logits, y, known, valid = example()
    grad = gradient(loss, logits, y, known, valid)
    assert grad[0, 2].abs().max() > 0
    assert grad[1, 0].abs().max() > 0


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
    expected = value(loss(low.float(), y, known, valid))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value(loss(low, y, known, valid))
        grad = gradient(loss, low, y, known, valid)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad.float(), gradient(loss, low.float(), y, known, valid), rtol=2**-7, atol=1e-8)


@every_loss
def test_parts_of_a_batch_add_up(loss: Loss) -> None:
    batch = example()
    whole = loss(*batch)
    first, second = (loss(*(t[rows] for t in batch)) for rows in (slice(0, 1), slice(1, 3)))
    if isinstance(whole, Mean):
        assert isinstance(first, Mean)
        assert isinstance(second, Mean)
        assert first.count + second.count == whole.count
        torch.testing.assert_close(first.total + second.total, whole.total)
    else:
        assert not isinstance(first, Mean)
        assert not isinstance(second, Mean)
        torch.testing.assert_close(whole.value(first.sums + second.sums), value(whole))


@every_loss
@pytest.mark.parametrize("magnitude", [30.0, 1e4])
def test_huge_logits_stay_finite(loss: Loss, magnitude: float) -> None:
    logits, y, known, valid = example()
    huge = logits.sign() * magnitude
    assert value(loss(huge, y, known, valid)).isfinite()
    assert gradient(loss, huge, y, known, valid).isfinite().all()


def test_small_losses_are_exact() -> None:
    """A sure and right prediction: -log(1 - 2 e^-20) is 4.1e-9, where a difference of two log-sum-exps gives 0."""
    y, valid = scene("a")
    logits = torch.tensor([20.0, 0.0, -50.0])[None, :, None, None, None]
    expected = 2 * torch.tensor(-20.0, dtype=torch.float64).exp().item()
    assert value(marginal_ce(logits, y, knowing("abc"), valid)).item() == pytest.approx(expected, rel=1e-5)


@every_loss
def test_nothing_of_the_size_of_the_logits_is_kept(loss: Loss) -> None:
    """Only logits and targets wait for the backward pass, whatever the function needs in between."""
    logits, y, known, valid = example()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        value(loss(logits.bfloat16().requires_grad_(), y, known, valid))
    assert sum(t.numel() for t in kept) <= 2 * logits.numel() + valid.numel() + 100

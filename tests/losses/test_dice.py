import math

import pytest
import torch
from torch import Tensor

from gleanseg.losses.dice import case_dice, mutual_dice, pooled_dice
from gleanseg.types import Mean, Term

SURE = 40.0
"""A logit whose sigmoid is 1 in float32; its negative's is 4e-18."""


def value(term: Term) -> float:
    return (term.total / term.count if isinstance(term, Mean) else term.value(term.sums)).item()


def line(*rows: str) -> Tensor:
    """Cases with one ROI and a line of voxels: ``"##.."``."""
    return torch.tensor([[c == "#" for c in row] for row in rows])[:, None, None, None]


def known(batch: int, rois: int = 1) -> Tensor:
    return torch.ones(batch, rois, dtype=torch.bool)


def valid(y: Tensor) -> Tensor:
    return torch.ones_like(y[:, 0], dtype=torch.bool)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(
    ("prediction", "reference", "loss"),
    [
        ("##..", "##..", 0.0),  # perfect
        ("..##", "##..", 1.0),  # disjoint
        (".##.", "##..", 0.5),  # half overlap: 2 * 1 / (2 + 2)
        ("####", "##..", 1 / 3),  # 2 * 2 / (4 + 2)
        ("....", "##..", 1.0),  # nothing found
    ],
)
def test_hard_predictions(prediction: str, reference: str, loss: float, squared: bool) -> None:
    z, y = (2.0 * line(prediction) - 1) * SURE, line(reference)
    assert value(pooled_dice(z, y, known(1), valid(y), squared=squared)) == pytest.approx(loss, abs=1e-5)
    assert value(case_dice(z, y, known(1), valid(y), squared=squared)) == pytest.approx(loss, abs=1e-5)


def test_soft_predictions() -> None:
    z, y = torch.zeros(1, 1, 1, 1, 4), line("#...")  # p = 1/2 everywhere
    assert value(pooled_dice(z, y, known(1), valid(y), smooth=0.0)) == pytest.approx(1 - 1 / 3)
    assert value(pooled_dice(z, y, known(1), valid(y), smooth=0.0, squared=True)) == pytest.approx(1 - 1 / 2)
    assert value(pooled_dice(z, y, known(1), valid(y), smooth=1.0)) == pytest.approx(1 - 2 / 4)
    assert value(pooled_dice(z, y, known(1), valid(y), smooth=0.0, margin=1.0)) == pytest.approx(1 - 1 / 4)


def test_empty_reference() -> None:
    y = line("....")
    empty, full = torch.full(y.shape, -SURE), torch.full(y.shape, SURE)
    assert value(case_dice(empty, y, known(1), valid(y))) == pytest.approx(0, abs=1e-6)
    assert value(case_dice(full, y, known(1), valid(y))) == pytest.approx(1, abs=1e-5)
    assert value(pooled_dice(full, y, known(1), valid(y))) == 0.0


def test_pooled_sums_over_cases_first() -> None:
    y = line("####", "#...")
    z = (2.0 * line("####", "...#") - 1) * SURE
    # Pooled: overlap 4 of 5 + 5. Per case: (0 + 1) / 2.
    assert value(pooled_dice(z, y, known(2), valid(y))) == pytest.approx(1 - 8 / 10, abs=1e-5)
    assert value(case_dice(z, y, known(2), valid(y))) == pytest.approx(0.5, abs=1e-5)


def test_rois_without_reference_in_the_batch_are_left_out() -> None:
    y = torch.cat([line("##..", "...."), line("....", "....")], dim=1)
    z = torch.cat([(2.0 * line(".##.", "....") - 1) * SURE, torch.zeros(2, 1, 1, 1, 4)], dim=1)
    term = pooled_dice(z, y, known(2, 2), valid(y))
    assert term.sums.shape == (3, 2)
    assert value(term) == pytest.approx(0.5, abs=1e-5)  # the second ROI would add 1
    # On another rank the ROI is there: it counts, with this rank's false positives.
    elsewhere = torch.tensor([[0.0, 4.0], [0.0, 8.0], [0.0, 4.0]])
    assert term.value(term.sums + elsewhere).item() == pytest.approx((0.5 + 1 - 8 / 12) / 2, abs=1e-5)


def test_left_out_rois_get_no_gradient() -> None:
    y = torch.cat([line("##.."), line("....")], dim=1)
    z = torch.zeros(1, 2, 1, 1, 4, requires_grad=True)
    term = pooled_dice(z, y, known(1, 2), valid(y))
    (grad,) = torch.autograd.grad(term.value(term.sums), z)
    assert grad[:, 0].ne(0).all()
    assert grad[:, 1].eq(0).all()


def test_gradient_of_linear_dice() -> None:
    z, y = torch.zeros(1, 1, 1, 1, 4, requires_grad=True), line("#...")
    term = pooled_dice(z, y, known(1), valid(y), smooth=0.0)
    (grad,) = torch.autograd.grad(term.value(term.sums), z)
    # L = 1 - 2I/U with I = 1/2, U = 3, dp/dz = 1/4: dL/dp = -2y/U + 2I/U^2
    torch.testing.assert_close(grad.flatten(), torch.tensor([-2 / 3 + 1 / 9, 1 / 9, 1 / 9, 1 / 9]) / 4)


# --- reference numbers of the semi-supervised line of work: soft-max over two channels is one sigmoid of z1 - z0 -----


def published() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four cases of which the first two are labelled; logits of two channels as z1 - z0."""
    b, c, i, j, k = torch.meshgrid(*(torch.arange(n).double() for n in (4, 2, 3, 3, 2)), indexing="ij")
    channels = (2 * torch.sin(1.7 * b + 2.7 * c + 0.5 * i + 0.6 * j + k)).round(decimals=4).float()
    y = ((j - k - b) % 3 == 0)[:, :1]
    labelled = torch.tensor([[True], [True], [False], [False]])
    return channels[:, 1:] - channels[:, :1], y, labelled, valid(y)


def test_published_squared_dice() -> None:
    assert value(pooled_dice(*published(), squared=True)) == pytest.approx(0.5294148921966553, rel=1e-6)


def test_published_linear_dice() -> None:
    assert value(pooled_dice(*published(), smooth=1e-5)) == pytest.approx(0.5985672473907471, rel=1e-6)
    assert value(pooled_dice(*published(), smooth=1e-8)) == pytest.approx(0.5985674858093262, rel=1e-6)


def test_published_dice_of_both_channels() -> None:
    z, y, labelled, everywhere = published()
    both = (torch.cat([-z, z], dim=1), torch.cat([~y, y], dim=1), labelled.expand(-1, 2), everywhere)
    assert value(pooled_dice(*both, squared=True)) == pytest.approx(0.3753858506679535, rel=1e-6)


def test_published_whole_crop_and_per_slice() -> None:
    z = torch.tensor([3 * math.sin(1.3 * i + 0.2) for i in range(36)]).reshape(1, 1, 4, 3, 3)
    y = torch.zeros(1, 1, 4, 3, 3)
    y[0, 0, 1], y[0, 0, 2, 0] = 1, 1
    whole = case_dice(z, y, known(1), valid(y), smooth=0.0, margin=1.0)
    assert value(whole) == pytest.approx(0.618009277, abs=1e-6)
    slices_z, slices_y = z.reshape(4, 1, 1, 3, 3), y.reshape(4, 1, 1, 3, 3)
    per_slice = case_dice(slices_z, slices_y, known(4), valid(slices_y), smooth=0.0, margin=1.0)
    assert value(per_slice) == pytest.approx(0.763628841, abs=1e-6)


LOG3 = math.log(3)
PAIR = (torch.full((2, 2, 1, 1, 3), 2 * LOG3), torch.full((2, 2, 1, 1, 3), -2 * LOG3))


def test_mutual_dice_by_hand() -> None:
    one, other = PAIR  # at temperature 2: p = 3/4 and q = 1/4
    term = mutual_dice(one, other, known(2, 2), valid(one), temperature=2.0, smooth=0.0)
    assert value(term) == pytest.approx(1 - (2 * 3 / 16) / (10 / 16))
    assert value(mutual_dice(other, one, known(2, 2), valid(one), temperature=2.0, smooth=0.0)) == pytest.approx(0.4)
    assert value(mutual_dice(one, one, known(2, 2), valid(one))) == pytest.approx(0.0, abs=1e-6)


def test_mutual_dice_moves_both_sides() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 1, 1, 2, 3, generator=generator).requires_grad_() for _ in range(2))
    term = mutual_dice(one, other, known(2), valid(one), temperature=2.0)
    found = torch.autograd.grad(term.value(term.sums), (one, other))
    p, q = ((z / 2).sigmoid() for z in (one, other))
    formula = 1 - (2 * (p * q).sum() + 1e-5) / (p.square().sum() + q.square().sum() + 1e-5)
    assert value(term) == pytest.approx(formula.item(), rel=1e-6)
    torch.testing.assert_close(found, torch.autograd.grad(formula, (one, other)))


def test_mutual_dice_of_chosen_pairs_alone() -> None:
    one, other = (z.clone().requires_grad_() for z in PAIR)
    chosen = torch.tensor([[True, False], [False, False]])
    term = mutual_dice(one, other, chosen, valid(one), temperature=2.0)
    assert value(term) == pytest.approx(0.4, abs=1e-5), "an ROI without a pair is left out"
    term.value(term.sums).backward()
    for z in (one, other):
        assert z.grad is not None
        assert z.grad[0, 0].abs().min() > 0
        assert z.grad.count_nonzero() == 3
    assert value(mutual_dice(*PAIR, torch.zeros_like(chosen), valid(one))) == 0


def test_a_float_weight_turns_a_pair_down_but_not_the_others_up() -> None:
    z = torch.full((2, 1, 1, 1, 2), -50.0)  # nothing is found
    y = torch.ones(2, 1, 1, 1, 2)
    term = case_dice(z, y, torch.tensor([[0.5], [0.0]]), torch.ones(2, 1, 1, 2, dtype=torch.bool))
    assert (term.total.item(), term.count.item()) == (pytest.approx(0.5, abs=1e-5), 1)

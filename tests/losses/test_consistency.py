import math

import pytest
import torch

from gleanseg.losses.consistency import disagreement, mse, mse_of_logits, mse_where

Z = torch.full((2, 2, 1, 1, 3), math.log(3))  # p = 3/4
T = torch.zeros(2, 2, 1, 1, 3)  # p = 1/2
VALID = torch.ones(2, 1, 1, 3, dtype=torch.bool)


def test_chosen_pairs_count() -> None:
    term = mse(Z, T, torch.tensor([[True, False], [True, True]]), VALID)
    assert term.count.item() == 3
    assert term.total.item() == pytest.approx(3 / 16)


def test_agreement_is_zero() -> None:
    assert mse(Z, Z, torch.ones(2, 2, dtype=torch.bool), VALID).total.item() == 0


def test_float_weights_scale_pairs_but_not_the_count() -> None:
    term = mse(Z, T, torch.tensor([[0.5, 0.0], [2.0, 1.0]]), VALID)
    assert term.count.item() == 3
    assert term.total.item() == pytest.approx(3.5 / 16)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = Z.clone().requires_grad_(), T.clone().requires_grad_()
    term = mse(student, teacher, torch.ones(2, 2, dtype=torch.bool), VALID)
    term.total.backward()
    assert teacher.grad is None
    # d/dz (p - q)^2 = 2 (p - q) p (1 - p), averaged over three voxels
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.full_like(Z, 2 * (1 / 4) * (3 / 16) / 3))


def test_both_get_a_gradient_where_asked() -> None:
    student, teacher = Z.clone().requires_grad_(), T.clone().requires_grad_()
    term = mse(student, teacher, torch.ones(2, 2, dtype=torch.bool), VALID, both=True)
    assert term.total.item() == pytest.approx(4 / 16)
    term.total.backward()
    assert student.grad is not None
    assert teacher.grad is not None
    torch.testing.assert_close(student.grad, torch.full_like(Z, 2 * (1 / 4) * (3 / 16) / 3))
    torch.testing.assert_close(teacher.grad, torch.full_like(Z, -2 * (1 / 4) * (1 / 4) / 3))


def test_sure_voxels_of_all_pairs_share_one_mean() -> None:
    sure = torch.tensor([True, False, True]).expand(2, 2, 1, 1, 3).clone()
    sure[1] = False
    term = mse_where(Z, T.sigmoid(), sure, torch.tensor([[True, False], [True, True]]), VALID)
    assert term.count.item() == 2
    assert term.total.item() == pytest.approx(2 / 16)
    nothing = mse_where(Z, T.sigmoid(), torch.zeros_like(sure), torch.ones(2, 2, dtype=torch.bool), VALID)
    assert (nothing.count.item(), nothing.total.item()) == (0, 0)


def test_a_target_of_zero_is_a_target() -> None:
    sure = torch.ones(2, 2, 1, 1, 3, dtype=torch.bool)
    term = mse_where(Z, torch.zeros_like(Z), sure, torch.ones(2, 2, dtype=torch.bool), VALID)
    assert (term.total / term.count).item() == pytest.approx(9 / 16)


def test_unsure_voxels_move_nothing() -> None:
    student = Z.clone().requires_grad_()
    sure = torch.tensor([True, False, False]).expand(2, 2, 1, 1, 3)
    mse_where(student, T.sigmoid(), sure, torch.ones(2, 2, dtype=torch.bool), VALID).total.backward()
    assert student.grad is not None
    assert student.grad[..., 0].abs().min() > 0
    assert student.grad[..., 1:].abs().max() == 0


def test_disagreement_is_how_often_draws_differ_and_a_dice_over_two_classes() -> None:
    term = disagreement(Z, Z.flip(0) - math.log(9), torch.tensor([[True, False], [True, True]]), VALID)
    assert term.count.item() == 3
    assert (term.total / term.count).item() == pytest.approx(0.75 * 0.75 + 0.25 * 0.25)  # q = 1/4
    p, q = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    two_p, two_q = torch.stack([p, 1 - p]), torch.stack([q, 1 - q])
    dice = 1 - 2 * (two_p * two_q).sum() / (two_p.sum() + two_q.sum())
    logits = torch.logit(torch.stack([p, q])).reshape(2, 1, 1, 1, 1, 40)
    found = disagreement(*logits, torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, 1, 40, dtype=torch.bool))
    assert found.total.item() == pytest.approx(dice.item(), rel=1e-5)


def test_logits_differ_by_their_square() -> None:
    term = mse_of_logits(Z, T, torch.tensor([[True, False], [True, True]]), VALID)
    assert (term.total.item(), term.count.item()) == (pytest.approx(3 * math.log(3) ** 2), 3)

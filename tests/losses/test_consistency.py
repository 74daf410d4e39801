import math

import pytest
import torch

from gleanseg.losses.consistency import mse

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

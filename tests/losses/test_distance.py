import math

import pytest
import torch

from gleanseg.losses.distance import distance_mse, task_consistency

ALL = torch.ones(1, 2, dtype=torch.bool)
VALID = torch.ones(1, 1, 1, 3, dtype=torch.bool)
LEFT = torch.tensor([[True, False]])


def test_a_score_is_the_tanh_of_a_distance() -> None:
    h = torch.tensor([0.0, math.atanh(0.5), -20.0]).expand(1, 2, 1, 1, 3)
    term = distance_mse(h, torch.tensor([0.5, 0.5, 1.0]).expand_as(h), ALL, VALID)
    assert term.count.item() == 2
    assert (term.total / term.count).item() == pytest.approx((0.25 + 0 + 4) / 3)


def test_the_mask_of_a_distance_is_inside_where_it_is_negative() -> None:
    z = torch.tensor([9.0, -9.0, 0.0]).expand(1, 2, 1, 1, 3)
    h = torch.tensor([-0.1, 0.1, 0.0]).expand(1, 2, 1, 1, 3)
    assert task_consistency(z, h, ALL, VALID, steepness=1500.0).total.item() < 1e-6
    assert task_consistency(z, -h, LEFT, VALID, steepness=1500.0).total.item() == pytest.approx(2 / 3, abs=1e-3)


def test_both_predictions_learn_what_the_formula_says() -> None:
    g = torch.Generator().manual_seed(0)
    z, h = (torch.randn(1, 2, 1, 1, 3, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    found = torch.autograd.grad(task_consistency(z, h, LEFT, VALID, steepness=3.0).total, (z, h))
    plain = (z.sigmoid() - torch.sigmoid(-3 * h.tanh())).square()[:, 0].mean()
    for one, other in zip(found, torch.autograd.grad(plain, (z, h)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_steep_mask_stays_finite_in_half_precision() -> None:
    h = torch.tensor([100.0, -100.0, 0.0], dtype=torch.bfloat16).expand(1, 2, 1, 1, 3).clone().requires_grad_()
    term = task_consistency(torch.zeros_like(h), h, ALL, VALID, steepness=1e6)
    term.total.backward()
    assert term.total.item() == pytest.approx(2 * (0.25 + 0.25 + 0) / 3)
    assert h.grad is not None
    assert h.grad.isfinite().all()

import math

import pytest
import torch

from gleanseg.losses.entropy import bits, entropy

VALID = torch.ones(2, 1, 1, 3, dtype=torch.bool)
ALL = torch.ones(2, 2, dtype=torch.bool)


def test_one_half_is_one_bit_and_certainty_none() -> None:
    assert bits(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 1, 0]
    assert bits(torch.tensor(0.25)).item() == pytest.approx(0.811278, rel=1e-5)
    z = torch.tensor([0.0, 50.0, -50.0]).expand(2, 2, 1, 1, 3)
    term = entropy(z, ALL, VALID)
    assert term.count.item() == 4
    assert (term.total / term.count).item() == pytest.approx(1 / 3)


def test_is_the_formula_of_probabilities() -> None:
    z = torch.randn(2, 2, 1, 1, 3, generator=torch.Generator().manual_seed(0)) * 3
    term = entropy(z, ALL, VALID)
    assert (term.total / term.count).item() == pytest.approx(bits(z.sigmoid()).mean().item(), rel=1e-5)


def test_only_chosen_pairs_and_valid_voxels_count() -> None:
    z = torch.zeros(2, 2, 1, 1, 3, requires_grad=True)
    z = (z + torch.tensor(math.log(3))).detach().requires_grad_()
    valid = VALID.clone()
    valid[0, ..., 2] = False
    term = entropy(z, torch.tensor([[True, False], [False, False]]), valid)
    assert term.count.item() == 1
    assert term.total.item() == pytest.approx(0.811278, rel=1e-5)
    term.total.backward()
    assert z.grad is not None
    assert z.grad[0, 0, 0, 0, :2].abs().min() > 0
    assert z.grad.count_nonzero() == 2


def test_pushes_away_from_one_half() -> None:
    z = torch.tensor([-1.0, 0.0, 1.0]).expand(2, 2, 1, 1, 3).clone().requires_grad_()
    entropy(z, ALL, VALID).total.backward()
    assert z.grad is not None
    assert z.grad[0, 0, 0, 0, 0] > 0 > z.grad[0, 0, 0, 0, 2], "descent moves both outwards"
    assert z.grad[0, 0, 0, 0, 1] == 0

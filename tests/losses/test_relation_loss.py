"""Relations to the rows of a bank, by hand."""

import math

import pytest
import torch

from gleanseg.losses.relations import relation_kl
from support.steps import mean

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
BANK = torch.tensor([[EAST, NORTH]])
ONE = torch.ones(1, 1, dtype=torch.bool)


def both(cosines: tuple[float, float], tau: float) -> list[float]:
    """Soft-max of two cosines."""
    e = [math.exp(c / tau) for c in cosines]
    return [x / sum(e) for x in e]


def test_divergence_of_two_relations_by_hand() -> None:
    # The student looks north, the teacher east; lengths do not matter.
    student, teacher = torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[2.0, 0.0]]])
    r_S, r_T = both((0.0, 1.0), 0.1), both((1.0, 0.0), 0.6)
    expected = sum(t * math.log(t / s) for s, t in zip(r_S, r_T, strict=True))
    found = mean(relation_kl(student, teacher, BANK, ONE, tau=0.1, teacher_tau=0.6))
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected > 5


def test_alike_relations_at_one_temperature_are_no_loss() -> None:
    f = torch.tensor([[[0.6, 0.8]]])
    assert mean(relation_kl(f, 5 * f, BANK, ONE, tau=0.3, teacher_tau=0.3)) == pytest.approx(0.0, abs=1e-6)
    assert mean(relation_kl(f, f, BANK, ONE, tau=0.1, teacher_tau=0.3)) > 0.01


def test_the_mean_is_over_counted_places_each_with_its_own_bank() -> None:
    student = torch.tensor([[NORTH, NORTH]])
    teacher = torch.tensor([[EAST, EAST]])
    bank = torch.tensor([[EAST, NORTH], [EAST, EAST]])  # to the second place's rows all is equally alike
    one = mean(relation_kl(student[:, :1], teacher[:, :1], bank[:1], ONE, tau=1.0, teacher_tau=1.0))
    # Soft-max of (1, 0) against (0, 1): the logarithms differ by 1 and -1.
    assert one == pytest.approx((math.e - 1) / (math.e + 1), rel=1e-5)
    term = relation_kl(student, teacher, bank, torch.ones(1, 2, dtype=torch.bool), tau=1.0, teacher_tau=1.0)
    assert (mean(term), float(term.count)) == (pytest.approx(one / 2, rel=1e-5), 2)
    term = relation_kl(student, teacher, bank, torch.tensor([[True, False]]), tau=1.0, teacher_tau=1.0)
    assert (mean(term), float(term.count)) == (pytest.approx(one, rel=1e-5), 1)
    term = relation_kl(student, teacher, bank, torch.zeros(1, 2, dtype=torch.bool), tau=1.0, teacher_tau=1.0)
    assert (float(term.total), float(term.count)) == (0, 0)


def test_the_student_alone_learns() -> None:
    student, teacher, bank = (torch.rand(1, 1, 2, requires_grad=True) for _ in range(3))
    rows = torch.cat([bank, torch.rand(1, 3, 2)], dim=1)
    relation_kl(student, teacher, rows, ONE, tau=0.1, teacher_tau=0.6).total.backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert teacher.grad is None
    assert bank.grad is None

"""The unified loss against values computed by hand."""

import math

import pytest
import torch

from gleanseg.losses.unified import unified

ONE = torch.ones(1, 1, dtype=torch.bool)
VALID = torch.ones(1, 1, 1, 1, dtype=torch.bool)


def logit(p: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1, 1), math.log(p / (1 - p)))


def value(learner: float, teacher: float, **options: object) -> float:
    term = unified(logit(learner), logit(teacher), ONE, VALID, **options)  # type: ignore[arg-type]
    return float(term.total / term.count)


@pytest.mark.parametrize(
    ("learner", "teacher", "expected"),
    [
        (0.6, 0.97, 0.99100),  # confident: 0.97 * -log 0.6, twice
        (0.6, 0.03, 2 * 0.97 * -math.log(0.4)),  # confidently absent
        (0.6, 0.8, 0.04),  # neither: squared distance
        (0.6, 0.2, 0.16),
    ],
)
def test_values_of_the_sheet(learner: float, teacher: float, expected: float) -> None:
    assert value(learner, teacher) == pytest.approx(expected, rel=1e-4)


def test_ablations() -> None:
    assert value(0.6, 0.8, kind="nll") == pytest.approx(-math.log(0.6), rel=1e-5)
    assert value(0.6, 0.97, kind="mse") == pytest.approx(0.37**2, rel=1e-4)


def test_thresholds_need_not_partition_the_voxels() -> None:
    assert value(0.6, 0.85, t1=0.9, t2=0.2) == pytest.approx(0.85 * -math.log(0.6), rel=1e-4)  # only the second
    assert value(0.6, 0.95, t1=0.9, t2=0.02) == pytest.approx(0.95 * -math.log(0.6), rel=1e-4)  # only the first


def test_certain_teachers_and_wrong_learners_stay_finite() -> None:
    learner = torch.full((1, 1, 1, 1, 1), -200.0, requires_grad=True)
    term = unified(learner, torch.full_like(learner, 300.0), ONE, VALID)
    assert float(term.total.detach()) == pytest.approx(400.0)
    term.total.backward()
    assert float(learner.grad) == pytest.approx(-2.0)  # type: ignore[arg-type]


def test_only_chosen_pairs_and_valid_voxels_count() -> None:
    generator = torch.Generator().manual_seed(0)
    learner, teacher = (3 * torch.randn(2, 2, 2, 2, 2, generator=generator) for _ in range(2))
    chosen = torch.tensor([[True, False], [False, False]])
    valid = torch.ones(2, 2, 2, 2, dtype=torch.bool)
    valid[0, 0] = False
    full = unified(learner, teacher, chosen, valid)
    alone = unified(learner[:1, :1, 1:], teacher[:1, :1, 1:], ONE, valid[:1, 1:])
    assert float(full.total) == pytest.approx(float(alone.total), rel=1e-6)
    assert float(full.count) == 1


def test_nothing_chosen_adds_nothing() -> None:
    term = unified(logit(0.3), logit(0.9), ~ONE, VALID)
    assert float(term.total) == 0
    assert float(term.count) == 0

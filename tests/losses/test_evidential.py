"""Axes: B cases, R ROIs, Z Y X voxels."""

import math

import pytest
import torch
from torch.distributions import Beta, kl_divergence

from gleanseg.losses.evidential import Evidence

SHAPE = (2, 2, 1, 1, 3)
FOR, AGAINST = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
Y = (torch.arange(12).reshape(SHAPE) % 2).float()
ALL, VALID = torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 1, 1, 3, dtype=torch.bool)


def test_logits_give_the_mean_probability() -> None:
    found = Evidence(FOR, AGAINST)
    torch.testing.assert_close(found.logits.sigmoid(), Beta(found.inside, found.outside).mean)
    assert Evidence(FOR, FOR).logits.abs().max() == 0
    assert float(found.inside.min()) > 1


def test_cross_entropy_is_expected_over_the_distribution() -> None:
    one = torch.full((1, 1, 1, 1, 1), math.log(math.e - 1))  # softplus: evidence 1, alpha 2
    none = torch.full_like(one, -80.0)  # alpha 1
    valid = VALID[:1, ..., :1]
    # Beta(2, 1) has density 2p: the mean of -ln p is 1/2, that of -ln (1 - p) is 3/2.
    inside = Evidence(one, none).expected_bce(torch.ones_like(one), ALL[:1, :1], valid)
    outside = Evidence(one, none).expected_bce(torch.zeros_like(one), ALL[:1, :1], valid)
    assert (inside.total.item(), outside.total.item()) == pytest.approx((0.5, 1.5), rel=1e-5)


def test_misleading_evidence_diverges_from_none() -> None:
    found = Evidence(FOR, AGAINST)
    wrong = torch.where(Y > 0, found.outside, found.inside)
    expected = kl_divergence(Beta(torch.ones_like(wrong), wrong), Beta(torch.tensor(1.0), torch.tensor(1.0))).mean()
    term = found.misleading(Y, ALL, VALID)
    assert (term.total / term.count).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("loss", ["expected_bce", "misleading"])
def test_only_known_pairs_and_valid_voxels_count(loss: str) -> None:
    z = FOR.clone().requires_grad_()
    known, valid = torch.tensor([[True, False], [False, False]]), VALID.clone()
    valid[0, ..., 0] = False
    term = getattr(Evidence(z, AGAINST), loss)(1 - Y, known, valid)
    assert term.count.item() == 1
    term.total.backward()
    assert z.grad is not None
    assert z.grad.abs().sum((2, 3, 4)).count_nonzero() == 1
    assert z.grad[0, 0, 0, 0, 0] == 0


def test_half_precision_is_widened() -> None:
    found = Evidence(FOR.bfloat16(), AGAINST.bfloat16())
    assert found.logits.dtype == found.expected_bce(Y, ALL, VALID).total.dtype == torch.float32

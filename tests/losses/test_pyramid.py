import math

import pytest
import torch
from torch import Tensor

from gleanseg.losses.pyramid import pyramid_consistency

ALL = torch.ones(1, 1, dtype=torch.bool)
VALID = torch.ones(1, 1, 1, 2, dtype=torch.bool)


def loss(*scales: Tensor, chosen: Tensor = ALL, valid: Tensor = VALID) -> Tensor:
    term = pyramid_consistency(scales, chosen, valid)
    return term.value(term.sums)


def logits(*p: float) -> Tensor:
    return torch.tensor(p, dtype=torch.float64).logit().reshape(1, 1, 1, 1, -1)


def by_hand(p_SV: Tensor) -> Tensor:
    m = p_SV.mean(0)
    doubt = m * (m / p_SV).log() + (1 - m) * ((1 - m) / (1 - p_SV)).log()
    sure = (-doubt).exp()
    return (((m - p_SV).square() * sure).mean(1) / sure.mean(1) + doubt.mean(1)).mean()


def test_one_voxel_by_hand() -> None:
    # p = 3/4 and 1/4, m = 1/2: both lie 1/4 away, D = ln 2 / 2 + ln(2/3) / 2 for either, and one weight cancels.
    doubt = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    found = loss(logits(0.75), logits(0.25), valid=VALID[..., :1])
    assert found.item() == pytest.approx(1 / 16 + doubt, rel=1e-6)


def test_doubtful_voxels_weigh_less() -> None:
    p_SV = torch.tensor([[0.9, 0.6], [0.1, 0.5], [0.7, 0.4]], dtype=torch.float64)
    z = [p.logit().reshape(1, 1, 1, 1, 2).requires_grad_() for p in p_SV]
    found = loss(*z)
    assert found.item() == pytest.approx(by_hand(p_SV).item(), rel=1e-6)
    leaf = torch.stack([one.detach().flatten() for one in z]).requires_grad_()
    (wanted,) = torch.autograd.grad(by_hand(leaf.sigmoid()), leaf)
    for one, other in zip(torch.autograd.grad(found, z), wanted, strict=True):
        torch.testing.assert_close(one.flatten(), other)


def test_agreement_costs_nothing() -> None:
    assert loss(logits(0.2, 0.9), logits(0.2, 0.9), logits(0.2, 0.9)).item() == pytest.approx(0, abs=1e-12)


def test_the_divergence_is_of_the_mean_from_the_scale() -> None:
    # Swapped, KL(p || m) of a scale that is certain is small; this way round it is large.
    certain, half = logits(1 - 1e-6), logits(0.5)
    assert loss(certain, half, valid=VALID[..., :1]).item() > 1


def test_rois_that_take_no_part_are_left_out() -> None:
    z = [torch.cat([logits(a, b), logits(0.3, 0.8)], 1) for a, b in ((0.75, 0.5), (0.25, 0.5))]
    first = torch.tensor([[True, False]])
    assert loss(*z, chosen=first).item() == pytest.approx(loss(z[0][:, :1], z[1][:, :1]).item())
    both = torch.tensor([[True, True]])
    assert loss(*z, chosen=both).item() == pytest.approx(loss(z[0][:, :1], z[1][:, :1]).item() / 2)


def test_certain_scales_stay_finite() -> None:
    z = [torch.full((1, 1, 1, 1, 2), value).requires_grad_() for value in (300.0, -300.0)]
    found = loss(*z)
    assert found.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(found, z))

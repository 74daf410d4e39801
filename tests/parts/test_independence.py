"""Axes: O filters, D weights of a filter."""

import pytest
import torch
from torch import nn

from gleanseg.parts.independence import dependence, shared_convolutions


def test_the_share_that_lies_in_the_others_span() -> None:
    own = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    others = [torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])]
    # squared cosines with the plane of the first and last axis: 9/25, 0, 2/4
    assert float(dependence(own, others)) == pytest.approx((0.36 + 0.0 + 0.5) / 3, abs=1e-6)


def test_no_linear_map_fits_better() -> None:
    torch.manual_seed(0)
    own, other = torch.randn(2, 3, 2, 1, 1), torch.randn(2, 3, 2, 1, 1)
    maps = torch.randn(20000, 2, 2)
    fitted = maps @ other.flatten(1)
    cosines = nn.functional.cosine_similarity(own.flatten(1)[None], fitted, dim=-1).square()
    best = float(cosines.amax(0).mean())
    assert best - 1e-6 <= float(dependence(own, [other])) <= best + 1e-3


def test_only_own_filters_move_and_away_from_the_span() -> None:
    own = torch.tensor([[3.0, 4.0]], requires_grad=True)
    other = torch.tensor([[1.0, 0.0]], requires_grad=True)
    dependence(own, [other]).backward()
    assert other.grad is None
    # cos^2 of (x, y) with the x axis is x^2 / (x^2 + y^2)
    torch.testing.assert_close(own.grad, torch.tensor([[2 * 3 * 16 / 625, -2 * 9 * 4 / 625]]))


def test_dead_filters_of_the_others_explain_nothing() -> None:
    own, alive = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    assert float(dependence(own, [torch.zeros(2, 2), alive])) == pytest.approx(0.36, abs=1e-6)
    assert float(dependence(own, [torch.zeros(2, 2)])) == 0


def test_convolutions_of_one_name_and_shape_are_shared() -> None:
    one = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ConvTranspose3d(2, 2, 2), nn.Conv3d(2, 2, 1))
    other = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv3d(2, 2, 1), nn.Conv3d(2, 3, 1))
    assert shared_convolutions([one, other]) == [[one[0], other[0]]]

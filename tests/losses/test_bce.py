import math

import pytest
import torch
from torch import Tensor

from gleanseg.losses.bce import bce_where, partial_bce

LOG2 = math.log(2)


def full(batch: int, rois: int, voxels: int) -> tuple[Tensor, Tensor]:
    return torch.ones(batch, rois, dtype=torch.bool), torch.ones(batch, 1, 1, voxels, dtype=torch.bool)


def test_values_by_hand() -> None:
    z = torch.tensor([0.0, math.log(3), -math.log(3)]).reshape(1, 1, 1, 1, 3)  # p = 1/2, 3/4, 1/4
    y = torch.tensor([1, 1, 1]).reshape(1, 1, 1, 1, 3)
    known, valid = full(1, 1, 3)
    term = partial_bce(z, y, known, valid)
    assert term.total.item() == pytest.approx((LOG2 + math.log(4 / 3) + math.log(4)) / 3)
    assert term.count.item() == 1
    assert partial_bce(z, 1 - y, known, valid).total.item() == pytest.approx((LOG2 + math.log(4) + math.log(4 / 3)) / 3)


def test_gradient_is_p_minus_y_over_voxels_and_pairs() -> None:
    z = torch.randn(2, 3, 2, 2, 2, requires_grad=True)
    y = torch.rand(2, 3, 2, 2, 2) < 0.5
    term = partial_bce(z, y, torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 2, 2, 2, dtype=torch.bool))
    (grad,) = torch.autograd.grad(term.total / term.count, z)
    torch.testing.assert_close(grad, (z.detach().sigmoid() - y.float()) / (8 * 6))


def test_pairs_count_the_same_whatever_their_valid_voxels() -> None:
    z = torch.tensor([[0.0, 0, 0, 0], [math.log(3)] * 4]).reshape(2, 1, 1, 1, 4)
    y = torch.ones(2, 1, 1, 1, 4)
    known, valid = full(2, 1, 4)
    valid[1, ..., 1:] = False  # one voxel against four
    term = partial_bce(z, y, known, valid)
    assert term.count.item() == 2
    assert term.total.item() == pytest.approx(LOG2 + math.log(4 / 3))


def test_case_without_valid_voxels_has_no_pairs() -> None:
    known, valid = full(2, 3, 4)
    valid[1] = False
    term = partial_bce(torch.zeros(2, 3, 1, 1, 4), torch.ones(2, 3, 1, 1, 4), known, valid)
    assert term.count.item() == 3
    assert term.total.item() == pytest.approx(3 * LOG2)


def test_weights() -> None:
    known, valid = full(1, 2, 4)
    y = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).reshape(1, 2, 1, 1, 4)
    z = torch.zeros(1, 2, 1, 1, 4)
    assert partial_bce(z, y, known, valid, positive_weight=3.0).total.item() == pytest.approx((6 / 4 + 8 / 4) * LOG2)
    weighted = partial_bce(z, y, torch.tensor([[0.5, 2.0]]), valid)
    assert weighted.total.item() == pytest.approx(2.5 * LOG2)
    assert weighted.count.item() == 2
    counted = partial_bce(z, y, known, valid, count_BR=torch.tensor([[0.5, 0.25]]))
    assert counted.total.item() == pytest.approx(2 * LOG2)
    assert counted.count.item() == 0.75


def test_soft_targets() -> None:
    known, valid = full(1, 1, 1)
    z = torch.full((1, 1, 1, 1, 1), math.log(3))
    term = partial_bce(z, torch.full_like(z, 0.25), known, valid)
    assert term.total.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * math.log(4))


def test_published_cross_entropy() -> None:
    """Soft-max cross-entropy over two channels, the first two of four cases labelled."""
    b, c, i, j, k = torch.meshgrid(*(torch.arange(n).double() for n in (4, 2, 3, 3, 2)), indexing="ij")
    channels = (2 * torch.sin(1.7 * b + 2.7 * c + 0.5 * i + 0.6 * j + k)).round(decimals=4).float()
    y = ((j - k - b) % 3 == 0)[:, :1]
    labelled = torch.tensor([[True], [True], [False], [False]])
    term = partial_bce(channels[:, 1:] - channels[:, :1], y, labelled, torch.ones(4, 3, 3, 2, dtype=torch.bool))
    assert (term.total / term.count).item() == pytest.approx(0.9272469282150269, rel=1e-6)


def test_taught_voxels_of_all_pairs_share_one_mean() -> None:
    chosen, valid = torch.tensor([[True, False], [True, True]]), torch.ones(2, 1, 1, 3, dtype=torch.bool)
    valid[1, ..., 2] = False
    z = torch.full((2, 2, 1, 1, 3), math.log(3), requires_grad=True)  # p = 3/4
    y = torch.tensor([True, False, True]).expand(2, 2, 1, 1, 3)
    taught = torch.tensor([True, True, False]).expand(2, 2, 1, 1, 3).clone()
    taught[1, 1] = torch.tensor([False, False, True])  # of which none is valid
    weight = torch.tensor([0.5, 0.25, 9.0]).expand(2, 2, 1, 1, 3)
    term = bce_where(z, y, taught, weight, chosen, valid)
    assert term.count.item() == 4
    assert term.total.item() == pytest.approx(2 * (0.5 * math.log(4 / 3) + 0.25 * math.log(4)))
    term.total.backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad[0, 0, 0, 0], torch.tensor([-0.5 / 4, 0.25 * 3 / 4, 0.0]))
    assert z.grad.count_nonzero() == 4
    nothing = bce_where(z, y, taught, weight, torch.zeros_like(chosen), valid)
    assert (nothing.count.item(), nothing.total.item()) == (0, 0)


def test_a_weight_of_zero_counts() -> None:
    known, valid = full(1, 1, 2)
    z, everywhere = torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 2, dtype=torch.bool)
    term = bce_where(z, everywhere, everywhere, torch.tensor([1.0, 0.0]).reshape_as(z), known, valid)
    assert (term.total / term.count).item() == pytest.approx(LOG2 / 2)

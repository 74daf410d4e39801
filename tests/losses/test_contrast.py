"""Axes: B cases, K classes, M voxels, N rows, D numbers."""

import math

import pytest
import torch

from gleanseg.losses.contrast import centred_contrast, info_nce, pull

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


def test_the_distance_is_the_weighted_mean_over_voxels_and_rows() -> None:
    f = 3 * torch.tensor([[EAST, NORTH]])  # lengths do not count
    m = 5 * torch.tensor([[EAST, WEST]])
    member = torch.ones(1, 1, 2, dtype=torch.bool)
    a, b = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[1.0, 2.0]])
    term = pull(f, m, member, weight_BKM=a, weight_KN=b)
    # 1 - cos: east-east 0, east-west 2, north 1 with both; weights 3 and 1 of voxels, 1 and 2 of rows
    expected = (3 * (1 * 0 + 2 * 2) + 1 * (1 * 1 + 2 * 1)) / (4 * 3)
    assert term.total.item() == pytest.approx(expected)
    assert term.count.item() == 1


def test_only_members_and_stored_rows_count() -> None:
    f = torch.tensor([[EAST, NORTH]])
    m = torch.tensor([[EAST, [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    member = torch.tensor([[[True, False], [True, True]]])
    term = pull(f, m, member, weight_BKM=ones(1, 2, 2), weight_KN=ones(2, 2))
    assert (term.total.item(), term.count.item()) == (pytest.approx(0, abs=1e-6), 1), "the second class has no memory"
    nobody = pull(f, m, torch.zeros_like(member), weight_BKM=ones(1, 2, 2), weight_KN=ones(2, 2))
    assert (nobody.total.item(), nobody.count.item()) == (0, 0)


def test_features_and_weights_move_and_memories_do_not() -> None:
    f = torch.tensor([[EAST, NORTH]], requires_grad=True)
    m = torch.tensor([[WEST, [math.sqrt(0.5), math.sqrt(0.5)]]], requires_grad=True)
    a, b = ones(1, 1, 2).requires_grad_(), ones(1, 2).requires_grad_()
    pull(f, m, torch.ones(1, 1, 2, dtype=torch.bool), weight_BKM=a, weight_KN=b).total.backward()
    assert m.grad is None
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in (f, a, b))
    assert a.grad is not None
    assert a.grad[0, 0, 0] > 0 > a.grad[0, 0, 1], "the voxel that is further away is weighed down"


def test_queries_are_compared_with_one_positive_and_the_negatives_found() -> None:
    q = torch.tensor([[EAST, NORTH], [WEST, WEST]])
    p = torch.tensor([EAST, WEST])
    n = torch.tensor([[NORTH, WEST, EAST], [EAST, EAST, NORTH]])
    asking, found = (
        torch.tensor([[True, True], [True, False]]),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    term = info_nce(2 * q, p, 3 * n, found_KQ=asking, found_KN=found, temperature=0.5)
    east = math.log(math.exp(2) + math.exp(0) + math.exp(-2)) - 2
    north = math.log(math.exp(0) + math.exp(2) + math.exp(0)) - 0
    west = math.log(math.exp(2) + math.exp(-2)) - 2
    expected = (east + north) / 2 + west  # classes count the same
    assert (term.total.item(), term.count.item()) == (pytest.approx(expected), 2)
    alone = info_nce(
        2 * q, p, 3 * n, found_KQ=asking, found_KN=found & torch.tensor([[True], [False]]), temperature=0.5
    )
    assert (alone.total.item(), alone.count.item()) == (pytest.approx((east + north) / 2), 1)
    nobody = info_nce(q, p, n, found_KQ=asking, found_KN=~found & found, temperature=0.5)
    assert (nobody.total.item(), nobody.count.item()) == (0, 0)


def test_a_feature_is_drawn_to_its_pair_its_class_and_its_centre() -> None:
    q = torch.tensor([[EAST], [NORTH]], requires_grad=True)
    pair = torch.tensor([[NORTH], [NORTH]])
    queue = torch.tensor([[EAST, [0.0, 0.0]], [WEST, NORTH]])
    centres = torch.tensor([EAST, WEST])
    found = torch.tensor([[True], [False]])
    term = centred_contrast(q, pair, queue, centres, found_KQ=found, temperature=0.5, centre_weight=0.2)
    # Cosines of the one query: pair 0, queue 1, (empty), -1, 0, centres 1, -1; it should resemble 0, 1 and 0.2 x 1.
    logits = torch.tensor([0.0, 2.0, -2.0, 0.0, 2.0, -2.0])
    log_s = logits.log_softmax(0)
    expected = -(log_s[0] + log_s[1] + 0.2 * log_s[4]) / 3
    assert (term.total.item(), term.count.item()) == (pytest.approx(expected.item(), rel=1e-5), 1)
    term.total.backward()
    assert q.grad is not None
    assert q.grad[0].abs().max() > 0
    assert not q.grad[1].any()

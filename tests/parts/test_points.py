import torch

from gleanseg.parts.points import choose, draw_points
from support.batches import SIDE, make_batch, small_network


def test_all_voxels_come_once_and_in_order() -> None:
    batch = make_batch()
    for num in (0, SIDE**3, 10**6):
        at = draw_points(batch, num)
        assert torch.equal(at.of(batch.x["weak"]), batch.x["weak"].flatten(2))
        assert torch.equal(at.y, batch.y().flatten(2) > 0)
        assert torch.equal(at.valid, batch.valid.flatten(1))


def test_draws_are_the_rows_own_and_everything_is_of_the_same_voxels() -> None:
    batch = make_batch()
    at = draw_points(batch, 100)
    assert at.positions.shape == (4, 100)
    assert torch.equal(at.positions, draw_points(batch, 100).positions)
    assert not torch.equal(at.positions, draw_points(batch, 100, salt=1).positions)
    assert len({tuple(row.tolist()) for row in at.positions}) == 4
    for row, index in enumerate(at.positions):
        assert torch.equal(at.of(batch.x["weak"])[row], batch.x["weak"][row].flatten(1)[:, index])
        assert torch.equal(at.y[row], batch.y()[row].flatten(1)[:, index] > 0)
        assert torch.equal(at.valid[row], batch.valid[row].flatten()[index])


def test_a_head_scores_them_alone() -> None:
    torch.manual_seed(0)
    network, batch = small_network(), make_batch()
    at = draw_points(batch, 50)
    features = network.features(batch.x["weak"])
    torch.testing.assert_close(at.score(network, features), at.of(network.score(features)))


def test_a_coarser_map_gives_the_voxel_that_each_lies_in() -> None:
    at = draw_points(make_batch(), 200)
    fine = torch.rand(4, 2, 4, 8, 2)
    repeated = fine.repeat_interleave(4, 2).repeat_interleave(2, 3).repeat_interleave(8, 4)
    assert torch.equal(at.of(fine), at.of(repeated))


def test_choices_are_by_weight_and_by_the_rows_own_keys() -> None:
    key, weight = torch.tensor([3, 4]), torch.zeros(2, 2, 1000)
    weight[:, 0, :500], weight[1, 0, :500], weight[0, 1, 7] = 1.0, 3.0, 1.0
    index, found = choose(weight, key, 100, salt=0)
    assert found.sum(1).tolist() == [100, 1]
    assert len(set(index[0].tolist())) == 100
    assert int(index[1, 0]) == 7
    assert (index[0] % 1000 < 500).all()
    assert 65 <= (index[0] >= 1000).sum() <= 85, "three of four come from the row that weighs three times as much"
    turned, _ = choose(weight.flip(0), key.flip(0), 100, salt=0)
    assert set(((turned[0] + 1000) % 2000).tolist()) == set(index[0].tolist())
    assert set(choose(weight, key, 100, salt=1)[0][0].tolist()) != set(index[0].tolist())

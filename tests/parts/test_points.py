import torch

from gleanseg.parts.points import draw_points
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
    found = network.score(at.of_features(features))[:, :, 0, 0]
    torch.testing.assert_close(found, at.of(network.score(features)))

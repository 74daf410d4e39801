import torch
from torch.nn import functional

from gleanseg.parts.windows import Windows
from support.batches import NUM_ROIS, make_batch, small_network


def test_windows_of_a_published_patch_are_those_of_the_paper() -> None:
    windows = Windows((7, 10, 10), 4)
    assert windows.places == 700
    # 80 voxels: cells of five, windows of twenty at every tenth.
    column = torch.arange(80.0).reshape(1, 1, 80, 1, 1).expand(-1, -1, -1, 22, 22)
    found = windows.of(windows.cells(column)).reshape(1, 7, 10, 10, 4, 4, 4)
    starts = found[0, :, 0, 0, :, 0, 0]
    assert starts.tolist() == [[10 * n + 5 * cell + 2 for cell in range(4)] for n in range(7)]
    assert torch.equal(found[0, :, 3, 8, :, 1, 2], starts)


def test_windows_overlap_by_half_and_cover_the_patch_by_hand() -> None:
    windows = Windows((1, 1, 2), 2)
    map_BKZYX = torch.tensor([[[[[1.0, 3.0, 5.0, 7.0, 20.0, 40.0]]]], [[[[0.0] * 6]]]]).expand(-1, 1, 2, 2, 6)
    found = windows.of(windows.cells(map_BKZYX))
    assert found.shape == (2, 2, 8)
    assert found[0].tolist() == [[2.0, 6.0] * 4, [6.0, 30.0] * 4]


def test_numbers_of_a_cell_stay_with_their_window() -> None:
    windows = Windows((2, 2, 2), 2)
    cells = torch.rand(3, 3, 3, 3, 5)
    found = windows.of(cells)
    assert found.shape == (3, 8, 40)
    # The last window, of the second half along every axis; numbers of a cell lie slowest.
    expected = cells[1, 1:, 1:, 1:].movedim(-1, 0).flatten()
    assert torch.equal(found[1, 7], expected)


def test_windows_of_padding_are_not_seen() -> None:
    windows = Windows((3, 1, 1), 2)
    valid = torch.zeros(1, 8, 2, 2, dtype=torch.bool)
    valid[:, 7, 0, 1] = True
    assert windows.seen(valid).tolist() == [[False, False, True]]
    valid[:, 3, 0, 1] = True
    assert windows.seen(valid).tolist() == [[True, True, True]]


def test_logits_are_means_over_cells() -> None:
    windows, batch, network = Windows((3, 3, 3), 2), make_batch(), small_network().eval()
    with torch.no_grad():
        features = network.features(batch.x["weak"])
        found = windows.logits(network, features, batch)
    assert found.shape == (4, 4, 4, 4, NUM_ROIS)
    expected = functional.avg_pool3d(network.score(features), 4).movedim(1, -1)
    torch.testing.assert_close(found, expected)

import numpy as np
import pytest

from gleanseg.data.foreground import MAX_VOXELS, sample_foreground

TABLE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=np.bool_)


def test_all_voxels_of_a_small_roi_are_listed_in_order():
    codes = np.zeros((4, 5, 6), dtype=np.uint8)
    codes[1, 2, 3] = 1
    codes[1, 2, 4] = codes[3, 0, 1] = 2
    voxels, offsets = sample_foreground(codes, TABLE, "a")
    assert offsets.tolist() == [0, 3, 5, 5]
    assert voxels.tolist() == [[1, 2, 3], [1, 2, 4], [3, 0, 1], [1, 2, 4], [3, 0, 1]]


def test_a_large_roi_is_sampled_without_repeats_over_its_whole_extent():
    codes = np.zeros((40, 40, 40), dtype=np.uint8)
    codes[2:38] = 1
    voxels, offsets = sample_foreground(codes, TABLE, "a")
    assert offsets.tolist() == [0, MAX_VOXELS, MAX_VOXELS, MAX_VOXELS]
    assert len(np.unique(voxels, axis=0)) == MAX_VOXELS
    assert (codes[tuple(voxels.T.astype(int))] == 1).all()
    np.testing.assert_allclose(voxels.mean(axis=0), [19.5, 19.5, 19.5], atol=0.3)
    np.testing.assert_array_equal(sample_foreground(codes, TABLE, "a")[0], voxels)
    assert (sample_foreground(codes, TABLE, "b")[0] != voxels).any()


def test_axes_beyond_two_bytes_are_refused():
    with pytest.raises(ValueError, match="at most 65536 voxels an axis"):
        sample_foreground(np.zeros((1, 1, 65537), dtype=np.uint8), TABLE, "a")

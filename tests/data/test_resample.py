import numpy as np
import pytest
from scipy import ndimage

from gleanseg.data.resample import AxisMap, apply_matrices, axis_map, axis_matrix, resample


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(
    ("num_in", "step", "offset"), [(37, 0.6, -0.2), (37, 1.7, 0.3), (23, 1.0, 0.25), (2, 0.3, -1.4)]
)
def test_matrix_is_scipys_operator_in_mode_nearest(order, num_in, step, offset):
    signal = np.random.default_rng(0).normal(size=num_in)
    matrix = axis_matrix(num_in, 40, step=step, offset=offset, order=order)
    expected = ndimage.map_coordinates(signal, [offset + np.arange(40) * step], order=order, mode="nearest")
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix @ signal, expected, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


def test_cubic_agrees_with_mode_mirror_away_from_the_edges():
    signal = np.random.default_rng(1).normal(size=64)
    coordinates = 20.13 + np.arange(30) * 0.8
    expected = ndimage.map_coordinates(signal, [coordinates], order=3, mode="mirror")
    matrix = axis_matrix(64, 30, step=0.8, offset=20.13, order=3)
    np.testing.assert_allclose(matrix @ signal, expected, atol=1e-6)


def test_nearest_picks_the_closest_sample():
    matrix = axis_matrix(4, 6, step=0.75, offset=-0.4, order=0)
    np.testing.assert_array_equal(matrix @ np.arange(4, dtype=np.float32), [0, 0, 1, 2, 3, 3])


@pytest.mark.parametrize("order", [0, 1, 3])
def test_rows_are_those_of_the_whole_matrix(order):
    whole = axis_matrix(30, 50, step=0.6, offset=-0.2, order=order)
    part = axis_matrix(30, 50, step=0.6, offset=-0.2, order=order, rows=slice(7, 19))
    np.testing.assert_array_equal(part, whole[7:19])


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="order is 0, 1 or 3, found 2"):
        axis_matrix(4, 4, step=1.0, offset=0.0, order=2)


@pytest.mark.parametrize(
    ("num_in", "in_mm", "out_mm", "num_out"),
    [(100, 1.0, 2.0, 50), (101, 0.7, 1.5, 47), (3, 1.0, 10.0, 1), (5, 5.0, 1.0, 25)],
)
def test_both_grids_share_their_centre(num_in, in_mm, out_mm, num_out):
    made = axis_map(num_in, in_mm, out_mm)
    assert made.num_out == num_out
    assert made.step == pytest.approx(out_mm / in_mm)
    assert made.offset + (num_out - 1) / 2 * made.step == pytest.approx((num_in - 1) / 2)


def test_grids_that_are_practically_equal_are_left_alone():
    assert axis_map(200, 1.0, 1.0001) == AxisMap(200, 200, 1.0, 0.0)
    assert not axis_map(2000, 1.0, 1.0001).is_identity  # 0.1 voxels apart at the ends
    assert not AxisMap(10, 10, 1.0, 0.2).is_identity


def test_inverse_leads_back():
    there = AxisMap(50, 33, 1.5, 0.25)
    back = there.inverse()
    assert (back.num_in, back.num_out) == (33, 50)
    coordinate = 0.25 + 7 * 1.5  # of output sample 7
    assert back.offset + coordinate * back.step == pytest.approx(7)


@pytest.mark.parametrize("order", [1, 3])
def test_volumes_are_resampled_along_all_axes(order):
    rng = np.random.default_rng(2)
    volume = rng.normal(size=(2, 11, 40, 17)).astype(np.float32)
    maps = [axis_map(11, 3.0, 1.3), axis_map(40, 1.0, 1.9), axis_map(17, 1.0, 0.6)]
    grid = np.meshgrid(*(m.offset + np.arange(m.num_out) * m.step for m in maps), indexing="ij")
    expected = [ndimage.map_coordinates(v.astype(np.float64), grid, order=order, mode="nearest") for v in volume]
    result = resample(volume, maps, order=order)
    assert result.shape == (2, 25, 21, 28)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    np.testing.assert_array_equal(resample(volume[0], maps, order=order), result[0])


def test_long_axes_need_several_blocks():
    ramp = np.arange(300, dtype=np.float32)[None, None]
    result = resample(ramp, [AxisMap(1, 1, 1.0, 0.0)] * 2 + [axis_map(300, 1.0, 0.9)], order=1)
    expected = np.clip((149.5 - 166 * 0.9) + np.arange(333) * 0.9, 0, 299)
    np.testing.assert_allclose(result[0, 0], expected, atol=1e-4)


def test_nothing_to_do_returns_the_same_array():
    volume = np.zeros((3, 4, 5), dtype=np.float32)
    assert resample(volume, [axis_map(n, 1.0, 1.0) for n in volume.shape], order=3) is volume
    assert apply_matrices(volume, [None, None, None]) is volume

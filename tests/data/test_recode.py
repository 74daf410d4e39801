import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanseg.data.recode import code_dtype, compact, count_codes, resample_codes, roi_boxes
from gleanseg.data.resample import AxisMap, axis_map

STAY = AxisMap(1, 1, 1.0, 0.0)
NESTED = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=np.bool_)  # outer, inner in it, a neighbour


def line(values, axis, table=NESTED):
    codes, sets = resample_codes(np.array([[values]], dtype=np.uint8), table, [STAY, STAY, axis])
    return [tuple(np.flatnonzero(row).tolist()) for row in sets[codes[0, 0]]]


def test_up_sampling_keeps_what_holds_more_than_half():
    # Samples at -0.25, 0.25, 0.75, ...: those nearer to the ROI than to its neighbour are in it.
    assert line([0, 1, 1, 0], axis_map(4, 1.0, 0.5)) == [(), (), (0,), (0,), (0,), (0,), (), ()]


def test_a_tie_goes_to_the_nearest_voxel():
    # Each output sample lies midway between two inputs; the upper one counts as the nearest.
    assert line([0, 1, 1, 0, 0, 1], axis_map(6, 1.0, 2.0)) == [(0,), (), (0,)]


def test_neighbours_leave_no_gap_at_a_tie():
    assert line([1, 3, 3, 1], axis_map(4, 1.0, 2.0)) == [(2,), (0,)]


def test_a_part_counts_for_its_whole():
    # At 1.4 the inner ROI holds 0.4 and the rest of the outer one 0.6; at 3.0 the inner one holds all.
    assert line([0, 1, 2, 2, 0], AxisMap(5, 2, 1.6, 1.4)) == [(0,), (0, 1)]
    # Background, outer and inner hold 0.44, 0.32 and 0.24 of the first sample: most is background, yet more is outer.
    codes = np.array([[[0, 0, 2], [1, 2, 2]]], dtype=np.uint8)
    made, sets = resample_codes(codes, NESTED, [STAY, AxisMap(2, 1, 1.0, 0.5625), AxisMap(3, 2, 1.5, 0.4375)])
    assert [np.flatnonzero(row).tolist() for row in sets[made[0, 0]]] == [[0], [0, 1]]


def test_where_several_meet_the_nearest_fills_the_gap():
    codes = np.array([[[1, 3, 1, 2, 3], [3, 2, 1, 2, 3]]], dtype=np.uint8)
    table = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.bool_)
    # The first sample weighs the left four by 0.36, 0.24, 0.24, 0.16: no ROI holds more than 0.48 of it.
    made, sets = resample_codes(codes, table, [STAY, AxisMap(2, 1, 1.0, 0.4), AxisMap(5, 4, 1.2, 0.4)])
    assert [np.flatnonzero(row).tolist() for row in sets[made[0, 0]]] == [[0], [0], [1], [2]]


def test_what_would_vanish_keeps_its_nearest_voxels():
    values = [0] * 9
    values[4] = 2
    assert line(values, axis_map(9, 1.0, 3.0)) == [(), (0, 1), ()]
    values = [0] * 9
    values[5] = 2  # between output samples 4 and 7
    assert line(values, axis_map(9, 1.0, 3.0)) == [(), (0, 1), ()]


@pytest.mark.parametrize(("out_mm", "error"), [(0.7, 0.002), (1.6, 0.01), (2.0, 0.02), (3.0, 0.04)])
def test_volumes_of_balls_are_kept(out_mm, error):
    z, y, x = np.mgrid[:40, :40, :40] - 19.5
    codes = (z**2 + y**2 + x**2 < 15**2).astype(np.uint8)
    made, sets = resample_codes(codes, NESTED[:2], [axis_map(40, 1.0, out_mm)] * 3)
    assert (count_codes(made, len(sets)) @ sets)[0] * out_mm**3 == pytest.approx(codes.sum(), rel=error)


@st.composite
def scenes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
    table = np.concatenate([np.zeros((1, 5), dtype=np.bool_), rng.random((draw(st.integers(1, 6)), 5)) < 0.4])
    table[:, 1] &= table[:, 0]  # ROI 1 lies in ROI 0
    table[:, 2] &= table[:, 1]  # and ROI 2 in ROI 1
    table[:, 4] &= ~table[:, 3]  # ROIs 3 and 4 are disjoint
    codes = rng.integers(0, len(table), shape).astype(np.uint8)
    maps = [axis_map(n, 1.0, draw(st.sampled_from([0.37, 0.5, 0.8, 1.0, 1.3, 2.0, 3.1]))) for n in shape]
    return codes, table, maps


@given(scenes())
@settings(max_examples=60, deadline=None)
def test_nested_stay_nested_disjoint_stay_disjoint_and_none_vanishes_for_nothing(scene):
    codes, table, maps = scene
    made, sets = resample_codes(codes, table, maps)
    assert made.shape == tuple(m.num_out for m in maps)
    inside = sets[made]
    assert not (inside[..., 1] & ~inside[..., 0]).any()
    assert not (inside[..., 2] & ~inside[..., 1]).any()
    assert not (inside[..., 3] & inside[..., 4]).any()
    assert not (inside.any(axis=(0, 1, 2)) & ~table[codes].any(axis=(0, 1, 2))).any()
    assert not sets[0].any()


def test_compact_joins_equal_sets_and_orders_them():
    table = np.array([[0, 0], [0, 1], [1, 0], [0, 1], [1, 1]], dtype=np.bool_)
    codes, sets = compact(np.array([[[1, 2, 3, 0]]], dtype=np.uint8), table)
    assert sets.tolist() == [[False, False], [True, False], [False, True]]
    assert codes.tolist() == [[[2, 1, 2, 0]]]


def test_code_types():
    assert code_dtype(256) is np.uint8
    assert code_dtype(257) is np.uint16
    with pytest.raises(ValueError, match="at most 65536 sets"):
        code_dtype(65537)


def test_more_than_255_sets_take_two_bytes():
    numbers = np.arange(400)
    table = ((numbers[:, None] >> np.arange(9)) & 1).astype(np.bool_)
    codes = numbers.astype(np.uint16).reshape(1, 1, 400)
    made, sets = resample_codes(codes, table, [STAY, STAY, axis_map(400, 1.0, 1.0)])
    assert made.dtype == np.uint16
    np.testing.assert_array_equal(sets[made], table[codes])


def test_boxes_of_rois():
    codes = np.zeros((5, 6, 7), dtype=np.uint8)
    codes[1:3, 2, 3:6] = 1
    codes[3, 4, 1] = 2
    boxes = roi_boxes(codes, NESTED)
    assert boxes[0] == (slice(1, 4), slice(2, 5), slice(1, 6))
    assert boxes[1] == (slice(3, 4), slice(4, 5), slice(1, 2))
    assert boxes[2] is None

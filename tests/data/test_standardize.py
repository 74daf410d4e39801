from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from gleanseg.data.case import Channel
from gleanseg.data.plan import Intensity, Plan
from gleanseg.data.resample import apply_matrices
from gleanseg.data.standardize import preprocess_image, target_grid
from gleanseg.data.volume import Grid, Volume
from gleanseg.errors import UserError

CENTER_MM = np.array([11.0, -4.0, 23.0])
NONE, ZSCORE = Intensity(kind="none"), Intensity(kind="zscore")


def planned(spacing_ZYX_mm=(1.0, 1.0, 1.0), *, intensity=NONE, resample="linear", crop="none", channels=1):
    return Plan(
        spacing_ZYX_mm=spacing_ZYX_mm,
        intensity=(intensity,) * channels,
        resample=resample,
        crop=crop,
        rois=("liver",),
        channels=tuple(Channel(name=f"c{i}", modality="CT") for i in range(channels)),
    )


def volume(array_ZYX, affine=None):
    grid = Grid(array_ZYX.shape[-3:], np.eye(4) if affine is None else affine)
    return Volume(array_ZYX, grid, Path("image.nii"))


def positions_mm(grid):
    """World coordinates of every voxel, in the order Z Y X xyz."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape_ZYX), indexing="ij")
    return np.stack([x, y, z, np.ones_like(x)], axis=-1) @ grid.affine[:3].T


def sphere(grid):
    distance = np.linalg.norm(positions_mm(grid) - CENTER_MM, axis=-1)
    return np.clip(9.5 - distance, 0, 1).astype(np.float32)


def oriented(order, signs, tilt):
    """Affine of 1.0 x 1.2 x 2.0 mm voxels, axes permuted and flipped, tilted, sphere in the middle of 34 x 30 x 20."""
    axes = np.zeros((3, 3))
    axes[list(order), [0, 1, 2]] = signs
    angle = np.deg2rad(tilt)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag([1.0, 1.2, 2.0])
    affine[:3, 3] = CENTER_MM - affine[:3, :3] @ (np.array([34, 30, 20]) / 2)
    return affine


ORIENTATIONS = [(order, signs, 0.0) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)] + [
    ((0, 1, 2), (-1, -1, 1), 12.0),
    ((2, 0, 1), (1, -1, -1), -20.0),
]


@pytest.mark.parametrize(("order", "signs", "tilt"), ORIENTATIONS)
def test_a_sphere_stays_where_it_is_in_the_patient_and_comes_back(order, signs, tilt):
    native = Grid((20, 30, 34), oriented(order, signs, tilt))
    made = preprocess_image(volume(sphere(native), native.affine), planned((1.3, 1.1, 1.6)))
    assert made.image.shape == (1, *made.grid.shape_ZYX)
    assert made.grid.orientation == "RAS"
    np.testing.assert_allclose(made.grid.spacing_ZYX_mm, (1.3, 1.1, 1.6), rtol=1e-12)
    weight = made.image[0]
    centroid = (positions_mm(made.grid) * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(centroid, CENTER_MM, atol=0.03)
    assert weight.sum() * 1.3 * 1.1 * 1.6 == pytest.approx(sphere(native).sum() * 2.4, rel=0.01)
    back = apply_matrices(weight, [m.inverse().matrix(order=1) for m in made.maps])
    returned = made.axes.undo(back)
    assert returned.shape == native.shape_ZYX
    assert np.abs(returned - sphere(native)).mean() < 0.01


def test_the_new_grid_fills_the_same_box():
    old = Grid((20, 30, 34), oriented((1, 0, 2), (1, -1, 1), 10.0))
    new, maps = target_grid(old, (0.5, 2.0, 3.0))
    assert new.shape_ZYX == (80, 18, 11)
    for grid in (old, new):
        z, y, x = grid.shape_ZYX
        middle = grid.affine @ [(x - 1) / 2, (y - 1) / 2, (z - 1) / 2, 1]
        np.testing.assert_allclose(middle, old.affine @ [16.5, 14.5, 9.5, 1], atol=1e-9)
    assert [m.num_out for m in maps] == [80, 18, 11]


def test_zscore_does_not_depend_on_the_scale():
    array = np.random.default_rng(0).normal(300, 40, (12, 13, 14)).astype(np.float32)
    results = [
        preprocess_image(volume(array * np.float32(scale)), planned(intensity=ZSCORE)).image
        for scale in (1e-4, 1.0, 1e4)
    ]
    assert results[1].mean() == pytest.approx(0, abs=1e-5)
    assert results[1].std() == pytest.approx(1, abs=1e-5)
    for result in results:
        np.testing.assert_allclose(result, results[1], atol=2e-5)


def test_a_constant_image_becomes_zero():
    made = preprocess_image(volume(np.full((4, 5, 6), 1234.567, np.float32)), planned(intensity=ZSCORE))
    np.testing.assert_array_equal(made.image, 0)


def test_removed_background_has_no_say_and_stays_zero():
    array = np.zeros((1, 1, 8), np.float32)
    array[0, 0, 2:6] = [1, 2, 3, 4]
    made = preprocess_image(volume(array), planned(intensity=Intensity(kind="zscore", nonzero=True)))
    np.testing.assert_allclose(made.image[0, 0, 0], [0, 0, *(np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25)), 0, 0])


def test_ct_is_clipped_and_scaled():
    array = np.array([[[-3000, -100, 50, 300, 3000]]], dtype=np.int16)
    window = Intensity(kind="ct_window", low=-100, high=300, mean=50, std=100)
    made = preprocess_image(volume(array), planned(intensity=window))
    np.testing.assert_allclose(made.image[0, 0, 0], [-1.5, -1.5, 0, 2.5, 2.5])
    assert array[0, 0, 0] == -3000  # the input is not written to


def test_the_input_is_never_written_to():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    preprocess_image(volume(array), planned(intensity=ZSCORE))
    np.testing.assert_array_equal(array.ravel(), np.arange(24))


def test_what_is_not_finite_becomes_the_smallest_value():
    array = np.array([[[np.nan, 5, np.inf, 7, -np.inf]]], dtype=np.float32)
    np.testing.assert_array_equal(preprocess_image(volume(array), planned()).image[0, 0, 0], [5, 5, 5, 7, 5])
    with pytest.raises(UserError, match=r"image\.nii: every voxel is NaN or infinite"):
        preprocess_image(volume(np.full((2, 2, 2), np.nan, np.float32)), planned())


def test_the_body_is_found_in_air_with_both_legs():
    array = np.full((60, 200, 100), -1000, dtype=np.int16)
    array[10:50, 60:90, 30:60] = 0
    array[10:50, 110:140, 30:60] = 0
    array[55, 10, 10] = 1000  # a speck
    made = preprocess_image(volume(array), planned(crop="body"))
    # Every second Y is looked at; margin 10 mm, plus the step.
    assert made.box == (slice(0, 60), slice(48, 151), slice(19, 71))
    np.testing.assert_array_equal(made.grid.affine[:3, 3], [19, 48, 0])
    assert made.native.shape_ZYX == (60, 200, 100)


def test_without_air_or_body_nothing_is_cropped():
    for value in (-1000, 40):
        made = preprocess_image(volume(np.full((5, 6, 7), value, np.int16)), planned(crop="body"))
        assert made.box == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_nonzero_crop_takes_any_channel_and_what_must_be_kept():
    array = np.zeros((2, 6, 7, 8), np.float32)
    array[0, 2, 3, 4] = array[1, 3, 4, 5] = 1
    both = planned(crop="nonzero", channels=2)
    assert preprocess_image(volume(array), both).box == (slice(2, 4), slice(3, 5), slice(4, 6))
    kept = preprocess_image(volume(array), both, keep=(slice(0, 1), slice(3, 4), slice(5, 8)))
    assert kept.box == (slice(0, 4), slice(3, 5), slice(4, 8))
    assert preprocess_image(volume(np.zeros_like(array)), both).box == (slice(0, 6), slice(0, 7), slice(0, 8))


def test_cubic_does_not_overshoot():
    array = np.zeros((1, 1, 20), np.float32)
    array[..., 10:] = 100
    made = preprocess_image(volume(array), planned((1.0, 1.0, 0.5), resample="cubic"))
    assert made.image.min() == 0
    assert made.image.max() == 100
    # Samples at 9.25 and 9.75, either side of the middle of the edge; linear would give 25.
    assert made.image[0, 0, 0, 19] == pytest.approx(21.5685, abs=1e-3)
    assert made.image[0, 0, 0, 20] == pytest.approx(100 - 21.5685, abs=1e-3)


def test_another_number_of_channels_is_refused():
    with pytest.raises(UserError, match=r"image\.nii: expected 2 channels \(c0, c1\), found 1"):
        preprocess_image(volume(np.zeros((2, 2, 2), np.float32)), planned(channels=2))

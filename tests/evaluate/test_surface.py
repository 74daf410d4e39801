"""Surface distances against brute force, analytic shapes and values of other tools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from gleanseg.evaluate import surface
from gleanseg.evaluate.surface import bounding_box, join_boxes, surface_distances, surface_voxels

Mask = NDArray[np.bool_]
SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.7, 1.3), (0.7, 2.5, 1.3), (3.0, 0.8, 0.4), (5.0, 0.8, 0.8), (0.3, 0.3, 6.0)]


def brute(a: Mask, b: Mask, spacing: tuple[float, float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The definition, with nothing clever: all pairs of surface voxels."""
    points = []
    for mask in (a, b):
        edge = mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))
        points.append(np.argwhere(edge) * np.array(spacing))
    pairs = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[Mask, Mask]:
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    masks = [random.random(shape) < draw(st.sampled_from([0.01, 0.1, 0.5, 0.95, 1.0])) for _ in range(2)]
    for mask in masks:
        mask[tuple(random.integers(0, s) for s in shape)] = True
    return masks[0], masks[1]


@settings(max_examples=120, deadline=None, database=None, derandomize=True)
@given(masks=two_masks(), spacing=st.sampled_from(SPACINGS))
def test_equals_all_pairs(masks: tuple[Mask, Mask], spacing: tuple[float, float, float]) -> None:
    found = surface_distances(*masks, spacing_ZYX=spacing)
    for mine, wanted in zip(found, brute(*masks, spacing), strict=True):
        np.testing.assert_allclose(np.sort(mine), np.sort(wanted), rtol=1e-12)


@pytest.mark.parametrize(
    ("very_few", "voxels_per_point"), [(10**6, 0), (0, 0), (0, 10**9)], ids=["pairs", "tree", "field"]
)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_far_surfaces(
    spacing: tuple[float, float, float], very_few: int, voxels_per_point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the neighboring rows, all pairs, a k-d tree or a distance transform give the same distances."""
    monkeypatch.setattr(surface, "_VERY_FEW", very_few)
    monkeypatch.setattr(surface, "_VOXELS_PER_FAR_POINT", voxels_per_point)
    monkeypatch.setattr(surface, "_FEW", 0)
    a, b = np.zeros((2, 50, 50, 50), dtype=bool)
    a[1:6, 2:8, 1:7] = True
    b[41:49, 40:46, 44:47] = True
    b[3, 3, 4] = True  # one near voxel: some points of b are near, the others far
    found = surface_distances(a, b, spacing_ZYX=spacing)
    for mine, wanted in zip(found, brute(a, b, spacing), strict=True):
        np.testing.assert_allclose(np.sort(mine), np.sort(wanted), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 9, 20])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parallel_plates(k: int, axis: int) -> None:
    """Every voxel of two parallel plates is k steps from the other plate."""
    spacing = (2.5, 0.7, 1.3)
    a, b = np.zeros((2, 24, 24, 24), dtype=bool)
    np.moveaxis(a, axis, 0)[2] = True
    np.moveaxis(b, axis, 0)[2 + k] = True
    found = surface_distances(a, b, spacing_ZYX=spacing)
    np.testing.assert_allclose(np.concatenate(found), k * spacing[axis], rtol=1e-12)
    assert found.symmetric_mean() == pytest.approx(k * spacing[axis])
    assert found.share_within(k * spacing[axis]) == 1.0
    assert found.share_within(k * spacing[axis] - 0.01) == 0.0


@pytest.mark.parametrize(("k", "axis"), [(1, 0), (2, 1), (4, 2)])
def test_shifted_boxes(k: int, axis: int) -> None:
    """The farthest voxels of a box that is shifted by k lie on its leading face, k steps away."""
    spacing = (3.0, 0.5, 0.8)
    a, b = np.zeros((2, 30, 30, 30), dtype=bool)
    a[5:20, 6:22, 4:21] = True
    b[...] = np.roll(a, k, axis=axis)
    found = surface_distances(a, b, spacing_ZYX=spacing)
    assert found.percentile(100.0) == pytest.approx(k * spacing[axis])
    assert found.from_prediction.mean() == pytest.approx(found.from_reference.mean())  # mirror images


def test_pooled_and_larger_percentile() -> None:
    """Pooled: all 101 + 1 distances together; larger: that of the worse direction."""
    a, b = np.zeros((2, 1, 1, 101), dtype=bool)
    a[...] = True
    b[0, 0, 0] = True
    found = surface_distances(a, b, spacing_ZYX=(1.0, 1.0, 2.0))
    assert sorted(found.from_prediction.tolist()) == [2.0 * i for i in range(101)]
    assert found.from_reference.tolist() == [0.0]
    assert found.percentile(50.0, pooled=False) == 100.0
    assert found.percentile(50.0) == 99.0  # middle of 0, 0, 2, ..., 200
    assert found.symmetric_mean() == pytest.approx(2 * 5050 / 102)
    assert found.share_within(4.0) == pytest.approx(4 / 102)


def test_equal_masks_are_zero_apart() -> None:
    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.5
    found = surface_distances(mask, mask, spacing_ZYX=(1.0, 2.0, 3.0))
    assert not np.concatenate(found).any()
    assert found.share_within(0.0) == 1.0


def test_surface_voxels_touch_the_outside_by_a_face() -> None:
    cube = np.zeros((7, 7, 7), dtype=bool)
    cube[1:6, 1:6, 1:6] = True
    assert surface_voxels(cube).sum() == 5**3 - 3**3
    assert surface_voxels(np.ones((4, 5, 6), dtype=bool)).sum() == 4 * 5 * 6 - 2 * 3 * 4  # the border is outside
    notched = cube.copy()
    notched[1, 1, 1] = False  # a missing corner touches no inner voxel by a face
    assert not surface_voxels(notched)[2, 2, 2]


def test_empty_or_unequal_masks_are_refused() -> None:
    empty, full = np.zeros((3, 3, 3), dtype=bool), np.ones((3, 3, 3), dtype=bool)
    with pytest.raises(ValueError, match="not empty"):
        surface_distances(full, empty, spacing_ZYX=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="must be equal"):
        surface_distances(full, full[:2], spacing_ZYX=(1.0, 1.0, 1.0))


def test_boxes() -> None:
    mask = np.zeros((6, 7, 8), dtype=bool)
    assert bounding_box(mask) is None
    mask[2, 3, 7] = mask[4, 1, 5] = True
    box = bounding_box(mask)
    assert box == (slice(2, 5), slice(1, 4), slice(5, 8))
    assert join_boxes(None, box, (slice(0, 1), slice(2, 7), slice(6, 7))) == (slice(0, 5), slice(1, 7), slice(5, 8))
    assert join_boxes(None, None) is None

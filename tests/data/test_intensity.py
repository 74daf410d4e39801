"""Intensity scales of published benchmarks, against numbers computed by the code that they publish."""

import numpy as np
import pytest

from gleanseg.data.intensity import normalize
from gleanseg.data.plan import Intensity


def normalized(array: np.ndarray, kind: str, *, whole: np.ndarray | None = None, **limits: float) -> np.ndarray:
    channel = array.astype(np.float32)
    normalize(channel, Intensity(kind=kind, **limits), whole=array if whole is None else whole)  # type: ignore[arg-type]
    return channel


def test_pancreas_window_then_zscore() -> None:
    x, y, z = np.meshgrid(np.arange(3), np.arange(4), np.arange(2), indexing="ij")
    hu = -300.0 + 60 * x + 45 * y + 200 * z
    found = normalized(hu, "window_zscore", low=-125, high=275)
    expected = {
        (0, 0): (-0.931565, -0.647118), (0, 3): (-0.931565, 0.888898), (1, 3): (-0.704007, 1.571571),
        (2, 2): (-0.533339, 1.742239), (2, 3): (-0.021334, 2.254244),
    }  # fmt: skip
    for place, values in expected.items():
        assert found[place] == pytest.approx(values, abs=1e-5)
    in_unit_range = (np.clip(hu, -125, 275) + 125) / 400
    assert found == pytest.approx((in_unit_range - in_unit_range.mean()) / in_unit_range.std(), abs=1e-5)


def brain() -> np.ndarray:
    """Brain box of 3 x 4 x 2 voxels as published, with one bright voxel."""
    x, y, z = np.meshgrid(np.arange(3), np.arange(4), np.arange(2), indexing="ij")
    array = 118.0 + 10 * x + 5 * y + 3 * z
    array[1, 2, 1] += 900
    return array


def test_brats_clips_the_brightest_and_uses_the_brain_for_all_voxels() -> None:
    array = brain()
    assert array.max() == 1041
    found = normalized(array, "brain_zscore")
    assert found.max() == pytest.approx(4.788512, abs=1e-5)  # clipped at 1039.197265625
    assert found.min() == found[0, 0, 0] == pytest.approx(-0.312442, abs=1e-5)
    assert (found.mean(), found.std()) == pytest.approx((0.0, 1.0), abs=1e-6)
    padded = np.pad(array, 1)
    outside = normalized(padded, "brain_zscore")
    inner = outside[1:-1, 1:-1, 1:-1]
    assert (inner.mean(), inner.std()) == pytest.approx((0.0, 1.0), abs=1e-5)
    assert outside[0, 0, 0] < inner.min(), "background is shifted with the brain, not set to 0"


def test_left_atrium_uses_the_volume_before_cropping() -> None:
    whole = np.random.default_rng(0).normal(80, 25, (6, 20, 22)).astype(np.float32)
    crop = whole[:, 5:15, 4:18]
    expected = (crop - whole.mean()) / whole.std()
    assert normalized(crop, "volume_zscore", whole=whole) == pytest.approx(expected, abs=1e-5)
    assert abs(expected.mean()) > 1e-3, "the crop's own mean would be 0"
    broken = whole.copy()
    broken[0, 0, 0] = np.nan
    assert normalized(crop, "volume_zscore", whole=broken) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind", ["zscore", "volume_zscore", "window_zscore", "brain_zscore"])
def test_constant_channels_become_zero(kind: str) -> None:
    assert not normalized(np.full((2, 3, 4), 40.0), kind, low=0, high=100).any()

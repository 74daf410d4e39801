"""Intervals and tests on numbers whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from gleanseg.evaluate.statistics import bootstrap_interval, mean_over_rois, paired_test, wilcoxon

NAN = math.nan


def test_mean_is_per_roi_first() -> None:
    """A ROI that few cases know weighs as much as one that all know; undefined values are in no mean."""
    values = np.array([[1.0, 0.2, NAN], [0.5, NAN, NAN], [0.0, NAN, NAN]])
    assert mean_over_rois(values) == pytest.approx((0.5 + 0.2) / 2)
    assert math.isnan(mean_over_rois(np.full((2, 2), NAN)))


def test_interval_covers_as_often_as_it_says() -> None:
    """95 % intervals of 40 normal values hold the true mean in 90 to 98 of 100 repetitions."""
    random = np.random.default_rng(0)
    hits, widths = 0, []
    for seed in range(100):
        found = bootstrap_interval(random.normal(3.0, 2.0, (40, 1)), seed=seed, num_resamples=500)
        hits += found.low <= 3.0 <= found.high
        widths.append(found.high - found.low)
    assert 90 <= hits <= 98
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 2 / math.sqrt(40), rel=0.08)


def test_interval_resamples_cases_not_rois() -> None:
    """Twenty equal ROIs of a case are one observation, not twenty."""
    values = np.random.default_rng(1).normal(size=(15, 1))
    one, many = bootstrap_interval(values), bootstrap_interval(np.repeat(values, 20, axis=1))
    assert many[:3] == pytest.approx(one[:3])
    assert (one.num, many.num) == (15, 300)


def test_interval_is_seeded_and_says_when_it_cannot_be() -> None:
    values = np.random.default_rng(2).random((9, 3))
    assert bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5)
    assert bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)
    single = bootstrap_interval(np.array([[0.5, NAN], [NAN, NAN]]))
    assert (single.mean, single.num) == (0.5, 1)
    assert math.isnan(single.low)
    nothing = bootstrap_interval(np.full((3, 2), NAN))
    assert math.isnan(nothing.mean)
    assert nothing.num == 0
    constant = bootstrap_interval(np.full((4, 2), 0.25))
    assert constant == (0.25, 0.25, 0.25, 8)


def test_paired_test_sees_a_small_constant_gain() -> None:
    """Cases differ by far more than the methods; pairing still finds a gain of 0.01."""
    random = np.random.default_rng(3)
    b = random.uniform(0.3, 0.9, (1, 20, 2))
    a = b + 0.01 + random.normal(0, 0.002, b.shape)
    found = paired_test(a, b)
    assert found.difference == pytest.approx(float((a - b).mean()))
    assert 0 < found.low < found.difference < found.high < 0.02
    assert found.p_bootstrap == 0.0
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon((a - b).mean(axis=(0, 2))).pvalue)
    assert found.p_wilcoxon < 1e-4
    assert (found.num_cases, found.num_pairs, found.num_undefined) == (20, 40, 0)


def test_paired_test_of_equals() -> None:
    a = np.random.default_rng(4).random((2, 8, 3))
    found = paired_test(a[:1], a[:1])
    assert found[:5] == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_paired_test_knows_the_spread_of_seeds() -> None:
    """Three seeds that scatter widen the interval beyond that of their means over seeds."""
    random = np.random.default_rng(5)
    cases = random.uniform(0.5, 0.9, (1, 30, 1))
    a = cases + np.array([0.05, 0.0, 0.025])[:, None, None]
    b = cases + np.array([0.0, 0.04, 0.02])[:, None, None]
    seeds = paired_test(a, b)
    means = paired_test(a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True))
    assert seeds.difference == pytest.approx(means.difference) == pytest.approx(0.005)
    assert means.high - means.low < 1e-9
    assert seeds.high - seeds.low > 0.03
    assert seeds.low < 0 < seeds.high


def test_paired_test_leaves_out_what_one_side_does_not_define() -> None:
    a = np.array([[[0.9, NAN], [0.8, 0.7], [0.7, 0.6]]])
    b = np.array([[[0.8, 0.1], [0.7, NAN], [0.6, 0.5]]])
    found = paired_test(a, b)
    assert found.difference == pytest.approx(0.1)
    assert (found.num_cases, found.num_pairs, found.num_undefined) == (3, 4, 2)
    with pytest.raises(ValueError, match=r"no \(case, ROI\) pair"):
        paired_test(a[:, :1, 1:], b[:, :1, 1:])
    with pytest.raises(ValueError, match="must be the same"):
        paired_test(a, b[:, :2])


def test_wilcoxon_ignores_zeros() -> None:
    differences = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0])
    assert wilcoxon(differences) == pytest.approx(2 / 2**5)  # five equal signs of five
    assert wilcoxon(np.zeros(6)) == 1.0

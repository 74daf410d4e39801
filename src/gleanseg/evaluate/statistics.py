"""How sure a mean is, and whether two methods differ. Cases are what is resampled: ROIs of a case are not independent.

Axes: S seeds (repeated runs), C cases, R ROIs, B bootstrap samples. NaN is an undefined value and in no mean.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 5000
LEVEL = 0.95
_AT_A_TIME = 500  # bootstrap samples per matrix product


class Interval(NamedTuple):
    """A mean and its bootstrap interval.

    Attributes:
        mean: over cases per ROI, then over ROIs; NaN when nothing is defined.
        low: lower percentile of the bootstrap means; NaN with fewer than two cases.
        high: upper percentile.
        num: how many values are defined.
    """

    mean: float
    low: float
    high: float
    num: int


class PairedTest(NamedTuple):
    """Whether method a scores other than method b on the same cases.

    Attributes:
        difference: mean of a minus mean of b over the pairs that both define, per ROI first.
        low: lower end of the paired bootstrap interval over cases and seeds; NaN with fewer than two cases.
        high: upper end.
        p_bootstrap: two-sided; twice the share of bootstrap differences beyond zero.
        p_wilcoxon: two-sided signed-rank test of the cases' mean differences; 1 when all are zero.
        num_cases: cases with at least one pair.
        num_pairs: (case, ROI) pairs that are defined in every seed of both.
        num_undefined: pairs left out because one side is undefined there.
    """

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float
    num_cases: int
    num_pairs: int
    num_undefined: int


def mean_over_rois(values_CR: NDArray[np.float64]) -> float:
    """Mean over cases per ROI, then over the ROIs that have a defined value; NaN when none has."""
    return float(_means(np.ones((1, len(values_CR))), values_CR)[0])


def bootstrap_interval(
    values_CR: NDArray[np.float64], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL
) -> Interval:
    """Percentile bootstrap of ``mean_over_rois``: cases are drawn with replacement, with all their ROIs.

    Args:
        values_CR: one row per case, one column per ROI (one column for a single ROI); NaN where undefined.
        seed: the same seed and values give the same interval.
        num_resamples: bootstrap samples.
        level: of confidence.
    """
    values_CR = values_CR[np.isfinite(values_CR).any(axis=1)]
    C, num = len(values_CR), int(np.isfinite(values_CR).sum())
    if C < 2:
        return Interval(mean_over_rois(values_CR) if C else float("nan"), float("nan"), float("nan"), num)
    draws_BC = _case_draws(seed, num_resamples, C)
    means = [_means(draws_BC[i : i + _AT_A_TIME], values_CR) for i in range(0, num_resamples, _AT_A_TIME)]
    low, high = _percentiles(np.concatenate(means), level)
    return Interval(mean_over_rois(values_CR), low, high, num)


def paired_test(
    a_SCR: NDArray[np.float64],
    b_SCR: NDArray[np.float64],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> PairedTest:
    """Compare two methods on the same cases and ROIs; each may have several seeds, in its own number.

    Bootstrap samples draw cases once for both methods, and seeds for each method on its own, so that the interval
    covers both new patients and new trainings. One seed each: cases alone are drawn.

    Args:
        a_SCR: values of the first method, one plane per seed.
        b_SCR: values of the second; cases and ROIs in the same order.
        seed: the same seed and values give the same result.
        num_resamples: bootstrap samples.
        level: of confidence.

    Raises:
        ValueError: cases or ROIs differ in number, or no pair is defined in both.
    """
    if a_SCR.shape[1:] != b_SCR.shape[1:]:
        raise ValueError(f"values have shapes {a_SCR.shape} and {b_SCR.shape}; cases and ROIs must be the same")
    finite_SCR = np.isfinite(np.concatenate([a_SCR, b_SCR]))
    defined_CR, some_CR = np.logical_and.reduce(finite_SCR), np.logical_or.reduce(finite_SCR)
    if not defined_CR.any():
        raise ValueError("no (case, ROI) pair is defined in both methods")
    used_C = np.logical_or.reduce(defined_CR, axis=1)
    a_SCR, b_SCR = (np.where(defined_CR, v, np.nan)[:, used_C] for v in (a_SCR, b_SCR))
    C = int(used_C.sum())
    difference = mean_over_rois(a_SCR.mean(axis=0)) - mean_over_rois(b_SCR.mean(axis=0))
    low = high = p_bootstrap = float("nan")
    if C >= 2:
        random = np.random.default_rng(seed)
        drawn: list[NDArray[np.float64]] = []
        for count in _portions(num_resamples):
            cases_BC = _draws(random, count, C)
            a_B, b_B = (_means_of_seeds(_draws(random, count, len(v)), cases_BC, v) for v in (a_SCR, b_SCR))
            drawn.append(a_B - b_B)
        drawn_B = np.concatenate(drawn)
        low, high = _percentiles(drawn_B, level)
        p_bootstrap = min(1.0, 2 * min(float(np.mean(drawn_B <= 0)), float(np.mean(drawn_B >= 0))))
    by_case_C = np.nanmean(a_SCR.mean(axis=0) - b_SCR.mean(axis=0), axis=1)
    pairs, undefined = int(defined_CR.sum()), int((some_CR & ~defined_CR).sum())
    return PairedTest(difference, low, high, p_bootstrap, wilcoxon(by_case_C), C, pairs, undefined)


def credited(
    a_SCR: NDArray[np.float64],
    b_SCR: NDArray[np.float64],
    nothing: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    *,
    perfect: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of two methods in which rightly finding nothing is perfect where another run found something.

    Protocols that leave two empty masks undefined would otherwise drop the very pairs in which one method invents a
    structure and the other does not.

    Args:
        a_SCR: values of the first method, one plane per seed.
        b_SCR: values of the second.
        nothing: of both, where reference and prediction are empty.
        perfect: best value of the metric; 1 for overlaps, 0 for distances.
    """
    some_CR = np.isfinite(np.concatenate([a_SCR, b_SCR])).any(axis=0)
    a, b = (np.where(n & some_CR & ~np.isfinite(v), perfect, v) for v, n in zip((a_SCR, b_SCR), nothing, strict=True))
    return a, b


def wilcoxon(differences_C: NDArray[np.float64]) -> float:
    """Two-sided p of the signed-rank test; zeros are left out, and 1 is returned when nothing else is there."""
    from scipy.stats import wilcoxon as signed_rank  # slow to import, and needed by comparisons alone

    nonzero = differences_C[differences_C != 0]
    return float(signed_rank(nonzero).pvalue) if nonzero.size else 1.0


@lru_cache(maxsize=8)
def _case_draws(seed: int, count: int, size: int) -> NDArray[np.float64]:
    """Draws are kept, because the ROIs and metrics of an evaluation share them."""
    drawn = _draws(np.random.default_rng(seed), count, size)
    drawn.flags.writeable = False
    return drawn


def _portions(total: int) -> list[int]:
    return [min(_AT_A_TIME, total - start) for start in range(0, total, _AT_A_TIME)]


def _draws(random: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
    """How often each of ``size`` things is drawn in each of ``count`` samples with replacement."""
    return random.multinomial(size, np.full(size, 1 / size), size=count).astype(np.float64)


def _means(weights_BC: NDArray[np.float64], values_CR: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean over cases per ROI, then over ROIs with any weight; NaN when there is none."""
    counts_BR = weights_BC @ np.isfinite(values_CR).astype(np.float64)
    sums_BR = weights_BC @ np.nan_to_num(values_CR, nan=0.0)
    per_roi_BR = np.divide(sums_BR, counts_BR, out=np.zeros_like(sums_BR), where=counts_BR > 0)
    rois_B = (counts_BR > 0).sum(axis=1)
    means_B: NDArray[np.float64] = np.full(len(rois_B), np.nan)
    np.divide(per_roi_BR.sum(axis=1), rois_B, out=means_B, where=rois_B > 0)
    return means_B


def _means_of_seeds(
    seeds_BS: NDArray[np.float64], cases_BC: NDArray[np.float64], values_SCR: NDArray[np.float64]
) -> NDArray[np.float64]:
    S, C, R = values_SCR.shape
    weights = (seeds_BS[:, :, None] * cases_BC[:, None, :]).reshape(len(cases_BC), S * C)
    return _means(weights, values_SCR.reshape(S * C, R))


def _percentiles(means_B: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.nanpercentile(means_B, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)

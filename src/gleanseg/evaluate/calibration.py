"""How good presence scores are: ranking (AUROC), calibration (ECE, reliability, temperature), decisions.

Axes: N patches, R ROIs, K bins. Scores are logits; a pair takes part where ``sure``.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata

_BINS = 10
_LARGEST_LOG = 3.0  # a temperature lies between 1/20 and 20


class Reliability(NamedTuple):
    """Predicted against observed frequency in equal-width bins of the score.

    Attributes:
        score: mean score of each bin; NaN for an empty one.
        observed: share that is present.
        pairs: how many.
    """

    score: Float[np.ndarray, " K"]
    observed: Float[np.ndarray, " K"]
    pairs: Float[np.ndarray, " K"]

    @property
    def ece(self) -> float:
        """Expected calibration error: the bins' mean distance, weighted by their counts; NaN without a pair."""
        if self.pairs.sum() == 0:
            return float("nan")
        gap = np.abs(np.nan_to_num(self.score) - np.nan_to_num(self.observed))
        return float((gap * self.pairs).sum() / self.pairs.sum())


class Decisions(NamedTuple):
    """What two thresholds decide, and how often they are right.

    Attributes:
        positive: share of pairs above the upper threshold.
        negative: share below the lower one.
        positive_precision: share of the positive decisions that are right; NaN without any.
        negative_precision: as ``positive_precision``.
    """

    positive: float
    negative: float
    positive_precision: float
    negative_precision: float


def auroc(score_N: Float[np.ndarray, " N"], present_N: Bool[np.ndarray, " N"]) -> float:
    """Probability that a present pair scores above an absent one, ties half; NaN when all are alike."""
    num_present = int(present_N.sum())
    num_absent = len(present_N) - num_present
    if num_present == 0 or num_absent == 0:
        return float("nan")
    ranks = rankdata(score_N)
    return float((ranks[present_N].sum() - num_present * (num_present + 1) / 2) / (num_present * num_absent))


def reliability(
    score_N: Float[np.ndarray, " N"], present_N: Bool[np.ndarray, " N"], *, bins: int = _BINS
) -> Reliability:
    """Bin scores in [0, 1]."""
    index = np.minimum((score_N * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins).astype(float)
    with np.errstate(invalid="ignore"):
        score = np.bincount(index, weights=score_N, minlength=bins) / count
        observed = np.bincount(index, weights=present_N.astype(float), minlength=bins) / count
    return Reliability(score, observed, count)


def fit_temperature(logit_N: Float[np.ndarray, " N"], present_N: Bool[np.ndarray, " N"]) -> float:
    """The one number that logits are divided by to make the cross-entropy smallest; 1 without both outcomes.

    Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, https://arxiv.org/abs/1706.04599
    """
    if present_N.all() or not present_N.any():
        return 1.0
    sign = np.where(present_N, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -sign * logit_N / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-_LARGEST_LOG, _LARGEST_LOG), method="bounded").x))


def decisions(
    score_N: Float[np.ndarray, " N"], present_N: Bool[np.ndarray, " N"], *, phi_high: float, phi_low: float
) -> Decisions:
    """What strict thresholds decide."""
    if len(score_N) == 0:
        return Decisions(*[float("nan")] * 4)
    positive, negative = score_N > phi_high, score_N < phi_low
    return Decisions(
        float(positive.mean()),
        float(negative.mean()),
        _share(present_N[positive]),
        _share(~present_N[negative]),
    )


def probabilities(logits: Float[np.ndarray, "*shape"], temperature: float) -> Float[np.ndarray, "*shape"]:
    """Calibrated scores in [0, 1]."""
    scores: Float[np.ndarray, "*shape"] = expit(logits / temperature)
    return scores


def _share(right: Bool[np.ndarray, " n"]) -> float:
    return float(right.mean()) if len(right) else float("nan")

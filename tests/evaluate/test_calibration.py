"""Scores of presence by their definitions."""

import math

import numpy as np
import pytest

from gleanseg.evaluate.calibration import auroc, decisions, fit_temperature, probabilities, reliability


def test_auroc_counts_pairs_and_halves_ties() -> None:
    present = np.array([True, True, False, False])
    assert auroc(np.array([0.9, 0.8, 0.2, 0.1]), present) == 1
    assert auroc(np.array([0.1, 0.8, 0.2, 0.9]), present) == pytest.approx(0.25)
    assert auroc(np.array([0.5, 0.5, 0.5, 0.5]), present) == 0.5
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))


def test_reliability_by_hand() -> None:
    curve = reliability(np.array([0.05, 0.15, 0.95, 1.0]), np.array([False, True, True, True]), bins=10)
    assert curve.pairs.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert curve.observed[[0, 1, 9]].tolist() == [0, 1, 1]
    assert curve.ece == pytest.approx((0.05 + 0.85 + 2 * 0.025) / 4)
    assert math.isnan(reliability(np.zeros(0), np.zeros(0, dtype=bool)).ece)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 20_000)
    present = rng.random(20_000) < probabilities(honest, 1.0)
    assert fit_temperature(honest * temperature, present) == pytest.approx(temperature, rel=0.05)
    assert reliability(probabilities(honest * temperature, temperature), present).ece < 0.02


def test_temperature_without_both_outcomes_is_one() -> None:
    assert fit_temperature(np.array([1.0, 2.0]), np.array([True, True])) == 1.0


def test_decisions_are_strict_and_their_precision_counted() -> None:
    scores, present = np.array([0.8, 0.9, 0.95, 0.05, 0.1]), np.array([True, True, False, False, True])
    found = decisions(scores, present, phi_high=0.8, phi_low=0.1)
    assert (found.positive, found.negative) == (0.4, 0.2)
    assert (found.positive_precision, found.negative_precision) == (0.5, 1.0)
    nothing = decisions(scores[:1], present[:1], phi_high=0.8, phi_low=0.1)
    assert math.isnan(nothing.positive_precision)

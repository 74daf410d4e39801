import math

import pytest

from gleanseg.parts.ramps import cosine_ramp, cosine_wave, linear_ramp, sigmoid_ramp


@pytest.mark.parametrize(
    ("current", "length", "expected"),
    [
        (0, 40, 0.006737946999085467),
        (1, 40, 0.008624700856245927),
        (10, 40, 0.060054667895307945),
        (20, 40, 0.2865047968601901),
        (39, 40, 0.9968798777302081),
        (40, 40, 1.0),
        (50, 40, 1.0),
        (0, 200, 0.006737946999085467),
        (100, 200, 0.2865047968601901),
        (199, 200, 0.9998750078121745),
        (3000, 6000, 0.2865047968601901),
        (5999, 6000, 0.9999998611111207),
    ],
)
def test_published_sigmoid_ramp(current: int, length: int, expected: float) -> None:
    assert sigmoid_ramp(current, length) == pytest.approx(expected, rel=1e-12)


def test_shares_of_a_run() -> None:
    assert sigmoid_ramp(0.2, length=0.4) == pytest.approx(math.exp(-1.25))
    assert [linear_ramp(t, 0.4) for t in (0.0, 0.1, 0.4, 0.9)] == pytest.approx([0.0, 0.25, 1.0, 1.0])
    assert [cosine_ramp(t, 0.6) for t in (0.0, 0.2, 0.3, 0.6, 1.0)] == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("ramp", [sigmoid_ramp, linear_ramp, cosine_ramp])
def test_no_length_means_full_weight(ramp: object) -> None:
    assert callable(ramp)
    assert ramp(0.0, 0.0) == 1.0


def test_a_wave_falls_and_rises() -> None:
    found = [cosine_wave(t, 0.2) for t in (0.0, 0.05, 0.1, 0.2, 0.3)]
    assert found == pytest.approx([1, 0.5, 0, 1, 0], abs=1e-12)

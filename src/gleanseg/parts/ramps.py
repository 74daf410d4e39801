"""Weights that rise with training. All take how much is done and how much there is, in any one unit."""

import math

Number = float | int


def sigmoid_ramp(current: Number, length: Number = 1.0) -> float:
    r"""$e^{-5 (1 - t)^2}$ with $t = \min(current / length, 1)$: from 0.0067 to 1.

    Args:
        current: progress, 0 or more, in the unit of ``length`` (a share of the run, steps, blocks of 150 steps).
        length: where 1 is reached; 0 gives 1 throughout.

    Reference: Laine & Aila, Temporal Ensembling, ICLR 2017, https://arxiv.org/abs/1610.02242
    """
    return math.exp(-5.0 * (1.0 - _share(current, length)) ** 2)


def linear_ramp(current: Number, length: Number = 1.0) -> float:
    r"""$\min(current / length, 1)$: from 0 to 1; ``length`` 0 gives 1 throughout."""
    return _share(current, length)


def cosine_ramp(current: Number, length: Number = 1.0) -> float:
    r"""$(1 - \cos \pi t) / 2$ with $t = \min(current / length, 1)$: from 0 to 1, flat at both ends."""
    return 0.5 * (1.0 - math.cos(math.pi * _share(current, length)))


def cosine_wave(current: Number, length: Number = 1.0) -> float:
    r"""$(1 + \cos 2 \pi t) / 2$ with $t = current / length$: from 1 to 0 and back in every ``length``."""
    return 0.5 * (1.0 + math.cos(2.0 * math.pi * current / length))


def _share(current: Number, length: Number) -> float:
    return 1.0 if length <= 0 else min(max(current / length, 0.0), 1.0)

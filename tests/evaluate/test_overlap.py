"""Counts of masks and of label maps."""

import math

import numpy as np
import pytest

from gleanseg.evaluate import overlap
from gleanseg.evaluate.labels import Layer
from gleanseg.evaluate.overlap import dice, dice_counts, dice_counts_of_layers, jaccard


def test_dice_and_jaccard() -> None:
    assert dice(3, 10) == 0.6
    assert jaccard(3, 10) == pytest.approx(3 / 7)
    assert dice(5, 10, plus=1.0) == pytest.approx(10 / 11)  # a perfect mask of 5 voxels
    assert dice(0, 0, plus=1.0) == 0.0
    assert math.isnan(dice(0, 0))
    assert math.isnan(jaccard(0, 0))


def test_counts_of_masks() -> None:
    p, y = np.zeros((2, 2, 4, 4, 4), dtype=bool)
    p[0, :2], y[0, 1:3] = True, True
    y[1, 0, 0, 0] = True
    assert dice_counts(p, y).tolist() == [[32, 64], [0, 1]]
    valid = np.ones((4, 4, 4), dtype=bool)
    valid[1, :2] = False
    assert dice_counts(p, y, valid_ZYX=valid).tolist() == [[16, 48], [0, 1]]
    with pytest.raises(ValueError, match="prediction has shape"):
        dice_counts(p, y[:, :2])


@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("slab", [1, 100, 1 << 20])
def test_layers_count_like_masks(slab: int, with_valid: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested and overlapping ROIs in two layers give the counts of their masks."""
    monkeypatch.setattr(overlap, "_SLAB", slab)
    random = np.random.default_rng(1)
    shape = (5, 6, 7)
    table = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=bool)  # code -> ROI
    reference = Layer(random.integers(0, 5, shape).astype(np.uint8), table)
    layers = [
        Layer(random.integers(0, 3, shape).astype(np.uint8), np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)),
        Layer(random.integers(0, 2, shape).astype(np.uint8), np.array([[0, 0, 0], [0, 1, 0]], dtype=bool)),
    ]
    p = np.stack([layers[0].codes_ZYX == 1, layers[1].codes_ZYX == 1, layers[0].codes_ZYX == 2])
    y = np.moveaxis(table[reference.codes_ZYX], -1, 0)
    valid = random.random(shape) < 0.7 if with_valid else None
    found = dice_counts_of_layers(layers, reference, valid_ZYX=valid)
    np.testing.assert_array_equal(found, dice_counts(p, y, valid_ZYX=valid))
    assert (found > 0).all()

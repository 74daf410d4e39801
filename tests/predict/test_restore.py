"""Axes: R ROIs, Z Y X voxels."""

import numpy as np
import pytest

from gleanseg.data.resample import AxisMap, axis_map
from gleanseg.predict.layers import Layering
from gleanseg.predict.restore import Axis, Restorer
from gleanseg.rois.ontology import builtin

ROIS = ("liver", "liver_tumor", "spleen", "stomach", "pancreas")
LAYERING = Layering.of(ROIS, builtin())


def smooth_scores(*shape: int) -> np.ndarray:
    """Scores with blobs, thin sheets and empty ROIs."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(len(ROIS), *shape)).astype(np.float32)
    for axis in (1, 2, 3):
        scores = (scores + np.roll(scores, 1, axis)) / 2
    scores[4] = -np.abs(scores[4])
    scores[2, :, : shape[1] // 2] = -1
    return scores


def maps(prepared: tuple[int, ...], native_mm: tuple[float, ...], native: tuple[int, ...]) -> list[AxisMap]:
    return [axis_map(n, mm, n * mm / p).inverse() for n, mm, p in zip(native, native_mm, prepared, strict=True)]


def fold(restorer: Restorer, scores: np.ndarray, *, rows: int, chunk: int) -> None:
    """Hand scores over as the sliding window does."""
    for start in range(0, scores.shape[1], rows):
        low = max(0, start - restorer.halo)
        stop = min(start + rows, scores.shape[1])
        slab = restorer.slab(low, stop)
        for r in range(0, len(scores), chunk):
            rois = slice(r, min(r + chunk, len(scores)))
            slab.fold(rois, scores[rois, low:stop])


def expected_layers(scores: np.ndarray, axes: list[AxisMap], native: tuple[int, ...], at: tuple[int, ...]) -> list:
    """Whole volume, every ROI, straight from the definition."""
    matrices = [m.matrix(order=1).astype(np.float64) for m in axes]
    up = np.einsum("rzyx,Zz,Yy,Xx->rZYX", scores.astype(np.float64), *matrices, optimize=True)
    layers = [np.zeros(native, dtype=np.uint8) for _ in range(LAYERING.num_layers)]
    inside = tuple(slice(s, s + m.num_out) for s, m in zip(at, axes, strict=True))
    for number, layer in enumerate(layers):
        members = [r for r in range(len(ROIS)) if LAYERING.layer_of[r] == number]
        best = up[members].argmax(axis=0)
        layer[inside] = np.where(up[members].max(axis=0) > 0, np.array(members)[best] + 1, 0)
    return layers


CASES = [
    # prepared shape, native crop shape, native spacing of unit-spaced prepared voxels
    pytest.param((9, 10, 11), (9, 10, 11), id="same grid"),
    pytest.param((9, 10, 11), (23, 17, 30), id="native finer"),
    pytest.param((12, 10, 11), (5, 10, 25), id="native coarser in z"),
    pytest.param((7, 20, 11), (29, 6, 11), id="mixed"),
]


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize(("prepared", "native"), CASES)
def test_slabs_leave_no_seams(prepared: tuple, native: tuple, rows: int, chunk: int) -> None:
    scores = smooth_scores(*prepared)
    axes = maps(prepared, (1.0, 1.0, 1.0), native)
    whole, at = tuple(n + 4 for n in native), (1, 2, 3)
    restorer = Restorer(axes, native_ZYX=whole, crop_start_ZYX=at, layering=LAYERING)
    fold(restorer, scores, rows=rows, chunk=chunk)
    for found, wanted in zip(restorer.layers, expected_layers(scores, axes, whole, at), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert len(np.unique(found)) > 1
    assert (restorer.layers[0][: at[0]] == 0).all()


@pytest.mark.parametrize("logits", [True, False])
def test_probabilities_are_kept_for_named_rois_only(logits: bool) -> None:
    prepared, native = (6, 7, 8), (11, 7, 16)
    scores = smooth_scores(*prepared) if logits else smooth_scores(*prepared).clip(-0.5, 0.5)
    axes = maps(prepared, (1.0, 1.0, 1.0), native)
    restorer = Restorer(
        axes,
        native_ZYX=native,
        crop_start_ZYX=(0, 0, 0),
        layering=LAYERING,
        probabilities=[3],
        scores_are_logits=logits,
    )
    fold(restorer, scores, rows=2, chunk=2)
    up = np.einsum("zyx,Zz,Yy,Xx->ZYX", scores[3], *[m.matrix(order=1) for m in axes], optimize=True)
    wanted = 1 / (1 + np.exp(-up)) if logits else up + 0.5
    assert list(restorer.probabilities) == [3]
    assert restorer.probabilities[3].dtype == np.float16
    np.testing.assert_allclose(restorer.probabilities[3], wanted, atol=1e-3)


def test_equal_scores_go_to_the_earlier_roi() -> None:
    scores = np.ones((len(ROIS), 2, 2, 2), dtype=np.float32)
    same = [AxisMap(2, 2, 1.0, 0.0)] * 3
    restorer = Restorer(same, native_ZYX=(2, 2, 2), crop_start_ZYX=(0, 0, 0), layering=LAYERING)
    fold(restorer, scores, rows=1, chunk=2)
    assert (restorer.layers[0] == 1).all()  # liver before spleen, stomach, pancreas
    assert (restorer.layers[1] == 2).all()


def test_axis_knows_what_it_needs() -> None:
    axis = Axis(AxisMap(4, 8, 0.5, -0.25))
    assert axis.halo == 1
    assert axis.first.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert axis.last.tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert axis.complete(2) == 3  # native 3 needs prepared 2
    assert axis.complete(4) == 8
    assert axis.touched(2, 3) == slice(3, 7)
    assert axis.source(slice(3, 5)) == slice(1, 3)
    assert Axis(AxisMap(4, 4, 1.0, 0.0)).halo == 0

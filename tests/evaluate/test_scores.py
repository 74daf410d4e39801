"""Metrics of masks: values of medpy, MONAI and the MOTS script, analytic shapes, and every kind of emptiness."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.evaluate.labels import Labels
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import VOLUMES, Row, score_case, score_masks

Mask = NDArray[np.bool_]
ALL = Protocol.load("default")
VOXEL = Protocol.load("ssl3d")
ONE = (1.0, 1.0, 1.0)


def boxes() -> tuple[Mask, Mask]:
    """A box, and another with a lone voxel in a corner."""
    p, y = np.zeros((2, 8, 8, 6), dtype=bool)
    p[1:5, 2:6, 1:4] = True
    y[2:7, 2:5, 1:5] = True
    y[0, 7, 0] = True
    return p, y


def balls() -> tuple[Mask, Mask]:
    z, y, x = np.indices((24, 24, 24))
    a = (z - 11) ** 2 + (y - 11) ** 2 + (x - 11) ** 2 <= 36
    b = (z - 13) ** 2 + (y - 11) ** 2 + (x - 12) ** 2 <= 25
    assert (int(a.sum()), int(b.sum()), int((a & b).sum())) == (925, 515, 458)
    return a, b


# medpy 0.5.2: dc, jc, hd95, asd(prediction, reference), asd(reference, prediction), assd
OF_BOXES = (0.4954128440366973, 0.32926829268292684)
OF_BALLS = (0.6361111111111111, 0.4663951120162933)
MEDPY = [
    (boxes, ONE, *OF_BOXES, 2.0, 0.573696379252711, 0.9163697156800333, 0.7640704550456678),
    (boxes, (2.5, 0.7, 1.3), *OF_BOXES, 5.0, 0.8792830225329161, 1.8799734154614736, 1.4352221297154484),
    (balls, ONE, *OF_BALLS, 3.0, 1.5477668531001778, 1.1044690753275404, 1.3769125012503072),
    (balls, (1.5, 0.8, 0.8), *OF_BALLS, 3.492849839314596, 1.5984322697501014, 1.0192123579476862, 1.375191262076254),
]
# MONAI 1.6.1: compute_surface_dice at 1 and 2, compute_hausdorff_distance(percentile=95), float32
MONAI = [
    (boxes, ONE, 0.808080792427063, 0.9595959782600403, 2.2360680103302),
    (boxes, (2.5, 0.7, 1.3), 0.5555555820465088, 0.6464646458625793, 5.04987096786499),
    (balls, ONE, 0.5381944179534912, 0.7517361044883728, 3.0),
    (balls, (1.5, 0.8, 0.8), 0.4756944477558136, 0.765625, 3.7576589584350586),
]


@pytest.mark.parametrize(("shapes", "spacing", "dc", "jc", "hd95", "asd", "asd_back", "assd"), MEDPY)
def test_equals_medpy(shapes, spacing, dc, jc, hd95, asd, asd_back, assd) -> None:
    p, y = shapes()
    found = score_masks(p, y, spacing_ZYX_mm=spacing, protocol=ALL)
    wanted = {"dice": dc, "jaccard": jc, "hd95": hd95, "asd": asd, "assd": assd}
    assert {k: found[k] for k in wanted} == pytest.approx(wanted, rel=1e-12)
    back = score_masks(p, y, spacing_ZYX_mm=spacing, protocol=ALL.model_copy(update={"asd_from": "reference"}))
    assert back["asd"] == pytest.approx(asd_back, rel=1e-12)
    assert score_masks(y, p, spacing_ZYX_mm=spacing, protocol=ALL)["asd"] == pytest.approx(asd_back, rel=1e-12)


@pytest.mark.parametrize(("shapes", "spacing", "nsd1", "nsd2", "hd95"), MONAI)
def test_equals_monai(shapes, spacing, nsd1, nsd2, hd95) -> None:
    p, y = shapes()
    larger = ALL.model_copy(update={"percentile_of": "larger"})
    for tolerance, nsd in ((1.0, nsd1), (2.0, nsd2)):
        found = score_masks(p, y, spacing_ZYX_mm=spacing, tolerance_mm=tolerance, protocol=larger)
        assert found["nsd"] == pytest.approx(nsd, rel=1e-6)
        assert found["hd95"] == pytest.approx(hd95, rel=1e-6)


def test_voxel_protocols_do_not_see_the_spacing() -> None:
    p, y = balls()
    found = score_masks(p, y, spacing_ZYX_mm=(3.0, 0.5, 0.7), protocol=VOXEL)
    assert (found["hd95"], found["asd"]) == pytest.approx((3.0, 1.5477668531001778))
    assert list(found) == ["dice", "jaccard", "hd95", "asd", "reference_ml", "prediction_ml"]


def test_mots_dice_has_one_more_in_its_denominator() -> None:
    a, b = balls()
    found = score_masks(a, b, spacing_ZYX_mm=ONE, protocol=Protocol.load("mots-v1"))
    assert found["dice"] == pytest.approx(0.635669674, abs=1e-9)
    assert found["hd95"] == 3.0
    perfect = score_masks(b, b, spacing_ZYX_mm=ONE, protocol=Protocol.load("mots-v1"))
    assert perfect["dice"] == pytest.approx(2 * 515 / (2 * 515 + 1))
    backwards = score_masks(a, b, spacing_ZYX_mm=ONE, protocol=Protocol.load("mots-v2"))
    assert backwards["asd"] == pytest.approx(1.1044690753275404)  # from the reference to the prediction


def test_equal_masks_are_perfect() -> None:
    _, y = boxes()
    found = score_masks(y, y, spacing_ZYX_mm=(2.0, 1.0, 0.5), protocol=ALL)
    perfect = {"dice": 1.0, "jaccard": 1.0, "hd95": 0.0, "asd": 0.0, "assd": 0.0, "nsd": 1.0}
    assert found == {**perfect, "reference_ml": 0.061, "prediction_ml": 0.061}  # 61 voxels of 1 mm3


@pytest.mark.parametrize(
    ("shift", "tolerance", "nsd"), [((0, 0, 3), 2.39, 0.0), ((0, 0, 3), 2.4, 1.0), ((0, 4, 3), 4.1, 1.0)]
)
def test_single_voxels(shift: tuple[int, int, int], tolerance: float, nsd: float) -> None:
    """Two single voxels: every distance is the length of the shift."""
    spacing = (5.0, 0.8, 0.8)
    p, y = np.zeros((2, 9, 9, 9), dtype=bool)
    y[1, 1, 1] = True
    p[tuple(1 + s for s in shift)] = True
    found = score_masks(p, y, spacing_ZYX_mm=spacing, tolerance_mm=tolerance, protocol=ALL)
    length = math.hypot(*(n * s for n, s in zip(shift, spacing, strict=True)))
    assert [found[m] for m in ("dice", "hd95", "asd", "assd", "nsd")] == pytest.approx([0, length, length, length, nsd])


EMPTY = {  # dice, jaccard, hd95, asd when the prediction, the reference or both are empty
    "default": ([0, 0, 13.0, 13.0], [0, 0, 13.0, 13.0], [math.nan] * 4),
    "ssl3d": ([0, 0, math.sqrt(50), math.sqrt(50)], [0, 0, math.sqrt(50), math.sqrt(50)], [math.nan] * 4),
    "ssl4mis": ([0] * 4, [0] * 4, [0] * 4),
    "mots-v1": ([0, None, 373.12866, None], [0, None, 373.12866, None], [0, None, 0, None]),
    "mots-v2": ([0, None, math.nan, math.nan], [0, None, math.nan, math.nan], [0, None, 0, 0]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_masks(name: str) -> None:
    full, empty = np.ones((3, 4, 5), dtype=bool), np.zeros((3, 4, 5), dtype=bool)
    for masks, wanted in zip(((empty, full), (full, empty), (empty, empty)), EMPTY[name], strict=True):
        found = score_masks(*masks, spacing_ZYX_mm=(4.0, 0.75, 0.8), protocol=Protocol.load(name))
        values = [found.get(m) for m in ("dice", "jaccard", "hd95", "asd")]
        assert values == pytest.approx(wanted, nan_ok=True)
        volume = 60 * 4.0 * 0.75 * 0.8 / 1000
        ml = found["prediction_ml"], found["reference_ml"]
        assert ml == pytest.approx(tuple(volume * m.any() for m in masks))


def test_other_shapes_are_refused() -> None:
    mask = np.ones((3, 4, 5), dtype=bool)
    with pytest.raises(ValueError, match="must be equal"):
        score_masks(mask, mask[:2], spacing_ZYX_mm=ONE, protocol=ALL)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_case_scores_each_roi_as_alone(num_workers: int) -> None:
    p, y = balls()
    p2, y2 = np.roll(y, 5, axis=2), np.roll(p, -4, axis=0)
    prediction, reference = Labels.from_masks({"liver": p, "spleen": p2}), Labels.from_masks({"spleen": y2, "liver": y})
    rows = score_case(
        "c", prediction, reference, ["spleen", "liver", "aorta"], spacing_ZYX_mm=(1.5, 0.8, 0.8), protocol=ALL,
        tolerance_mm={"spleen": 3.0}, num_workers=num_workers,
    )  # fmt: skip
    wanted = []
    for roi, masks, tolerance in (("spleen", (p2, y2), 3.0), ("liver", (p, y), 2.0)):
        alone = score_masks(*masks, spacing_ZYX_mm=(1.5, 0.8, 0.8), tolerance_mm=tolerance, protocol=ALL)
        wanted += [Row("c", roi, metric, value) for metric, value in alone.items()]
    assert rows[:16] == wanted
    assert [(r.roi, r.metric) for r in rows[16:]] == [("aorta", m) for m in (*ALL.metrics, *VOLUMES)]
    assert all(math.isnan(r.value) for r in rows[16:22])


def test_ignored_voxels_count_for_nobody() -> None:
    p, y = np.zeros((2, 4, 4, 4), dtype=bool)
    p[:3], y[1:3] = True, True
    valid = np.ones((4, 4, 4), dtype=bool)
    valid[0] = False
    labels = Labels.from_masks({"liver": p}), Labels.from_masks({"liver": y})
    settings = {"spacing_ZYX_mm": ONE, "protocol": ALL, "tolerance_mm": {}}
    assert score_case("c", *labels, ["liver"], **settings)[0].value == pytest.approx(0.8)
    assert score_case("c", *labels, ["liver"], **settings, valid_ZYX=valid)[0].value == 1.0

"""Scans, audits and gates by a classifier whose answers are known."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from gleanseg.config import PredictConfig
from gleanseg.data.labels import read_image
from gleanseg.data.manifest import Manifest
from gleanseg.errors import UserError
from gleanseg.networks.classifier import Classifier
from gleanseg.parts.presence import RoiAware
from gleanseg.predict.audit import Audit, Verdict, audit
from gleanseg.predict.passes import presence_gate
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.predict.presence import Scanner, _starts
from gleanseg.report.audit import audit_page
from gleanseg.report.heat import heat_panels
from gleanseg.rois.ontology import builtin
from predict.stand_ins import Threshold, make_plan
from support.volumes import save

ROIS = ("liver", "liver_tumor", "spleen")


class Brightest(Classifier):
    """The liver is where a voxel is above 50, the spleen where one is above 150."""

    def __init__(self) -> None:
        super().__init__()

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B F Z2 Y2 X2"]:
        return x_BCZYX

    def classify(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K"]:
        highest = map_BFZYX.amax((1, 2, 3, 4))
        return torch.stack([highest - 50, highest - 150], dim=1)

    def heat_map(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K Z Y X"]:
        return torch.cat([map_BFZYX - 50, map_BFZYX - 150], dim=1)


def scanner(rois: tuple[str, ...] = ROIS) -> Scanner:
    return Scanner(
        Brightest(),
        outputs=("liver", "spleen"),
        rois=rois,
        ontology=builtin(),
        plan=make_plan(("liver", "spleen"), spacing_ZYX_mm=(1.0, 1.0, 1.0)),
        patch_ZYX=(16, 16, 16),
        device=torch.device("cpu"),
    )


def test_windows_overlap_by_half_and_end_flush() -> None:
    assert _starts(10, 16) == [0]
    assert _starts(16, 16) == [0]
    assert _starts(24, 16) == [0, 8]
    assert _starts(40, 16) == [0, 8, 16, 24]
    starts = _starts(37, 16)
    assert starts[-1] == 21
    assert max(b - a for a, b in pairwise(starts)) <= 8


def test_the_best_window_decides_and_says_where() -> None:
    image = np.zeros((1, 40, 20, 18), dtype=np.float32)
    image[0, 35, 10, 9] = 100
    found = scanner().scan_prepared(image)
    assert found.scores[0] > 0.99
    assert found.scores[1] == found.scores[0], "a tumor takes its organ's score where it has none of its own"
    assert found.scores[2] < 0.01
    assert abs(found.centers_mm[0, 0] - 32) <= 4
    assert found.num_windows == 4 * 2 * 2


def make_manifest(folder: Path) -> Manifest:
    def image(value: int, name: str) -> str:
        array = np.zeros((18, 18, 18), dtype=np.int16)
        array[4:12, 4:12, 4:12] = value
        return save(folder / f"{name}.nii.gz", array)

    mask = np.zeros((18, 18, 18), dtype=np.uint8)
    mask[4:12, 4:12, 4:12] = 1
    label, empty = save(folder / "mask.nii.gz", mask), save(folder / "empty.nii.gz", 0 * mask)
    cases = (
        {"id": "honest", "images": [image(100, "a")], "labels": {"liver": label}, "annotated": ["liver"]},
        {"id": "wrong", "images": [image(10, "b")], "labels": {"liver": label}, "annotated": ["liver"]},
        {"id": "forgotten", "images": [image(200, "c")], "labels": {"liver": empty}, "annotated": ["liver"]},
        {"id": "denied", "images": [image(100, "d")], "absent": ["liver"]},
        {"id": "nothing", "images": [image(50, "e")], "site": "<b>U</b>"},
    )
    return Manifest(name="audited", rois=ROIS, channels=({"name": "mr", "modality": "MR"},), cases=cases, root=folder)


@pytest.fixture
def found(tmp_path: Path) -> Audit:
    return audit(scanner(), make_manifest(tmp_path))


def verdicts(found: Audit, case: str) -> dict[str, str]:
    return {pair.roi: pair.verdict.value for pair in found.pairs if pair.case == case}


def test_unlabelled_structures_are_found(found: Audit) -> None:
    assert verdicts(found, "forgotten") == {"liver": "annotated", "liver_tumor": "ambiguous", "spleen": "latent"}
    assert verdicts(found, "denied") == {"liver": "absent", "liver_tumor": "absent", "spleen": "absent"}
    assert verdicts(found, "nothing") == {"liver": "ambiguous", "liver_tumor": "ambiguous", "spleen": "absent"}
    assert found.number_of("spleen", Verdict.LATENT) == 1


def test_labels_that_look_wrong_are_named(found: Audit) -> None:
    said = {(pair.case, pair.roi): pair.suspect for pair in found.suspects}
    assert said == {
        ("wrong", "liver"): "annotated with 0.5 ml, but looks absent",
        ("forgotten", "liver"): "annotated without a voxel, but looks present",
        ("denied", "liver"): "said to be absent, but looks present",
    }, "a liver in view says nothing of a liver tumor"


def test_an_roi_that_nothing_stands_for_is_undecided(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path).model_copy(update={"rois": ("liver", "aorta")})
    found = audit(scanner(("liver", "aorta")), manifest, cases=[manifest.case("nothing")])
    assert verdicts(found, "nothing")["aorta"] == "undecided"


def test_files_and_page(found: Audit, tmp_path: Path) -> None:
    found.save(tmp_path / "out")
    with (tmp_path / "out" / "presence.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert json.loads((tmp_path / "out" / "presence.json").read_text())["phi_high"] == 0.8
    ontology = builtin()
    page = audit_page(found, {roi: (ontology[roi].name, ontology[roi].color) for roi in found.rois})
    assert "annotated without a voxel" in page
    assert "<b>U</b>" not in page, "names of sites are escaped"
    assert page.count("heat-suspect") >= 3


def test_what_speaks_for_an_roi_is_shown_where_it_is(tmp_path: Path) -> None:
    looking, manifest = scanner(), make_manifest(tmp_path)
    found = audit(looking, manifest)
    pairs = found.telling()
    assert [(pair.case, pair.roi) for pair in pairs] == [
        ("forgotten", "liver"), ("denied", "liver"), ("forgotten", "spleen"),
    ]  # fmt: skip
    assert found.telling(most=1) == pairs[:1]
    assert len([pair for pair in found.telling(of_each=1) if pair.roi == "liver"]) == 1
    sight = looking.look(read_image(manifest, manifest.case("forgotten")), "spleen", pairs[2].center_mm)
    assert sight.image.shape == sight.heat.shape == (16, 16, 16)
    assert (sight.heat > 0.5).sum() == (sight.image > 150).sum() > 0, "the stand-in's heat is the brightness"
    hot = [panel.gray[..., 0].astype(int) - panel.gray[..., 2] for panel in heat_panels(sight, (255, 0, 0))]
    assert all(difference.max() > 100 and difference.min() < 10 for difference in hot)
    ontology = builtin()
    look = {roi: (ontology[roi].name, ontology[roi].color) for roi in found.rois}
    page = audit_page(found, look, [(pairs[2], sight)])
    assert page.count("data:image/webp") == 3


def gated(levels: tuple[float, ...], gate: float, **options: object) -> tuple[Predictor, Threshold]:
    net = Threshold(*levels)
    rois = ("liver", "spleen")
    predictor = Predictor(
        [net],
        plan=make_plan(rois),
        rois=rois,
        ontology=builtin(),
        patch_ZYX=(16, 16, 16),
        config=PredictConfig(gate=gate, **options),  # type: ignore[arg-type]
        options=Options(skip_air=False),
        roi_aware=RoiAware(Brightest(), [[0], [1]]),
    )
    return predictor, net


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_gate_that_is_right_changes_nothing_and_saves_work(average: str) -> None:
    image = np.zeros((1, 48, 16, 16), dtype=np.float32)
    image[0, 4:9, 4:9, 4:9] = 120
    plain, busy = gated((60.0, 160.0), 0.0, average=average)
    clever, idle = gated((60.0, 160.0), 0.01, average=average)
    expected, found = plain.segment_prepared(image), clever.segment_prepared(image)
    assert all(np.array_equal(expected.mask(roi), found.mask(roi)) for roi in ("liver", "spleen"))
    assert found.mask("liver").sum() == 125
    assert idle.calls < busy.calls


def test_a_gate_hides_what_the_classifier_denies() -> None:
    image = np.full((1, 16, 16, 16), 120.0, dtype=np.float32)
    plain, _ = gated((130.0, 100.0), 0.0)
    assert plain.segment_prepared(image).mask("spleen").all()
    clever, _ = gated((130.0, 100.0), 0.01)
    assert not clever.segment_prepared(image).mask("spleen").any()


def test_a_gate_needs_an_roi_aware_network() -> None:
    with pytest.raises(UserError, match="the run has no ROI-aware network"):
        presence_gate(None, 0.1)

"""Protocols are data: strict files, and what decides a value decides the digest."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from gleanseg.errors import UserError
from gleanseg.evaluate.cleanup import clean
from gleanseg.evaluate.protocol import Cleanup, Empty, Protocol, protocol_names
from gleanseg.evaluate.scores import score_masks
from gleanseg.rois.ontology import builtin


def test_built_in_protocols() -> None:
    assert protocol_names() == ["default", "mots-v1", "mots-v2", "ssl3d", "ssl4mis"]
    assert len({Protocol.load(name).digest() for name in protocol_names()}) == 5
    for name in protocol_names():
        protocol = Protocol.load(name)
        named = {*protocol.enlarge, *protocol.overwrite, *(step.roi for step in protocol.cleanup)}
        named |= {roi for rois in (*protocol.enlarge.values(), *protocol.overwrite.values()) for roi in rois}
        assert protocol.name == name
        assert all(roi in builtin() for roi in named)


def test_mots_rules() -> None:
    v1, v2 = Protocol.load("mots-v1"), Protocol.load("mots-v2")
    assert (v1.dice_plus, v1.unit, v1.prediction_empty.distance) == (1.0, "voxel", 373.12866)
    assert (v2.dice_plus, v2.prediction_empty.distance, v2.both_empty.distance) == (1.0, "undefined", 0.0)
    assert any("8 flips" in line for line in v1.inference)
    steps = {step.roi: step for step in v1.cleanup}
    assert steps["kidneys"].keep_largest == 2
    assert steps["kidneys"].connectivity == 18
    assert (steps["liver_tumor"].within, steps["liver_tumor"].drop_up_to) == ("liver", 50)


def test_mots_against_the_golden_file(shared_data: Path) -> None:
    path = shared_data.parent / "specs" / "golden" / "mots_metrics_postprocessing.json"
    golden = json.loads(path.read_text())
    v1, v2 = Protocol.load("mots-v1"), Protocol.load("mots-v2")
    one = (1.0, 1.0, 1.0)
    z, y, x = np.indices((24, 24, 24))
    a = (z - 11) ** 2 + (y - 11) ** 2 + (x - 11) ** 2 <= 36
    b = (z - 13) ** 2 + (y - 11) ** 2 + (x - 12) ** 2 <= 25
    spheres, empty = golden["spheres"], golden["empty_policies"]
    for protocol in (v1, v2):
        found = score_masks(a, b, spacing_ZYX_mm=(1.5, 0.8, 0.8), protocol=protocol)  # voxels, whatever the spacing
        assert found["dice"] == pytest.approx(spheres["dice_mots_plus_one"], abs=1e-9)
        assert found["hd95"] == pytest.approx(spheres["hd95_unit_spacing_pred_A_ref_B"])
        nothing = np.zeros_like(a)
        both = score_masks(nothing, nothing, spacing_ZYX_mm=one, protocol=protocol)
        invented = score_masks(a, nothing, spacing_ZYX_mm=one, protocol=protocol)
        assert both["dice"] == empty["dice_mots both empty"]
        assert invented["dice"] == empty["dice_mots gt empty, pred non-empty"]
        assert both["hd95"] == empty["hd95_v1 both empty"]
    for masks in ((nothing, b), (a, nothing)):
        assert score_masks(*masks, spacing_ZYX_mm=one, protocol=v1)["hd95"] == empty["hd95_v1 one empty"]
        assert math.isnan(score_masks(*masks, spacing_ZYX_mm=one, protocol=v2)["hd95"])
    # 18 neighbors is what the file calls connectivity 2.
    assert golden["connectivity"]["reference_uses"].startswith("2 ")
    for name, voxels in (("corner_touch", ((0, 0, 0), (1, 1, 1))), ("edge_touch", ((0, 0, 0), (0, 1, 1)))):
        mask = np.zeros((2, 2, 2), dtype=bool)
        for voxel in voxels:
            mask[voxel] = True
        kept = clean(mask, Cleanup(roi="liver", keep_largest=1)).sum()
        assert kept == {2: 1, 1: 2}[golden["connectivity"][name]["conn2"]]
    assert all(step.connectivity == 18 for protocol in (v1, v2) for step in protocol.cleanup)


def test_what_mots_keeps_and_what_an_organ_is() -> None:
    rules = {
        name: {s.roi: (s.within, s.keep_largest, s.drop_up_to) for s in Protocol.load(name).cleanup}
        for name in ("mots-v1", "mots-v2")
    }
    same = {
        "liver": (None, 1, 0), "kidneys": (None, 2, 0), "kidney_tumor": ("kidneys", 1, 0), "pancreas": (None, 1, 0),
        "colon_cancer": (None, 1, 0), "lung_tumor": (None, 1, 0), "spleen": (None, 1, 0),
        "liver_tumor": ("liver", None, 50),
    }  # fmt: skip
    v1 = {"hepatic_vessel_tumor": (None, None, 50), "pancreas_tumor": ("pancreas", None, 50)}
    v2 = {"hepatic_vessel_tumor": ("liver", None, 0), "pancreas_tumor": ("pancreas", None, 0)}
    assert rules == {"mots-v1": same | v1, "mots-v2": same | v2}
    # The organ of the vessel task is value 1 alone, the other three are every value from 1 up.
    assert Protocol.load("mots-v1").enlarge == {
        "liver": ("liver_tumor",), "kidneys": ("kidney_tumor",), "pancreas": ("pancreas_tumor",)
    }  # fmt: skip
    assert Protocol.load("mots-v1").overwrite == {"hepatic_vessel_tumor": ("hepatic_vessels",)}


def test_prose_does_not_change_the_digest_but_rules_do(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "src/gleanseg/evaluate/protocols/ssl3d.toml").read_text()
    prose, rule = tmp_path / "prose.toml", tmp_path / "rule.toml"
    prose.write_text(text.replace('summary = "', 'summary = "Our '))
    rule.write_text(text.replace("percentile = 95.0", "percentile = 100.0"))
    assert Protocol.load(prose).digest() == Protocol.load("ssl3d").digest()
    assert Protocol.load(rule).digest() != Protocol.load("ssl3d").digest()
    assert Protocol.load(rule).name == "rule"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no protocol 'mots-v3'; did you mean .*'mots-v1'"):
        Protocol.load("mots-v3")
    with pytest.raises(UserError, match="no such protocol file"):
        Protocol.load(tmp_path / "none.toml")
    file = tmp_path / "own.toml"
    file.write_text("unit = ")
    with pytest.raises(UserError, match="not valid TOML"):
        Protocol.load(file)
    empty = "[both_empty]\noverlap = 0\ndistance = 0\n[prediction_empty]\noverlap = 0\ndistance = 0\n"
    rest = f'summary = ""\nmetrics = ["dice"]\n{{}}\n{empty}[reference_empty]\noverlap = 0\ndistance = 0\n'
    file.write_text(rest.format('units = "mm"'))
    with pytest.raises(UserError, match=r"unknown key 'units'.*did you mean 'unit'"):
        Protocol.load(file)
    file.write_text(rest.replace('"dice"', '"nsd"').format('unit = "voxel"'))
    with pytest.raises(UserError, match="give a number of voxels"):
        Protocol.load(file)


def test_every_field_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
    fields = {*Protocol.model_fields, *Empty.model_fields, *Cleanup.model_fields, *protocol_names()}
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []

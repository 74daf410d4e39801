"""Protocols are data: strict files, and what decides a value decides the digest."""

from pathlib import Path

import pytest

from gleanseg.errors import UserError
from gleanseg.evaluate.protocol import Cleanup, Empty, Protocol, protocol_names
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

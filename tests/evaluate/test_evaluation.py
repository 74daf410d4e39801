"""What rows sum up to, and that files give back what was saved."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gleanseg.errors import UserError
from gleanseg.evaluate.evaluation import Evaluation, compare
from gleanseg.evaluate.scores import Row

NAN = math.nan
# case, ROI, dice, hd95, reference ml, prediction ml
TABLE = [
    ("a", "liver", 0.9, 4.0, 100.0, 90.0),
    ("a", "spleen", 0.0, 50.0, 10.0, 0.0),  # missed
    ("b", "liver", 0.8, 6.0, 120.0, 130.0),
    ("b", "spleen", NAN, NAN, 0.0, 0.0),  # not there, not predicted
    ("c", "spleen", 0.0, 40.0, 0.0, 3.0),  # invented; liver is unknown
    ("d", "spleen", 0.6, 5.0, 8.0, 8.0),
]


def made(table=TABLE, **changes: object) -> Evaluation:
    rows = tuple(
        Row(case, roi, metric, value)
        for case, roi, *values in table
        for metric, value in zip(("dice", "hd95", "reference_ml", "prediction_ml"), values, strict=True)
    )
    facts = {
        "protocol": "default", "protocol_digest": "p", "metrics": ("dice", "hd95"), "unit": "mm", "manifest": "m",
        "manifest_digest": "d", "split": "test", "split_digest": "s", "predictions": "folder",
        "predictions_digest": "l", "created": "2020-01-01T00:00:00+00:00", "version": "1", "rows": rows,
        "missing": ("e",), "unscored": (), "not_predicted": ("aorta",), "skipped_absent": 2,
    }  # fmt: skip
    return Evaluation(**{**facts, **changes})


def test_summary_counts_each_kind_of_emptiness() -> None:
    summary = made().summary
    spleen = summary.rois["spleen"]
    assert (spleen.cases, spleen.both_empty, spleen.missed, spleen.false_positives) == (4, 1, 1, 1)
    assert spleen.false_positive_ml == 1.5  # 0 and 3 ml in the two cases without a spleen
    assert spleen.metrics["dice"].mean == pytest.approx(0.2)
    assert spleen.metrics["dice"].num == 3
    liver = summary.rois["liver"]
    assert (liver.cases, liver.missed, liver.metrics["dice"].mean) == (2, 0, pytest.approx(0.85))
    assert math.isnan(liver.false_positive_ml)
    assert summary.mean["dice"].mean == pytest.approx((0.85 + 0.2) / 2)
    assert summary.mean["hd95"].mean == pytest.approx((5 + 95 / 3) / 2)
    assert summary.mean["dice"].low < summary.mean["dice"].mean < summary.mean["dice"].high


def test_values() -> None:
    result = made()
    assert (result.cases, result.rois) == (("a", "b", "c", "d"), ("liver", "spleen"))
    wanted = [[0.9, 0.0], [0.8, NAN], [NAN, 0.0], [NAN, 0.6]]
    np.testing.assert_array_equal(result.values("dice"), wanted)
    with pytest.raises(UserError, match="no metric 'hd59'; did you mean 'hd95'"):
        result.values("hd59")


def test_json_keeps_everything_and_has_no_nan(tmp_path: Path) -> None:
    result, file = made(), tmp_path / "new" / "test.json"
    result.save(file)
    loaded = Evaluation.load(file)
    assert repr(loaded) == repr(result)
    assert loaded.summary.mean == result.summary.mean
    data = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (data["protocol"], data["unit"], data["confidence"], data["missing"]) == ("default", "mm", 0.95, ["e"])
    assert data["summary"]["rois"]["spleen"]["missed"] == 1
    assert data["summary"]["rois"]["liver"]["metrics"]["dice"]["mean"] == pytest.approx(0.85)
    assert data["summary"]["rois"]["liver"]["false_positive_ml"] is None
    assert data["rows"][12] == ["b", "spleen", "dice", None]
    assert [p.name for p in file.parent.iterdir()] == ["test.json"]


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    made().save_csv(file)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 24
    assert rows[0] == {"case": "a", "roi": "liver", "metric": "dice", "value": "0.9"}
    assert rows[12] == {"case": "b", "roi": "spleen", "metric": "dice", "value": ""}


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    with pytest.raises(UserError, match="no such evaluation"):
        Evaluation.load(file)
    file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Evaluation.load(file)
    file.write_text('{"gleanseg": 1}')
    with pytest.raises(UserError, match="not an evaluation"):
        Evaluation.load(file)


def test_compare_pairs_cases_by_name() -> None:
    better = [(c, r, d + 0.1 if d == d else d, *rest) for c, r, d, *rest in reversed(TABLE)]
    found = compare([made(better), made(better)], made())
    assert found.difference == pytest.approx(0.1)
    assert (found.num_cases, found.num_pairs) == (4, 5)
    assert compare(made(), made(better), metric="hd95").difference == 0.0


def test_compare_credits_who_rightly_finds_nothing() -> None:
    """Case b has no spleen; one side finds one all the same."""
    inventing = [row if row[:2] != ("b", "spleen") else ("b", "spleen", 0.0, 30.0, 0.0, 2.0) for row in TABLE]
    found = compare(made(), made(inventing))
    assert found.difference == pytest.approx((1.0 - 0.0) / 4 / 2)  # one of four spleens, then one of two ROIs
    assert (found.num_pairs, found.num_undefined) == (6, 0)
    assert compare(made(), made(inventing), metric="hd95").difference == pytest.approx((0.0 - 30.0) / 4 / 2)
    rightly = compare([made(), made(inventing)], made())
    assert rightly.difference == pytest.approx(-0.5 / 4 / 2), "seeds count each for itself"


def test_compare_leaves_out_what_only_one_side_holds() -> None:
    fewer = [row for row in TABLE if row[0] != "d"]
    assert compare(made(), made(fewer)).num_pairs == 4
    missed = [row if row[:2] != ("a", "liver") else ("a", "liver", NAN, NAN, 100.0, 0.0) for row in TABLE]
    assert compare(made(), made(missed)).num_pairs == 4, "what a protocol leaves undefined for a miss is no credit"


def test_compare_refuses_unlike_results() -> None:
    with pytest.raises(UserError, match="protocols differ"):
        compare(made(), made(protocol_digest="q"))
    with pytest.raises(UserError, match="evaluate one split"):
        compare(made(), made(split_digest="t"))
    with pytest.raises(UserError, match="at least one"):
        compare(made(), [])
    with pytest.raises(UserError, match=r"no \(case, ROI\) pair"):
        compare(made(), made([("z", "liver", 0.5, 1.0, 1.0, 1.0)]))

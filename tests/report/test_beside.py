"""Runs side by side: which cases are shown, what stands in which column, and what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest

from gleanseg.cli.main import main
from gleanseg.errors import UserError
from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.report.html import write_report


@pytest.fixture
def two_runs(made_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and one that missed the right kidney of one case."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for run in (ours, theirs):
        shutil.copytree(made_run, run, ignore=shutil.ignore_patterns("report.html"))
    path = theirs / "evaluation" / "test.json"
    found = json.loads(path.read_text())
    for row in found["rows"]:
        if row[:3] == ["patient_016", "kidney_right", "dice"]:
            row[3] = 0.0
    path.write_text(json.dumps(found))
    assert Evaluation.load(path).cases
    return ours, theirs


def section(text: str) -> str:
    found = re.search(r'<section id="beside">.*?</section>', text, re.DOTALL)
    assert found is not None
    return found[0]


def test_the_case_that_differs_comes_first_and_columns_are_named(two_runs: tuple[Path, Path]) -> None:
    ours, theirs = two_runs
    shown = section(write_report(ours, others=[theirs]).read_text())
    rows = re.findall(r'<figure class="overlay">.*?</figure>', shown, re.DOTALL)
    assert len(rows) == 5
    assert "patient_016" in rows[0]
    assert "right kidney" in rows[0]
    columns = re.findall(r'<div class="slot".*?class="plane">(.*?)</div>', rows[0], re.DOTALL)
    assert [re.sub("<.*?>", "", column).split()[0] for column in columns] == ["Reference", "ours", "theirs"]
    assert columns[2].endswith("Dice 0.000")
    reference, *predicted = re.findall(r"<svg .*?</svg>", rows[0], re.DOTALL)
    assert "right, reference" in reference
    assert "prediction</title>" not in reference
    assert all("kidney_right, prediction</title>" in svg for svg in predicted)
    assert len({re.search(r"axial slice \d+", svg)[0] for svg in (reference, *predicted)}) == 1  # type: ignore[index]


def test_runs_that_were_not_scored_are_shown_too(two_runs: tuple[Path, Path]) -> None:
    ours, theirs = two_runs
    shutil.rmtree(theirs / "evaluation")
    shown = section(write_report(ours, others=[theirs]).read_text())
    assert "the first by name" in shown
    assert shown.index("patient_015") < shown.index("patient_016")


def test_the_command_refuses_a_run_without_predictions(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = two_runs
    shutil.rmtree(theirs / "predictions")
    assert main(["report", str(ours), "--beside", str(theirs)]) == 2
    assert "theirs/predictions/test: no such folder" in capsys.readouterr().err
    assert not (ours / "report.html").exists()


def test_runs_with_no_case_in_common_are_refused(two_runs: tuple[Path, Path]) -> None:
    ours, theirs = two_runs
    for path in (theirs / "predictions" / "test").rglob("*.nii.gz"):
        path.rename(path.with_name(f"other_{path.name}"))
    with pytest.raises(UserError, match="no predicted case of the test split in common"):
        write_report(ours, others=[theirs])

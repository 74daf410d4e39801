"""Pictures of runs for papers: `gleanseg picture`."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gleanseg.cli.main import main
from gleanseg.report.picture import picture, typical
from gleanseg.report.results import load_results
from gleanseg.report.sheet import size_px

SMALL = ["--width", "90", "--rois", "liver"]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_command_draws_reference_and_runs(made_run: Path, tmp_path: Path, copy_run: Callable[..., Path]) -> None:
    other = copy_run("evaluation")
    out = tmp_path / "p.png"
    flags = ["picture", str(made_run), str(other), "-o", str(out), *SMALL, "--cases", "patient_018"]
    assert main(flags) == 0
    two = pixels(out.read_bytes())
    assert main([*flags, "--names", "mean teacher", "ours"]) == 0
    assert (pixels(out.read_bytes()) != two).any()
    column = 90 + 8
    assert two.shape[1] == 28 + 3 * column
    # Both runs predict the same, and the reference is another: columns 2 and 3 are alike below their heads, 1 is not.
    of = [two[40:200, 28 + k * column : 28 + k * column + 90] for k in range(3)]
    assert (of[1] == of[2]).all()
    assert (of[0] != of[1]).mean() > 0.02
    assert main([*flags, "--azimuth", "120"]) == 0
    turned = pixels(out.read_bytes())
    assert turned[:40].shape[0] == 40
    assert turned.shape != two.shape or (turned != two).any()


def test_without_cases_worst_middle_and_best_are_shown(made_run: Path) -> None:
    results = load_results(made_run / "evaluation" / "test.json")
    names = sorted(results.cases)
    shown = typical(names, results)
    order = [results.case_mean(case) for case in shown]
    assert order == sorted(order)
    assert (order[0], order[-1]) == (min(map(results.case_mean, names)), max(map(results.case_mean, names)))
    assert typical(names, None) == names[:3]  # nobody can pick the nicest
    assert typical(names[:2], results) == names[:2]
    one, three = (pixels(picture([made_run], cases=cases, rois=["spleen"], width_px=60)) for cases in ([shown[0]], []))
    assert three.shape[0] > 2 * one.shape[0]


def test_pictures_fit_their_column() -> None:
    assert size_px((200.0, 100.0), 90) == (90, 45)
    assert size_px((50.0, 100.0), 90) == (45, 90)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--names", "one", "two"], "2 names for 1 runs; expected one each"),
        (["--cases", "patient_18"], "case 'patient_18': not in the test predictions of all runs; did you mean"),
        (["--rois", "livr"], "ROI 'livr': not in all of the runs; did you mean 'liver'?"),
        (["--split", "validation"], "no predictions; run `gleanseg predict"),
        (["--width", "9"], "--width 9: expected at least 50 pixels"),
        (["-o", "nowhere/p.png"], "does not exist; make it first"),
    ],
)
def test_mistakes(
    flags: list[str], said: str, made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "-o" in flags else ["-o", str(tmp_path / "p.png")]
    assert main(["picture", str(made_run), *out, *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_runs_of_another_manifest(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(made_run, other)
    info = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**info, "manifest_digest": "0" * 64}))
    assert main(["picture", str(made_run), str(other), "-o", str(tmp_path / "p.png")]) == 2
    assert "was trained on another manifest than" in capsys.readouterr().err

"""What a report says of presence networks, of runs that consult one, and of text encoders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gleanseg.report.html import write_report

ROIS = ["liver", "liver_tumor"]


def group(name: str, **changes: Any) -> dict[str, Any]:
    rois = [
        {"roi": roi, "present": 30, "absent": 10, "auroc": 0.9, "ece": 0.02, "positive": 0.6, "negative": 0.2,
         "positive_precision": 0.98, "negative_precision": None}
        for roi in ROIS
    ]  # fmt: skip
    found = {
        "group": name, "temperature": 0.8, "ece_raw": 0.1, "ece": 0.03, "score": [0.05, None, 0.95],
        "observed": [0.0, None, 1.0], "pairs": [20, 0, 60], "rois": rois, "mean_auroc": 0.912,
    }  # fmt: skip
    return found | changes


def as_presence_run(run: Path, *, groups: list[dict[str, Any]]) -> str:
    recipe = (run / "recipe.toml").read_text().replace('name = "mean_teacher"', 'name = "presence"')
    (run / "recipe.toml").write_text(recipe)
    if groups:
        (run / "presence.json").write_text(json.dumps({"groups": groups}))
    return write_report(run).read_text()


def test_a_presence_run_has_no_sections_about_segmentations(copy_run: Callable[..., Path]) -> None:
    text = as_presence_run(copy_run("evaluation", "predictions"), groups=[group("known"), group("hidden")])
    assert "gleanseg predict" not in text
    assert "gleanseg evaluate" not in text
    assert '<span class="value">0.912</span>' in text
    assert text.count('class="pairs-dot"') == 4, "bins without a pair have no dot"
    assert "Hidden pairs of training cases" in text
    assert "98.0 %" in text


def test_a_presence_run_that_trains_shows_its_last_validation(copy_run: Callable[..., Path]) -> None:
    run = copy_run("evaluation", "predictions")
    text = as_presence_run(run, groups=[])
    last = json.loads((run / "validation.jsonl").read_text().splitlines()[-1])["mean"]
    assert f'<span class="value">{last:.3f}</span>' in text
    assert "when the training ends" in text


def test_the_recipe_names_encoder_and_roi_aware_network(copy_run: Callable[..., Path]) -> None:
    run = copy_run("evaluation", "predictions")
    info = json.loads((run / "run.json").read_text())
    info["codes"] = {"encoder": "minilm", "revision": "0.1.0"}
    info["texts"] = {"encoder": "random"}
    info["roi_aware"] = {
        "from": "runs/presence", "outputs": ROIS, "network": {"name": "resnet18", "width": 8}, "sha256": "ab" * 32,
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(info))
    text = write_report(run).read_text()
    assert "minilm 0.1.0, random" in text
    assert "resnet18 (width 8) of runs/presence, 2 ROIs, SHA-256 abababababab" in text


def test_a_single_decision_curve_has_a_name(copy_run: Callable[..., Path]) -> None:
    run = copy_run("evaluation", "predictions")
    rows = [
        {"step": s, "stage": "main", "loss": 1.0, "lr": 0.1, "monitors": {"right_negative": 0.9}} for s in (10, 20, 30)
    ]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "absent, confirmed</li>" in write_report(run).read_text()

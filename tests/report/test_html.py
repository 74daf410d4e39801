"""The page: complete, closed to the outside, safe, and honest about what is missing."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from made_run import save_evaluation

from gleanseg.errors import UserError
from gleanseg.report import gallery
from gleanseg.report.html import write_report

SECTIONS = ["results", "cases", "pictures", "training", "supervision", "recipe", "origin"]
VOID = {"meta", "input", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.sections.append(dict(attrs)["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def text(made_run: Path) -> str:
    return write_report(made_run).read_text()


def test_page_is_well_formed_and_has_every_section(text: str):
    page = Page(text)
    assert page.sections == ["warnings", *SECTIONS]
    assert [href.removeprefix("#") for href in page.values("href") if href[:1] == "#"][1:] == page.sections
    assert len(page.values("id")) == len(set(page.values("id")))


def test_page_loads_nothing_from_elsewhere(text: str):
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert page.values("src") == []
    assert all(href.startswith(("#", "data:image/webp;base64,")) for href in page.values("href"))
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#hatch"}


def test_only_the_pages_own_script_may_run(text: str):
    policy = next(value for value in Page(text).values("content") if "default-src" in value)
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert script == files("gleanseg.report").joinpath("page.js").read_text()


def test_names_with_markup_stay_text(copy_run: Callable[..., Path]):
    run = copy_run()
    evil = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'"
    info = json.loads((run / "run.json").read_text())
    manifest = json.loads(Path(info["manifest"]).read_text())
    manifest |= {
        "name": evil,
        "rois": [*manifest["rois"], "evil"],
        "own_rois": {"evil": {"name": evil, "aliases": [evil]}},
    }
    manifest["channels"][0] |= {"name": evil, "modality": evil}
    for case in manifest["cases"]:
        case["site"] = evil
        case["id"] = case["id"].replace("patient", "'patient' onclick=alert(3) &lt;script&gt;")
    (run / "evil.json").write_text(json.dumps(manifest))
    info |= {"manifest": str(run / "evil.json"), "own_rois": manifest["own_rois"], "rois": manifest["rois"]}
    info |= {
        "version": evil,
        "status": evil,
        "environment": {"gleanseg": evil, evil: evil},
        "store": evil,
        "created": evil,
    }
    (run / "run.json").write_text(json.dumps(info))
    (run / "recipe.toml").write_text(f"# {evil}\n" + (run / "recipe.toml").read_text())
    for name in ("log.jsonl", "access.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        rows = [row | ({"terms": {evil: 1.0}, "stage": evil} if "terms" in row else {"purpose": evil}) for row in rows]
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(run).read_text()
    page = Page(text)
    assert text.count("<script") == 1
    assert "<img" not in text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert any("<script>alert(1)" in written for written in page.texts)


def test_headline(text: str, made_run: Path):
    evaluation = json.loads((made_run / "evaluation" / "test.json").read_text())
    dice = evaluation["summary"]["mean"]["dice"]
    head = text[text.index("<header") : text.index("</header>")]
    assert f'<span class="value">{dice["mean"]:.3f}</span>' in head
    assert f"{dice['low']:.3f} to {dice['high']:.3f}, 95% interval" in head
    assert "mean_teacher with unet3d on made-up abdomen: liver, liver tumor, spleen" in head
    assert "12 cases, 8 with annotations" in head
    assert "3 validation, 5 test" in head


def test_numbers_of_an_roi_stand_in_its_row(text: str, made_run: Path):
    spleen = json.loads((made_run / "evaluation" / "test.json").read_text())["summary"]["rois"]["spleen"]
    row = next(r for r in re.findall(r"<tr>.*?</tr>", text) if 'data-value="spleen"' in r)
    assert f"{spleen['metrics']['dice']['mean']:.3f}" in row
    assert f"{spleen['metrics']['hd95']['low']:.2f} to {spleen['metrics']['hd95']['high']:.2f}" in row
    assert spleen["missed"] == 2
    assert ">2 missed<" in row


def test_worst_case_comes_first(text: str, made_run: Path):
    rows = json.loads((made_run / "evaluation" / "test.json").read_text())["rows"]
    cases = {row[0] for row in rows}
    dice = {c: [v for case, _, m, v in rows if case == c and m == "dice" and v is not None] for c in cases}
    order = sorted(cases, key=lambda c: sum(dice[c]) / len(dice[c]))
    table = text[text.index('<section id="cases">') : text.index('<section id="pictures">')]
    assert re.findall(r'<th scope="row" data-value="(\w+)">', table) == order
    assert re.findall(r'<span class="case-id">(\w+)<', text) == order
    assert text.count('<details class="case" open>') == 3


def test_pictures_have_alternative_texts_and_both_outlines(text: str):
    labels = [label for label in Page(text).values("aria-label") if "slice" in label]
    assert len(labels) == 3 * len(re.findall(r'<figure class="overlay">', text))
    assert all("reference dashed, prediction solid" in label for label in labels)
    assert any(label.startswith("coronal slice") and "through spleen, case patient_015" in label for label in labels)
    assert 'class="reference"' in text
    assert 'class="prediction"' in text
    assert "Prediction is empty: missed completely." in text


def test_flipped_files_give_the_same_view(text: str):
    """Site B's files are stored as LPS; the spleen must still be in the left half of the patient."""
    found = re.findall(r"sagittal slice (\d+) of 80 through spleen, case (patient_\d+)", text)
    by_case = {case: int(k) for k, case in found}
    assert set(by_case) == {f"patient_{k:03d}" for k in range(15, 20)}
    assert max(by_case.values()) < 30  # RAS: x below the middle (40) is left


def test_states_show_what_the_recipe_hid(text: str):
    supervision = text[text.index('<section id="supervision">') : text.index('<section id="recipe">')]
    assert "liver: hidden in 2 cases (train, A: patient_003 … patient_006)" in supervision
    assert "liver tumor: absent in 2 cases (train, B: patient_001 … patient_007)" in supervision


def test_size_is_bounded(text: str, made_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert len(text) < 1_000_000
    monkeypatch.setattr(gallery, "MAX_BYTES", 60_000)
    small = write_report(made_run, output=tmp_path / "small.html").read_text()
    assert len(small) < len(text)
    assert "more cases left out to keep this page small" in small


def test_max_cases(made_run: Path, tmp_path: Path):
    two = write_report(made_run, output=tmp_path / "two.html", max_cases=2).read_text()
    assert two.count('class="case-id"') == 2


def test_hostile_names_stay_text(copy_run: Callable[..., Path]):
    run = copy_run("predictions")
    hostile = "<script>alert(1)</script>\"'&"
    save_evaluation(run / "evaluation" / "test.json", {(hostile, "liver", "dice"): 0.5}, split="test")
    info = json.loads((run / "run.json").read_text())
    finding = {"severity": "error", "code": "x", "case": hostile, "message": hostile, "remedy": hostile}
    (run / "diagnosis.json").write_text(json.dumps({"findings": [finding]}))
    (run / "run.json").write_text(json.dumps({**info, "status": hostile, "version": hostile}))
    (run / "recipe.toml").write_text(f"# {hostile}\n[method]\nname = '''{hostile}'''\n")
    log = {"step": 1, "stage": hostile, "loss": 1.0, "terms": {hostile: 1.0, "b": 2.0}, "lr": 0.1}
    (run / "log.jsonl").write_text(json.dumps(log) + "\n" + json.dumps({**log, "step": 2, "stage": "</text>"}))
    (run / "access.jsonl").write_text(json.dumps({"time": hostile, hostile: hostile}))
    text = write_report(run).read_text()
    page = Page(text)
    assert text.count("<script") == 1
    assert sum(hostile in part for part in page.texts) >= 8


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (["evaluation"], "No evaluation yet. Make it with"),
        (["evaluation"], "not scored yet, by name"),
        (["predictions"], "There are no predictions in this run yet."),
        (["validation.jsonl"], "No validation was made"),
        (["log.jsonl", "validation.jsonl"], "Nothing was logged yet."),
        (["recipe.toml"], "recipe.toml is missing or damaged."),
        (["access.jsonl"], "nothing in this run has read the test split"),
        (["labels.json"], "labels.json: missing"),
        (["patient_019.nii.gz"], "patient_018"),
        (["splits.json"], "12 cases, 10 with annotations"),
        (["plan.json"], "64 \u00d7 64 \u00d7 32 voxels"),
    ],
)
def test_missing_pieces_are_told(copy_run: Callable[..., Path], missing: list[str], told: str):
    text = write_report(copy_run(*missing), max_cases=1).read_text()
    assert Page(text).sections[-len(SECTIONS) :] == SECTIONS
    assert told in text


def test_bare_run(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"gleanseg": 1, "rois": ["liver"], "status": "running"}')
    text = write_report(tmp_path).read_text()
    assert Page(text).sections == ["warnings", *SECTIONS]
    assert "run.json names no manifest." in text
    assert "Training is not finished" in text
    assert "No score yet" in text


def test_missing_images_are_told_and_the_rest_stays(copy_run: Callable[..., Path], tmp_path: Path):
    run = copy_run()
    info = json.loads((run / "run.json").read_text())
    manifest = json.loads(Path(info["manifest"]).read_text())
    for case in manifest["cases"]:
        case["images"] = [f"nowhere/{case['id']}.nii.gz"]
    (tmp_path / "moved.json").write_text(json.dumps(manifest))
    (run / "run.json").write_text(json.dumps({**info, "manifest": str(tmp_path / "moved.json")}))
    text = write_report(run).read_text()
    assert text.count("No picture: case") == 5
    assert "has changed since the volumes were prepared" in text


def test_stages_run_on(copy_run: Callable[..., Path]):
    run = copy_run("predictions", "validation.jsonl")
    rows = [{"step": s, "stage": stage, "loss": 1.0, "lr": 0.1} for stage in ("warm", "self") for s in (10, 20)]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = write_report(run).read_text()
    assert ">self</text>" in text
    middle = (54 + 468) / 2
    assert f'x1="{middle:.0f}" x2="{middle:.0f}" y1="12" y2="242" class="stage"' in text


def test_validation_figure_when_nothing_was_evaluated(copy_run: Callable[..., Path]):
    run = copy_run("evaluation", "predictions")
    text = write_report(run).read_text()
    last = json.loads((run / "validation.jsonl").read_text().splitlines()[-1])["mean"]
    assert f'<span class="value">{last:.3f}</span>' in text


def test_user_errors(tmp_path: Path, made_run: Path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path / "none")
    with pytest.raises(UserError, match=r"no_folder.*does not exist"):
        write_report(made_run, output=tmp_path / "no_folder" / "r.html")


def test_damaged_plan_is_named(copy_run: Callable[..., Path]):
    run = copy_run()
    (run / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan\.json: damaged"):
        write_report(run)

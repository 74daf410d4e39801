"""Runs beside a paper's table: which may stand in it, what is averaged, and how it is marked."""

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from made_finished import TEST, TRAIN, make_finished

from gleanseg.cli.bench import Command
from gleanseg.cli.main import main
from gleanseg.config import Recipe
from gleanseg.data.sources.mots import tasks
from gleanseg.errors import UserError
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import Row
from gleanseg.report.finished import digest_of, find_row, read_finished
from gleanseg.report.paper_tables import compare_with_paper, over_seeds
from gleanseg.report.papers import PaperTable
from gleanseg.rois.ontology import builtin
from support.data import write_cases, write_recipe

TABLE = f"""
title = "Left atrium"
paper = "somebody, somewhere"
protocol = "ssl3d"

[split]
train = "{digest_of(TRAIN)}"
test = "{digest_of(TEST)}"
[split.labelled]
2 = "{digest_of(TRAIN[:2])}"

[[column]]
roi = "left_atrium"
head = "Dice"
test = 3
[[column]]
roi = "left_atrium"
metric = "hd95"
head = "HD95"

[[row]]
id = "teacher-2"
name = "mean teacher"
labelled = 2
match = {{ "method.name" = "mean_teacher" }}
values = [80.0, 9.0]
[[row]]
id = "heavy-2"
name = "mean teacher, heavier"
labelled = 2
match = {{ "method.name" = "mean_teacher", "method.lam" = 1.0 }}
values = [81.0, 11.0]
[[row]]
id = "supervised-2"
name = "supervised"
labelled = 2
match = {{ "method.name" = "supervised" }}
values = [70.0, 20.0]
[[row]]
id = "full"
name = "all labels"
match = {{ "method.name" = "supervised" }}
values = [90.0, 5.0]
"""


@pytest.fixture
def table(tmp_path: Path) -> PaperTable:
    (tmp_path / "la.toml").write_text(TABLE)
    return PaperTable.load(str(tmp_path / "la.toml"))


def test_each_run_finds_its_row(table: PaperTable, tmp_path: Path) -> None:
    make_finished(tmp_path / "runs" / "a", dice=0.8)
    make_finished(tmp_path / "runs" / "deep" / "b", method='name = "mean_teacher"\nlam = 1.0', dice=0.85, hd95=12.0)
    make_finished(tmp_path / "runs" / "c", method='name = "supervised"', labelled=None, dice=0.9)
    make_finished(tmp_path / "runs" / "d", method='name = "supervised"', labelled=3, dice=0.6)
    found = compare_with_paper(table, tmp_path / "runs")
    assert (found.refused, found.unready, found.missing) == ((), (), ("supervised-2",))
    shown = [(r.id, r.source, [round(c.value, 2) for c in r.cells]) for r in found.rows]
    assert shown == [
        ("teacher-2", "paper", [80.0, 9.0]), ("teacher-2", "ours", [80.0, 9.0]),
        ("heavy-2", "paper", [81.0, 11.0]), ("heavy-2", "ours", [85.0, 12.0]),
        ("supervised-2", "paper", [70.0, 20.0]), ("supervised-2", "ours", []),
        ("full", "paper", [90.0, 5.0]), ("full", "ours", [90.0, 9.0]),
        ("supervised, 3 labelled", "ours", [60.0, 9.0]),
    ]  # fmt: skip
    assert [r.labelled for r in found.rows] == [2, 2, 2, 2, 2, 2, None, None, 3]
    assert {r.protocol for r in found.rows if r.source == "ours"} == {"ssl3d"}
    # Marked within one source and one number of labels; more Dice is better, less distance.
    places = {(r.id, r.source): [c.place for c in r.cells] for r in found.rows}
    assert places["heavy-2", "paper"] == [1, 2]
    assert places["teacher-2", "paper"] == [2, 1]
    assert places["supervised-2", "paper"] == [None, None]
    assert places["full", "paper"] == [None, None]
    assert places["teacher-2", "ours"] == [2, 1]
    assert places["heavy-2", "ours"] == [1, 2]
    one = found.rows[1]
    assert (one.cells[0].over, round(one.cells[0].low, 6), round(one.cells[0].high, 6)) == ("cases", 79.0, 81.0)
    record = one.runs[0]
    assert (record["test_sha256"], record["train_sha256"]) == (table.split.test, table.split.train)
    assert (record["labelled_cases"], record["test_reads"], record["inference"]) == (2, 1, {"mirror": False})


def test_seeds_give_one_row_with_an_interval(table: PaperTable, tmp_path: Path) -> None:
    for seed, dice in enumerate((0.80, 0.82, 0.87)):
        make_finished(tmp_path / f"s{seed}", seed=seed, dice=dice)
    found = compare_with_paper(table, tmp_path)
    cell = found.rows[1].cells[0]
    assert (cell.over, len(found.rows[1].runs)) == ("seeds", 3)
    assert cell.value == pytest.approx(83.0)
    # Sample deviation 3.6056; Student's t of 2 degrees of freedom is 4.3027.
    assert (cell.high - cell.low) / 2 == pytest.approx(4.3027 * 3.60555 / math.sqrt(3), rel=1e-4)
    assert over_seeds([5.0, 5.0]).low == 5.0
    make_finished(tmp_path / "again", seed=0)
    make_finished(tmp_path / "other", seed=3, more="[optimizer]\nlr = 0.5\n")
    found = compare_with_paper(table, tmp_path)
    assert len(found.refused) == 2  # "again" is read first: s0 repeats it, and the other recipe differs
    assert "s0: repeats seed 0" in found.refused[1]
    assert "other: belongs to row 'teacher-2'" in found.refused[0]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"validation": ("t1",)}, r"chose its checkpoint on case 't1' of the test split"),
    ({"train": [*TRAIN, "t2"]}, r"trained on case 't2' of the test split"),
    ({"train": TRAIN[:5]}, r"its train cases \(5, .* are not the published ones"),
    ({"test": TEST[:2]}, r"its test cases \(2, .* are not the published ones"),
    ({"train": TRAIN[::-1]}, r"its labelled cases \(2, .* are not the published ones"),
    (
        {"rows": tuple(Row(id, "left_atrium", m, 0.5) for id in TEST[:2] for m in ("dice", "hd95", "reference_ml"))},
        "left_atrium is scored in 2 test cases, expected 3 as published",
    ),
    ({"checkpoint": "main-00000010.safetensors"}, r"of checkpoint main-00000010.*expected the last \(main-00000020"),
    ({"protocol_digest": "x"}, "ssl3d has changed since"),
    ({"manifest_digest": "x"}, "another version of the manifest"),
    ({"missing": ("t9",), "split_digest": digest_of(TEST)}, r"test case 't9' \(1 in all\) is without a prediction"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_runs_that_may_not_stand_in_the_table(
    table: PaperTable, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = make_finished(tmp_path / "run", **change)
    with pytest.raises(UserError, match=said) as told:
        read_finished(path, table, Protocol.load("ssl3d"))
    assert "\n" not in str(told.value)
    found = compare_with_paper(table, tmp_path)
    assert found.refused == (str(told.value),)
    assert "teacher-2" in found.missing


def test_a_validation_part_of_the_training_cases_is_fine(table: PaperTable, tmp_path: Path) -> None:
    path = make_finished(tmp_path / "run", train=TRAIN[:5], validation=("a5",), checkpoint="best.safetensors")
    assert read_finished(path, table, Protocol.load("ssl3d")).record["validation_cases"] == 1


def test_what_is_not_ready_is_told(table: PaperTable, tmp_path: Path) -> None:
    make_finished(tmp_path / "a", status="interrupted")
    (make_finished(tmp_path / "b", seed=1) / "evaluation" / "test-ssl3d.json").unlink()
    found = compare_with_paper(table, tmp_path)
    assert "training is interrupted; continue it with --resume" in found.unready[0]
    assert "run predict and `evaluate --protocol ssl3d`" in found.unready[1]
    make_finished(tmp_path / "presence", method='name = "presence"')
    assert "'presence' segments nothing" in compare_with_paper(table, tmp_path).unready[2]
    (make_finished(tmp_path / "c", seed=2) / "predictions" / "test" / "prediction.json").unlink()
    assert "prediction.json: no such file" in compare_with_paper(table, tmp_path).refused[0]


def test_files(table: PaperTable, tmp_path: Path) -> None:
    make_finished(tmp_path / "runs" / "a", dice=0.8)
    paths = compare_with_paper(table, tmp_path / "runs").save(tmp_path / "out")
    assert [p.name for p in paths] == ["la.json", "la.csv"]
    data = json.loads(paths[0].read_text())
    assert data["protocol"] == {"name": "ssl3d", "sha256": Protocol.load("ssl3d").digest()}
    assert data["split"]["test"] == digest_of(TEST)
    ours = data["rows"][1]
    assert (ours["run"], ours["cells"][0]["value"], ours["cells"][0]["over"]) == (True, pytest.approx(80), "cases")
    assert (data["rows"][3]["run"], data["rows"][3]["cells"]) == (False, [])
    lines = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert [(r["row"], r["source"], r["metric"], float(r["value"])) for r in lines[:4]] == [
        ("teacher-2", "paper", "dice", 80.0), ("teacher-2", "paper", "hd95", 9.0),
        ("teacher-2", "ours", "dice", pytest.approx(80.0)), ("teacher-2", "ours", "hd95", 9.0),
    ]  # fmt: skip


def test_the_published_table_of_mots() -> None:
    table = PaperTable.load("mots")
    assert [c.roi for c in table.column] == list(builtin().scheme("mots").values())
    assert [row.id for row in table.row] == ["dodnet", "baseline", "mean_teacher", "without_mse", "latent_class"]
    for split, wanted in (("train", table.split.train), ("test", table.split.test)):
        ids = sorted(id for task in tasks() for id, role in task.ids.items() if role == split)
        assert hashlib.sha256(json.dumps(ids).encode()).hexdigest() == wanted
    counts = {c.task: (c.train, c.test) for c in table.column}
    published = {task.name: tuple(list(task.split.values()).count(r) for r in ("train", "test")) for task in tasks()}
    assert list(counts.values()) == list(published.values())
    for row in table.row:
        if row.values:
            for mean in table.mean:
                values = [v for v, c in zip(row.values, table.column, strict=True) if c in table.of_mean(mean)]
                assert sum(values) / len(values) == pytest.approx(row.means[mean.id], abs=0.006)
    assert table.protocol == "mots-v1"


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ('name = "supervised"\n[head]\nname = "dynamic"', "baseline"),
        ('name = "supervised"', None),
        ('name = "mean_teacher"', "mean_teacher"),
        ('name = "latent_class"', "latent_class"),
        ('name = "latent_class"\nw_mse = 0.0', "without_mse"),
        ('name = "vnet"', None),
    ],
)
def test_rows_of_mots(tmp_path: Path, method: str, row: str | None) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'manifest = "m.json"\n[method]\n{method}\n')
    found = find_row(Recipe.load(path), PaperTable.load("mots"), num_labelled=920)
    assert (found.id if found else None) == row
    hiding = Recipe.load(path, overrides=["data.labelled=8"])
    assert find_row(hiding, PaperTable.load("mots"), num_labelled=8) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('metric = "hd95"', 'metric = "hd"', "column.1.metric"),
        ("values = [80.0, 9.0]", "values = [80.0]", "1 values for 2 columns"),
        ('id = "full"', 'id = "teacher-2"', "row 'teacher-2' stands twice"),
        ("labelled = 2\n", "labeled = 2\n", "did you mean 'labelled'"),
        ("[split]", '[[mean]]\nid = "m"\nhead = "m"\n[split]', "mean 'm': its columns have several metrics"),
        ("[split]", '[[mean]]\nid = "m"\nhead = "m"\nrois = ["liver"]\n[split]', "mean 'm': no column of 'liver'"),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "own.toml").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        PaperTable.load(str(tmp_path / "own.toml"))


def test_tables_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "motz", "--runs", str(tmp_path)]) == 2
    assert "no table 'motz'; did you mean 'mots'?" in capsys.readouterr().err
    assert main(["bench", "mots", "--runs", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_the_command_prints_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "la.toml").write_text(TABLE)
    for seed in (0, 1):
        make_finished(tmp_path / "runs" / f"s{seed}", seed=seed, dice=0.8 + 0.02 * seed)
    assert main(["bench", str(tmp_path / "la.toml"), "--runs", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert "mean teacher (2 labelled) paper 80.00² 9.00¹" in lines
    assert "ours, 2 seeds ssl3d 81.00 9.00" in lines
    assert lines.count("ours not run") == 3
    assert (tmp_path / "runs" / "la.json").is_file()
    make_finished(tmp_path / "runs" / "leaky", seed=5, validation=("t0",))
    assert main(["bench", str(tmp_path / "la.toml"), "--runs", str(tmp_path / "runs")]) == 1
    assert "refused" in capsys.readouterr().out
    assert main(["bench", "mots", "--runs", str(tmp_path / "runs"), "-o", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "96.87¹" in told
    assert "train/test cases" in told
    assert "242/61" in told
    assert told.count("not run") == 5


def test_without_runs_the_table_is_the_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "left-atrium", "--labelled", "8", "--methods", "all"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "UA-MT (8 labelled) paper MC-Net line's re-run 87.79 78.39 8.68 2.12 ours not run" in told
    assert "nothing was run in runs/left-atrium yet" in told
    assert "not comparable" not in told
    assert list(tmp_path.iterdir()) == []


def test_two_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    paper, honest = (Command(table="left-atrium", protocol=name) for name in ("paper", "honest"))
    table = PaperTable.load("left-atrium")
    assert (paper._measured(table), paper._seeds) == ("ssl3d", (0,))
    assert (honest._measured(table), honest._seeds) == ("default", (0, 1, 2))
    assert Command(table="left-atrium", protocol="ssl4mis", seeds=(5,))._measured(table) == "ssl4mis"
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "left-atrium", "--protocol", "honest"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "by protocol 'default', in millimetres: distances are not comparable with the paper's" in told


@pytest.mark.slow
def test_missing_rows_are_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = json.loads(write_cases(tmp_path).read_text())["cases"]
    of = {part: [c["id"] for c in cases if (c["split"] == "test") == (part == "test")] for part in ("train", "test")}
    (tmp_path / "small.toml").write_text(
        'title = "Small"\npaper = "none"\nprotocol = "default"\n'
        f'[split]\ntrain = "{digest_of(of["train"])}"\ntest = "{digest_of(of["test"])}"\n'
        '[[column]]\nroi = "liver"\nhead = "liver"\n[[column]]\nroi = "spleen"\nhead = "spleen"\n'
        '[[mean]]\nid = "mean"\nhead = "mean"\n'
        + "".join(
            f'[[row]]\nid = "{m}"\nname = "{m}"\nrecipe = "recipe.toml"\nchange = {{ "method.name" = "{m}" }}\n'
            for m in ("supervised", "mean_teacher")
        )
    )
    write_recipe(tmp_path, steps=2)
    flags = ["bench", str(tmp_path / "small.toml"), "--runs", str(tmp_path / "runs"), "--recipes", str(tmp_path)]
    assert main([*flags, "--train", "--seeds", "0", "1", "--only", "supervised"]) == 0
    told = capsys.readouterr().out
    assert "ours, 2 seeds" in told
    assert told.count("not run") == 1
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [
        "small.csv", "small.json", "supervised-seed0", "supervised-seed1",
    ]  # fmt: skip
    before = (tmp_path / "runs" / "supervised-seed0" / "access.jsonl").read_text()
    assert main([*flags, "--train"]) == 0
    told = capsys.readouterr().out
    assert "not run" not in told
    assert (tmp_path / "runs" / "supervised-seed0" / "access.jsonl").read_text() == before
    data = json.loads((tmp_path / "runs" / "small.json").read_text())
    assert [(r["id"], len(r["runs"])) for r in data["rows"] if r["source"] == "ours"] == [
        ("supervised", 2), ("mean_teacher", 1),
    ]  # fmt: skip
    assert main([*flags, "--train", "--only", "dodnet"]) == 2
    assert "--only dodnet: no such row to train" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["cases"] = manifest["cases"][:-1]
    (tmp_path / "short.json").write_text(json.dumps(manifest))
    assert main([*flags, "--train", "--seeds", "7", "--manifest", str(tmp_path / "short.json")]) == 2
    assert "its 1 test cases are not the published ones" in capsys.readouterr().err

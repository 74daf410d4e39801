"""Tables of the semi-supervised literature: rows, ablations, filters, paired tests, and runs without a known split."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_finished import TEST, make_finished

from gleanseg.cli.main import main
from gleanseg.config import Recipe
from gleanseg.data.sources.published import published
from gleanseg.errors import UserError
from gleanseg.report.finished import digest_of, find_row, own_name
from gleanseg.report.paper_tables import Comparison, compare_with_paper
from gleanseg.report.papers import PaperTable, table_names

RECIPES = Path(__file__).parents[2] / "recipes"
MAIN = ("left-atrium", "pancreas-ct", "brats19")
TRAIN80, TEST20 = (list(published("la")[split]) for split in ("train", "test"))
VNET = '[network]\nname = "vnet"\n'
TEXT = '[text]\nknowledge = ["left_atrium"]\nbeta = 0.1\n'


def run(path: Path, *, method: str = "supervised", dice: float = 0.8, seed: int = 0, options: str = "") -> Path:
    """A run of the left atrium with 8 labels; its cases differ much from each other, its seeds little."""
    random = np.random.default_rng(seed + sum(map(ord, method)))
    cases = dice + 0.08 * np.sin(np.arange(20)) + 0.004 * random.standard_normal(20)
    more = VNET + (TEXT if method == "llm_segnet" else "")
    return make_finished(
        path, method=f'name = "{method}"\n{options}', seed=seed, labelled=8, dice=cases.tolist(), train=TRAIN80,
        test=TEST20, more=more,
    )  # fmt: skip


def ours(found: Comparison, row: str) -> list[tuple[str, str, str]]:
    (one,) = [r for r in found.rows if r.id == row and r.source == "ours"]
    return [(test.verdict, test.role, test.row) for test in one.versus]


@pytest.mark.parametrize("name", MAIN)
def test_published_tables(name: str) -> None:
    table = PaperTable.load(name)
    assert [(c.metric, c.head) for c in table.column] == [
        ("dice", "Dice"), ("jaccard", "Jaccard"), ("hd95", "95HD"), ("asd", "ASD"),
    ]  # fmt: skip
    assert len({c.roi for c in table.column}) == 1
    assert (table.protocol, table.benchmark) == ("ssl3d", name)
    for labelled in {row.labelled for row in table.row}:
        rows = {table.method(row): row for row in table.row if row.labelled == labelled}
        assert rows["supervised"].reference
        assert not rows["mean_teacher"].values  # the paper has no such row
        published = {method: row.values for method, row in rows.items() if row.values}
        assert len(published) >= 9
        assert max(published, key=lambda m: published[m][0]) == "llm_segnet"
        assert min(published, key=lambda m: published[m][0]) == "supervised"
        for dice, jaccard, *_ in published.values():
            # A case's Jaccard is d / (2 - d), which bends upwards: the mean lies above that of the mean Dice.
            assert not jaccard < 100 * dice / (200 - dice) - 0.6


@pytest.mark.parametrize(("name", "source", "form", "sizes"), [
    ("left-atrium", "la", "{}", (80, 20)),
    ("pancreas-ct", "pancreas_ct", "PANCREAS_{:04d}", (62, 20)),
    ("brats19", "brats19", "{}", (275, 60)),
])  # fmt: skip
def test_splits_are_those_of_the_lists(name: str, source: str, form: str, sizes: tuple[int, int]) -> None:
    table, lists = PaperTable.load(name), published(source, form)
    train = [*lists["train"], *lists.get("validation", ())]
    assert (len(train), len(lists["test"])) == sizes
    assert table.split is not None
    assert (table.split.train, table.split.test) == (digest_of(train), digest_of(lists["test"]))
    assert {int(n) for n in table.split.labelled} == {row.labelled for row in table.row}
    for number, wanted in table.split.labelled.items():
        assert wanted == digest_of(lists["train"][: int(number)])
    if name != "brats19":
        assert PaperTable.load(f"{name}-ablation").split == table.split


def test_some_published_numbers() -> None:
    rows = {(name, row.id): row for name in MAIN for row in PaperTable.load(name).row}
    assert rows["left-atrium", "llm_segnet-8"].values == (91.45, 84.31, 4.66, 1.62)
    assert rows["pancreas-ct", "qdc_net-6"].values == (76.62, 62.70, 9.25, 2.49)
    assert rows["brats19", "supervised-50"].values == (80.16, 71.55, 22.68, 3.43)
    assert np.isnan(rows["left-atrium", "action-4"].values).tolist() == [False, True, True, False]


def test_each_row_finds_itself_from_its_recipe() -> None:
    checked = []
    for name in table_names():
        table = PaperTable.load(name)
        for row in table.row:
            if row.recipe and (path := RECIPES / table.benchmark / row.recipe).is_file():
                recipe = Recipe.load(path, overrides=row.overrides())
                assert find_row(recipe, table, num_labelled=row.labelled or 0) == row
                checked.append(name)
    assert {name: checked.count(name) for name in checked} == {
        "brats19": 24, "left-atrium": 22, "left-atrium-ablation": 14, "mots": 5, "pancreas-ct": 24,
        "pancreas-ct-ablation": 14,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["left-atrium-ablation", "pancreas-ct-ablation"])
def test_ablations_are_told_apart(name: str, tmp_path: Path) -> None:
    table = PaperTable.load(name)
    paper = PaperTable.load(table.benchmark)
    text = "\n".join(f"{k} = {json.dumps(v)}" for k, v in table.match.items() if k in ("text.knowledge", "text.beta"))
    (tmp_path / "r.toml").write_text(f'manifest = "m.json"\n{text}\n{VNET}[method]\nname = "llm_segnet"\n')
    controls = {row.id: row.change for row in table.row if row.name.startswith("control")}
    assert controls == {"no-text": {"text.beta": 0.0}, "random-vectors": {"text.vectors": "random"}}
    assert len({json.dumps(row.change) for row in table.row}) == len(table.row) == 14
    for row in table.row:
        assert row.labelled is not None
        recipe = Recipe.load(tmp_path / "r.toml", overrides=row.overrides())
        assert find_row(recipe, table, num_labelled=row.labelled) == row
        assert find_row(recipe, table, num_labelled=row.labelled + 1) is None
        in_paper = find_row(recipe, paper, num_labelled=row.labelled)
        assert (in_paper.id if in_paper else None) == (f"llm_segnet-{row.labelled}" if row.id == "full" else None)
        apart = ", ".join(f"{key} = {value}" for key, value in row.change.items())
        told = own_name(recipe, paper, labelled=row.labelled)
        assert told == ", ".join(filter(None, ["llm_segnet", f"{row.labelled} labelled", apart]))


def test_rows_are_tested_against_the_reference_and_the_best_other(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / f"s{seed}", dice=0.80, seed=seed)
        run(tmp_path / f"m{seed}", method="mean_teacher", dice=0.80, seed=seed)
        run(tmp_path / f"l{seed}", method="llm_segnet", dice=0.84, seed=seed)
    found = compare_with_paper(PaperTable.load("left-atrium"), tmp_path)
    assert found.refused == ()
    assert ("beats", "reference", "supervised-8") in ours(found, "llm_segnet-8")
    assert ("loses to", "best other", "llm_segnet-8") in ours(found, "supervised-8")
    assert ours(found, "mean_teacher-8") == [
        ("undecided against", "reference", "supervised-8"), ("loses to", "best other", "llm_segnet-8"),
    ]  # fmt: skip
    (row,) = [r for r in found.rows if r.id == "llm_segnet-8" and r.source == "ours"]
    test = row.versus[0]
    assert 3.5 < test.low < 4 < test.high < 4.5  # per cent; the cases' own spread of 5.7 is not in it
    assert (test.metric, test.num_cases) == ("dice", 20)
    assert test.p_bootstrap < 0.001
    paper = [r for r in found.rows if r.source == "paper"]
    assert paper
    assert not any(r.versus for r in paper)
    assert row.runs[0]["trained_by"] == {"version": "0.1.0", "commit": "c" * 40}


def test_a_single_case_decides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.toml").write_text(
        'title = "t"\npaper = "p"\nprotocol = "ssl3d"\n'
        '[[column]]\nroi = "left_atrium"\nmetric = "hd95"\nhead = "95HD"\n'
        '[[row]]\nid = "s"\nname = "s"\nlabelled = 2\nreference = true\nmatch = { "method.name" = "supervised" }\n'
    )
    table = PaperTable.load(str(tmp_path / "own.toml"))
    for number, verdict in ((1, "undecided against"), (3, "beats")):
        runs = tmp_path / str(number)
        make_finished(runs / "a", method='name = "supervised"', test=TEST[:number], hd95=9.0)
        make_finished(runs / "b", method='name = "mean_teacher"', test=TEST[:number], hd95=7.0)
        found = compare_with_paper(table, runs)
        assert ours(found, "mean_teacher, 2 labelled") == [(verdict, "reference", "s")]
        assert main(["bench", str(tmp_path / "own.toml"), "--runs", str(runs)]) == 0
        told = capsys.readouterr().out
        assert "split not checked the published lists of own are not known" in " ".join(told.split())
        assert ("one case" in told) == (number == 1)


def test_without_a_known_split_runs_must_share_their_cases(tmp_path: Path) -> None:
    run(tmp_path / "a")
    make_finished(
        tmp_path / "b", method='name = "mean_teacher"', labelled=8, train=TRAIN80[::-1], test=TEST20, more=VNET
    )
    make_finished(tmp_path / "c", method='name = "mean_teacher"', labelled=4, train=TRAIN80[1:], test=TEST20, more=VNET)
    other = [*TEST20[1:], "t99"]
    make_finished(tmp_path / "d", method='name = "mean_teacher"', labelled=4, train=TRAIN80, test=other, more=VNET)
    make_finished(tmp_path / "e", method='name = "mean_teacher"', labelled=4, train=TRAIN80, test=TEST20, more=VNET)
    table = PaperTable.load("left-atrium")
    assert len(compare_with_paper(table, tmp_path).refused) == 3
    found = compare_with_paper(table.model_copy(update={"split": None}), tmp_path)
    told = [line.split(": ", 1) for line in found.refused]
    assert [(Path(path).name, text.split(" others")[0]) for path, text in told] == [
        ("b", "its labelled cases are"), ("c", "its train cases are"), ("d", "its test cases are"),
    ]  # fmt: skip
    assert all(f"those of {tmp_path / 'a'}" in text for _, text in told)
    assert found.to_json()["split"] is None
    assert {r.id for r in found.rows if r.source == "ours" and r.cells} == {"supervised-8", "mean_teacher-4"}


def test_filters_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "s")
    run(tmp_path / "l", method="llm_segnet", dice=0.9)
    run(tmp_path / "b", method="llm_segnet", dice=0.7, options="t1 = 0.8")
    flags = ["bench", "left-atrium", "--runs", str(tmp_path)]
    assert main([*flags, "--labelled", "8", "--methods", "supervised", "llm-segnet"]) == 0
    told = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert [line for line in lines if " paper " in line and "own" in line] == [
        "LLM-SegNet (8 labelled) paper its own 91.45¹ 84.31¹ 4.66¹ 1.62¹"
    ]
    assert "(4 labelled)" not in told
    assert not any(line.startswith("UA-MT") for line in lines)
    assert any(line.startswith("LLM-SegNet (8 labelled) beats reference supervised (8 labelled) +") for line in lines)
    assert any(line.startswith("llm_segnet, 8 labelled, method.t1 = 0.8 ours ssl3d ") for line in lines)
    assert "split not checked" not in told
    data = json.loads((tmp_path / "left-atrium.json").read_text())
    assert {row["labelled"] for row in data["rows"]} == {4, 8}  # the file holds all
    assert "uamt" in {row["method"] for row in data["rows"]}
    (tested,) = [row["versus"] for row in data["rows"] if row["id"] == "llm_segnet-8" and row["source"] == "ours"]
    assert (tested[0]["verdict"], tested[0]["row"]) == ("beats", "supervised-8")
    assert main([*flags, "--methods", "all"]) == 0
    assert "UA-MT (4 labelled)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--labelled", "9"], "--labelled 9: left-atrium has rows with 4 or 8"),
        (["--methods", "mean_techer"], "--methods mean_techer: not in left-atrium; did you mean 'mean_teacher'?"),
        (
            ["--labelled", "4", "--train", "--only", "supervised-8"],
            "--only supervised-8: no such row to train; did you",
        ),
    ],
)
def test_mistakes(flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "left-atrium", "--runs", str(tmp_path), *flags]) == 2
    assert said in capsys.readouterr().err


def test_rows_without_a_recipe_are_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = 'title = "t"\npaper = "p"\nprotocol = "ssl3d"\n[[column]]\nroi = "liver"\nhead = "Dice"\n'
    (tmp_path / "own.toml").write_text(own + '[[row]]\nid = "a"\nname = "a"\nreference = true\n')
    assert main(["bench", str(tmp_path / "own.toml"), "--runs", str(tmp_path), "--train"]) == 2
    assert "--train: none of the chosen rows has a recipe" in capsys.readouterr().err


def test_a_table_takes_the_split_of_its_benchmark(tmp_path: Path) -> None:
    rest = 'title = "t"\npaper = "p"\nprotocol = "ssl3d"\n[[column]]\nroi = "liver"\nhead = "Dice"\n'
    row = '[[row]]\nid = "{0}"\nname = "{0}"\nlabelled = {1}\nreference = true\n'
    (tmp_path / "big.toml").write_text(rest + row.format("a", 4) + '[split]\ntrain = "x"\ntest = "y"\n')
    (tmp_path / "part.toml").write_text('benchmark = "big"\n' + rest + row.format("a", 4))
    table = PaperTable.load(str(tmp_path / "part.toml"))
    assert table.split is not None
    assert (table.name, table.benchmark, table.split.test) == ("part", "big", "y")
    (tmp_path / "two.toml").write_text(rest + row.format("a", 4) + row.format("b", 4))
    with pytest.raises(UserError, match="several references with 4 labelled cases"):
        PaperTable.load(str(tmp_path / "two.toml"))
    (tmp_path / "lost.toml").write_text('benchmark = "none"\n' + rest + row.format("a", 4))
    with pytest.raises(UserError, match=r"none.toml: no such file"):
        PaperTable.load(str(tmp_path / "lost.toml"))

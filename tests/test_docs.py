"""Pages that can fall behind the code do not."""

import importlib.util
import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from gleanseg.cli.main import main
from gleanseg.config import Named
from gleanseg.errors import UserError
from gleanseg.methods import method_class
from gleanseg.run.folder import Run

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")


def loaded(script: str) -> ModuleType:
    """A script of ``docs``."""
    spec = importlib.util.spec_from_file_location(script, ROOT / "docs" / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


@pytest.mark.parametrize("script", ["make_recipe_reference", "make_performance", "make_method_table", "make_field"])
def test_made_pages_are_up_to_date(script: str) -> None:
    make = loaded(script)
    assert make.PAGE.read_text() == make.page(), f"run: python docs/{script}.py"


def test_pages_of_methods_tell_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = loaded("make_method_results")
    behind = [path.name for path in make.PAGES.glob("*.md") if path.read_text() != make.page(path)]
    assert not behind, "run: python docs/make_method_results.py"
    scores = {split: {"mean": {"dice": {"mean": dice}}} for split, dice in (("validation", 0.8), ("test", 0.7))}
    compared = {"a": "ac-mt", "b": "supervised", "split": "test", "difference": 0.01, "low": -0.005, "high": 0.025}
    result = {"runs": [{"name": "ac-mt", "evaluation": scores}], "comparisons": [compared]}
    (tmp_path / "field-hippocampus.json").write_text(json.dumps(result))
    monkeypatch.setattr(make, "RESULTS", tmp_path)
    assert make.measured("ac_mt").splitlines()[2].endswith("| 1 | 0.800 | 0.700 | +0.010 (-0.005 to +0.025) |")
    assert make.measured("cps") == ""


def test_every_page_of_a_method_has_a_figure() -> None:
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        if page.stem != "README":
            figure = f"](../images/{page.stem}.svg)"
            assert figure in page.read_text(), page.name
            assert (ROOT / "docs" / "images" / f"{page.stem}.svg").exists(), page.name


def test_figures_of_methods_are_up_to_date() -> None:
    made = loaded("make_method_figures").made()
    behind = [image.name for image, text in made.items() if not image.exists() or image.read_text() != text]
    assert made
    assert not behind, "run: python docs/make_method_figures.py"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (("patches x", "patches of labelled and unlabelled cases"), "x: text of .* in a box"),
        (("at = [1, 1]", "at = [1, 0.2]"), "too near"),
        (('to = "net"', 'to = "loss"'), "crosses net"),
        (('to = "net"', 'to = "net", label = "no room between them for these words"'), "no room for the label"),
        (("columns = [130, 150, 380]", "columns = [130, 150, 900]"), "too large"),
    ],
)
def test_what_does_not_fit_a_figure_is_refused(change: tuple[str, str], wrong: str, tmp_path: Path) -> None:
    make = loaded("make_method_figures")
    text = (make.SOURCES / "supervised.toml").read_text().replace("at = [0, 1]", "at = [1, 1]")
    assert change[0] in text
    (tmp_path / "supervised.toml").write_text(text.replace(*change))
    with pytest.raises(ValueError, match=wrong):
        make.picture(tmp_path / "supervised.toml")


def test_the_table_of_methods_takes_measured_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = loaded("make_method_table")
    monkeypatch.setattr(make, "COST", tmp_path / "method_cost.json")
    without = make.page()
    assert "times a supervised one" not in without
    assert "measured" not in without
    costs = {"relative": {"median": 2.0345}, "extra_mib": 612}
    make.COST.write_text(json.dumps({"what": "a small network", "methods": {"cps": costs}}))
    page = make.page()
    assert "(a small network)" in page
    with_costs = [line for line in page.splitlines() if line.startswith("| [")]
    assert [line for line in with_costs if line.endswith(" | 2.03 | 612 |")] == [
        line for line in with_costs if "[cps]" in line
    ]
    assert make.row("cps")[4:7] == ("2: a, b", "-", "a, b, ensemble")
    assert make.row("uamt")[4:7] == ("1: student", "teacher (no gradient)", "student, teacher")


def test_names_in_the_picture_of_the_field_keep_their_distance() -> None:
    spread = loaded("make_field_picture").spread
    wanted = [0.9, 0.8, 0.8, 0.79, 0.5]
    places = spread(wanted, 0.1)
    assert all(above - below > 0.1 - 1e-9 for above, below in pairwise(places))
    assert places[0] - places[3] == pytest.approx(0.3)
    assert sum(places[:4]) == pytest.approx(sum(wanted[:4]))
    assert places[4] == 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http", "<")):
            assert (page.parent / target).exists(), target


def test_every_method_has_a_page() -> None:
    from gleanseg.resolve import names

    assert set(names("methods")) <= {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")}


def test_the_method_of_the_tutorial_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "how-to" / "add-a-method.md").read_text()
    blocks = re.findall(r"```(\w+)\n(?:# (\S+\.\w+)\n)?(.*?)```", page, re.DOTALL)
    for _, file, text in blocks:
        if file:
            (tmp_path / file).write_text(text)
    install_as_pip_would(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, file, text in blocks:
        if language == "python" and not file:
            exec(compile(text, "add-a-method.md", "exec"), names)  # noqa: S102  # the code that the page shows
        elif language == "sh" and text.startswith("gleanseg"):
            assert [main(shlex.split(line)[1:]) for line in text.splitlines()] == [0, 0], text
    run = Run.open(tmp_path / "runs" / "pi_model")
    assert (run.info["status"], run.recipe.method.options) == ("finished", {"noise": 0.2})
    assert set(json.loads((run.path / "log.jsonl").read_text().splitlines()[-1])["terms"]) == {"dice", "ce", "agree"}
    with pytest.raises(UserError, match="noise"):
        method_class(Named(name="pi-model", options={"noize": 0.2}))


def install_as_pip_would(folder: Path) -> None:
    """Write what tells Python of an installed project's entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(groups))


def test_the_readme_recipe_and_api_are_real(tmp_path: Path) -> None:
    import gleanseg
    from gleanseg.config import Recipe

    text = (ROOT / "README.md").read_text()
    recipe = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert recipe is not None
    (tmp_path / "abdomen.toml").write_text(recipe[1])
    assert Recipe.load(tmp_path / "abdomen.toml").method.name == "mean_teacher"
    for name in re.findall(r"gleanseg\.(\w+)", re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]):
        assert hasattr(gleanseg, name), name
    from gleanseg.cli.main import COMMANDS

    shell = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    used = re.findall(r"^gleanseg (\w+)", shell, re.MULTILINE)
    assert len(used) >= 5
    assert set(used) <= set(COMMANDS)

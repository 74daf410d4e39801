"""Pages that can fall behind the code do not."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("script", ["make_recipe_reference", "make_performance"])
def test_made_pages_are_up_to_date(script: str) -> None:
    spec = importlib.util.spec_from_file_location(script, ROOT / "docs" / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.PAGE.read_text() == make.page(), f"run: python docs/{script}.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith(("http", "<")):
            assert (page.parent / target).exists(), target


def test_every_method_has_a_page() -> None:
    from gleanseg.resolve import names

    assert set(names("methods")) <= {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")}


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

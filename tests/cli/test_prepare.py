from pathlib import Path

import pytest

from gleanseg.cli.main import main
from gleanseg.data.store import Store
from support.volumes import ct_case, ct_manifest

RECIPE = """
manifest = "manifest.json"
[prepare]
spacing = [2.0, 1.0, 1.0]
window = [-100, 200]
[method]
name = "supervised"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    ct_manifest(ct_case(tmp_path / "raw", "a", seed=1), ct_case(tmp_path / "raw", "b", seed=2, split="test")).save(
        tmp_path / "manifest.json"
    )
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_prepare_makes_a_store_and_says_what_it_planned(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(recipe), "--workers", "1", "-o", str(tmp_path / "out")]) == 0
    store = Store.open(tmp_path / "out")
    assert store.ids == ("a", "b")
    assert store.plan.spacing_ZYX_mm == (1.0, 1.0, 2.0)
    printed = capsys.readouterr().out
    assert "2 cases, 3 ROIs" in printed
    assert "voxels 2 x 1 x 1 mm" in printed
    assert "ct ct_window [-100, 200] HU" in printed


def test_a_store_of_another_recipe_exits_with_2(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(recipe)]) == 0
    assert main(["prepare", str(recipe), "--override", "prepare.spacing=[1.0, 1.0, 1.0]"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a store made by another recipe or other training cases (spacing_ZYX_mm is (1.0, 1.0, 2.0) there" in error

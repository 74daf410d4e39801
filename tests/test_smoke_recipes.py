"""The smoke recipes are run, not only read."""

from pathlib import Path

import pytest

from gleanseg.cli.main import main
from gleanseg.data.phantom import make_phantom, phantom_manifest
from gleanseg.run.folder import Run

RECIPES = sorted((Path(__file__).parents[1] / "recipes" / "smoke").glob("*.toml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's ``recipes`` and ``demo`` folders."""
    root = tmp_path_factory.mktemp("checkout")
    make_phantom(root / "demo" / "data", num_cases=9, shape_xyz=(30, 28, 26))
    phantom_manifest(root / "demo" / "data").save(root / "demo" / "manifest.json")
    (root / "recipes" / "smoke").mkdir(parents=True)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs(path: Path, root: Path) -> None:
    recipe = root / "recipes" / "smoke" / path.name
    recipe.write_text(path.read_text())
    out = root / "runs" / path.stem
    shorter = ["--override", "train.steps=2", "--override", "train.validate_every=2"]
    assert main(["train", str(recipe), "-o", str(out), *shorter]) == 0
    run = Run.open(out)
    assert run.info["status"] == "finished"
    assert (out / "validation.jsonl").read_text().count("\n") == 1

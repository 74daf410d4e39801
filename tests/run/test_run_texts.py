"""A run keeps the vectors of its texts."""

import json
from pathlib import Path

import torch

from gleanseg.config import Recipe
from gleanseg.run.folder import Run
from gleanseg.run.texts import load_texts, write_texts
from gleanseg.text.knowledge import vectors_of
from gleanseg.text.texts import Text


def test_they_come_back_without_the_files_that_they_were_made_from(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    Text(structure="liver", modality="CT", responses=("A liver.", "The spleen.")).save(own)
    recipe = tmp_path / "r.toml"
    recipe.write_text('manifest = "m.json"\n[text]\nknowledge = ["spleen", "own.json"]\nvectors = "random"\n')
    (tmp_path / "run").mkdir()
    facts = write_texts(tmp_path / "run", recipe=Recipe.load(recipe))
    wanted, provenance = vectors_of(["spleen", str(own)], source="random", seed=0)
    own.unlink()
    found = load_texts(Run(tmp_path / "run", {}))
    assert found is not None
    assert [text.shape for text in found] == [(15, 384), (2, 384)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert json.loads(json.dumps(facts)) == {"texts": provenance}


def test_a_run_without_texts(tmp_path: Path) -> None:
    assert load_texts(Run(tmp_path, {})) is None

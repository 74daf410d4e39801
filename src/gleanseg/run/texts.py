"""The vectors of a run's texts: made once, when the run is created, and kept in its folder."""

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from gleanseg.config import Recipe, TextConfig
from gleanseg.networks.fusion import FusionConfig
from gleanseg.run.checkpoint import load, save
from gleanseg.run.folder import Run
from gleanseg.text.knowledge import vectors_of

_FILE = "texts.safetensors"


def write_texts(folder: Path, *, recipe: Recipe) -> dict[str, Any]:
    """Write the vectors of each text's responses; what is returned belongs into the run's run.json.

    Raises:
        UserError: no such text, or vectors that do not belong to it.
    """
    texts, provenance = vectors_of(recipe.text.knowledge, source=recipe.text.vectors, seed=recipe.seed)
    save(folder / _FILE, {f"{i:03}": text_ND for i, text_ND in enumerate(texts)}, {"provenance": provenance})
    return {"texts": provenance}


def load_texts(run: Run) -> list[Float[Tensor, "N D"]] | None:
    """The run's vectors, one tensor per text, or None.

    Raises:
        UserError: damaged file.
    """
    path = run.path / _FILE
    if not path.exists():
        return None
    tensors, _ = load(path)
    return [tensors[name] for name in sorted(tensors)]


def fusion_config(config: TextConfig) -> FusionConfig:
    """How the recipe's texts meet the image."""
    return FusionConfig(beta=config.beta, kind=config.fusion, at=config.at, draw=config.draw)

"""gleanseg: train 3D medical image segmentation from scarce, partial and missing labels, and run it."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Manifest": "gleanseg.data.manifest",
    "Recipe": "gleanseg.config",
    "Predictor": "gleanseg.predict.predictor",
    "UserError": "gleanseg.errors",
    "diagnose": "gleanseg.api",
    "prepare": "gleanseg.api",
    "fit": "gleanseg.api",
    "predict": "gleanseg.api",
    "evaluate": "gleanseg.api",
    "report": "gleanseg.api",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``gleanseg --help`` never loads torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gleanseg' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

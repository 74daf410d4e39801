"""What benchmarks share that walk the whole command line on real scans: their arguments, its calls, their result."""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gleanseg import __version__
from gleanseg.run.environment import processor

ROOT = Path(__file__).resolve().parents[1]


def folders(about: str | None, *, data: str) -> tuple[Path, Path]:
    """``--data`` and ``--folder`` of the command line; the latter is made.

    Args:
        about: the script's docstring.
        data: what the data folder holds.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--folder", type=Path, required=True, help="for the manifest, the runs and the predictions")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return arguments.data.resolve(), folder


def gleanseg(*arguments: str | Path) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, "-m", "gleanseg.cli.main", *map(str, arguments)], check=True)


def write(name: str, result: dict[str, Any]) -> None:
    """Into ``benchmarks/results``, with the machine and the versions."""
    result |= {
        "machine": {"processor": processor(), "threads": torch.get_num_threads()},
        "versions": {"gleanseg": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    words = json.dumps(result, indent=1)
    (ROOT / "benchmarks" / "results" / f"{name}.json").write_text(words + "\n")
    print(words)

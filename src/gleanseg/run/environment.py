"""Where a run took place and what code it was, for its record: what bit-exact resuming depends on."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

import gleanseg


def environment() -> dict[str, str]:
    """Versions, processor, threads and GPU of this process, and the commit where the package runs from a checkout."""
    found = {
        "gleanseg": gleanseg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if (code := commit(Path(gleanseg.__file__))) is not None:
        found["commit"] = code
    if torch.cuda.is_available():
        found["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return found


def commit(file: Path) -> str | None:
    """Commit of the git checkout that tracks a file, with ``-dirty`` where tracked files differ from it.

    None: the file is in no checkout (an installed package that lies inside a checkout is not tracked by it), or there
    is no git.
    """
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(file: Path, *arguments: str) -> str | None:
    if (git := shutil.which("git")) is None:
        return None
    done = subprocess.run([git, "-C", file.parent, *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """The processor's model name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

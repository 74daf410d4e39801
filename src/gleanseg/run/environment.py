"""Where a run took place, for its record: what bit-exact resuming depends on."""

import os
import platform
from pathlib import Path

import torch


def environment() -> dict[str, str]:
    """Versions, processor, threads and GPU of this process."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        found["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return found


def processor() -> str:
    """The processor's model name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

"""Peak memory of this process."""

import re
from pathlib import Path


def peak_mib() -> float:
    """Resident memory; not getrusage's peak, which a process inherits from the one that started it."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "Linux tells the peak of a process"
    return int(found[1]) / 1024

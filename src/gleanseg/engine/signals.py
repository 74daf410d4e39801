"""Stopping on request: SIGTERM and Ctrl-C end training after the current step, with a checkpoint."""

import os
import signal
import subprocess
from types import FrameType, TracebackType

from gleanseg.errors import UserError

_PATIENCE_S = 30


class Interrupted(UserError):  # noqa: N818  # nothing went wrong
    """Training was asked to stop; a checkpoint is written."""

    exit_code = 75  # EX_TEMPFAIL: unfinished, try again


class StopRequest:
    """Notes SIGTERM and SIGINT while it is entered; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned before

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received == "SIGINT" and name == "SIGINT":
            raise KeyboardInterrupt
        self.received = name


def requeue() -> str:
    """Ask SLURM to queue this job again; returns what to tell the user, also when it cannot be done."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "train.requeue: this is no SLURM job (SLURM_JOB_ID is not set); start it again with --resume"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"train.requeue: scontrol requeue {job} failed ({error}); start the job again with --resume"
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        return f"train.requeue: scontrol requeue {job} failed ({said}); start the job again with --resume"
    return f"train.requeue: job {job} is queued again"

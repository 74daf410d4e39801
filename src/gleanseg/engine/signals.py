"""Stopping on request: SIGTERM and Ctrl-C end training after the current step, with a checkpoint."""

import signal
from types import FrameType, TracebackType

from gleanseg.errors import UserError


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

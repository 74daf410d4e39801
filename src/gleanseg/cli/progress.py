"""Progress for people: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gleanseg.engine.validate import Validation
    from gleanseg.run.log import Step
    from gleanseg.types import ProgressBar

console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
_METRICS = {"dice": "Dice", "auroc": "AUROC"}
_LINE_EVERY_S = 10.0


def _columns() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=console,
        transient=False,
    )


@contextmanager
def bar(title: str) -> Iterator["ProgressBar"]:
    """A progress callback (done, total, item), shown while the context is open."""
    if not console.is_terminal:
        yield _plain(title)
        return
    with _columns() as progress:
        task = progress.add_task(title, total=None, text="")
        yield lambda done, total, item: progress.update(task, completed=done, total=total, text=f"[dim]{item}")


def _plain(title: str) -> "ProgressBar":
    start = time.perf_counter()
    shown = [start]

    def report(done: int, total: int, item: str) -> None:
        now = time.perf_counter()
        if done == total or now - shown[0] > _LINE_EVERY_S:
            shown[0] = now
            left = (now - start) / done * (total - done) if done else 0.0
            console.print(f"{title}: {done}/{total} {item} ({now - start:.0f} s, {left:.0f} s left)")

    return report


class TrainingBar:
    """Shows a run: loss terms, rate and time left."""

    def __init__(self) -> None:
        self._progress = _columns() if console.is_terminal else None
        self._task: tuple[str, int] | None = None  # stage, rich's task id
        self._shown = 0.0

    def __enter__(self) -> "TrainingBar":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        console.print(f"[dim]{text}[/dim]")

    def step(self, step: "Step", *, stage: str, total: int, rate: float) -> None:
        """Move the bar."""
        terms = "  ".join(f"{name} {float(value):.3f}" for name, value in step.terms.items())
        text = f"loss {float(step.loss):.3f}  [dim]{terms}[/dim]  {rate:.2f} steps/s"
        if self._progress is not None:
            if self._task is None or self._task[0] != stage:
                self._task = (stage, self._progress.add_task(f"train {stage}", total=total, text=""))
            self._progress.update(self._progress.task_ids[-1], completed=step.step, text=text)
        elif step.step == total or time.perf_counter() - self._shown > _LINE_EVERY_S:
            self._shown = time.perf_counter()
            left = (total - step.step) / rate if rate else 0.0
            console.print(f"train {stage}: {step.step}/{total}  {text}  {left:.0f} s left")

    def validated(self, step: int, result: "Validation") -> None:
        """Print the validation's scores."""
        each = "  ".join(f"{roi} {value:.3f}" for roi, value in list(result.scores.items())[:8])
        more = f"  (+{len(result.scores) - 8} ROIs)" if len(result.scores) > 8 else ""
        mean = f"mean {_METRICS[result.metric]} [bold]{result.mean:.3f}[/bold]"
        console.print(f"validation at step {step}: {mean}  [dim]{each}{more}[/dim]")

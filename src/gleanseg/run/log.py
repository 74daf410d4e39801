"""The run's log: JSON lines for programs, TensorBoard for people."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from gleanseg.errors import UserError
from gleanseg.run.folder import append_line, read_lines, truncate_lines

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Step(NamedTuple):
    """What one optimiser step did.

    Attributes:
        step: steps done, this one included.
        loss: the weighted sum over terms and players.
        terms: unweighted global value of each term.
        monitors: (total, count) of what the method lets one watch.
        lr: learning rate of the player ``main``, or of the first one where none is called that.
        wait_s: seconds spent waiting for patches.
        cases: cases of this rank's batch.
    """

    step: int
    loss: Tensor
    terms: dict[str, Tensor]
    monitors: dict[str, Tensor]
    lr: float
    wait_s: float
    cases: tuple[str, ...]


class RunLog:
    """Writes ``log.jsonl``, ``validation.jsonl`` and ``tensorboard/``.

    Args:
        path: run folder.
        write: False on all ranks but the first.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path, self.write = path, write
        self._validated = {(row["stage"], row["step"]): row["mean"] for row in read_lines(path / "validation.jsonl")}
        self._board: SummaryWriter | None = None
        self._watched: dict[str, Tensor] = {}

    def watch(self, step: Step) -> None:
        """Add up a step's monitors; every step is watched, also those that get no row."""
        for name, sums in step.monitors.items():
            self._watched[name] = self._watched[name] + sums if name in self._watched else sums

    def step(self, step: Step, *, stage: str, time_s: float, rate: float) -> None:
        """One row of the training log; monitors are means over the steps since the row before."""
        watched, self._watched = self._watched, {}
        if not self.write:
            return
        monitors = {name: total / count for name, (total, count) in _floats(watched).items() if count > 0}
        terms = {name: float(value) for name, value in step.terms.items()}
        row: dict[str, Any] = {"step": step.step, "stage": stage, "time_s": round(time_s, 2), "lr": step.lr}
        row |= {"loss": float(step.loss), "terms": terms, "rate": round(rate, 4), "wait_s": round(step.wait_s, 5)}
        if monitors:
            row["monitors"] = monitors
        append_line(self.path / "log.jsonl", row)
        self._scalars(stage, monitors, step.step)
        self._scalars(stage, {"loss": row["loss"], "lr": step.lr, "rate": rate, **terms}, step.step)

    def validation(self, scores: dict[str, float], *, mean: float, metric: str, stage: str, step: int) -> None:
        """One row of the validation log."""
        self._validated[stage, step] = mean
        if self.write:
            row = {"step": step, "stage": stage, "metric": metric, "scores": scores, "mean": mean}
            append_line(self.path / "validation.jsonl", row)
            self._scalars(stage, {f"validation/{roi}": value for roi, value in scores.items()}, step)

    def has_validation(self, stage: str, step: int) -> bool:
        """Whether this step was validated."""
        return (stage, step) in self._validated

    @property
    def best(self) -> float:
        """The highest mean of all validations; of none, minus infinity."""
        return max((mean for mean in self._validated.values() if not math.isnan(mean)), default=-math.inf)

    def rewind(self, stage: str, step: int) -> None:
        """Drop what a killed run logged of a stage after the checkpoint it resumes from."""
        self._validated = {key: mean for key, mean in self._validated.items() if key[0] != stage or key[1] <= step}
        if self.write:
            for name in ("log.jsonl", "validation.jsonl"):
                truncate_lines(self.path / name, stage=stage, keep=step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board is not None:
            with self._writable():
                self._board.close()
            self._board = None

    def _scalars(self, stage: str, values: dict[str, float], step: int) -> None:
        # Imported here: TensorBoard costs half a second, which a resumed or validating process need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        with self._writable():
            self._board = self._board or SummaryWriter(str(self.path / "tensorboard"))
            for name, value in values.items():
                self._board.add_scalar(f"{stage}/{name}", value, step)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path / 'tensorboard'}: could not be written ({error.strerror}); free disk space or change "
                "rights, then continue with --resume"
            ) from None


def _floats(sums: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    return {name: (float(total), float(count)) for name, (total, count) in sums.items()}

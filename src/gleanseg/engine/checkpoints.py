"""Checkpoints of a run in progress: writing them, and finding the newest whole one again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from gleanseg import __version__
from gleanseg.engine.loop import Trainer
from gleanseg.engine.state import pack, unpack
from gleanseg.errors import UserError
from gleanseg.run.checkpoint import Damaged, save
from gleanseg.run.folder import KEEP, Run

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and description."""


class Checkpoints:
    """The first rank writes, all ranks read.

    Args:
        run: its folder.
        fabric: joins the ranks.
        note: told about damaged ones.
    """

    def __init__(self, run: Run, fabric: Fabric, *, note: Callable[[str], None]) -> None:
        self.run, self.fabric, self.note = run, fabric, note

    def save(self, trainer: Trainer, stage: str, **more: Any) -> None:
        """Write all that training continues from; older ones than the last few go.

        Args:
            trainer: as it stands.
            stage: its name.
            more: entries of the description.

        Raises:
            UserError: the disk is full or not writable.
        """
        if self.fabric.is_global_zero:
            tensors, optimizers = pack(trainer.method, trainer.optimizers)
            info = {**self._origin(trainer, stage), "optimizers": optimizers, **more}
            save(self.run.checkpoint_path(stage, trainer.done), tensors, info)
            self.prune(stage, keep=KEEP)

    def save_best(self, trainer: Trainer, stage: str, **more: Any) -> None:
        """Write what predicts best so far; see ``save``."""
        if self.fabric.is_global_zero:
            tensors, _ = pack(trainer.method, {})
            info = {**self._origin(trainer, stage), **more}
            save(self.run.path / "checkpoints" / "best.safetensors", tensors, info)

    def prune(self, stage: str, *, keep: int) -> None:
        """Remove all but the last few of a stage."""
        if self.fabric.is_global_zero:
            for path in self.run.checkpoints(stage)[:-keep]:
                path.unlink()

    def newest(self, stage: str) -> Checkpoint | None:
        """The newest whole checkpoint of a stage, None where there is none; damaged newer ones are set aside.

        Raises:
            UserError: all are damaged, or one is of another run.
        """
        damaged: list[Path] = []
        found = None
        for path in reversed(self.run.checkpoints(stage)):
            try:
                found = self.run.read(path)
                break
            except Damaged as error:
                self.note(f"{error}")
                damaged.append(path)
        if found is None and damaged:
            raise UserError(
                f"{damaged[0].parent}: every checkpoint of stage {stage!r} is damaged; restore one from a backup, or "
                "delete them to train this stage anew"
            )
        self.fabric.barrier()  # no rank reads any more
        for path in damaged:
            if self.fabric.is_global_zero:
                path.replace(path.with_name(f"{path.name}.damaged"))
        return found

    def resume(self, trainer: Trainer, newest: Checkpoint) -> float:
        """Let training go on from a checkpoint; the seconds that it had taken.

        Raises:
            UserError: it was written by a version whose method had other parts.
        """
        tensors, info = newest
        try:
            unpack(trainer.method, trainer.optimizers, tensors, info["optimizers"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"{self.run.path}: its checkpoint of gleanseg {info.get('gleanseg', 'unknown')} does not fit the "
                f"method of this version ({' '.join(str(error).split())[:200]}); resume with that version"
            ) from None
        trainer.done = info["step"]
        return float(info["elapsed_s"])

    def _origin(self, trainer: Trainer, stage: str) -> dict[str, Any]:
        """What every checkpoint says of where it comes from."""
        return {
            "gleanseg": __version__,
            "stage": stage,
            "step": trainer.done,
            "rois": list(self.run.rois),
            "recipe_digest": self.run.info["recipe_digest"],
        }

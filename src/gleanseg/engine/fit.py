"""A whole run: stages, checkpoints, validation, logs, and stopping on request."""

import shutil
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from gleanseg.config import Recipe, StageConfig
from gleanseg.data.loader import Loader
from gleanseg.data.sampler import Sampler
from gleanseg.engine.checkpoints import Checkpoint, Checkpoints
from gleanseg.engine.failures import failures_named
from gleanseg.engine.forecast import forecast
from gleanseg.engine.judge import Judge
from gleanseg.engine.loop import Trainer, check_finite, mix_seeds
from gleanseg.engine.new_run import create_run
from gleanseg.engine.precision import choose
from gleanseg.engine.setup import Setup, rows_of, set_up
from gleanseg.engine.signals import Interrupted, StopRequest, requeue
from gleanseg.engine.state import adopt
from gleanseg.engine.validate import Validation
from gleanseg.errors import UserError, ran_out_of_memory
from gleanseg.lock import alone_in
from gleanseg.predict.hardware import keep_freed_memory
from gleanseg.run.deploy import make_method
from gleanseg.run.folder import Run
from gleanseg.run.log import RunLog, Step

_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers": False
}  # fmt: skip
"""Ranks do not send each other their buffers; torch renamed the switch."""


@runtime_checkable
class Listener(Protocol):
    """Who watches a run: the command line, a notebook, a test."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Something the user should know, once."""

    @abstractmethod
    def step(self, step: Step, *, stage: str, total: int, rate: float) -> None:
        """A step is done; ``rate`` in steps per second."""

    @abstractmethod
    def validated(self, step: int, result: Validation) -> None:
        """A validation is done."""


def fit(recipe: Recipe, *, out: Path, resume: bool = False, listener: Listener | None = None) -> Run:
    """Train a recipe into a run folder.

    Args:
        recipe: its manifest must have been prepared.
        out: run folder; must be new, unless ``resume``.
        resume: continue from the newest checkpoint in ``out``; with none, start afresh there.
        listener: told about steps and validations on the first rank.

    Raises:
        UserError: a mistake in recipe, store or folder; another process trains in ``out``; out of memory; disk full; a
            rank that is gone.
        Interrupted: SIGTERM or Ctrl-C; the run can be resumed.
    """
    setup = set_up(recipe)
    fabric = make_fabric(setup.recipe)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    with ExitStack() as held:
        stop = held.enter_context(StopRequest())
        if fabric.is_global_zero:
            _hold(Path(out), held)
        held.enter_context(failures_named(out, ranks=fabric.world_size))
        session = Session(setup, fabric, Path(out), resume=resume, listener=listener, stop=stop)
        session.foresee()
        for index, stage in enumerate(setup.recipe.stages):
            session.train(stage, index)
        return session.finish()


def _hold(out: Path, held: ExitStack) -> None:
    """Be alone in a run folder until ``held`` is closed."""
    try:
        held.enter_context(alone_in(out))
    except OSError as error:
        raise UserError(f"{out}: cannot be made or written ({error.strerror}); choose another --out") from None


def make_fabric(recipe: Recipe) -> Fabric:
    """Devices, ranks and precision as the recipe says."""
    train = recipe.train
    accelerator = "cuda" if train.accelerator == "gpu" else train.accelerator
    probe = Fabric(accelerator=accelerator, devices=1)
    precision = choose(train.precision, probe.device)
    several = (
        train.nodes > 1
        or train.devices not in ("auto", 1)
        or (train.devices == "auto" and probe.device.type == "cuda" and torch.cuda.device_count() > 1)
    )
    strategy: Any = DDPStrategy(find_unused_parameters=True, **_OWN_BUFFERS) if several else "auto"
    return Fabric(
        accelerator=accelerator, devices=train.devices, num_nodes=train.nodes, precision=precision, strategy=strategy
    )


class Session:
    """A run in progress on this rank."""

    def __init__(
        self, setup: Setup, fabric: Fabric, out: Path, *, resume: bool, listener: Listener | None, stop: StopRequest
    ) -> None:
        self.setup, self.fabric, self.stop = setup, fabric, stop
        self.watching = (listener,) if listener is not None and fabric.is_global_zero else ()
        self.elapsed_s = 0.0
        self._started = self._saved = time.perf_counter()
        self.is_new = not (resume and (out / "run.json").exists())
        if fabric.is_global_zero and self.is_new:
            create_run(setup, out, resume=resume)
        fabric.barrier()
        self.run = Run.open(out)
        self._refuse_changes()
        if fabric.is_global_zero:
            self.run.remove_leftovers()
        self.judge = Judge(setup, self.run, fabric)
        self.checkpoints = Checkpoints(self.run, fabric, note=self._note)
        self.log = RunLog(self.run.path, write=fabric.is_global_zero)
        for text in setup.notes:
            self._note(text)

    def foresee(self) -> None:
        """Say what each stage will take.

        Raises:
            UserError: more than the machine has; a run folder that was made just now is removed.
        """
        refusal = None
        if self.fabric.is_global_zero:
            try:
                for index, stage in enumerate(self.setup.recipe.stages):
                    if not self.run.checkpoint_path(stage.name, stage.steps).exists():
                        self._foresee(stage, index)
            except UserError as error:
                refusal = str(error)
        if self.fabric.world_size > 1:
            refusal = self.fabric.broadcast(refusal)
        if refusal is not None:
            if self.fabric.is_global_zero and self.is_new:
                shutil.rmtree(self.run.path)
            raise UserError(refusal)

    def _foresee(self, stage: StageConfig, index: int) -> None:
        what = f"{self.run.path}, stage {stage.name!r}"
        try:
            found = forecast(self.setup, self.run, stage, self._sampler(index), self.fabric, self.judge)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            raise UserError(
                f"{what}: one patch at a time takes more memory than {self.fabric.device} has ({error}); make "
                "sampling.patch or the network's width smaller"
            ) from None
        self._note(found.told(stage.name))
        found.refuse(self.fabric.device, self.run.path, what=what)

    def train(self, stage: StageConfig, index: int) -> None:
        """Train one stage from wherever its newest checkpoint stands."""
        recipe, selection = self.setup.recipe, self.setup.selection
        newest = self.checkpoints.newest(stage.name)
        if newest is not None and self._is_finished(stage, newest[1]["step"]):
            self.elapsed_s, self._started = newest[1]["elapsed_s"], time.perf_counter()
            self.checkpoints.prune(stage.name, keep=1)
            return
        torch.manual_seed(mix_seeds(recipe.seed, index))
        method = make_method(self.run, stage)
        trainer = Trainer(self.fabric, method, recipe=recipe, stage=stage, index=index, note=self._note)
        self._restore(trainer, stage, newest)
        loader = Loader(
            self._sampler(index),
            batch=recipe.sampling.batch,
            num_labelled=rows_of(method.views, recipe, selection, ranks=self.fabric.world_size),
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            workers=recipe.sampling.workers,
        )
        try:
            self._loop(trainer, loader, stage)
        finally:
            loader.close()
        for text in self.judge.conclude(method):
            self._note(text)

    def _sampler(self, index: int) -> Sampler:
        """Patches of a stage."""
        recipe = self.setup.recipe
        return Sampler(
            self.setup.store,
            self.setup.selection,
            patch_ZYX=_patch(recipe),
            foreground=recipe.sampling.foreground,
            augment=recipe.augment,
            mirror_ZYX=self.setup.mirror_ZYX,
            seed=mix_seeds(recipe.seed, index),
        )

    def finish(self) -> Run:
        """Mark the run as finished."""
        self.log.close()
        if self.fabric.is_global_zero:
            self.run.update(status="finished", elapsed_s=round(self._clock(), 1))
        self.fabric.barrier()
        return self.run

    def _loop(self, trainer: Trainer, loader: Loader, stage: StageConfig) -> None:
        train = self.setup.recipe.train
        if self._validation_due(trainer.done, stage):  # the run stopped between this step and its validation
            self._validate(trainer, stage)
        for step in self._timed(trainer.steps(loader, until=stage.steps), stage):
            last = step.step == stage.steps
            if self._validation_due(step.step, stage):
                self._validate(trainer, stage)
            overdue = time.perf_counter() - self._saved > 60 * train.checkpoint_minutes
            asked, overdue = self._any_rank(self.stop.received is not None, overdue)
            if last or step.step % train.checkpoint_every == 0 or overdue or asked:
                self._save(trainer, stage)
            if asked and not last:
                self._stop()
        self.checkpoints.prune(stage.name, keep=1)

    def _timed(self, steps: Iterator[Step], stage: StageConfig) -> Iterator[Step]:
        """Log steps with their rate, as a running average over about 20 steps."""
        rate, before = 0.0, time.perf_counter()
        for step in steps:
            now = time.perf_counter()
            rate = 1 / (now - before) if rate == 0 else 0.95 * rate + 0.05 / (now - before)
            self.log.watch(step)
            if step.step % self.setup.recipe.train.log_every == 0 or step.step in (1, stage.steps):
                check_finite(step)
                self.log.step(step, stage=stage.name, time_s=self._clock(), rate=rate)
                for listener in self.watching:
                    listener.step(step, stage=stage.name, total=stage.steps, rate=rate)
            yield step
            before = time.perf_counter()

    def _validation_due(self, step: int, stage: StageConfig) -> bool:
        every = self.setup.recipe.train.validate_every
        due = every > 0 and step > 0 and (step % every == 0 or step == stage.steps)
        return due and bool(self.setup.selection.validation) and not self.log.has_validation(stage.name, step)

    def _validate(self, trainer: Trainer, stage: StageConfig) -> None:
        stop = partial(self._poll, trainer, stage)
        result = self.judge.validate(trainer.method, poll=partial(stop, alone=True), between=partial(stop, alone=False))
        # The row comes last: a run killed before it validates this step again.
        if result.mean > self.log.best:
            self.checkpoints.save_best(trainer, stage.name, **{result.metric: result.mean})
        self.log.validation(result.scores, mean=result.mean, metric=result.metric, stage=stage.name, step=trainer.done)
        for listener in self.watching:
            listener.validated(trainer.done, result)

    def _poll(self, trainer: Trainer, stage: StageConfig, *, alone: bool) -> None:
        """In a validation, which may take minutes, while a scheduler's patience does not.

        One rank stops between windows, ``alone``; several, which must agree, between cases.
        """
        if alone == (self.fabric.world_size == 1) and self._any_rank(self.stop.received is not None)[0]:
            self._save(trainer, stage)
            self._stop()

    def _any_rank(self, *wishes: bool) -> list[bool]:
        """For each wish, whether any rank has it: signals and clocks differ between ranks, what is done must not."""
        if self.fabric.world_size == 1:
            return list(wishes)
        counts = self.fabric.all_reduce(torch.tensor(wishes, device=self.fabric.device).float(), reduce_op="sum")
        assert isinstance(counts, torch.Tensor)
        return (counts > 0).tolist()

    def _stop(self) -> None:
        """End after a checkpoint, on all ranks."""
        self.log.close()
        if self.fabric.is_global_zero:
            self.run.update(status="interrupted", elapsed_s=round(self._clock(), 1))
            if self.setup.recipe.train.requeue:
                self._note(requeue())
        by = self.stop.received or "SIGTERM"  # another rank's
        raise Interrupted(f"{self.run.path}: stopped by {by}; a checkpoint is written, use --resume")

    def _save(self, trainer: Trainer, stage: StageConfig) -> None:
        self.checkpoints.save(
            trainer,
            stage.name,
            consumed=trainer.done * self.setup.recipe.sampling.batch,
            best=self.log.best,
            elapsed_s=self._clock(),
        )
        self._saved = time.perf_counter()
        self.fabric.barrier()

    def _restore(self, trainer: Trainer, stage: StageConfig, newest: Checkpoint | None) -> None:
        if newest is not None:
            self.elapsed_s = self.checkpoints.resume(trainer, newest)
            self._started = time.perf_counter()
            self._note(f"continuing stage {stage.name} after step {trainer.done}")
        elif stage.start_from is not None:
            before = self.checkpoints.newest(stage.start_from)
            assert before is not None, "that stage was trained before"
            if not adopt(trainer.method, before[0]):
                raise UserError(
                    f"stage {stage.name!r}: shares no tensor of the same name and shape with {stage.start_from!r}"
                )
        self.log.rewind(stage.name, trainer.done)

    def _is_finished(self, stage: StageConfig, done: int) -> bool:
        """Whether nothing is left to do; what is concluded from a stage is only sure to be there in a finished run."""
        owing = self._validation_due(stage.steps, stage) or (
            self.judge.concludes(stage) and self.run.info["status"] != "finished"
        )
        return done == stage.steps and not owing

    def _refuse_changes(self) -> None:
        for key, value in (
            ("recipe_digest", self.setup.recipe.digest()),
            ("splits_digest", self.setup.selection.digest()),
        ):
            if self.run.info[key] != value:
                what = "recipe" if key == "recipe_digest" else "data (splits, ROIs or visible labels)"
                raise UserError(
                    f"{self.run.path}: was started with another {what}; resume with the one in its recipe.toml, "
                    f"or choose a new --out"
                )

    def _note(self, text: str) -> None:
        for listener in self.watching:
            listener.note(text)

    def _clock(self) -> float:
        return self.elapsed_s + time.perf_counter() - self._started


def _patch(recipe: Recipe) -> tuple[int, int, int]:
    patch = recipe.sampling.patch
    assert patch != "auto", "a resolved recipe has a patch"
    return patch[::-1]

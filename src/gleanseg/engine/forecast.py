"""How much memory and disk a stage of training will take, told before its first step.

A step with few rows of each stream is run on a method of its own, and every tensor that it makes is counted. What grows
with the batch is scaled to the batch; weights, gradients and the optimiser's state are known exactly.
"""

import math
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from gleanseg.config import OptimizerConfig, StageConfig
from gleanseg.data.loader import AHEAD, collate
from gleanseg.data.sampler import Patch, Sampler
from gleanseg.engine.judge import Judge
from gleanseg.engine.precision import computes_in_bf16
from gleanseg.engine.setup import Setup, rows_of
from gleanseg.engine.terms import combine
from gleanseg.errors import UserError
from gleanseg.methods.presence import Presence
from gleanseg.parts.method import Method
from gleanseg.predict.forecast import Need, predict_need
from gleanseg.predict.hardware import channels_last
from gleanseg.predict.memory import Meter, gib, num_bytes, resident, room_on
from gleanseg.run.deploy import make_method
from gleanseg.run.folder import KEEP, Run
from gleanseg.types import Progress

_RUNTIME = 100 << 20
"""Bytes that the process gains whatever the recipe: kernels made on the spot, threads, TensorBoard."""
_ROW_BYTES = 1500
"""Of a row of both logs."""


class Forecast(NamedTuple):
    """What a stage takes on this rank.

    Attributes:
        held: bytes that the process held when this was told.
        need: what training adds to them at its peak.
        disk: bytes of the run folder at its largest.
        per_row: bytes of tensors for each row of a micro-batch, part of ``need``.
        rows: of a micro-batch.
        ranks: of this machine, each of which takes as much.
    """

    held: int
    need: Need
    disk: int
    per_row: int
    rows: int
    ranks: int = 1

    @property
    def peak(self) -> int:
        """Memory of the process where the device is the processor."""
        return self.held + self.need.total

    def told(self, stage: str) -> str:
        """One line for the user."""
        each = f" for each of {self.ranks} ranks" if self.ranks > 1 else ""
        return f"stage {stage}: about {gib(self.peak)} of memory at its peak{each} and {gib(self.disk)} of disk"

    def advice(self, room: int) -> str:
        """What to change so that it fits."""
        fewer = self.rows - math.ceil((self.need.tensors - room) / max(1, self.per_row))
        if fewer >= 1:
            factor = math.ceil(self.rows / fewer)
            return f"set train.accumulate {factor} times as high, or sampling.batch to 1/{factor}"
        return "even one patch at a time is too much: make sampling.patch or the network's width smaller"

    def refuse(self, device: torch.device, out: Path, *, what: str) -> None:
        """Stop where it does not fit.

        Args:
            device: that trains.
            out: run folder.
            what: run and stage, for the error.

        Raises:
            UserError: more memory than the device, or more disk than ``out`` has; with what to change.
        """
        on_device = self.ranks if device.type == "cpu" else 1  # else each rank has a device of its own
        need = Need(on_device * self.need.tensors, self.ranks * self.need.arrays)
        need.refuse(device, what=what, advice=self.advice(room_on(device) // on_device))
        free = shutil.disk_usage(out).free
        if self.disk > free:
            raise UserError(
                f"{what}: needs about {gib(self.disk)} of disk, {gib(free)} are free; free space, or choose another "
                "--out"
            )


def forecast(setup: Setup, run: Run, stage: StageConfig, sampler: Sampler, fabric: Fabric, judge: Judge) -> Forecast:
    """Look ahead at a stage.

    Args:
        setup: recipe, store and roles.
        run: its run folder.
        stage: one of the recipe's.
        sampler: gives patches of the stage.
        fabric: device, precision and ranks; collectives are not used.
        judge: validates.

    Raises:
        MemoryError: a single row is too much already.
    """
    held, recipe, device = resident(), setup.recipe, fabric.device
    assert stage.optimizer is not None, "Recipe.stages fills the gaps"
    method = make_method(run, stage, pretrained=False)
    channels_last(method, bf16=computes_in_bf16(fabric))
    method.to(device)
    parts = fabric.world_size * recipe.train.accumulate
    labelled = rows_of(method.views, recipe, setup.selection, ranks=fabric.world_size)
    rows, unlabelled = recipe.sampling.batch // parts, recipe.sampling.batch - labelled
    patches = [sampler.patch("labelled", i) for i in range(_few(method, labelled))]
    num_labelled = len(patches)
    patches += [sampler.patch("unlabelled", i) for i in range(_few(method, unlabelled))]
    activations = _step(method, patches, num_labelled, fabric, setup, stage) / len(patches)
    weights = num_bytes([*method.parameters(), *method.buffers()])
    trained = num_bytes(p for p in method.parameters() if p.requires_grad)
    state = num_states(stage.optimizer) * trained
    checkpoint = weights + state
    loaded = (AHEAD + 1) * rows * recipe.train.accumulate * sum(p.image.nbytes + p.codes.nbytes for p in patches)
    validation = _validation(setup, method, judge)
    fixed = weights + trained + state
    tensors = fixed + max(math.ceil(rows * activations), trained, validation.tensors)
    saving = fixed + 2 * checkpoint  # a copy on the processor, and its bytes on their way to the file
    arrays = loaded // len(patches) + _RUNTIME
    if device.type == "cpu":
        need = Need(max(tensors, saving), arrays + validation.arrays)
    else:
        need = Need(tensors, arrays + max(validation.arrays, 2 * checkpoint))
    written = min(KEEP + 1, math.ceil(stage.steps / recipe.train.checkpoint_every))
    best = 2 * weights if recipe.train.validate_every and setup.selection.validation else 0
    disk = written * checkpoint + best + stage.steps // recipe.train.log_every * _ROW_BYTES
    ranks = max(1, fabric.world_size // recipe.train.nodes)
    return Forecast(held, need.with_kept(), disk, math.ceil(activations), rows, ranks)


def num_states(config: OptimizerConfig) -> int:
    """Tensors of a parameter's size that an optimiser keeps for each."""
    if config.name == "sgd":
        return 1 if config.momentum > 0 else 0
    return 2


def _few(method: Method, rows: int) -> int:
    """Of so many rows of a stream, those that are tried: two where a method mixes rows with each other."""
    return min(2 if method.batchwise else 1, rows)


def _step(
    method: Method, patches: list[Patch], num_labelled: int, fabric: Fabric, setup: Setup, stage: StageConfig
) -> int:
    """Bytes of tensors at the peak of a step with these rows, gradients of weights left out."""
    patch = setup.recipe.sampling.patch
    assert patch != "auto", "a resolved recipe has a patch"
    progress = Progress(stage.steps - 1, stage.steps)  # all terms have their full weight
    method.train()
    with Meter(limit=room_on(fabric.device)) as meter:
        meter.watch(method)
        batch = collate(
            patches, patch_ZYX=patch[::-1], views=method.views, num_labelled=num_labelled, device=fabric.device
        )
        for player in method.turns(progress):
            with fabric.autocast():
                terms = method(batch, progress, player)
            loss, _ = combine(terms, world=1, all_reduce=_alone)
            torch.autograd.backward(loss)
        method.after_step(progress)
    return int(meter.peak)


def _alone(local: Tensor) -> Tensor:
    return local


def _validation(setup: Setup, method: Method, judge: Judge) -> Need:
    """What validating adds on the largest case."""
    cases = setup.selection.validation
    if not (setup.recipe.train.validate_every and cases) or isinstance(method, Presence):
        return Need(0, 0)
    grids = [setup.store.case(case.id).grid for case in cases]
    largest = max(grids, key=lambda grid: math.prod(grid.shape_ZYX))
    return predict_need(judge.predictor(method), largest, num_channels=len(setup.store.channels))

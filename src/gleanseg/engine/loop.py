"""The training loop. Its state is: weights, optimiser state, and one integer, the steps done.

Everything else (patches, draws, learning rate, dropout) is a pure function of the recipe and that integer, so a run
that was killed and resumed equals one that was not.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from gleanseg.config import Recipe, StageConfig
from gleanseg.data.loader import Loader, collate
from gleanseg.data.sampler import Patch
from gleanseg.engine.compile import Note, compile_networks
from gleanseg.engine.diagnose import diagnose
from gleanseg.engine.optim import lr_at, make_optimizer
from gleanseg.engine.precision import computes_in_bf16
from gleanseg.engine.terms import combine, gather, observe
from gleanseg.errors import UserError
from gleanseg.parts.method import Method
from gleanseg.predict.hardware import channels_last
from gleanseg.run.log import Step
from gleanseg.types import Batch, Progress


class Trainer:
    """One stage of a run: a method, its optimisers and the patches it is fed.

    Args:
        fabric: devices, precision and ranks.
        method: on the CPU; it is moved and wrapped here.
        recipe: resolved recipe.
        stage: the stage to train.
        index: number of the stage; each stage draws its own patches.
        note: told what the user should know.
    """

    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        *,
        recipe: Recipe,
        stage: StageConfig,
        index: int,
        note: Note = lambda text: None,
    ) -> None:
        assert stage.optimizer is not None, "Recipe.stages fills the gaps"
        self.fabric, self.recipe, self.stage, self.index = fabric, recipe, stage, index
        self.method = method
        channels_last(method, bf16=computes_in_bf16(fabric))
        if recipe.train.compile:
            compile_networks(method, note=note)
        self.module = fabric.setup_module(method)
        self.optimizers: dict[str, Optimizer] = {}
        self.configs = {player: method.optimizer_of(player, stage.optimizer) for player in method.players}
        for player, config in self.configs.items():
            optimizer = make_optimizer(method.parameters_of(player), config)
            wrapped = fabric.setup_optimizers(optimizer)
            assert isinstance(wrapped, Optimizer)
            self.optimizers[player] = wrapped
        self.done = 0

    def steps(self, loader: Loader, *, until: int) -> Iterator[Step]:
        """Train to ``until`` steps, yielding after each."""
        self.method.train()
        patches_of_steps = loader.steps(self.done, until)
        while self.done < until:
            start = time.perf_counter()
            patches = next(patches_of_steps)
            waited = time.perf_counter() - start
            rows = self._micro_rows(patches, loader)
            batches = [self._collate(part, num_labelled) for part, num_labelled in rows]
            step = self.train_step(batches, patches, waited)
            yield step._replace(monitors=step.monitors | self._diagnose(rows[-1][0], batches[-1]))

    def train_step(self, batches: list[Batch], patches: list[Patch], waited: float) -> Step:
        """One optimiser step of every player whose turn it is."""
        progress = Progress(self.done, self.stage.steps)
        rank, world = self.fabric.global_rank, self.fabric.world_size
        lrs = {player: lr_at(self.done, self.stage.steps, config) for player, config in self.configs.items()}
        # Dropout restarts from the step's own seed, so that no generator state needs saving.
        torch.manual_seed(mix_seeds(self.recipe.seed, self.index, self.done, rank))
        losses: list[Tensor] = []
        values: dict[str, Tensor] = {}
        monitors: dict[str, Tensor] = {}
        memos: dict[str, list[Tensor]] = {}
        for player in self.method.turns(progress):
            self._zero_grad()
            for i, batch in enumerate(batches):
                with self._sync_on(last=i == len(batches) - 1):
                    terms = self.module(batch, progress, player)
                    loss, term_values = combine(terms, world=world, all_reduce=self._all_reduce)
                    self.fabric.backward(loss / len(batches))
                losses.append(loss.detach() / len(batches) / world)
                _add(values, {name: value / len(batches) for name, value in term_values.items()})
                _add(monitors, observe(terms, world=world, all_reduce=self._all_reduce))
                for name, rows in gather(terms, rank=rank, world=world, all_reduce=self._all_reduce).items():
                    memos.setdefault(name, []).append(rows)
            self._optimizer_step(player, lrs[player])
        if memos:
            self.method.remember({name: torch.cat(rows) for name, rows in memos.items()})
        self.method.after_step(progress)
        self.done += 1
        total = torch.stack(losses).sum()
        lr = lrs.get("main", lrs[self.method.players[0]])
        return Step(self.done, total, values, monitors, lr, waited, tuple(patch.case for patch in patches))

    def _optimizer_step(self, player: str, lr: float) -> None:
        optimizer, clip = self.optimizers[player], self.configs[player].clip
        for group in optimizer.param_groups:
            group["lr"] = lr
        if clip > 0:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
        optimizer.step()

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _micro_rows(self, patches: list[Patch], loader: Loader) -> list[tuple[list[Patch], int]]:
        """The rows of each micro-batch, labelled ones first, and how many these are."""
        parts = self.recipe.train.accumulate
        num_labelled = sum(1 for stream, _ in loader.rows(self.done) if stream == "labelled")
        labelled, unlabelled = patches[:num_labelled], patches[num_labelled:]
        return [([*labelled[i::parts], *unlabelled[i::parts]], len(labelled[i::parts])) for i in range(parts)]

    def _collate(self, rows: list[Patch], num_labelled: int) -> Batch:
        return collate(
            rows,
            patch_ZYX=self._patch_ZYX,
            views=self.method.views,
            num_labelled=num_labelled,
            device=self.fabric.device,
        )

    def _diagnose(self, rows: list[Patch], batch: Batch) -> dict[str, Tensor]:
        return diagnose(
            self.method,
            rows,
            batch,
            patch_ZYX=self._patch_ZYX,
            world=self.fabric.world_size,
            all_reduce=self._all_reduce,
        )

    @property
    def _patch_ZYX(self) -> tuple[int, int, int]:
        patch = self.recipe.sampling.patch
        assert patch != "auto", "a resolved recipe has a patch"
        return patch[::-1]

    def _sync_on(self, *, last: bool) -> AbstractContextManager[None]:
        if self.fabric.world_size == 1:
            return nullcontext()
        context: AbstractContextManager[None] = self.fabric.no_backward_sync(self.module, enabled=not last)
        return context

    def _all_reduce(self, local: Tensor) -> Tensor:
        summed = self.fabric.all_reduce(local, reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed


def _add(to: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        to[name] = to[name] + value if name in to else value


def check_finite(step: Step) -> None:
    """Stop at the first loss that is not a number, naming the term.

    Raises:
        UserError: the loss is NaN or infinite.
    """
    if not torch.isfinite(step.loss):
        bad = [name for name, value in step.terms.items() if not torch.isfinite(value)]
        raise UserError(
            f"step {step.step}: the loss is {float(step.loss)} (term {', '.join(bad) or 'weights'}; cases "
            f"{', '.join(step.cases)}); run `gleanseg doctor` on the manifest, or lower optimizer.lr ({step.lr:.2g})"
        )


def mix_seeds(*numbers: int) -> int:
    """One 63-bit seed of several integers."""
    entropy = [n % 2**63 for n in numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))

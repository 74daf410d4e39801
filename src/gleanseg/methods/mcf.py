"""Mutual correction: two networks of different kinds look again where they disagree, and the better one teaches."""

from dataclasses import dataclass, field
from typing import Annotated, final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from gleanseg.config import Named, Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse, mse_where
from gleanseg.losses.dice import lost_of_each, pooled_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Monitor, Pooled, Progress, Term, Views


@final
class MCF(Method):
    r"""Networks A and B learn known ROIs, once more where they disagree, and unknown ones from the better of the two.

    $$L = \sum_{k \in \{a, b\}} \mathrm{Dice} + \mathrm{BCE}\,(p_k, y) + \mu\,
    \frac{\sum_v D_v\,(p_k - y)^2}{\sum_v D_v} + \lambda(t)\, \| p_{worse} - \sigma(z_{better} / T) \|^2,\qquad
    D = [p_a > \tfrac12] \oplus [p_b > \tfrac12]$$

    The better network of an ROI has the smaller Dice loss on this batch.

    Paper: Wang et al., MCF: Mutual Correction Framework for Semi-Supervised Medical Image Segmentation, CVPR 2023
    Deviations (from the released train_MCF.py):
        1. Which network is better is decided for each ROI; for ROIs without a reference voxel in the batch by the mean
           over the others. Ties go to B, as released. Each rank decides for itself.
        2. Unknown ROIs of all rows take part; one optimiser steps both networks.
        3. Weights start as each network's own do. The ramp is a share of the run, not 40 times 150 steps.
        4. Dice, which also tells who is better, is linear; released, with squares in the denominator.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"ensemble": ("a", "b"), "a": ("a",), "b": ("b",)}
    batchwise = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The second network, weights and schedule."""

        other: Named = field(default_factory=lambda: Named.model_validate({"name": "vnet", "encoder": "resnet34"}))
        """Network B, as a ``[network]`` table; A is the recipe's."""
        mu: Annotated[float, Field(ge=0)] = 0.5
        """Weight of looking again."""
        lam: Annotated[float, Field(ge=0)] = 0.1
        """Weight of teaching after the ramp."""
        ramp: Share = 0.4
        tau: Annotated[float, Field(gt=0, le=1)] = 0.1
        """Temperature T that sharpens what is taught."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        assert build.other is not None, "the engine makes other networks"
        self.a, self.b = build(), build.other(config.other)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision and correction of both on known pairs, teaching on unknown ones."""
        x, c = batch.x["strong"], self.config
        f_a, f_b = self.a.features(x), self.b.features(x)
        a_better_R = self._a_is_better(f_a, f_b, batch)
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z_a, z_b, y, known = self.a.score(f_a, r), self.b.score(f_b, r), batch.y(r), batch.known[:, r]
            disagree, a_better = (z_a > 0) ^ (z_b > 0), a_better_R[r][:, None, None, None]
            found: dict[str, Term] = {}
            for who, z in (("a", z_a), ("b", z_b)):
                found[f"dice_{who}"] = pooled_dice(z, y, known, batch.valid)
                found[f"ce_{who}"] = partial_bce(z, y, known, batch.valid)
                found[f"again_{who}"] = mse_where(z, y, disagree, known, batch.valid).scaled(c.mu)
            worse, better = torch.where(a_better, z_b, z_a), torch.where(a_better, z_a, z_b)
            found["taught"] = mse(worse, better.detach() / c.tau, ~known, batch.valid).scaled(lam)
            return found

        a_teaches = Monitor(a_better_R.sum().float(), x.new_tensor(float(len(a_better_R))))
        return over_rois(terms, batch, carrying(batch, progress, unknown=True)) | {"a_teaches": a_teaches}

    @torch.no_grad()
    def _a_is_better(self, f_a: tuple[Tensor, ...], f_b: tuple[Tensor, ...], batch: Batch) -> Bool[Tensor, " R"]:
        """Whose Dice loss is smaller, ROI by ROI."""

        def dice(r: Chunk) -> dict[str, Term]:
            seen = batch.y(r), batch.known[:, r], batch.valid
            return {"a": pooled_dice(self.a.score(f_a, r), *seen), "b": pooled_dice(self.b.score(f_b, r), *seen)}

        rois = torch.arange(batch.known.shape[1], device=batch.known.device)
        sums_a, sums_b = (term.sums for term in over_rois(dice, batch, rois).values() if isinstance(term, Pooled))
        lost_a, lost_b, has_reference = lost_of_each(sums_a), lost_of_each(sums_b), sums_a[2] > 0
        on_average = (lost_a - lost_b)[has_reference].sum() < 0  # False where no ROI has a reference voxel
        return torch.where(has_reference, lost_a < lost_b, on_average)

"""Dual-task consistency: one network predicts masks and distances to their surfaces, and the two must agree."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.distance import distance_mse, task_consistency
from gleanseg.parts.distance import distance_head, signed_distances
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class DTC(Method):
    r"""Known ROIs teach masks p and signed distances s; on all ROIs the mask that s implies is to equal p.

    $$L = \mathrm{Dice}\,(p, y) + \beta\,\|s - \mathrm{sdf}(y)\|^2 + \lambda(t)\,\|\sigma(-k s) - p\|^2,
    \qquad s = \tanh(h_s(f)),\quad p = \sigma(h_p(f))$$

    where f is the network's last map and sdf is negative inside.

    Paper: Luo et al., AAAI 2021, https://arxiv.org/abs/2009.04448
    Deviations (from the released train_la_dtc.py):
        1. A patch without the ROI is outside everywhere (s = 1), where released distances are 0 and pull p to one half.
        2. Distances are in mm, and of voxels that are padding or that nobody judged nothing is asked.
        3. The ramp is a share of the run, not 40 times 150 steps.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedule."""

        beta: Annotated[float, Field(ge=0)] = 0.3
        """Weight of the distances."""
        lam: Annotated[float, Field(ge=0)] = 1.0
        """Weight of the agreement after the ramp."""
        ramp: Share = 0.4
        k: Annotated[float, Field(gt=0)] = 1500.0
        """Steepness of the mask that a distance implies."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.distance = distance_head(self.net)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Masks and distances on known pairs, agreement of the two on all."""
        c, valid = self.config, batch.valid
        maps = self.net.encoded(batch.x["strong"])
        f = self.net.decode(maps)[-1]
        features = self.net.head.features(maps, f)
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, h = self.net.score(features, r), self.distance.score((f,), r)
            y, known = batch.y(r), batch.known[:, r]
            sdf = signed_distances(y, known, valid, batch.spacing_mm)
            return {
                "dice": pooled_dice(z, y, known, valid, squared=True),
                "distance": distance_mse(h, sdf, known, valid).scaled(c.beta),
                "agree": task_consistency(z, h, torch.ones_like(known), valid, steepness=c.k).scaled(lam),
            }

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

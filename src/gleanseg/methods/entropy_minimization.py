"""Entropy minimisation: predictions of what nobody labelled should at least be decided."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.entropy import entropy
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class EntropyMinimization(Method):
    r"""Known ROIs learn from labels; the prediction of unknown ones is pushed away from one half.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f_\theta(x), y) + \lambda(t)\,\frac{1}{\ln 2}\,H(p_\theta(x)),
    \qquad H(p) = -p \ln p - (1 - p) \ln (1 - p)$$

    Paper: Vu et al., ADVENT, CVPR 2019, https://arxiv.org/abs/1811.12833
    Deviations (from the code that semi-supervised segmentation compares with, SSL4MIS):
        1. The entropy is taken over unknown ROIs, as the paper takes it over unlabelled images; the released 3D script
           takes all rows: ``everywhere = true``.
        2. One sigmoid per ROI: binary entropies over ln 2 in place of that of a soft-max over ln C; equal for one ROI.
        3. The ramp is a share of the run, not 200 times 150 steps.
        4. Dice is linear and of ROIs alone; released, with squares in the denominator, and of background, too.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weight and schedule."""

        lam: Annotated[float, Field(ge=0)] = 0.1
        """Weight after the ramp; all background has no entropy either, so that large weights collapse small ROIs."""
        ramp: Share = 0.4
        everywhere: bool = False
        """Over known ROIs, too, as released."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known, entropy of unknown pairs."""
        features = self.net.features(batch.x["strong"])
        lam = self.config.lam * sigmoid_ramp(progress.fraction, length=self.config.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.net.score(features, r), batch.y(r), batch.known[:, r]
            undecided = torch.ones_like(known) if self.config.everywhere else ~known
            return {
                "dice": pooled_dice(z, y, known, batch.valid).scaled(0.5),
                "ce": partial_bce(z, y, known, batch.valid).scaled(0.5),
                "entropy": entropy(z, undecided, batch.valid).scaled(lam),
            }

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

"""MC-CauSSL: co-trained decoders whose filters are kept from being linear maps of each other."""

from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, Literal, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.branches import Branches
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.independence import dependence, shared_convolutions
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Mean, Progress, Term, Views


@final
class CauSSL(Method):
    r"""One encoder and three decoders that agree on unknown ROIs, with filters that depend little on each other.

    $$L = \sum_i \tfrac12 \big[ \mathrm{Dice} + \mathrm{BCE}\,(p_i, y) \big]
    + \lambda(t) \sum_{i \ne j} \| p_i - \sigma(z_j / T) \|^2 + \gamma \sum_k G_k,\qquad
    G_k = \max_{A_k} \operatorname{mean}_w \cos^2(w, (A_k W_{\ne k})_w)$$

    w runs over the filters of the convolutions that all decoders and heads share (those that enlarge maps differ).

    Paper: Miao et al., CauSSL: Causality-inspired Semi-supervised Learning for Medical Image Segmentation, ICCV 2023
    Deviations (from the released train_CT_MCCauSSL.py):
        1. The maps A are found exactly, by least squares, every step; released, 60 steps of Adam climb every 60 steps,
           and dependence counts from step 60.
        2. Every decoder moves away from the others; released, only the first does: ``independent = "first"``.
        3. Agreement of unknown ROIs in rows of either stream.
        4. The first decoder is the network's own, the others take the two remaining ways of a transposed convolution,
           trilinear and nearest interpolation, after a 1x1x1 convolution where they replace a transposed one.
        5. The ramp is a share of the run, not 40 times 150 of 5000 steps.
        6. Dice is linear; released, with squares in the denominator.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedule."""

        gamma: Annotated[float, Field(ge=0)] = 3.0
        """Weight of dependence."""
        independent: Literal["all", "first"] = "all"
        """Decoders that move away from the others; ``first``, as released."""
        lam: Annotated[float, Field(ge=0)] = 0.1
        """Weight of agreement after the ramp."""
        ramp: Share = 1.0
        tau: Annotated[float, Field(gt=0, le=1)] = 0.5
        """Temperature T of sharpening."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.branches = Branches(build, 3, kernel=1)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known pairs, agreement on unknown ones, and dependence of the filters."""
        c = self.config
        features = self.branches.features(self.net, self.net.encoded(batch.x["strong"]))
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.branches.scores(self.net, features, r), batch.y(r), batch.known[:, r]
            found: dict[str, Term] = {}
            for i, z_i in enumerate(z):
                found[f"dice_{i}"] = pooled_dice(z_i, y, known, batch.valid).scaled(0.5)
                found[f"ce_{i}"] = partial_bce(z_i, y, known, batch.valid).scaled(0.5)
            for i, j in permutations(range(len(z)), 2):
                found[f"agree_{i}{j}"] = mse(z[i], z[j] / c.tau, ~known, batch.valid).scaled(lam)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True)) | self._dependence()

    def _dependence(self) -> dict[str, Term]:
        shared = [
            *shared_convolutions([self.net.decoder, *(branch.decoder for branch in self.branches)]),
            *shared_convolutions([self.net.head, *(branch.head for branch in self.branches)]),
        ]
        found: dict[str, Term] = {}
        for k in range(1 if self.config.independent == "first" else len(self.branches) + 1):
            of_each = [dependence(convs[k].weight, [o.weight for o in convs[:k] + convs[k + 1 :]]) for convs in shared]
            total = torch.stack(of_each).sum()
            found[f"dependence_{k}"] = Mean(total, total.new_tensor(float(len(shared)))).scaled(self.config.gamma)
        return found

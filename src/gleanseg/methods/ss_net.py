"""SS-Net: predictions that small changes of the image cannot move, and features that gather by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast, final

import torch
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import disagreement
from gleanseg.losses.contrast import pull
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.levels import levels
from gleanseg.parts.memory import best_rows, keep_best
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.modes import untracked
from gleanseg.parts.points import draw_points
from gleanseg.parts.project import perceptron
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.parts.virtual_adversary import worst_perturbation
from gleanseg.types import Batch, Mean, Memo, Progress, Term, Views


@final
class SSNet(Method):
    r"""Smoothness under the worst small perturbation d, and separation of classes in feature space.

    $$L = \mathrm{Dice} + \mathrm{BCE}\,(f(x), y) + \lambda(t)\,\big[ D(f(x + d), f(x)) + \beta\,(L_{con}^{known} +
    L_{con}^{unknown}) \big], \qquad L_{con} = \tfrac1C \sum_c \overline{a_i b_j\,(1 - \cos(q(g(e_i)), m_j))}$$

    over voxels i of C classes c, of the label or the prediction, with features e, projection g, prediction q, learned
    weights a and b, and a memory of the most telling rows $m_j = g(e_j)$ of known, correctly predicted voxels.

    Paper: Wu et al., MICCAI 2022, https://doi.org/10.1007/978-3-031-16443-9_4
    Deviations:
        1. Unknown ROIs of labelled rows are unlabelled; classes are an ROI's inside and outside; weights sum for each.
        2. The memory is that of the step before, of all ranks, in checkpoints; a class that it lacks keeps what it had.
        3. Contrast at drawn voxels; layer norm in the new heads; classes share the hidden layers of a and of b.
        4. Perturbations are sized per voxel, 0.01 for the published 10; D is released Dice, against the training pass.
        5. ``released = true``: the *least* telling rows, unweighted; none of the outside, which still halves the sum.
        6. Published: ``ce = 0``, which is silent about absent ROIs. The ramp is a share of the run, not 40 x 150 steps.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights, perturbation and memory."""

        ce: Annotated[float, Field(ge=0)] = 1.0
        lam: Annotated[float, Field(ge=0)] = 1.0
        ramp: Share = 0.4
        beta: Annotated[float, Field(gt=0)] = 0.1
        xi: Annotated[float, Field(gt=0)] = 0.01
        epsilon: Annotated[float, Field(gt=0)] = 0.01
        width: Annotated[int, Field(gt=0)] = 32  # numbers of a projected feature
        size: Annotated[int, Field(gt=0)] = 32  # rows of a class's memory
        voxels: Annotated[int, Field(ge=0)] = 2**15  # of each patch that are contrasted; 0: all, as published
        released: bool = False

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net, self.config = build(), config
        classes, width = 2 * self.net.num_rois, config.width
        self.project, self.predict = (perceptron(n, width, width) for n in (self.net.decoder_channels[-1], width))
        self.weigh, self.weigh_memory = (perceptron(width, width, classes, slope=0.2) for _ in range(2))
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(classes, config.size, width))

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known pairs; smoothness and contrast on all."""
        x, c = batch.x["strong"], self.config
        _, (*_, last), features = levels(self.net, x)
        lam, rois = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp), carrying(batch, progress, unknown=True)

        def moved(changed: Tensor) -> Mean:
            seen, pairs = self.net.features(changed), torch.ones_like(batch.known)

            def apart(r: Chunk) -> dict[str, Term]:
                z_moved, z = self.net.score(seen, r), self.net.score(features, r)
                return {"smooth": disagreement(z_moved, z, pairs[:, r], batch.valid)}

            return cast(Mean, over_rois(apart, batch, rois)["smooth"])

        def terms(r: Chunk) -> dict[str, Term]:
            told = self.net.score(features, r), batch.y(r), batch.known[:, r], batch.valid
            return {"dice": pooled_dice(*told), "ce": partial_bce(*told).scaled(c.ce)}

        with untracked(self.net):
            smooth = moved(x + worst_perturbation(moved, x, batch.key, xi=c.xi, epsilon=c.epsilon)).scaled(lam)
        return over_rois(terms, batch, rois) | {"smooth": smooth} | self._contrast(batch, features, last, lam * c.beta)

    def _contrast(self, batch: Batch, features: tuple[Tensor, ...], last: Tensor, beta: float) -> dict[str, Term]:
        c, at, known = self.config, draw_points(batch, self.config.voxels), batch.known[..., None]
        drawn = at.score(self.net, features).detach() > 0
        inside = torch.where(known, at.y, drawn)
        classes = torch.cat([inside, ~inside & (not c.released)], 1) & at.valid[:, None]
        learnt, right = torch.cat([known, known], 1), torch.cat([drawn == inside] * 2, 1)
        g = self.project(at.of(last).transpose(1, 2))
        f = self.predict(g)
        a, telling = (self.weigh(rows.detach()).sigmoid().transpose(1, 2) for rows in (f, g))
        b = self.weigh_memory(self.memory).sigmoid().diagonal(dim1=0, dim2=2).T
        if c.released:
            b, telling, beta = torch.ones_like(b), 1 - telling, beta / 2
        contrast = partial(pull, f, self.memory, weight_BKM=a, weight_KN=b)
        return {
            "contrast_known": contrast(classes & learnt).scaled(beta),
            "contrast_unknown": contrast(classes & ~learnt).scaled(beta),
            "memory": Memo(best_rows(g, telling, classes & learnt & right, c.size)),
        }

    def remember(self, memos: Mapping[str, Tensor]) -> None:
        """Exchange the memory for what this step found."""
        keep_best(self.memory, memos["memory"])

"""MC-Net+: decoders that enlarge maps in different ways imitate each other's sharpened predictions."""

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
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class MCNetPlus(Method):
    r"""One encoder and three decoders: each learns known ROIs from labels, and all ROIs from the sharpened others.

    $$L = \lambda \sum_{i} \mathrm{Dice}(p_i, y) + \beta(t) \sum_{i \ne j} \| p_i - s_j \|^2,\qquad
    s_j = \frac{p_j^{1/T}}{p_j^{1/T} + (1 - p_j)^{1/T}} = \sigma(z_j / T)$$

    Paper: Wu et al., Medical Image Analysis 2022, https://arxiv.org/abs/2109.09960 (MC-Net, with two decoders:
    MICCAI 2021)
    Deviations (from the released train_mcnet_3d.py):
        1. Sharpened predictions are targets; released, they move, too: ``both_ways = true``.
        2. Cross-entropy stands beside Dice, which is silent about ROIs that a batch does not hold; ``ce = 0.0`` is
           literal.
        3. The first decoder is the network's own, the others take the two remaining ways of a transposed convolution,
           trilinear and nearest interpolation; corners are not aligned.
        4. The ramp is a share of the run, not 40 times 150 steps.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Decoders, weights and schedule."""

        decoders: Literal[2, 3] = 3
        """2: MC-Net."""
        lam: Annotated[float, Field(ge=0)] = 0.5
        """Weight of supervision, the paper's lambda."""
        ce: Annotated[float, Field(ge=0)] = 1.0
        """Cross-entropy as a share of supervision's weight."""
        beta: Annotated[float, Field(ge=0)] = 1.0
        """Weight of consistency after the ramp."""
        ramp: Share = 0.4
        tau: Annotated[float, Field(gt=0, le=1)] = 0.1
        """Temperature T of sharpening."""
        everywhere: bool = True
        """Consistency of known ROIs, too, as published."""
        both_ways: bool = False
        """Gradients pass sharpened predictions, too, as released."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.branches = Branches(build, config.decoders, kernel=3)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of every decoder on known pairs, and of each ordered pair of decoders one term of agreement."""
        c = self.config
        features = self.branches.features(self.net, self.net.encoded(batch.x["strong"]))
        beta = c.beta * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.branches.scores(self.net, features, r), batch.y(r), batch.known[:, r]
            agreeing = torch.ones_like(known) if c.everywhere else ~known
            found: dict[str, Term] = {}
            for i, z_i in enumerate(z):
                found[f"dice_{i}"] = pooled_dice(z_i, y, known, batch.valid).scaled(c.lam)
                if c.ce > 0:
                    found[f"ce_{i}"] = partial_bce(z_i, y, known, batch.valid).scaled(c.lam * c.ce)
            for i, j in permutations(range(len(z)), 2):
                agree = mse(z[i], z[j] / c.tau, agreeing, batch.valid, both=c.both_ways)
                found[f"agree_{i}{j}"] = agree.scaled(beta)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

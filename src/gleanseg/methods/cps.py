"""Cross pseudo supervision: two networks that began differently give each other hard labels."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class CPS(Method):
    r"""Networks A and B learn known ROIs from labels, and unknown ones from what the other would draw.

    $$L = \sum_{k \in \{a, b\}} \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f_k(x), y) + \lambda(t)\,\big[
    \mathrm{BCE}(f_a(x), [p_b > \tfrac12]) + \mathrm{BCE}(f_b(x), [p_a > \tfrac12]) \big]$$

    Paper: Chen et al., CVPR 2021, https://arxiv.org/abs/2106.01226
    Deviations (from the code that semi-supervised segmentation compares with, SSL4MIS):
        1. The networks label known ROIs for each other, too, as the paper has it; released, unlabelled rows alone:
           ``everywhere = false`` leaves it at unknown ROIs, in rows of either stream.
        2. The networks differ by their draws alone, not by Kaiming's and Xavier's scale, which presume plain
           convolutions.
        3. The ramp is a share of the run, not 200 times 150 steps; one optimiser steps both networks.
        4. A predicts by default, as released tables do not say which; ``b`` and ``ensemble`` are offered.
        5. Dice is linear and of ROIs alone; released, with squares in the denominator, and of background, too.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"a": ("a",), "b": ("b",), "ensemble": ("a", "b")}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weight and schedule."""

        lam: Annotated[float, Field(ge=0)] = 0.1
        """Weight after the ramp. There is no threshold of confidence: near 1 from the start, small ROIs collapse."""
        ramp: Share = 0.4
        everywhere: bool = True
        """On known ROIs, too, as the paper; released, on what is not labelled alone."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.a, self.b = build(), build()
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of both on known, each other's hard labels on unknown pairs."""
        x = batch.x["strong"]
        features = {"a": self.a.features(x), "b": self.b.features(x)}
        lam = self.config.lam * sigmoid_ramp(progress.fraction, length=self.config.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            y, known = batch.y(r), batch.known[:, r]
            taught = torch.ones_like(known) if self.config.everywhere else ~known
            z = {"a": self.a.score(features["a"], r), "b": self.b.score(features["b"], r)}
            found: dict[str, Term] = {}
            for one, other in (("a", "b"), ("b", "a")):
                found[f"dice_{one}"] = pooled_dice(z[one], y, known, batch.valid).scaled(0.5)
                found[f"ce_{one}"] = partial_bce(z[one], y, known, batch.valid).scaled(0.5)
                found[f"cross_{one}"] = partial_bce(z[one], z[other].detach() > 0, taught, batch.valid).scaled(lam)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

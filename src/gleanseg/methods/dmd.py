"""Deep mutual distillation: two networks hand each other softened probabilities."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import mutual_dice, pooled_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.types import Batch, Progress, Term, Views


@final
class DMD(Method):
    r"""Networks A and B learn known ROIs from labels, and meet each other at a temperature above 1 on all of them.

    $$L = \sum_{k \in \{a, b\}} \mathrm{Dice}\,(\sigma(z_k), y) + \mathrm{BCE}\,(\sigma(z_k), y)
    + \lambda\,\mathrm{Dice}\,\big(\sigma(z_a / T), \sigma(z_b / T)\big)$$

    Softened targets say more of ambiguous voxels than hard or sharpened ones; Dice copes with small ROIs. Both networks
    follow the distillation.

    Paper: Xie et al., MICCAI 2023, https://doi.org/10.1007/978-3-031-43898-1_52
    Deviations:
        1. Published without the cross-entropy: ``ce = 0``. Dice alone says nothing of patches that are known not to
           hold an ROI, which is no matter for an atrium.
        2. One sigmoid per ROI, as published for one; released code compares each prediction with both labels.
        3. A predicts by default, as released; ``b`` and ``ensemble`` are offered.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"a": ("a",), "b": ("b",), "ensemble": ("a", "b")}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Temperature and weights."""

        temperature: Annotated[float, Field(gt=0)] = 2.0
        lam: Annotated[float, Field(ge=0)] = 4.0
        ce: Annotated[float, Field(ge=0)] = 1.0
        everywhere: bool = True
        """Distil known ROIs, too, as the paper."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.a, self.b = build(), build()
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of both on known pairs, distillation."""
        x, c = batch.x["strong"], self.config
        f_a, f_b = self.a.features(x), self.b.features(x)

        def terms(r: Chunk) -> dict[str, Term]:
            y, known, valid = batch.y(r), batch.known[:, r], batch.valid
            z = {"a": self.a.score(f_a, r), "b": self.b.score(f_b, r)}
            found: dict[str, Term] = {}
            for k in z:
                found[f"dice_{k}"] = pooled_dice(z[k], y, known, valid, squared=True)
                found[f"ce_{k}"] = partial_bce(z[k], y, known, valid).scaled(c.ce)
            met = torch.ones_like(known) if c.everywhere else ~known
            found["distil"] = mutual_dice(z["a"], z["b"], met, valid, temperature=c.temperature).scaled(c.lam)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

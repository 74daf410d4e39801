"""QDC-Net: a plain and an evidential network teach each other, each as much as its quality says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import case_dice, mean_lost, pooled_dice
from gleanseg.losses.evidential import Evidence
from gleanseg.losses.pairs import pair_sums
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.levels import levels
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Memo, Pooled, Progress, Term, Views


@final
class QDCNet(Method):
    r"""Cross pseudo supervision with directional weights and weights of samples.

    $$L = \sum_{k \in \{v, e\}} L_k^{known} + \lambda(t)\,\frac{Q_{k'}}{Q_v + Q_e}\;\overline{r_i\,
    \big(\mathrm{BCE} + \mathrm{Dice}\big)(p_k, [p_{k'} > \tfrac12])}, \qquad
    r_i = \begin{cases} 0 & s_i < s_0 \\ \min(s_i, s_1) & \text{else} \end{cases}$$

    where k' is the other network, $Q$ a running Dice on known pairs, $s_i$ the Dice of what both would draw in case i.
    The evidential network e learns known pairs by its expected cross-entropy, Dice, and the divergence of misleading
    evidence from none; the plain one, v, by cross-entropy and Dice.

    Paper: Zhang et al., Computers in Biology and Medicine 2024, https://doi.org/10.1016/j.compbiomed.2024.108609
    **A reconstruction from the abstract**, which names the two networks, real-time quality, directional weights and a
    truncated weight of samples; no code is public. Ours are:
        1. every number, the form of each weight, and evidence as the softplus of two heads, for and against each ROI;
        2. weights per pair of case and ROI; a pair in which either network draws nothing is left out of the mean;
        3. the qualities of the step before, from Dice over all ranks; one optimiser steps both networks.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"plain": ("v",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedules."""

        lam: Annotated[float, Field(ge=0)] = 0.1
        ramp: Share = 0.4
        kappa: Annotated[float, Field(gt=0)] = 0.1
        """Weight of misleading evidence after the ramp."""
        momentum: Share = 0.99  # of the quality
        least: Share = 0.1
        """Dice of what both draw, below which a sample has collapsed and teaches nothing."""
        most: Share = 0.9

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.v, self.e = build(), build()
        self.against = build().head
        for evidence in (self.e.head, self.against):
            evidence.start_at(0.0)  # at the prior of a sigmoid softplus is almost flat
        self.quality: Tensor
        self.register_buffer("quality", torch.full((2,), 0.5))  # of v and e
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of both on known, each other's weighted hard labels on unknown pairs."""
        x, c = batch.x["strong"], self.config
        down, up, f_for = levels(self.e, x)
        f_v, f_against = self.v.features(x), self.against.features(down, up[-1])
        rise = sigmoid_ramp(progress.fraction, length=c.ramp)
        trust = self.quality.clamp_min(0.01) / self.quality.clamp_min(0.01).sum()

        def terms(r: Chunk) -> dict[str, Term]:
            y, known, valid = batch.y(r), batch.known[:, r], batch.valid
            evidence = Evidence(self.e.head.score(f_for, r), self.against.score(f_against, r))
            z = {"v": self.v.score(f_v, r), "e": evidence.logits}
            found: dict[str, Term] = {
                "ce_v": partial_bce(z["v"], y, known, valid),
                "ce_e": evidence.expected_bce(y, known, valid),
                "misled_e": evidence.misleading(y, known, valid).scaled(c.kappa * rise),
            }
            r_i = self._weights(z["v"], z["e"], ~known, valid)
            for one, other, q in (("v", "e", trust[1]), ("e", "v", trust[0])):
                drawn = z[other].detach() > 0
                found[f"dice_{one}"] = pooled_dice(z[one], y, known, valid)
                found[f"cross_{one}"] = partial_bce(z[one], drawn, q * r_i, valid).scaled(c.lam * rise)
                found[f"overlap_{one}"] = case_dice(z[one], drawn, q * r_i, valid).scaled(c.lam * rise)
            return found

        found = over_rois(terms, batch, carrying(batch, progress, unknown=True))
        sums = [term.sums.detach() for term in (found["dice_v"], found["dice_e"]) if isinstance(term, Pooled)]
        return found | {"quality": Memo(torch.stack(sums)[None])}

    def _weights(
        self, z_v: Tensor, z_e: Tensor, unknown: Bool[Tensor, "B R"], valid: Bool[Tensor, "B Z Y X"]
    ) -> Float[Tensor, "B R"]:
        both, sizes = pair_sums(_drawn, z_v.detach(), z_e, unknown, valid)
        s = 2 * both / sizes.clamp_min(1)
        return torch.where((s >= self.config.least) & (both > 0), s.clamp_max(self.config.most), 0)

    def remember(self, memos: Mapping[str, Tensor]) -> None:
        """Follow the Dice of both networks; a step that knows of no ROI leaves it."""
        for k, sums in enumerate(memos["quality"].sum(0)):
            if sums[2].any():
                dice = 1 - mean_lost(sums, smooth=1e-5, margin=0.0)
                self.quality[k].lerp_(dice.to(self.quality), 1 - self.config.momentum)


def _drawn(one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    a, b = (one > 0).to(one.dtype), (other > 0).to(one.dtype)
    return a * b, a + b

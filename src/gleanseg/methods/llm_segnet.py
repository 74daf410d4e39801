"""LLM-SegNet: two networks with language knowledge at their bottlenecks teach each other under a unified loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.unified import Kind, unified
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.latent import Routes, correctness, route
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.mixing import draw_cutmix, labels_where_known, uniform_noise
from gleanseg.parts.modes import quiet_features
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Monitor, Progress, Term, Views

_SUPERVISED: dict[str, Callable[..., Term]] = {"dice": pooled_dice, "ce": partial_bce}


@final
class LLMSegNet(Method):
    r"""Networks A and B learn known ROIs from labels and unknown ones from each other.

    $$L = \sum_{m \in \{a, b\}} \mathrm{Dice}(y_m, y) + \mathrm{CE}(y_m, y)
    + \lambda(t)\,\big[\mathrm{USL}(y_a, \tilde y_b) + \mathrm{USL}(y_b, \tilde y_a)\big],
    \quad y_a = A(x + \eta),\; y_b = B(\mathrm{cutmix}(x) + \eta')$$

    The text stands in the recipe's ``[text]`` table and acts inside the networks (``networks.fusion``).

    Paper: Kumari et al., LLM-SegNet, 2024, https://arxiv.org/abs/2407.05088
    Choices where the paper is silent:
        1. A and B get their own noise; one box per batch is pasted, between unlabelled rows.
        2. A's pseudo label is pasted like B's input; B's is a second pass of B on whole patches (``cutmix = "clean"``),
           or its first one put back box by box (``"unmix"``), so both directions compare like with like.
        3. One sigmoid per ROI; unknown ROIs of labelled rows take the unlabelled terms. Where a box brings an ROI that
           its source knows, the label stands in for the pseudo label.
        4. lambda rises to ``lam`` over a share of the run. Beyond the paper, ``gated`` asks the ROI-aware network of
           ``[presence]``: ROIs whose presence is undecided take the squared distance only.
    """

    views = Views(names=("weak",), unlabelled=True)
    deploys = {"ensemble": ("a", "b"), "a": ("a",), "b": ("b",)}
    batchwise = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Thresholds, weights and the paper's ablations."""

        t1: Annotated[float, Field(ge=0.5, le=1)] = 0.9
        t2: Annotated[float, Field(ge=0, le=0.5)] = 0.1
        lam: float = 1.0
        ramp: Share = 0.4
        noise: Annotated[float, Field(ge=0)] = 0.2
        cutmix: Literal["clean", "unmix", "off"] = "clean"
        supervised: Literal["dice+ce", "dice", "ce"] = "dice+ce"
        unsupervised: Kind = "unified"
        gated: bool = False
        phi_high: Share = 0.8
        phi_low: Share = 0.1

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.a, self.b = build(), build()
        self.roi_aware = build.roi_aware() if config.gated and build.roi_aware else None
        self.config = config
        self.routes: Routes | None = None

    @classmethod
    def needs_presence(cls, config: Config) -> bool:
        """Only where it gates."""
        return config.gated

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of both networks on known, unified losses in both directions on unknown pairs."""
        x, known, c = batch.x["weak"], batch.known, self.config
        box = draw_cutmix(batch, mix=c.cutmix != "off")
        f_a = self.a.features(x + uniform_noise(x, batch.key, c.noise, salt=0))
        f_b = self.b.features(box.paste(x) + uniform_noise(x, batch.key, c.noise, salt=1))
        whole_b = quiet_features(self.b, x) if c.cutmix == "clean" and box.mixes else None
        known_b, decided = known & known[box.partner_B], known | self._decided(x, known)
        decided_b = decided & decided[box.partner_B]
        valid, valid_b = batch.valid, box.paste(batch.valid)
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z_a, z_b, y = self.a.score(f_a, r), self.b.score(f_b, r), batch.y(r)
            with torch.no_grad():
                from_b = box.undo(z_b.detach()) if whole_b is None else self.b.score(whole_b, r)
                from_a = box.paste(labels_where_known(z_a.detach(), y, known[:, r]))
            found: dict[str, Term] = {}
            for who, z, target, pseudo, of_known, sure, v in (
                ("a", z_a, y, from_b, known[:, r], decided[:, r], valid),
                ("b", z_b, box.paste(y), from_a, known_b[:, r], decided_b[:, r], valid_b),
            ):
                for name in c.supervised.split("+"):
                    found[f"{name}_{who}"] = _SUPERVISED[name](z, target, of_known, v)
                agree = unified(z, pseudo, ~of_known & sure, v, t1=c.t1, t2=c.t2, kind=c.unsupervised)
                found[f"unified_{who}"] = agree.scaled(lam)
                if c.gated:
                    found[f"ambiguous_{who}"] = unified(z, pseudo, ~of_known & ~sure, v, kind="mse").scaled(lam)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

    def _decided(self, x: Float[Tensor, "B C Z Y X"], known: Bool[Tensor, "B R"]) -> Bool[Tensor, "B R"]:
        if self.roi_aware is None:
            return torch.ones_like(known)
        self.routes = route(self.roi_aware(x), known, self.config.phi_high, self.config.phi_low)
        return self.routes.latent

    def diagnose(self, present_BR: Bool[Tensor, "B R"], judged_BR: Bool[Tensor, "B R"]) -> dict[str, Monitor]:
        """How often each decision of the gate is right."""
        return correctness(self.routes, present_BR, judged_BR) if self.routes is not None else {}

"""Latent-class mining: a network that knows what is in a patch decides which unlabelled structures can be learnt."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.ema import capped_alpha, ema_copy, ema_update, warm_alpha
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.latent import Reduction, Routes, correctness, pair_weights, route, shares, sharpened
from gleanseg.parts.method import Blueprint, Method, check_rois
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Monitor, Progress, Term, Views


@final
class LatentClass(Method):
    r"""Unknown ROIs that are surely in a patch, or surely not, learn from sharpened pseudo labels, the others agree.

    $$L = \mathrm{Dice} + \mathrm{BCE}\,(f_\theta(x_S), y) + \lambda(t)\,\big[ w_{CE}\,\mathrm{BCE}(f_\theta(x_S),
    \mathrm{sharp}_\tau f_{\theta'}(x_T))_{latent} + w_{MSE}\,\|p_\theta(x_S) - p_{\theta'}(x_T)\|^2_{ambiguous} \big]$$

    An unknown ROI with presence score $p = g(x_T)$ of the frozen ROI-aware network $g$ is latent where
    $p > \varphi_h$ or $p < \varphi_l$, else ambiguous. Without the MSE term: ``w_mse = 0``.

    Paper: Zhao et al., MICCAI 2024 (latent-class mining for partially labelled data).
    Deviations and choices where the paper is silent:
        1. The unlabelled terms rise over a share of the run; ``ramp = 0`` is literal.
        2. The teacher's horizon is at most a share of the run; the teacher is in evaluation mode and predicts.
        3. Terms are means over voxels, then over the ROIs of a set, then over cases that have one (``reduction``).
    """

    views = Views(names=("weak", "strong"), unlabelled=True)
    deploys = {"teacher": ("teacher",), "student": ("student",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Thresholds, weights and schedules."""

        phi_high: Share = 0.8
        phi_low: Share = 0.1
        phi_high_of: dict[str, Share] = field(default_factory=dict)  # ROI -> its own; the others take phi_high
        phi_low_of: dict[str, Share] = field(default_factory=dict)
        tau: Annotated[float, Field(gt=0, le=1)] = 0.1
        w_ce: float = 1.0
        w_mse: float = 1.0
        negative_target: Literal["sharpened", "zeros"] = "sharpened"
        """What ROIs that are surely absent learn: the sharpened teacher, as published, or plain absence."""
        reduction: Reduction = "sample"
        alpha: float = 0.999
        horizon: Share = 0.1  # of the run: what the teacher remembers at most; 1: alpha as published
        buffers: Literal["copy", "own"] = "copy"  # the student's batch statistics, or those of its own passes
        ramp: Share = 0.3
        rois_per_step: Annotated[int, Field(ge=0)] = 0
        """Of the ROIs that no row of a batch knows, at most so many a step; 0: all."""

        def __post_init__(self) -> None:
            """Refuse thresholds that cross."""
            if self.phi_low > self.phi_high:
                raise ValueError(f"phi_low ({self.phi_low}) must not exceed phi_high ({self.phi_high})")

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.student = build()
        self.teacher = ema_copy(self.student)
        assert build.roi_aware is not None, "the engine gives methods that need it an ROI-aware network"
        self.roi_aware = build.roi_aware()
        check_rois(("phi_high_of", config.phi_high_of), ("phi_low_of", config.phi_low_of), rois=build.rois)
        self.phi_high = torch.tensor([config.phi_high_of.get(roi, config.phi_high) for roi in build.rois])
        self.phi_low = torch.tensor([config.phi_low_of.get(roi, config.phi_low) for roi in build.rois])
        self.config = config
        self.routes: Routes | None = None

    @classmethod
    def needs_presence(cls, config: Config) -> bool:
        """Always."""
        return True

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known, cross-entropy on latent, agreement on ambiguous pairs."""
        x_T, x_S, c = batch.x["weak"], batch.x["strong"], self.config
        student = self.student.features(x_S)
        with torch.no_grad():
            teacher = self.teacher.train(c.buffers == "own").features(x_T)
        routes = self.routes = route(self.roi_aware(x_T), batch.known, self.phi_high.to(x_T), self.phi_low.to(x_T))
        (w_l, n_l), (w_a, n_a) = pair_weights(routes.latent, c.reduction), pair_weights(routes.ambiguous, c.reduction)
        lam = sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.student.score(student, r), batch.y(r), batch.known[:, r]
            with torch.no_grad():
                z_T = self.teacher.score(teacher, r).float()
                pseudo = sharpened(z_T, c.tau)
                if c.negative_target == "zeros":
                    pseudo = pseudo * ~routes.negative[:, r, None, None, None]
            return {
                "dice": pooled_dice(z, y, known, batch.valid),
                "ce": partial_bce(z, y, known, batch.valid),
                "latent": partial_bce(z, pseudo, w_l[:, r], batch.valid, count_BR=n_l[:, r]).scaled(lam * c.w_ce),
                "ambiguous": mse(z, z_T, w_a[:, r], batch.valid, count_BR=n_a[:, r]).scaled(lam * c.w_mse),
            }

        rois = carrying(batch, progress, unknown=True, rois_per_step=c.rois_per_step)
        return over_rois(terms, batch, rois) | shares(routes, ~batch.known)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        alpha = capped_alpha(self.config.alpha, progress.total, share=self.config.horizon)
        ema_update(self.teacher, self.student, warm_alpha(progress.step, alpha), buffers=self.config.buffers)

    def diagnose(self, present_BR: Bool[Tensor, "B R"], judged_BR: Bool[Tensor, "B R"]) -> dict[str, Monitor]:
        """How often each decision is right."""
        return correctness(self.routes, present_BR, judged_BR) if self.routes is not None else {}

"""Uncertainty-aware mean teacher: the student agrees with the teacher where the teacher is sure of itself."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse_where
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.entropy import bits
from gleanseg.parts.ema import ema_copy, ema_update, warm_alpha
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.mixing import clipped_noise
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.parts.watch import voxel_share
from gleanseg.types import Batch, Progress, Term, Views


@final
class UAMT(Method):
    r"""Consistency on unknown ROIs, at voxels where several noisy passes of the teacher leave little doubt.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f_\theta(x), y) + \lambda(t)\,
    \frac{\sum_v [u_v < H(t)]\,(p_v - p'_v)^2}{\sum_v [u_v < H(t)]},\qquad
    u = \frac{H(\bar p)}{\ln 2},\quad \bar p = \tfrac1T \sum_{i=1}^T f_{\theta'}(x + n_i),\quad
    H(t) = \tfrac34 + \tfrac14 e^{-5 (1 - t)^2}$$

    Paper: Yu et al., MICCAI 2019, https://arxiv.org/abs/1907.07034
    Deviations (from the released train_LA_meanteacher_certainty_unlabel.py):
        1. Unknown ROIs of all rows take part, so that partly labelled cases do; one sigmoid and one doubt per ROI.
        2. The ramp is a share of the run, not 40 times 150 steps.
        3. The student predicts by default, as released; ``teacher`` is offered.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"student": ("student",), "teacher": ("teacher",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedules."""

        alpha: Share = 0.99
        lam: Annotated[float, Field(ge=0)] = 0.1
        ramp: Share = 0.4
        passes: Annotated[int, Field(ge=1)] = 8
        """Passes of the teacher that measure its doubt, besides the one that teaches."""
        noise: Annotated[float, Field(ge=0)] = 0.1
        """Standard deviation of the teacher's noise, clipped at twice that; in units of the prepared image."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.student = build()
        self.teacher = ema_copy(self.student)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known, consistency where the teacher is sure on unknown pairs."""
        x, c = batch.x["strong"], self.config
        student = self.student.features(x)
        with torch.no_grad():  # in training mode, drop-out included: that is what varies
            noisy = [x + clipped_noise(x, batch.key, c.noise, bound=2 * c.noise, salt=i) for i in range(c.passes + 1)]
            taught, *doubted = [self.teacher.features(x_i) for x_i in noisy]
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)
        limit = 0.75 + 0.25 * sigmoid_ramp(progress.fraction)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.student.score(student, r), batch.y(r), batch.known[:, r]
            with torch.no_grad():
                q = self.teacher.score(taught, r).float().sigmoid()
                mean = torch.stack([self.teacher.score(f, r).float().sigmoid() for f in doubted]).mean(0)
                sure = bits(mean) < limit
            return {
                "dice": pooled_dice(z, y, known, batch.valid, squared=True).scaled(0.5),
                "ce": partial_bce(z, y, known, batch.valid).scaled(0.5),
                "consistency": mse_where(z, q, sure, ~known, batch.valid).scaled(lam),
                "sure": voxel_share(sure, ~known, batch.valid),
            }

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

    def after_step(self, progress: Progress) -> None:
        """Move the teacher's weights; its batch statistics are its own, as it is never in evaluation mode."""
        ema_update(self.teacher, self.student, warm_alpha(progress.step, self.config.alpha), buffers="own")

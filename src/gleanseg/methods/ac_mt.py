"""Ambiguity-consensus mean teacher: student and teacher agree where the prediction is ambiguous, and only there."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse_where
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.ambiguity import Kind, ambiguity
from gleanseg.parts.ema import ema_copy, ema_update, warm_alpha
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.mixing import clipped_noise
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.parts.watch import voxel_share
from gleanseg.types import Batch, Progress, Term, Views


@final
class ACMT(Method):
    r"""Consistency on unknown ROIs, at ambiguous voxels A: the informative ones, where UA-MT takes those without doubt.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f_\theta(x), y)
    + \lambda(t)\,\frac{\sum_v A_v\,(p_v - p'_v)^2}{\sum_v A_v},\qquad p' = f_{\theta'}(x + n)$$

    and A, with $h(t) = h_0 + \Delta h\,e^{-5 (1 - t)^2}$: ``entropy``, $H(p) / \ln 2 \ge h$; ``uncertainty``, the same
    of the mean of several noisy passes; ``label-error``, confident learning, with the teacher as judge, finds p's label
    wrong; ``prototype``, p's label is not that of the class prototype to which the teacher's feature is nearer.

    Paper: Xu et al., Medical Image Analysis 2023, https://arxiv.org/abs/2210.08549
    Deviations (from the released train_ACMT_{Ent,MU,SErr,PErr}_3D.py):
        1. Unknown ROIs of all rows take part, so that partly labelled cases do; one sigmoid and one A per ROI.
        2. The squared distance is averaged over A for all four; released ``uncertainty`` has twice that.
        3. ``prototype`` without the entropy term that released code adds outside A, channel by sample; certain is where
           the probability varies by less than 0.1, not the sigmoid of half of each soft-max logit.
        4. ``label-error`` judges each (case, ROI) pair apart, and finds nothing where the student's mask is empty or
           full; released: all cases together, and then plain consistency.
        5. The ramp is a share of the run, not 40 times 150 steps; Dice is that of the ROI, without background's.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"student": ("student",), "teacher": ("teacher",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is ambiguous, weights and schedules."""

        ambiguity: Kind = "entropy"
        limit: Share = 0.75
        """Least entropy of an ambiguous voxel at the start, in bits; for ``entropy`` and ``uncertainty``."""
        rise: Annotated[float, Field(ge=-1, le=1)] = 0.2
        """By how much the limit rises in the run; -0.15 lets it fall, as the paper's first version."""
        passes: Annotated[int, Field(ge=2)] = 8
        """Noisy passes of the student for ``uncertainty``; of the teacher for ``prototype`` (released: 10)."""
        alpha: Share = 0.99
        lam: Annotated[float, Field(ge=0)] = 0.1
        ramp: Share = 0.4
        noise: Annotated[float, Field(ge=0)] = 0.1
        """Standard deviation of the noise, clipped at twice that; in units of the prepared image."""

        def __post_init__(self) -> None:
            """Refuse a limit that no voxel reaches in the end, which would end the consistency without a word."""
            if self.limit + self.rise > 1:
                raise ValueError(
                    f"limit + rise ({self.limit + self.rise:g}) must not exceed 1, the most bits of entropy"
                )

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.student = build()
        self.teacher = ema_copy(self.student)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known, consistency where they are ambiguous on unknown pairs."""
        x, c = batch.x["strong"], self.config
        h = c.limit + c.rise * sigmoid_ramp(progress.fraction)
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)
        student = self.student.features(x)
        with torch.no_grad():  # in training mode, drop-out included
            teacher = self.teacher.features(x + clipped_noise(x, batch.key, c.noise, bound=2 * c.noise, salt=0))
        find = ambiguity(c.ambiguity, self.student, self.teacher, x, batch, limit=h, passes=c.passes, noise=c.noise)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.student.score(student, r), batch.y(r), batch.known[:, r]
            with torch.no_grad():
                q, ambiguous = self.teacher.score(teacher, r).float().sigmoid(), find(z.float(), r)
            return {
                "dice": pooled_dice(z, y, known, batch.valid, squared=True).scaled(0.5),
                "ce": partial_bce(z, y, known, batch.valid).scaled(0.5),
                "consistency": mse_where(z, q, ambiguous, ~known, batch.valid).scaled(lam),
                "ambiguous": voxel_share(ambiguous, ~known, batch.valid),
            }

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

    def after_step(self, progress: Progress) -> None:
        """Move the teacher's weights; its batch statistics are its own, as it is never in evaluation mode."""
        ema_update(self.teacher, self.student, warm_alpha(progress.step, self.config.alpha), buffers="own")

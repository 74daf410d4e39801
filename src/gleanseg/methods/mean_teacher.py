"""Mean Teacher: the student agrees with a running average of its own weights."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.ema import ema_copy, ema_update, warm_alpha
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class MeanTeacher(Method):
    r"""Known ROIs are learnt from labels, unknown ones from agreement with the teacher.

    $$L = \mathrm{Dice} + \mathrm{BCE}\,(f_\theta(x_S), y) + \lambda(t)\,\|p_\theta(x_S) - p_{\theta'}(x_T)\|^2,
    \qquad \theta' \leftarrow \alpha_t \theta' + (1 - \alpha_t)\,\theta$$

    with the teacher's view $x_T$ (weak) and the student's view $x_S$ (strong) on one voxel grid.

    Paper: Tarvainen & Valpola, NeurIPS 2017, https://arxiv.org/abs/1703.01780
    Deviations (from the code that semi-supervised segmentation compares with, SSL4MIS):
        1. Views differ by the recipe's intensity augmentation instead of clipped Gaussian noise alone.
        2. Consistency over the unknown ROIs of all rows, so that partly labelled cases take part; on a fully labelled
           batch it is 0.
        3. The teacher is in evaluation mode and copies the student's normalisation statistics.
        4. The ramp is a share of the run, not 40 times 150 steps; the teacher predicts by default.
        5. Dice is linear and of ROIs alone, and supervision is not halved, so that ``lam`` weighs half as much.
    """

    views = Views(names=("weak", "strong"), unlabelled=True)
    deploys = {"teacher": ("teacher",), "student": ("student",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedules."""

        alpha: float = 0.99
        """Teacher momentum per step; it starts at 0 and rises as 1 - 1/(t + 1)."""
        lam: float = 0.1
        """Consistency weight after the ramp."""
        ramp: float = 0.4
        """Share of the run over which the weight rises."""
        rois_per_step: Annotated[int, Field(ge=0)] = 0
        """Of the ROIs that no row of a batch knows, at most so many a step; 0: all."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.student = build()
        self.teacher = ema_copy(self.student)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known, consistency on unknown pairs."""
        student = self.student.features(batch.x["strong"])
        with torch.no_grad():
            teacher = self.teacher.eval().features(batch.x["weak"])
        lam = self.config.lam * sigmoid_ramp(progress.fraction, length=self.config.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.student.score(student, r), batch.y(r), batch.known[:, r]
            with torch.no_grad():
                z_teacher = self.teacher.score(teacher, r)
            return {
                "dice": pooled_dice(z, y, known, batch.valid),
                "ce": partial_bce(z, y, known, batch.valid),
                "consistency": mse(z, z_teacher, ~known, batch.valid).scaled(lam),
            }

        rois = carrying(batch, progress, unknown=True, rois_per_step=self.config.rois_per_step)
        return over_rois(terms, batch, rois)

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        ema_update(self.teacher, self.student, warm_alpha(progress.step, self.config.alpha))

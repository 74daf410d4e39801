"""Bidirectional copy-paste: labelled and unlabelled patches are pasted into each other and learnt together."""

from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.errors import UserError
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import case_dice, pooled_dice
from gleanseg.parts.components import largest_components
from gleanseg.parts.ema import ema_copy, ema_update
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method, check_rois
from gleanseg.parts.mixing import draw_copy_paste
from gleanseg.types import Batch, Progress, Term, Views


@final
class BCP(Method):
    r"""A student learns mixtures of labelled and unlabelled patches from labels and a teacher's pseudo labels.

    $$L = \mathcal{L}(f_\theta(x), y)_{known} + \alpha\, \mathcal{L}(f_\theta(x), \tilde y)_{unknown},\quad
    \mathcal{L} = \mathrm{Dice} + \mathrm{BCE},\quad x = x_i \odot M + x_j \odot (1 - M),\quad
    \tilde y = \mathrm{largest}\,[f_{\theta'} > \tfrac12],\quad \theta' \leftarrow \mu\,\theta' + (1 - \mu)\,\theta$$

    M is 0 in a box of $\beta$ of each side; of i and j one is labelled, both ways. Before that, a stage with
    ``pretraining`` learns mixtures of two labelled patches from half of $\mathcal{L}$, without the teacher.

    Paper: Bai et al., CVPR 2023, https://arxiv.org/abs/2305.00673
    Deviations (from the released LA_BCP_train.py):
        1. Each row lends its outside to one mixture and its box to another, so that two labelled and two unlabelled
           rows make four mixtures; published: four and four, each for one of both, and a pass for each direction.
        2. Which loss a region takes depends on whether its source knows the ROI: partly labelled cases take part.
        3. Dice of known regions is pooled over mixtures; that of pseudo labels is a mean over them, as published. It is
           that of ROIs; released, the mean of theirs and the background's.
        4. The teacher is in evaluation mode and copies the student's batch statistics; ``buffers = "own"`` as released.
        5. In the first stage, too, cross-entropy is a mean over regions; released, over all voxels.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"student": ("student",), "teacher": ("teacher",)}
    batchwise = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Box, weights, and which of the two stages this is."""

        pretraining: bool = False
        """The first stage: labelled rows alone; at its end, teacher and student are one."""
        beta: Annotated[float, Field(gt=0, lt=1)] = 2 / 3
        """Sides of the box as shares of the patch's."""
        alpha: Annotated[float, Field(ge=0)] = 0.5
        """Weight of pseudo labels."""
        mu: Share = 0.99
        """Teacher momentum per step."""
        scattered: tuple[str, ...] = ()
        """ROIs of several pieces, such as tumors: their pseudo labels keep more than the largest component."""
        buffers: Literal["copy", "own"] = "copy"
        """The teacher's batch statistics: the student's, or those of its own passes, drop-out included."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        check_rois(("scattered", dict.fromkeys(config.scattered)), rois=build.rois)
        self.student = build()
        self.teacher = ema_copy(self.student)
        self.single_R = torch.tensor([roi not in config.scattered for roi in build.rois])
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Known regions of each mixture learn from labels, unknown ones from pseudo labels."""
        c = self.config
        share = 0.5 if c.pretraining else 1.0
        if c.pretraining:
            batch = batch.labelled()
            if len(batch.key) == 1:
                raise UserError(
                    "method.pretraining pastes labelled rows into each other: expected two or more in a micro-batch of "
                    "a rank, found 1; raise sampling.labelled_batch or lower train.accumulate"
                )
        x, mix = batch.x["strong"], draw_copy_paste(batch, c.beta)
        student, seen = self.student.features(mix.paste(x)), mix.regions(batch.valid)
        with torch.no_grad():
            taught = None if c.pretraining else self.teacher.train(c.buffers == "own").features(x)

        def terms(r: Chunk) -> dict[str, Term]:
            z = self.student.score(student, r).repeat(2, 1, 1, 1, 1)  # for what is outside the boxes, and inside
            y, known = mix.sources(batch.y(r)), mix.sources(batch.known[:, r])
            found: dict[str, Term] = {
                "dice": pooled_dice(z, y, known, seen).scaled(share),
                "ce": partial_bce(z, y, known, seen).scaled(share),
            }
            if taught is not None:
                pseudo = mix.sources(self._pseudo(taught, batch, r))
                found["pseudo_dice"] = case_dice(z, pseudo, ~known, seen).scaled(c.alpha)
                found["pseudo_ce"] = partial_bce(z, pseudo, ~known, seen).scaled(c.alpha)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=not c.pretraining))

    @torch.no_grad()
    def _pseudo(self, taught: tuple[Tensor, ...], batch: Batch, r: Chunk) -> Bool[Tensor, "B r Z Y X"]:
        drawn = (self.teacher.score(taught, r) > 0) & batch.valid[:, None]
        return largest_components(drawn, ~batch.known[:, r] & self.single_R.to(r.device)[r])

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student; in the first stage, all the way."""
        ema_update(
            self.teacher,
            self.student,
            0.0 if self.config.pretraining else self.config.mu,
            buffers="copy" if self.config.pretraining else self.config.buffers,
        )

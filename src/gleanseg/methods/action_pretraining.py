"""ACTION++'s first stage: student and teacher agree on which earlier patches and windows a patch resembles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.ema import ema_copy, ema_update
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.levels import levels
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import cosine_wave
from gleanseg.parts.relations import Relations
from gleanseg.parts.windows import Windows
from gleanseg.types import Batch, Memo, Progress, Term, Views

Count = Annotated[int, Field(gt=0)]


@final
class ActionPretraining(Method):
    r"""Relations of a patch and of its windows to banks of a teacher's features, distilled; needs no label.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f(x), y) + k_1 \mathrm{KL}(r'_{latent} \Vert r_{latent}) +
    k_2 \mathrm{KL}(r'_{output} \Vert r_{output})$$
    $$r_n = \mathrm{softmax}_n \frac{\cos(q, m_n)}{\tau(t)}, \qquad
    \tau(t) = \tau_0 + (\tau_1 - \tau_0)\,\tfrac12 (1 + \cos 2 \pi t)$$

    m: teacher's features of the last patches. Latent: mean of the coarsest map on the way up. Output: logits of
    overlapping windows. $\tau_0$ is the student's or the teacher's, $\tau_1$ common to both.

    Paper: You et al., MICCAI 2023, https://arxiv.org/abs/2304.02689
    Deviations (from the released train_3D_pretrain++.py and model_3D.py; ``docs/methods/action_pretraining.md``):
        1. A window is compared with those of its place, case by case; released code mixes the axes up on the way.
        2. The teacher's heads are averages of the student's and get no gradient; released ones begin apart and learn.
        3. The teacher is in evaluation mode and moves after the step, by the same momentum.
        4. The student sees the strong view; released: jitter and blur, each of every second patch.
        5. The latent map is the decoder's after its convolutions; released: before them, after the skip.
        6. Windows are counted, not measured, and cover the patch; one logit per ROI enters a head of two channels.
        7. Temperatures follow steps, not epochs; the teacher's lowest is that of the released command, not the script.
        8. Dice is that of ROIs alone; windows and patches without a valid voxel take no part.
    """

    views = Views(names=("weak", "strong"), unlabelled=True)
    deploys = {"student": ("student",), "teacher": ("teacher",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights, temperatures, windows and sizes."""

        alpha: Share = 0.99
        k1: Annotated[float, Field(ge=0)] = 1.0  # of the latent relations
        k2: Annotated[float, Field(ge=0)] = 1.0  # of the output relations
        latent_alone: bool = False  # the published phase that trains what leads to the latent map, and nothing else
        low: Annotated[float, Field(gt=0)] = 0.1  # temperature of the student, at its lowest
        low_teacher: Annotated[float, Field(gt=0)] = 0.6
        high: Annotated[float, Field(gt=0)] = 1.0  # of both, at its highest
        bank: Count = 36  # patches that are remembered
        width: Count = 128  # numbers of a latent feature
        windows: tuple[Count, Count, Count] = (10, 10, 7)  # along x, y, z
        cells: Annotated[int, Field(gt=0, multiple_of=2)] = 4  # along each side of a window
        channels: Count = 2  # of a window's cells; published: the number of classes

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        net, (x, y, z) = build(), config.windows
        self.student, self.teacher, self.config = net, ema_copy(net), config
        self.windows = Windows((z, y, x), config.cells)
        deep, wide, per_place = net.decoder_channels[0], config.channels, config.cells**3
        self.latent = Relations(deep, deep, config.width, rows=config.bank)
        self.output = Relations(
            net.num_rois, 2 * wide, wide, rows=config.bank, places=self.windows.places, per_place=per_place
        )

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of known pairs; latent and output relations of all rows."""
        c, wave, w, seen = self.config, cosine_wave(progress.fraction), self.windows, self.windows.seen(batch.valid)
        tau, tau_T = (low + (c.high - low) * wave for low in (c.low, c.low_teacher))
        with torch.no_grad():
            _, up_T, features_T = levels(self.teacher.eval(), batch.x["weak"])
        _, up, features = levels(self.student, batch.x["strong"])

        q, k = (m.mean((2, 3, 4))[:, None] for m in (up[0], up_T[0]))
        q, k = self.latent.of_student(q), self.latent.of_teacher(k)
        latent, rows = self.latent.distil(q, k, seen.any(1, keepdim=True), tau=tau, teacher_tau=tau_T)
        found: dict[str, Term] = {"latent": latent.scaled(c.k1), "latent_bank": Memo(rows)}
        if c.latent_alone:
            return found

        with torch.no_grad():
            k = w.of(self.output.of_teacher(w.logits(self.teacher, features_T, batch)))
        q = w.of(self.output.of_student(w.logits(self.student, features, batch)))
        output, rows = self.output.distil(q, k, seen, tau=tau, teacher_tau=tau_T)

        def terms(r: Chunk) -> dict[str, Term]:
            told = self.student.score(features, r), batch.y(r), batch.known[:, r], batch.valid
            return {"dice": pooled_dice(*told, squared=True).scaled(0.5), "ce": partial_bce(*told).scaled(0.5)}

        supervised = over_rois(terms, batch, carrying(batch, progress, unknown=False))
        return supervised | found | {"output": output.scaled(c.k2), "output_bank": Memo(rows)}

    def remember(self, memos: Mapping[str, Tensor]) -> None:
        """Bank the teacher's features."""
        for relations, bank in ((self.latent, "latent_bank"), (self.output, "output_bank")):
            if bank in memos:
                relations.remember(memos[bank])

    def after_step(self, progress: Progress) -> None:
        """Move the teacher and its heads."""
        ema_update(self.teacher, self.student, self.config.alpha)
        for relations in (self.latent, self.output):
            ema_update(relations.project_teacher, relations.project, self.config.alpha)

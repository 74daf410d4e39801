"""ACTION++: pseudo labels on mixed structures, and features that part by class, towards centres spread beforehand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.pairs import valid_voxels
from gleanseg.parts.anatomy import Anatomy, of_classes
from gleanseg.parts.class_mix import draw_class_mix
from gleanseg.parts.ema import ema_copy, ema_update, warm_alpha
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.levels import levels
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.mixing import labels_where_known
from gleanseg.parts.points import draw_points
from gleanseg.parts.ramps import cosine_wave, sigmoid_ramp
from gleanseg.types import Batch, Memo, Progress, Term, Views


@final
class Action(Method):
    r"""Pseudo labels of a teacher under ClassMix, regional contrast on all and centred contrast on known voxels.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f(x), y) + \lambda(t)\,\rho\,\mathrm{BCE}(f(x), [p' > \tfrac12])
    + \beta\,(L_{reco} + L_{aac})$$
    $$\tau(t) = \tau_0 + (\tau_1 - \tau_0)\,\tfrac12 (1 + \cos 2 \pi n t)$$

    $\rho$: share of sure voxels. $L_{reco}$: InfoNCE of unsure voxels, their class's mean, voxels of similar classes.
    $L_{aac}$: contrast with the teacher's feature, a queue of such features, and spread centres, matched to classes.

    Paper: You et al., MICCAI 2023, https://arxiv.org/abs/2304.02689
    Deviations (``docs/methods/action.md`` says more):
        1. This is the second stage; the first one is ``action_pretraining``, by ``[[stage]]``.
        2. Contrast is of drawn voxels, whose features come from a perceptron. Classes: the ROIs, what lies in none.
        3. A class's queries share their negatives and are drawn once each; a voxel is no negative of its own classes.
        4. All unlabelled rows of a rank mix; the teacher sees the weak view in evaluation mode, the student the strong.
        5. The weight of pseudo labels rises.
        6. Centres are the simplex that descent would find; centroids follow the teacher; the queue starts empty.
        7. Dice is that of ROIs alone; pseudo labels are averaged over all voxels.
    """

    views = Views(names=("weak", "strong"), unlabelled=True)
    deploys = {"student": ("student",), "teacher": ("teacher",)}
    batchwise = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights, schedules, thresholds and sizes."""

        alpha: Share = 0.99
        lam: Annotated[float, Field(ge=0)] = 1.0
        ramp: Share = 0.1
        beta: Annotated[float, Field(gt=0)] = 0.01
        sure: Share = 0.97
        weak: Share = 0.7  # what the teacher must be sure of a voxel in the regional contrast
        low: Annotated[float, Field(gt=0)] = 0.1  # temperature of the regional contrast, rising and falling
        high: Annotated[float, Field(gt=0)] = 1.0
        waves: Annotated[float, Field(gt=0)] = 10.0  # of the temperature in a run
        queries: Annotated[int, Field(gt=0)] = 256  # of each class
        negatives: Annotated[int, Field(gt=0)] = 512
        queue: Annotated[int, Field(gt=0)] = 12288  # features of all classes
        width: Annotated[int, Field(gt=1)] = 128
        voxels: Annotated[int, Field(ge=0)] = 2**15  # of each patch, from which all these are drawn

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        net, self.config = build(), config
        self.student, self.teacher = net, ema_copy(net)
        self.anatomy = Anatomy(sum(net.decoder_channels), net.num_rois, width=config.width, queue=config.queue)

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision and pseudo labels of mixed rows, contrast of their voxels."""
        c, t = self.config, progress.fraction
        lam, tau = c.lam * sigmoid_ramp(t, length=c.ramp), c.low + (c.high - c.low) * cosine_wave(t, 1 / c.waves)
        with torch.no_grad():
            _, up_T, features_T = levels(self.teacher.eval(), batch.x["weak"])
            mix = draw_class_mix(batch, lambda r: self.teacher.score(features_T, slice(r, r + 1))[:, 0] > 0)
        mixed = mix.batch(batch)
        _, up, features = levels(self.student, mixed.x["strong"])

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known, valid = self.student.score(features, r), mixed.y(r), mixed.known[:, r], mixed.valid
            z_T = labels_where_known(self.teacher.score(features_T, r).detach(), batch.y(r), batch.known[:, r])
            p_T = mix.paste(z_T).sigmoid()
            sure = (torch.maximum(p_T, 1 - p_T) >= c.sure) & valid[:, None]
            rho = sure.sum((2, 3, 4)) / valid_voxels(valid).clamp_min(1)[:, None]
            return {
                "dice": pooled_dice(z, y, known, valid, squared=True).scaled(0.5),
                "ce": partial_bce(z, y, known, valid).scaled(0.5),
                "pseudo": partial_bce(z, p_T > 0.5, rho * ~known, valid).scaled(lam),
            }

        found, at = over_rois(terms, batch, carrying(batch, progress, unknown=True)), draw_points(mixed, c.voxels)
        z, z_T = at.score(self.student, features).detach(), mix.score(self.teacher, features_T, at)
        known = mixed.known[..., None]
        p, p_T = of_classes(z.sigmoid()), of_classes(torch.where(known, at.y, z_T.sigmoid()))
        member = (p_T > 0.5) & at.valid[:, None]
        likely = member & (p_T >= c.weak)
        asking = likely & (p < c.sure)
        labelled = member & mix.whole_B[:, None, None] & torch.cat([known, known.all(1, keepdim=True)], 1)
        f, f_T = self.anatomy.of_student(up, at), self.anatomy.of_teacher(up_T, at)
        reco = self.anatomy.regional(f, member, likely, asking, batch.key, c.queries, c.negatives, temperature=tau)
        aac, rows = self.anatomy.centred(f, f_T, labelled, batch.key, c.queries)
        return found | {"regional": reco.scaled(c.beta), "anatomical": aac.scaled(c.beta), "queue": Memo(rows)}

    def remember(self, memos: Mapping[str, Tensor]) -> None:
        """Queue the teacher's features of known voxels."""
        self.anatomy.remember(memos["queue"])

    def after_step(self, progress: Progress) -> None:
        """Move the teacher and its projection."""
        for of_teacher, own in ((self.teacher, self.student), (self.anatomy.project_teacher, self.anatomy.project)):
            ema_update(of_teacher, own, warm_alpha(progress.step, self.config.alpha))

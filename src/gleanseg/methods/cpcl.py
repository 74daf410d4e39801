"""Cyclic prototype consistency: labelled features segment unlabelled images, and what comes out segments them back."""

from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse, mse_of_logits
from gleanseg.losses.dice import pooled_dice
from gleanseg.networks.network import Network
from gleanseg.parts.ema import ema_copy, ema_update, warm_alpha
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.levels import levels
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.mixing import clipped_noise
from gleanseg.parts.prototypes import partners, prototypes, resemblance
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class CPCL(Method):
    r"""Prototypes of a labelled row l and of an unlabelled row u segment each other's features F.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(f_\theta(x_l), y_l) + \lambda(t)\,\big[
    \| p(F_u, c_l) - p'_u \|^2 + \mu\,\mathrm{BCE}(p(F_l, c_u), y_l) \big]$$
    $$c = \frac{\sum_v F_v\,[v \in c]\,p_v(c)}{\sum_v [v \in c]\,p_v(c)}, \qquad
    p(F, c) = \mathrm{softmax}(\alpha \cos(F, c))$$

    where the student $\theta$ sees l, the teacher $\theta'$ sees u and gives $p'_u$, and classes are the inside and the
    outside of an ROI, of the label in l and of the prediction in u.

    Paper: Xu et al., JBHI 2022, https://arxiv.org/abs/2109.13930
    Deviations:
        1. Row j of the unlabelled stream is paired with labelled row j, from the first again where there are fewer; a
           labelled row learns the ROIs that it does not know from the next one.
        2. Prototypes and similarities are made on the features' own grid; drop-out of a bottleneck comes before them.
        3. The teacher is in evaluation mode and copies the student's normalisation statistics.
        4. Released code cuts the gradient of both cyclic terms and lets the student follow the teacher's logits under
           noise, which the paper discards: ``released = true`` only watches the former and trains by the latter.
        5. Dice is that of the ROI, without background's; the ramp is a share of the run, not 40 times 150 steps.
        6. The way back takes the logarithm of one soft-max, not of a second one; confidences get no gradient.
    """

    views = Views(names=("weak", "strong"), unlabelled=True)
    deploys = {"student": ("student",), "teacher": ("teacher",)}
    batchwise = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights, schedules and features."""

        alpha: Share = 0.99
        lam: Annotated[float, Field(ge=0)] = 0.1
        ramp: Share = 0.4
        mu: Annotated[float, Field(ge=0)] = 10.0
        """Weight of the way back, relative to ``lam``."""
        scale: Annotated[float, Field(gt=0)] = 20.0
        level: Literal["decoder", "bottleneck"] = "decoder"
        """Features: the map before the decoder's last step up, or the encoder's last."""
        released: bool = False
        noise: Annotated[float, Field(ge=0)] = 0.1  # of the teacher as released, clipped at twice that

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.student = build()
        self.teacher = ema_copy(self.student)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known pairs; both ways of the cycle where the partner knows what a row does not."""
        x, c, of = batch.x["weak"], self.config, partners(batch)
        F, features = self._seen(self.student, batch.x["strong"])
        with torch.no_grad():
            F_T, features_T = self._seen(self.teacher.eval(), x)
            noise = clipped_noise(x, batch.key, c.noise, bound=2 * c.noise, salt=0)
            noisy = self.teacher.features(x + noise) if c.released else ()
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def logits(F: Tensor, classes: tuple[Tensor, Tensor]) -> Tensor:
            return resemblance(F, *classes, tuple(x.shape[2:]), scale=c.scale)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known, valid = self.student.score(features, r), batch.y(r), batch.known[:, r], batch.valid
            z_T = self.teacher.score(features_T, r).detach()
            c_l, c_u = _classes(F, y, z, batch), _classes(F_T, (z_T > 0).float(), z_T, batch)
            there = mse(logits(F_T, (c_l[0][of], c_l[1][of])), z_T, ~known & known[of], valid)
            back = partial_bce(logits(F[of], c_u), y[of], ~known & known[of], valid[of])
            found: dict[str, Term] = {
                "dice": pooled_dice(z, y, known, valid, squared=True).scaled(0.5),
                "ce": partial_bce(z, y, known, valid).scaled(0.5),
                "there": there.watched() if c.released else there.scaled(lam),
                "back": back.watched() if c.released else back.scaled(c.mu * lam),
            }
            if c.released:
                z_noisy = self.teacher.score(noisy, r).detach()
                found["stable"] = mse_of_logits(z, z_noisy, torch.ones_like(known), valid).scaled(lam / 4)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

    def _seen(self, network: Network, x: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        down, up, features = levels(network, x)
        return [down[-1], *up][-2 if self.config.level == "decoder" else 0], features

    def after_step(self, progress: Progress) -> None:
        """Move the teacher towards the student."""
        ema_update(self.teacher, self.student, warm_alpha(progress.step, self.config.alpha))


def _classes(F: Tensor, inside: Tensor, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Prototypes of the inside and the outside."""
    valid, p = batch.valid[:, None], z.detach().float().sigmoid()
    return prototypes(F, inside * p * valid), prototypes(F, (1 - inside) * (1 - p) * valid)

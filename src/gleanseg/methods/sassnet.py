"""SASSNet: an adversary sees to it that distances predicted for unlabelled cases have the shapes of labelled ones."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from gleanseg.config import OptimizerConfig, Share
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.distance import distance_mse
from gleanseg.networks.blocks import Width
from gleanseg.parts.adversary import Critic, critic_optimizer, deceived, discerning
from gleanseg.parts.distance import distance_head, signed_distances
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.modes import batch_statistics
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class SASSNet(Method):
    r"""Known ROIs teach masks p and signed distances s; the adversary D judges distances beside the image.

    $$L = \mathrm{Dice}\,(p, y) + \alpha\,\|s - \mathrm{sdf}(y)\|^2 - \lambda(t)\,\ln D(s, x)_{unknown},
    \qquad L_D = \mathrm{BCE}\,(D(s, x), [known])$$

    where $s = \tanh(h_s(f))$ of the network's last map f, and sdf is negative inside. The players take turns on each
    batch.

    Paper: Li et al., MICCAI 2020, https://arxiv.org/abs/2007.10732
    Deviations (from the released train_gan_sdfloss.py):
        1. D has one logit per ROI and sees the distances of all ROIs: a case may know some and not others. Distances
           of known ROIs are not moved to deceive it.
        2. D learns from passes without drop-out but with the batch's statistics, not running ones that lag behind.
        3. A patch without the ROI is outside everywhere (s = 1), where released distances are 0; distances are in mm.
        4. The ramp is a share of the run, not 40 times 150 steps. Adam has PyTorch's second beta, 0.999, not 0.99.
    """

    views = Views(names=("strong",), unlabelled=True)
    players = ("main", "critic")
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedule."""

        alpha: Annotated[float, Field(ge=0)] = 0.3
        """Weight of the distances."""
        lam: Annotated[float, Field(ge=0)] = 0.01
        """Weight of the adversary after the ramp; released: 0.01 with 16 labelled cases, 0.015 with 8."""
        ramp: Share = 0.4
        critic_lr: Annotated[float, Field(gt=0)] = 1e-4
        critic_width: Width = 64
        """Channels of the adversary's first map; each further one has twice as many."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.distance = distance_head(self.net)
        self.critic = Critic(build.num_channels, self.net.num_rois, width=config.critic_width)
        self.config = config

    def optimizer_of(self, player: str, recipe: OptimizerConfig) -> OptimizerConfig:
        """The adversary has its own."""
        return critic_optimizer(self.config.critic_lr) if player == "critic" else recipe

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Main: masks and distances on known pairs, deception on unknown ones. Critic: known or not."""
        return self._critic_turn(batch) if player == "critic" else self._main_turn(batch, progress)

    def _main_turn(self, batch: Batch, progress: Progress) -> dict[str, Term]:
        c, x, valid = self.config, batch.x["strong"], batch.valid
        maps, f = self._maps(x)
        features = self.net.head.features(maps, f)
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, h = self.net.score(features, r), self.distance.score((f,), r)
            y, known = batch.y(r), batch.known[:, r]
            sdf = signed_distances(y, known, valid, batch.spacing_mm)
            return {
                "dice": pooled_dice(z, y, known, valid, squared=True),
                "distance": distance_mse(h, sdf, known, valid).scaled(c.alpha),
            }

        found = over_rois(terms, batch, carrying(batch, progress, unknown=False))
        adversarial = deceived(self.critic, x, lambda r: self.distance.score((f,), r).tanh(), batch)
        return found | {"adversarial": adversarial.scaled(lam)}

    def _critic_turn(self, batch: Batch) -> dict[str, Term]:
        x = batch.x["strong"]
        with torch.no_grad(), batch_statistics(self.net):
            _, f = self._maps(x)
        return {"critic": discerning(self.critic, x, lambda r: self.distance.score((f,), r).tanh(), batch)}

    def _maps(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        maps = self.net.encoded(x)
        return maps, self.net.decode(maps)[-1]

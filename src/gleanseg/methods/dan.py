"""Deep adversarial network: an adversary sees to it that unlabelled cases are segmented like labelled ones."""

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field

from gleanseg.config import OptimizerConfig, Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.networks.blocks import Width
from gleanseg.parts.adversary import Critic, critic_optimizer, deceived, discerning
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.modes import quiet_features
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class DAN(Method):
    r"""Known ROIs learn from labels; the adversary E judges probabilities beside the image, unknown ROIs deceive it.

    $$L = \tfrac12\,[\mathrm{Dice} + \mathrm{BCE}]\,(p, y) - \lambda(t)\,\ln E(p, x)_{unknown},
    \qquad L_E = \mathrm{BCE}\,(E(p, x), [known])$$

    The players take turns on each batch.

    Paper: Zhang et al., Deep adversarial networks, MICCAI 2017, https://doi.org/10.1007/978-3-319-66179-7_47
    Deviations (from the code that semi-supervised segmentation compares with, SSL4MIS, itself a 3D version):
        1. E has one logit per ROI and sees the probabilities of all ROIs: a case may know some and not others.
           Probabilities of known ROIs are not moved to deceive it.
        2. E learns from passes without drop-out but with the batch's statistics, not running ones that lag behind.
        3. The ramp is a share of the run, not 200 times 150 steps. Adam has PyTorch's second beta, 0.999, not 0.99.
        4. Dice is linear and of ROIs alone; released, with squares in the denominator, and of background, too.
    """

    views = Views(names=("strong",), unlabelled=True)
    players = ("main", "critic")
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weight and schedule."""

        lam: Annotated[float, Field(ge=0)] = 0.1
        """Weight of the adversary after the ramp."""
        ramp: Share = 1.0
        critic_lr: Annotated[float, Field(gt=0)] = 1e-4
        critic_width: Width = 64
        """Channels of the adversary's first map; each further one has twice as many."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.critic = Critic(build.num_channels, self.net.num_rois, width=config.critic_width)
        self.config = config

    def optimizer_of(self, player: str, recipe: OptimizerConfig) -> OptimizerConfig:
        """The adversary has its own."""
        return critic_optimizer(self.config.critic_lr) if player == "critic" else recipe

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Main: supervision on known, deception on unknown pairs. Critic: known or not."""
        return self._critic_turn(batch) if player == "critic" else self._main_turn(batch, progress)

    def _main_turn(self, batch: Batch, progress: Progress) -> dict[str, Term]:
        x = batch.x["strong"]
        features = self.net.features(x)
        lam = self.config.lam * sigmoid_ramp(progress.fraction, length=self.config.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.net.score(features, r), batch.y(r), batch.known[:, r]
            return {
                "dice": pooled_dice(z, y, known, batch.valid).scaled(0.5),
                "ce": partial_bce(z, y, known, batch.valid).scaled(0.5),
            }

        found = over_rois(terms, batch, carrying(batch, progress, unknown=False))
        adversarial = deceived(self.critic, x, lambda r: self.net.score(features, r).sigmoid(), batch)
        return found | {"adversarial": adversarial.scaled(lam)}

    def _critic_turn(self, batch: Batch) -> dict[str, Term]:
        x = batch.x["strong"]
        f = quiet_features(self.net, x)
        return {"critic": discerning(self.critic, x, lambda r: self.net.score(f, r).sigmoid(), batch)}

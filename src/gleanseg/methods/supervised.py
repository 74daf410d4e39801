"""Supervised learning from what is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.networks.network import Network
from gleanseg.parts.method import Method
from gleanseg.types import Batch, Progress, Term, Views


@final
class Supervised(Method):
    r"""Dice and cross-entropy on known (case, ROI) pairs; unknown ROIs take no part.

    $$L = w_{Dice}\,\mathrm{Dice}(f_\theta(x), y) + w_{CE}\,\mathrm{BCE}(f_\theta(x), y)$$

    Paper: Isensee et al., nnU-Net, Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z (loss).
    Deviations:
        1. One sigmoid per ROI instead of a soft-max, as ROIs nest and are known one by one.
        2. An ROI without any reference voxel in the batch is left to the cross-entropy.
    """

    views = Views(names=("strong",))
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights of the two terms."""

        dice: float = 1.0
        ce: float = 1.0

    def __init__(self, build: Callable[[], Network], config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Both terms on the strong view."""
        z, y = self.net(batch.x["strong"]), batch.y()
        return {
            "dice": pooled_dice(z, y, batch.known, batch.valid).scaled(self.config.dice),
            "ce": partial_bce(z, y, batch.known, batch.valid).scaled(self.config.ce),
        }

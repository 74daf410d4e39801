"""Supervised learning from what is known."""

from dataclasses import dataclass
from typing import final

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
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

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Both terms on the strong view."""
        features = self.net.features(batch.x["strong"])

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = self.net.score(features, r), batch.y(r), batch.known[:, r]
            return {
                "dice": pooled_dice(z, y, known, batch.valid).scaled(self.config.dice),
                "ce": partial_bce(z, y, known, batch.valid).scaled(self.config.ce),
            }

        return over_rois(terms, batch, carrying(batch, progress, unknown=False))

"""DoDNet: one network for partially labelled data sets, its head made on demand for each task."""

from dataclasses import dataclass
from typing import final

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import case_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.types import Batch, Progress, Term, Views


@final
class DoDNet(Method):
    r"""Dice per case and cross-entropy on known ROIs, with a head whose weights depend on image and task.

    $$L = \Big(1 - \frac{2 \sum p y}{\sum p + \sum y + 1}\Big) + \mathrm{BCE}\,(f_\theta(x, e_k), y)$$

    The parts of the paper that are no loss stand in the recipe: ``[network] name = "dodnet_unet"`` (weight
    standardisation), ``[head] name = "dynamic"`` with ``codes = "one_hot"``, ``projection = 0`` and ``groups`` of the
    ROIs that one data set annotates, and ``[predict] mirror = true``, which averages eight flips.

    Paper: Zhang et al., CVPR 2021, https://arxiv.org/abs/2011.10217
    Deviations:
        1. Known (case, ROI) pairs count alike, instead of the means of the organ and of the tumor channel.
        2. A case may know ROIs of several tasks; each is computed by its own task's head in one pass.
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
                "dice": case_dice(z, y, known, batch.valid, smooth=0.0, margin=1.0).scaled(self.config.dice),
                "ce": partial_bce(z, y, known, batch.valid).scaled(self.config.ce),
            }

        return over_rois(terms, batch, carrying(batch, progress, unknown=False))

"""Marginal and exclusion loss: one soft-max in which what is not annotated is merged into background."""

from dataclasses import dataclass
from typing import final

from gleanseg.errors import UserError
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.marginal import exclusion_ce, marginal_ce, marginal_dice
from gleanseg.parts.method import Blueprint, Method
from gleanseg.types import Batch, Progress, Term, Views


@final
class Marginal(Method):
    r"""Soft-max over background and ROIs that exclude each other; a sigmoid for each inner ROI, which shares voxels.

    $$L = -\log \sum_{c \in S} p_c + w_d\,\mathrm{Dice}_{known} - w_e \log \Big(1 - \sum_{u\,unknown} p_u\Big)_{y}
    + \big[ w_d\,\mathrm{Dice} + \mathrm{BCE} \big]_{inner}$$

    S is a voxel's annotated ROI, or elsewhere background together with all ROIs that nobody annotated in that case. The
    exclusion term says that where a known ROI is annotated none of the unknown ones can be.

    Paper: Shi et al., Medical Image Analysis 2021, https://arxiv.org/abs/2007.03868
    Deviations:
        1. One soft-max cannot hold two ROIs of one voxel: an ROI that lies in another of the run's (a tumor in its
           organ) is inner; the organ is not, unless it may share voxels with a further ROI that lies in none.
        2. The exclusion term is a cross-entropy, not a Dice, which also falls when the unknown ROI grows elsewhere.
        3. A voxel belongs to an ROI where its logit is above background's, 0; among exclusive ROIs the largest wins.
    """

    views = Views(names=("strong",))
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights of the terms."""

        dice: float = 1.0
        exclusion: float = 1.0

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.config = config
        tops = [roi for roi in build.rois if not set(build.ontology.containing(roi)) & set(build.rois)]
        alone = {a for a in tops if not any(build.ontology.may_overlap(a, b) for b in tops if b != a)}
        self.leaves = [r for r, roi in enumerate(build.rois) if roi in alone]
        self.inner = [r for r, roi in enumerate(build.rois) if roi not in alone]
        if len(self.leaves) < 2:
            raise UserError("[method] marginal: needs at least two ROIs that exclude each other; use 'supervised'")

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Soft-max terms on disjoint ROIs, sigmoid terms on the others."""
        z, y = self.net(batch.x["strong"]), batch.y()
        leaves = (z[:, self.leaves], y[:, self.leaves], batch.known[:, self.leaves], batch.valid)
        terms: dict[str, Term] = {
            "ce": marginal_ce(*leaves),
            "dice": marginal_dice(*leaves).scaled(self.config.dice),
            "exclusion": exclusion_ce(*leaves).scaled(self.config.exclusion),
        }
        if self.inner:
            inner = (z[:, self.inner], y[:, self.inner], batch.known[:, self.inner], batch.valid)
            terms |= {"dice_inner": pooled_dice(*inner).scaled(self.config.dice), "ce_inner": partial_bce(*inner)}
        return terms

"""The ROI-aware network: which structures are in a patch."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.presence import LEAST_MM3, presence_of
from gleanseg.types import Batch, Mean, Progress, Term, Views


@final
class Presence(Method):
    r"""Multi-label classification of patches, over (patch, ROI) pairs whose presence is certain.

    $$L = \mathrm{BCE}\,(g(x_T), s), \qquad s_r = [\mathrm{volume}_r(x_T) \ge v]$$

    The volume is counted in mm3 on the augmented patch; slivers between 0 and v teach nothing. On a partially labelled
    manifest the pairs of unknown ROIs teach nothing either, so that no fully labelled data set is needed.

    Paper: Zhao et al., MICCAI 2024 (ROI-aware network)
    Deviations and choices where the paper is silent:
        1. No class weights: thresholds on scores presuppose that scores are calibrated.
        2. ``merge_sides``: a sided ROI counts as present where either side is, so that training may flip x.
    """

    views = Views(names=("weak",))
    deploys = {"net": ("net",)}
    networks = "networks.classifiers"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What counts as present."""

        least_mm3: Annotated[float, Field(gt=0)] = LEAST_MM3
        """A smaller volume teaches nothing."""
        merge_sides: bool = False
        """Do not tell left from right."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        assert build.classifier is not None, "the engine gives methods of this room a classifier"
        self.net = build.classifier()
        self.config = config
        index = {roi: r for r, roi in enumerate(build.rois)}
        mirrored = [index.get(build.ontology.mirror(roi), r) for r, roi in enumerate(build.rois)]
        self.mirrored = mirrored

    @classmethod
    def tells_sides(cls, config: Config) -> bool:
        """See ``Method``."""
        return not config.merge_sides

    def labels(self, batch: Batch) -> tuple[Bool[Tensor, "B R"], Bool[Tensor, "B R"]]:
        """Presence of each ROI, and whether it is certain."""
        present, sure = presence_of(batch, least_mm3=self.config.least_mm3)
        if not self.config.merge_sides:
            return present, sure
        # Either side there: present. Both known: certain, as is one that is surely there.
        there = present & sure
        either = there | there[:, self.mirrored]
        return either, either | (sure & sure[:, self.mirrored])

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """One cross-entropy per certain pair."""
        present, sure = self.labels(batch)
        loss = functional.binary_cross_entropy_with_logits(
            self.net(batch.x["weak"]).float(), present.float(), reduction="none"
        )
        return {"ce": Mean(torch.where(sure, loss, 0).sum(), sure.sum().float())}

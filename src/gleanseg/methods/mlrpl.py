"""Mutual learning with reliable pseudo labels: two decoders teach each other where they are the surer one."""

from dataclasses import dataclass
from typing import Annotated, final

import torch
from pydantic import Field

from gleanseg.config import Share
from gleanseg.losses.bce import bce_where, partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.branches import Branches
from gleanseg.parts.class_prototypes import reliability
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.parts.watch import voxel_share
from gleanseg.types import Batch, Progress, Term, Views

_OTHER = {"1": "2", "2": "1"}


@final
class MLRPL(Method):
    r"""One encoder and decoders 1 and 2, which learn known ROIs from labels, and all from the surer one's hard labels.

    $$L = \sum_i \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(p_i, y) + \lambda(t) \sum_{i \ne j}
    \frac{\sum_v M_{ij}\,r_j\,\mathrm{BCE}(p_i, [p_j > \tfrac12])}{\sum_v M_{ij}},\qquad M_{ij} = [H(p_i) > H(p_j)]$$

    and $r_j = \tfrac12 \sum_c 1 - (\cos(f_j, \bar f_{j,c}) - p_{j,c})^2$ over an ROI and its surroundings c, with j's
    last map $f_j$ and its mean over what j draws as c. The second decoder goes up by repeating voxels.

    Paper: Su et al., Medical Image Analysis 2024, https://doi.org/10.1016/j.media.2024.103111
    Deviations (from the released train_Mutual_Reliable.py):
        1. Published without the cross-entropy: ``ce = 0``. Dice alone says nothing of patches that are known not to
           hold an ROI, which is no matter for an atrium.
        2. One sigmoid, and one pair of mean features, per ROI; r is at least 0, which matters to leaky activations.
        3. The ramp is a share of the run, not 40 times 150 steps.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Weights and schedule."""

        lam: Annotated[float, Field(ge=0)] = 1.0
        ramp: Share = 0.4
        ce: Annotated[float, Field(ge=0)] = 1.0
        everywhere: bool = True
        """Teach each other known ROIs, too, as the paper."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.branches = Branches(build, 2, kernel=3, ways=("nearest", "transposed"))
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of both decoders on known pairs, the surer one's labels."""
        c, (other,), valid = self.config, self.branches, batch.valid
        maps, heads = self.net.encoded(batch.x["strong"]), {"1": self.net.head, "2": other.head}
        f = {"1": self.net.decode(maps)[-1], "2": other.decoder(maps)[-1]}
        read = {i: heads[i].features(maps, f[i]) for i in f}
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp)

        def terms(r: Chunk) -> dict[str, Term]:
            y, known = batch.y(r), batch.known[:, r]
            taught = torch.ones_like(known) if c.everywhere else ~known
            z = {i: heads[i].score(read[i], r) for i in f}
            found: dict[str, Term] = {}
            for i, j in _OTHER.items():
                with torch.no_grad():
                    surer = z[i].abs() < z[j].abs()  # entropy falls with the distance from one half
                    r_j = reliability(f[j], z[j].float().sigmoid(), valid)
                found[f"dice_{i}"] = pooled_dice(z[i], y, known, valid).scaled(0.5)
                found[f"ce_{i}"] = partial_bce(z[i], y, known, valid).scaled(0.5 * c.ce)
                found[f"mutual_{i}"] = bce_where(z[i], z[j] > 0, surer, r_j, taught, valid).scaled(lam)
                found[f"learns_{i}"] = voxel_share(surer, taught, valid)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

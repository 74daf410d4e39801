"""URPC: predictions at several scales of one decoder agree with their mean where they do not differ too much."""

from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.config import Share
from gleanseg.errors import UserError
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.pyramid import pyramid_consistency
from gleanseg.networks.blocks import Rate
from gleanseg.networks.heads.fixed import FixedHead
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.perturb import channel_dropout
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views


@final
class URPC(Method):
    r"""A head on each of the decoder's last S maps learns known ROIs, and agrees with the others on unknown ones.

    $$L = \frac1S \sum_{s=1}^S \tfrac12\,[\mathrm{Dice} + \mathrm{BCE}]\,(p_s, y) + \lambda(t)\,\frac1S \sum_{s=1}^S
    \Big[ \frac{\langle (m - p_s)^2 e^{-D_s} \rangle}{\langle e^{-D_s} \rangle} + \langle D_s \rangle \Big],
    \qquad m = \tfrac1S \sum_s p_s,\quad D_s = \mathrm{KL}(m \,\|\, p_s)$$

    where $p_s$ is the sigmoid of logits brought to the full grid by trilinear interpolation.

    Paper: Luo et al., MICCAI 2021, https://arxiv.org/abs/2012.07042
    Deviations (from the code that semi-supervised segmentation compares with, SSL4MIS):
        1. Channels drop out before the further heads alone; what the network drops is its own matter.
        2. One sigmoid per ROI; means over voxels are an ROI's own. Dice is linear and of ROIs alone; released, with
           squares in the denominator, and of background, too.
        3. The ramp is the whole run, as in the paper; the released BraTS run ends before it does, at 0.29 of it.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Scales, weight and schedule."""

        lam: Annotated[float, Field(ge=0)] = 0.1
        ramp: Share = 1.0
        dropout: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.5, 0.3, 0.2)
        """Share of channels dropped before each further head, coarsest first: as many scales besides the full one."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        coarse = self.net.decoder_channels[:-1]
        if not coarse:
            raise UserError("[method] urpc: a network of two levels decodes at one scale; choose one of more levels")
        self.rates = config.dropout[max(0, len(config.dropout) - len(coarse)) :]
        self.heads = nn.ModuleList(FixedHead(c, self.net.num_rois) for c in coarse[len(coarse) - len(self.rates) :])
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision of every scale on known, agreement with their mean on unknown pairs."""
        maps = self.net.encoded(batch.x["strong"])
        decoded = self.net.decode(maps)
        features = self.net.head.features(maps, decoded[-1])
        coarse = self._dropped(decoded[:-1], batch)
        lam = self.config.lam * sigmoid_ramp(progress.fraction, length=self.config.ramp)
        share = 0.5 / (1 + len(self.heads))

        def terms(r: Chunk) -> dict[str, Term]:
            y, known = batch.y(r), batch.known[:, r]
            z = [_upsampled(head.score((f,), r), y) for head, f in zip(self.heads, coarse, strict=True)]  # type: ignore[operator]
            z.append(self.net.score(features, r))
            found: dict[str, Term] = {}
            for s, z_s in enumerate(z):
                found[f"dice_{s}"] = pooled_dice(z_s, y, known, batch.valid).scaled(share)
                found[f"ce_{s}"] = partial_bce(z_s, y, known, batch.valid).scaled(share)
            found["pyramid"] = pyramid_consistency(z, ~known, batch.valid).scaled(lam)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

    def _dropped(self, coarse: list[Tensor], batch: Batch) -> list[Tensor]:
        last = coarse[len(coarse) - len(self.rates) :]
        return [
            channel_dropout(f, batch.key, rate, salt=i)
            for i, (f, rate) in enumerate(zip(last, self.rates, strict=True))
        ]


def _upsampled(z: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(z, size=like.shape[2:], mode="trilinear", align_corners=False)

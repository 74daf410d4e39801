"""Cross-consistency training: decoders that see perturbed features agree with the one that sees them as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from gleanseg.config import Share
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.consistency import mse
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.fold import Chunk, carrying, over_rois
from gleanseg.parts.method import Blueprint, Method
from gleanseg.parts.perturb import feature_drop, feature_dropout, feature_noise
from gleanseg.parts.ramps import sigmoid_ramp
from gleanseg.types import Batch, Progress, Term, Views

_OTHERS = ("noise", "dropout", "drop")


@final
class CCT(Method):
    r"""One encoder e, a main decoder d, and decoders $d_k$ that see perturbed maps and imitate it on unknown ROIs.

    $$L = \tfrac12 (\mathrm{Dice} + \mathrm{BCE})(d(e(x)), y) + \lambda(t)\,\tfrac13 \sum_{k=1}^3
    \| p(d_k(\pi_k(e(x)))) - p(d(e(x))) \|^2$$

    with $\pi$ noise on the activations, drop-out, and dropping of the most active places, on every level.

    Paper: Ouali et al., CVPR 2020, https://arxiv.org/abs/2003.09005
    Deviations:
        1. The paper perturbs the encoder's last map, for 30 decoders; a U-Net's skips would carry the rest around it,
           so that all levels are perturbed, for three decoders, as the code does that segmentation compares with
           (SSL4MIS, in two dimensions only).
        2. Released code teaches all four decoders known ROIs, each a quarter of the supervision, and lets the main one
           follow the others, too: ``teach_all`` and ``both_ways``.
        3. All decoders share the head; draws are a row's own, not the batch's.
        4. The ramp is a share of the run, not 200 times 150 steps.
        5. Dice is linear and of ROIs alone; released, with squares in the denominator, and of background, too.
    """

    views = Views(names=("strong",), unlabelled=True)
    deploys = {"net": ("net",)}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Perturbations, weight and schedule."""

        lam: Annotated[float, Field(ge=0)] = 0.1
        ramp: Share = 0.4
        noise: Annotated[float, Field(ge=0)] = 0.3
        """Amplitude, as a share of each activation."""
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
        drop: tuple[float, float] = (0.7, 0.9)
        """Places above this share of the largest mean activation are dropped; drawn between the two."""
        teach_all: bool = False
        """Known ROIs teach every decoder, as released."""
        both_ways: bool = False
        """The main decoder follows the others, too, as released."""

    def __init__(self, build: Blueprint, config: Config) -> None:
        super().__init__(build, config)
        self.net = build()
        self.decoders = nn.ModuleList(self.net.new_decoder() for _ in _OTHERS)
        self.config = config

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        """Supervision on known, agreement of the decoders on unknown pairs."""
        c, head = self.config, self.net.head
        maps = self.net.encoded(batch.x["strong"])
        main = head.features(maps, self.net.decode(maps)[-1])
        perturbed = [[self._perturb(k, m, batch, salt=i) for i, m in enumerate(maps)] for k in _OTHERS]
        others = [head.features(m, decoder(m)[-1]) for m, decoder in zip(perturbed, self.decoders, strict=True)]
        lam = c.lam * sigmoid_ramp(progress.fraction, length=c.ramp) / len(_OTHERS)

        share = 0.5 / (1 + len(_OTHERS) if c.teach_all else 1)

        def terms(r: Chunk) -> dict[str, Term]:
            z, y, known = head.score(main, r), batch.y(r), batch.known[:, r]
            found: dict[str, Term] = {
                "dice": pooled_dice(z, y, known, batch.valid).scaled(share),
                "ce": partial_bce(z, y, known, batch.valid).scaled(share),
            }
            for name, features in zip(_OTHERS, others, strict=True):
                z_k = head.score(features, r)
                found[f"agree_{name}"] = mse(z_k, z, ~known, batch.valid).scaled(lam)
                if c.both_ways:
                    found[f"follow_{name}"] = mse(z, z_k, ~known, batch.valid).scaled(lam)
                if c.teach_all:
                    found[f"dice_{name}"] = pooled_dice(z_k, y, known, batch.valid).scaled(share)
                    found[f"ce_{name}"] = partial_bce(z_k, y, known, batch.valid).scaled(share)
            return found

        return over_rois(terms, batch, carrying(batch, progress, unknown=True))

    def _perturb(self, kind: str, one: Tensor, batch: Batch, *, salt: int) -> Tensor:
        c = self.config
        kinds: dict[str, Callable[[], Tensor]] = {
            "noise": lambda: feature_noise(one, batch.key, c.noise, salt=salt),
            "dropout": lambda: feature_dropout(one, batch.key, c.dropout, salt=salt),
            "drop": lambda: feature_drop(one, batch.key, c.drop, salt=salt),
        }
        return kinds[kind]()

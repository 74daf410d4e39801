"""Three methods that stretch the interface: two players, side outputs, two stages with a memory.

They are here, and not in the package, because they have no paper; they pass the same contracts as every method.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts.method import Blueprint, Method
from gleanseg.types import Batch, Mean, Progress, Term, Views


@final
class Adversarial(Method):
    """Two players: a critic tells labelled from unlabelled predictions, the network deceives it."""

    views = Views(names=("weak",), unlabelled=True)
    players = ("main", "critic")
    deploys = {"net": ("net",)}

    def __init__(self, build: Blueprint, config: object) -> None:
        super().__init__(build, config)
        self.net = build()
        self.critic = nn.Sequential(
            nn.Conv3d(self.net.num_rois, 4, 4, stride=4),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 1),
        )

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        z = self.net(batch.x["weak"])
        labelled = (torch.arange(len(z), device=z.device) < batch.num_labelled).float()
        if player == "critic":
            return {"critic": _mean(self._critic_loss(z.detach(), labelled))}
        fooled = self._critic_loss(z, torch.ones_like(labelled))[batch.num_labelled :]
        return {
            "ce": partial_bce(z, batch.y(), batch.known, batch.valid),
            "adversarial": _mean(fooled).scaled(0.1),
        }

    def _critic_loss(self, z: Tensor, target: Tensor) -> Tensor:
        score = self.critic(z.sigmoid())[:, 0].float()
        return functional.binary_cross_entropy_with_logits(score, target, reduction="none")


@final
class SideOutputs(Method):
    """Supervision at every resolution of the decoder, by heads that the method attaches from outside."""

    views = Views(names=("weak",))
    deploys = {"net": ("net",)}

    def __init__(self, build: Blueprint, config: object) -> None:
        super().__init__(build, config)
        self.net = build()
        self.heads = nn.ModuleList(nn.Conv3d(c, self.net.num_rois, 1) for c in self.net.decoder_channels[:-1])

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        maps = self.net.encode(batch.x["weak"])
        *coarse, full = self.net.decode(maps)
        y = batch.y()
        terms: dict[str, Term] = {"dice": pooled_dice(self.net.logits(maps, full), y, batch.known, batch.valid)}
        for i, (head, features) in enumerate(zip(self.heads, coarse, strict=True)):
            z = functional.interpolate(head(features).float(), size=y.shape[2:], mode="trilinear")
            terms[f"ce_{i}"] = partial_bce(z, y, batch.known, batch.valid)
        return terms


@final
class Memory(Method):
    """A queue of bottleneck features that the batch is compared with; it can start from another method's network."""

    views = Views(names=("weak", "strong"), unlabelled=True)
    deploys = {"net": ("net",)}
    batchwise = True

    def __init__(self, build: Blueprint, config: object) -> None:
        super().__init__(build, config)
        self.net = build()
        self.register_buffer("queue", torch.randn(8, self.net.channels[-1], generator=torch.Generator().manual_seed(0)))
        self.register_buffer("newest", torch.zeros_like(self.queue[:2]))

    def forward(self, batch: Batch, progress: Progress, player: str = "main") -> dict[str, Term]:
        maps = self.net.encode(batch.x["strong"])
        z = self.net.logits(maps, self.net.decode(maps)[-1])
        pooled = maps[-1].float().mean((2, 3, 4))
        with torch.no_grad():
            self.newest.copy_(self.net.encode(batch.x["weak"])[-1].float().mean((2, 3, 4))[:2])
        distance = (pooled[:, None] - self.queue[None]).square().mean((1, 2))
        return {
            "ce": partial_bce(z, batch.y(), batch.known, batch.valid),
            "memory": _mean(distance).scaled(0.1),
        }

    def after_step(self, progress: Progress) -> None:
        self.queue.copy_(torch.cat([self.queue[len(self.newest) :], self.newest]))


PROBES: tuple[type[Method], ...] = (Adversarial, SideOutputs, Memory)


def _mean(values: Tensor) -> Mean:
    return Mean(values.sum(), values.new_tensor(float(len(values))))

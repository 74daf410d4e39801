"""An adversary that judges, for each ROI, whether a prediction looks like one of an annotated case.

Axes: B cases, C image channels, R ROIs, F channels of its maps, Z Y X voxels.
"""

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.config import OptimizerConfig
from gleanseg.losses.adversarial import deceive, tell_apart
from gleanseg.networks.blocks import Conv3d
from gleanseg.parts.fold import Chunk, sum_over_rois
from gleanseg.parts.perturb import channel_dropout
from gleanseg.types import Batch, Mean

Maps = Callable[[Chunk], Tensor]
"""Predictions (B, r, Z, Y, X) of the ROIs at some positions, so that not all need to exist at once."""
_WIDTHS = (1, 2, 4, 8)
"""Channels of the maps, in multiples of the first one's."""


class Critic(nn.Module):
    """Four convolutions that halve the grid, a mean over what is left of it, and a logit per ROI.

    With one channel, one ROI and defaults, the layout of SASSNet's and SSL4MIS's discriminators: 11,019,713 parameters
    (theirs, with two logits and a second bias in the first layer, 11,020,290). Patches of any size: the mean is over
    the whole grid, and an axis of one voxel stays one.

    Deviation: one logit per ROI in place of a soft-max over two, as each ROI of a case is annotated or not by itself.

    Args:
        num_channels: of the image.
        num_rois: R.
        width: F of the first map; each further one has twice as many.
        dropout: share of the channels of all maps but the last that is dropped while the adversary learns.
    """

    def __init__(self, num_channels: int, num_rois: int, *, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        widths = [width * factor for factor in _WIDTHS]
        self.dropout = dropout
        self.of_image = _halving(num_channels, width)
        self.of_maps = _halving(num_rois, width, bias=False)
        self.layers = nn.ModuleList(_halving(cin, cout) for cin, cout in pairwise(widths))
        self.linear = nn.Linear(widths[-1], num_rois)

    def forward(
        self,
        x_BCZYX: Float[Tensor, "B C Z Y X"],
        maps: Maps,
        batch: Batch,
        *,
        learns: bool,
    ) -> Float[Tensor, "B R"]:
        """How much each ROI's prediction looks annotated, as logits.

        Args:
            x_BCZYX: the image.
            maps: predictions.
            batch: its keys seed the drop-out.
            learns: whether it drops out; a network that is to deceive it meets the whole adversary.
        """
        weight = self.of_maps.weight
        h = self.of_image(_even(x_BCZYX)) + sum_over_rois(
            lambda r: self.of_maps.convolve(_even(maps(r)), weight[:, r]), batch
        )
        h = functional.leaky_relu(h, 0.2)
        for i, layer in enumerate(self.layers):
            if learns:
                h = channel_dropout(h, batch.key, self.dropout, salt=i)
            h = functional.leaky_relu(layer(_even(h)), 0.2)
        scores: Tensor = self.linear(h.mean((2, 3, 4)))
        return scores


def deceived(critic: Critic, x_BCZYX: Float[Tensor, "B C Z Y X"], maps: Maps, batch: Batch) -> Mean:
    """What predictions of unknown ROIs pay for being told from annotated ones by the critic as it is.

    Args:
        critic: whole, without drop-out; it learns nothing.
        x_BCZYX: the image.
        maps: predictions, with gradient. Those of known ROIs are judged with them, but not moved to deceive.
        batch: what is known.
    """

    def unknown_moves(r: Chunk) -> Tensor:
        seen = maps(r)
        return torch.where(batch.known[:, r, None, None, None], seen.detach(), seen)

    return deceive(frozen(critic)(x_BCZYX, unknown_moves, batch, learns=False), ~batch.known)


def discerning(critic: Critic, x_BCZYX: Float[Tensor, "B C Z Y X"], maps: Maps, batch: Batch) -> Mean:
    """The critic's own lesson: which ROIs are annotated.

    Args:
        critic: it alone learns, with drop-out.
        x_BCZYX: the image.
        maps: predictions; get no gradient.
        batch: what is known.
    """
    return tell_apart(critic(x_BCZYX, lambda r: maps(r).detach(), batch, learns=True), batch.known)


def frozen(critic: Critic) -> Critic:
    """The critic with its present weights, none of which takes a gradient; nothing is copied."""
    return deepcopy(critic, {id(p): p.detach() for p in critic.parameters()})


def critic_optimizer(lr: float) -> OptimizerConfig:
    """Adam at a constant rate, without weight decay and bound, as published adversaries learn."""
    return OptimizerConfig(name="adamw", lr=lr, weight_decay=0.0, schedule="constant", clip=0)


def _halving(in_channels: int, out_channels: int, *, bias: bool = True) -> Conv3d:
    return Conv3d(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)


def _even(x: Tensor) -> Tensor:
    """Axes of one voxel padded to two, the fewest that a kernel of four takes."""
    missing = [max(0, 2 - side) for side in x.shape[:1:-1]]
    return functional.pad(x, [n for m in missing for n in (0, m)]) if any(missing) else x

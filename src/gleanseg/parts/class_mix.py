"""Whole structures pasted from one patch onto another.

Axes: B cases, R ROIs, M drawn voxels, Z Y X voxels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gleanseg.networks.network import Network
from gleanseg.parts.points import Points
from gleanseg.types import Batch

_CLASSES = 4
"""Tells these draws from those of ``parts.mixing`` for the same key."""


class ClassMix(NamedTuple):
    """Structures of each row, pasted onto another row; a row that is its own partner stays as it is.

    Attributes:
        taken_BZYX: voxels that come from the partner.
        partner_B: row that they come from.
    """

    taken_BZYX: Bool[Tensor, "B Z Y X"]
    partner_B: Int[Tensor, " B"]

    def paste(self, rows: Shaped[Tensor, "B *any Z Y X"]) -> Shaped[Tensor, "B *any Z Y X"]:
        """Images, targets, masks or predictions with the partner's voxels."""
        B, *between = rows.shape[:-3]
        taken = self.taken_BZYX.reshape(B, *[1] * len(between), *rows.shape[-3:])
        return torch.where(taken, rows[self.partner_B], rows)

    @property
    def whole_B(self) -> Bool[Tensor, " B"]:
        """Rows that stay as they are."""
        return self.partner_B == torch.arange(len(self.partner_B), device=self.partner_B.device)

    def score(self, network: Network, features: tuple[Tensor, ...], at: Points) -> Float[Tensor, "B R M"]:
        """A network's logits at drawn voxels of the mixed rows, from its features of the rows as they were."""
        own, other = at.score(network, features), at.score(network, tuple(f[self.partner_B] for f in features))
        return torch.where(at.of(self.taken_BZYX[:, None]), other, own)

    def batch(self, batch: Batch) -> Batch:
        """The mixed rows as a batch: an ROI is known where it is in both rows that a mixed one is made of."""
        num_codes, whose = batch.table.shape[1], self.partner_B
        return batch._replace(
            x={name: self.paste(view) for name, view in batch.x.items()},
            codes=torch.where(self.taken_BZYX, batch.codes[whose] + num_codes, batch.codes),
            table=torch.cat([batch.table, batch.table[whose]], dim=1),
            known=batch.known & batch.known[whose],
            valid=self.paste(batch.valid),
        )


def draw_class_mix(batch: Batch, holds: Callable[[int], Bool[Tensor, "B Z Y X"]]) -> ClassMix:
    """Half of the classes of each unlabelled row, pasted onto the next such row.

    The classes are the ROIs and what lies in none of them; which half is drawn from the row's key. With fewer than two
    unlabelled rows nothing is mixed.

    Args:
        batch: rows from ``num_labelled`` on are mixed.
        holds: voxels of each row that lie in an ROI, given by its position.

    Reference: Olsson et al., ClassMix, WACV 2021, https://arxiv.org/abs/2007.07936
    """
    rows, num_rois = batch.known.shape
    partner = torch.arange(rows, device=batch.codes.device)
    kept, anything = torch.zeros_like(batch.valid), torch.zeros_like(batch.valid)
    if rows - batch.num_labelled < 2:
        return ClassMix(kept, partner)
    partner[batch.num_labelled :] = partner[batch.num_labelled :].roll(-1)
    draws = [np.random.default_rng([_CLASSES, int(key)]).permutation(num_rois + 1) for key in batch.key]
    chosen = torch.zeros(rows, num_rois + 1, dtype=torch.bool)
    for row, order in enumerate(draws):
        chosen[row, torch.from_numpy(order[: (num_rois + 1) // 2])] = True
    chosen_BK = chosen.to(batch.codes.device)
    for roi in range(num_rois):
        inside = holds(roi)
        anything |= inside
        kept |= inside & chosen_BK[:, roi, None, None, None]
    kept |= ~anything & chosen_BK[:, -1, None, None, None]
    unlabelled = torch.arange(rows, device=batch.codes.device) >= batch.num_labelled
    return ClassMix(~kept & unlabelled[:, None, None, None], partner)

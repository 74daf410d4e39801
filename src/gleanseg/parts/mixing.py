"""Patches pasted into each other, and noise: perturbations that a method draws itself, from the keys of its rows.

Axes: B cases, C channels, R ROIs, M drawn voxels, Z Y X voxels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gleanseg.networks.network import Network
from gleanseg.parts.draws import drawn
from gleanseg.parts.points import Points
from gleanseg.types import Batch

_BOX, _NOISE, _CLASSES = 1, 2, 3
_CERTAIN = 30.0


class CutMix(NamedTuple):
    """One box, pasted from partner to partner; a row that is its own partner stays as it is.

    Attributes:
        inside_ZYX: the box.
        partner_B: row that each row's box is taken from; a permutation.
    """

    inside_ZYX: Bool[Tensor, "Z Y X"]
    partner_B: Int[Tensor, " B"]

    @property
    def mixes(self) -> bool:
        """Whether any row changes."""
        return bool((self.partner_B != torch.arange(len(self.partner_B), device=self.partner_B.device)).any())

    def paste(self, rows: Shaped[Tensor, "B *any Z Y X"]) -> Shaped[Tensor, "B *any Z Y X"]:
        """Images, targets, masks or predictions with the partner's box."""
        return torch.where(self.inside_ZYX, rows[self.partner_B], rows)

    def undo(self, mixed: Shaped[Tensor, "B *any Z Y X"]) -> Shaped[Tensor, "B *any Z Y X"]:
        """What was pasted, put back box by box; predictions of mixed rows become predictions of the rows."""
        return torch.where(self.inside_ZYX, mixed[self.partner_B.argsort()], mixed)


def draw_cutmix(batch: Batch, *, mix: bool = True) -> CutMix:
    r"""A box for the unlabelled rows of a batch, whose partners are these rows rolled by one.

    Its sides are $(1 - \lambda)^{1/3}$ of the patch's, $\lambda \sim \mathrm{Beta}(1, 1)$, its corner is uniform.
    Drawn from the key of the first unlabelled row. With fewer than two such rows nothing is mixed.

    Args:
        batch: rows from ``num_labelled`` on are mixed.
        mix: False leaves all rows as they are.

    Reference: Yun et al., CutMix, ICCV 2019, https://arxiv.org/abs/1905.04899
    """
    rows, size_ZYX = len(batch.key), batch.codes.shape[1:]
    partner = torch.arange(rows, device=batch.codes.device)
    inside = torch.zeros(size_ZYX, dtype=torch.bool, device=batch.codes.device)
    if mix and rows - batch.num_labelled >= 2:
        partner[batch.num_labelled :] = partner[batch.num_labelled :].roll(-1)
        random = np.random.default_rng([_BOX, int(batch.key[batch.num_labelled])])
        share = (1.0 - random.beta(1.0, 1.0)) ** (1 / 3)
        sides = [max(1, round(share * side)) for side in size_ZYX]
        z, y, x = (
            slice(first, first + side)
            for side, first in (
                (side, int(random.integers(0, whole - side + 1))) for side, whole in zip(sides, size_ZYX, strict=True)
            )
        )
        inside[z, y, x] = True
    return CutMix(inside, partner)


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


def labels_where_known(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Float[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
) -> Float[Tensor, "B R Z Y X"]:
    """A teacher's logits, and for known pairs those of somebody who is certain of the label.

    Pasted into a row where the ROI is unknown, the label takes the place of the pseudo label.
    """
    certain = (2 * y_BRZYX - 1) * _CERTAIN
    return torch.where(known_BR[:, :, None, None, None], certain, logits_BRZYX.to(certain.dtype))


def uniform_noise(
    like_BCZYX: Float[Tensor, "B C Z Y X"], key_B: Int[Tensor, " B"], amplitude: float, *, salt: int
) -> Float[Tensor, "B C Z Y X"]:
    """Noise in [-amplitude, amplitude) for each row, from the row's key.

    Args:
        like_BCZYX: its shape, type and device.
        key_B: random keys.
        amplitude: in units of the prepared image (z-scores, or 1 for half a CT window).
        salt: two draws of a row differ by it.
    """
    return drawn(
        like_BCZYX, key_B, lambda row, g: row.uniform_(-amplitude, amplitude, generator=g), purpose=_NOISE, salt=salt
    )


def clipped_noise(
    like_BCZYX: Float[Tensor, "B C Z Y X"], key_B: Int[Tensor, " B"], sigma: float, *, bound: float, salt: int
) -> Float[Tensor, "B C Z Y X"]:
    """Normal noise of standard deviation sigma, clipped to [-bound, bound]; drawn as ``uniform_noise`` is."""
    noise = drawn(like_BCZYX, key_B, lambda row, g: row.normal_(0.0, sigma, generator=g), purpose=_NOISE, salt=salt)
    return noise.clamp_(-bound, bound)

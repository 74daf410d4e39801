"""Patches pasted into each other, and noise: perturbations that a method draws itself, from the keys of its rows.

Axes: B cases, C channels, Z Y X voxels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gleanseg.parts.draws import drawn
from gleanseg.types import Batch

_BOX, _NOISE, _COPY_PASTE = 1, 2, 3
_CERTAIN = 30.0


class CutMix(NamedTuple):
    """One box, pasted from partner to partner; a row that is its own partner stays as it is.

    Attributes:
        inside_ZYX: the box.
        partner_B: row that each row's box is taken from; a permutation, where ``undo`` is wanted.
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

    def sources(self, rows: Shaped[Tensor, " B *any"]) -> Shaped[Tensor, " B2 *any"]:
        """What fills the outside of each mixture, then what fills its box: twice as many rows."""
        return torch.cat([rows, rows[self.partner_B]])

    def regions(self, rows: Bool[Tensor, "B Z Y X"]) -> Bool[Tensor, "B2 Z Y X"]:
        """Where each of ``sources`` is seen, among voxels of a mask: outside the boxes, then inside them."""
        return torch.cat([rows & ~self.inside_ZYX, rows[self.partner_B] & self.inside_ZYX])


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
        inside[_placed(random, [max(1, round(share * side)) for side in size_ZYX], size_ZYX)] = True
    return CutMix(inside, partner)


def draw_copy_paste(batch: Batch, share: float) -> CutMix:
    r"""A box that labelled and unlabelled rows paste into each other, with new partners for each direction.

    Labelled row i takes the box of unlabelled row i, unlabelled row j that of labelled row j + 1 (both modulo their
    numbers), so that each row lends its outside to one mixture and its box to another. Where all rows are from one
    stream, they are rolled by one. Drawn from the key of the first row: sides are ``share`` of the patch's, rounded
    down, and the corner is uniform.

    Args:
        batch: labelled rows first.
        share: of each side, in (0, 1).

    Reference: Bai et al., BCP, CVPR 2023, https://arxiv.org/abs/2305.00673
    """
    device, rows, num_labelled = batch.codes.device, len(batch.key), batch.num_labelled
    labelled, unlabelled = torch.arange(num_labelled), torch.arange(rows - num_labelled)
    if len(labelled) == 0 or len(unlabelled) == 0:
        partner = torch.arange(rows).roll(-1)
    else:
        partner = torch.cat([num_labelled + labelled % len(unlabelled), (unlabelled + 1) % num_labelled])
    size_ZYX = batch.codes.shape[1:]
    inside = torch.zeros(size_ZYX, dtype=torch.bool, device=device)
    random = np.random.default_rng([_COPY_PASTE, int(batch.key[0])])
    inside[_placed(random, [max(1, int(share * side)) for side in size_ZYX], size_ZYX)] = True
    return CutMix(inside, partner.to(device))


def _placed(random: np.random.Generator, sides: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """A box of these sides anywhere in the patch."""
    firsts = [int(random.integers(0, whole - side + 1)) for side, whole in zip(sides, size, strict=True)]
    return tuple(slice(first, first + side) for first, side in zip(firsts, sides, strict=True))


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

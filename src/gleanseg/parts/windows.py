"""Overlapping windows of a patch, as many of them on a patch of any size.

Axes: B cases, K channels of a map, R ROIs, P windows of a case, F numbers of a cell, D those of a window, Z Y X voxels,
z y x cells.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.networks.network import Network
from gleanseg.parts.fold import Chunk, sum_over_rois
from gleanseg.types import Batch


class Windows(NamedTuple):
    """Windows that cover a patch, each overlapping half of the next one, and are divided into cells.

    Attributes:
        counts_ZYX: how many along each axis.
        side: cells along each side of a window; even.
    """

    counts_ZYX: tuple[int, int, int]
    side: int

    @property
    def places(self) -> int:
        """P."""
        return math.prod(self.counts_ZYX)

    def cells(self, map_BKZYX: Float[Tensor, "B K Z Y X"]) -> Float[Tensor, "B z y x K"]:
        """A map's means over cells, in single precision or better."""
        z, y, x = ((count + 1) * self.side // 2 for count in self.counts_ZYX)
        wide = map_BKZYX.to(torch.promote_types(map_BKZYX.dtype, torch.float32))
        return functional.adaptive_avg_pool3d(wide, (z, y, x)).movedim(1, -1)

    def of(self, cells_BzyxF: Float[Tensor, "B z y x F"]) -> Float[Tensor, "B P D"]:
        """The cells of each window as one feature; windows run over z, y, x."""
        found = cells_BzyxF
        for axis in (1, 2, 3):
            found = found.unfold(axis, self.side, self.side // 2)
        return found.flatten(1, 3).flatten(2)

    def seen(self, valid_BZYX: Bool[Tensor, "B Z Y X"]) -> Bool[Tensor, "B P"]:
        """Which windows hold any valid voxel."""
        return (self.of(self.cells(valid_BZYX[:, None].float())) > 0).any(2)

    def logits(self, network: Network, features: tuple[Tensor, ...], batch: Batch) -> Float[Tensor, "B z y x R"]:
        """Mean logits of all ROIs in each cell; those of a few ROIs at a time exist at every voxel."""

        def part(r: Chunk) -> Tensor:
            here = self.cells(network.score(features, r))
            return here.new_zeros(*here.shape[:-1], network.num_rois).index_copy(-1, r, here)

        return sum_over_rois(part, batch)

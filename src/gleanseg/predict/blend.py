"""Overlapping windows become one score per voxel; only the rows that later windows may still touch are held.

Three ways to the same numbers, chosen by what they need to hold (``make_blend``). Axes: B windows, C channels of the
last map, R ROIs, Z Y X voxels of the padded volume; a row is one Z plane.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from gleanseg.networks.head import Rois

Average = Literal["logits", "probabilities"]
Autocast = Callable[[], AbstractContextManager[Any]]
Kept = Bool[Tensor, "B R"] | None
"""Which ROIs may be in each window of a batch; None: all."""
BACKGROUND_LOGIT = -10.0
"""Score where nothing can be: in windows of air, and of ROIs that a window cannot hold."""
FEW_ROIS = 16
"""Up to so many, holding scores takes less than holding the maps of usual networks (16 to 32 channels)."""


@runtime_checkable
class Model(Protocol):
    """What prediction asks of a network."""

    @property
    @abstractmethod
    def linear_head(self) -> bool:
        """Whether ``score`` is affine in its single map, so that blending maps equals blending logits."""

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """All that ``score`` needs of B C Z Y X patches; batch axis first."""

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Tensor:
        """Logits B R Z Y X of all ROIs or of some."""


class Place(NamedTuple):
    """First voxel of a window in the padded volume."""

    z: int
    y: int
    x: int


class Rows:
    """Sums over a volume of which only a few rows are held, from ``base`` upwards.

    Memory is taken when the first patch comes, in its channel count and memory order.

    Args:
        num_rows: rows held at once.
        size_YX: extent of a row.
    """

    def __init__(self, num_rows: int, size_YX: tuple[int, int]) -> None:
        self.num_rows, self.size_YX, self.base = num_rows, size_YX, 0
        self._data: Tensor | None = None

    def view(self, start: int, stop: int) -> Float32[Tensor, "C rows Y X"]:
        """Rows ``start`` to ``stop - 1`` of the volume, without a copy."""
        assert self._data is not None, "rows are read where a window was added"
        return self._data[start - self.base : stop - self.base].movedim(1, 0)

    def add(self, patch_CZYX: Float[Tensor, "C z y x"], weight_ZYX: Float32[Tensor, "z y x"], at: Place) -> None:
        """Add a weighted patch; row by row, so that no float32 copy of a whole bf16 patch is made."""
        if self._data is None:
            self.reserve(patch_CZYX)
        assert self._data is not None
        assert self.base <= at.z <= self.base + self.num_rows - patch_CZYX.shape[1], "the window's rows are held"
        y, x = slice(at.y, at.y + patch_CZYX.shape[2]), slice(at.x, at.x + patch_CZYX.shape[3])
        for i in range(patch_CZYX.shape[1]):
            self._data[at.z - self.base + i, :, y, x].add_(patch_CZYX[:, i] * weight_ZYX[i])

    def divide(self, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int) -> None:
        """Turn sums into means; where nothing was added the result is 0."""
        if self._data is not None:
            self.view(start, stop).div_(weight_ZYX.clamp_min(torch.finfo(torch.float32).tiny))

    def advance(self, base: int) -> None:
        """Let go of the rows below ``base``."""
        shift, self.base = base - self.base, base
        if self._data is None or shift == 0:
            return
        kept = max(0, self.num_rows - shift)
        for i in range(kept):  # one by one, as source and target overlap
            self._data[i] = self._data[i + shift]
        self._data[kept:] = 0

    def reserve(self, like_CZYX: Tensor) -> None:
        """Take the memory for patches like this one; rows are outermost, so that they can be moved as blocks."""
        C, (Y, X) = len(like_CZYX), self.size_YX
        if C > 1 and like_CZYX.stride(0) == 1:  # channels last
            self._data = torch.zeros(self.num_rows, Y, X, C, device=like_CZYX.device).permute(0, 3, 1, 2)
        else:
            self._data = torch.zeros(self.num_rows, C, Y, X, device=like_CZYX.device)


class Blend(ABC):
    """Collects the windows of one network and scores finished rows.

    Args:
        model: the network.
        average: what is blended: logits, or the probabilities of each window.
        num_rows: rows held at once.
        size_YX: extent of a row.
        autocast: context in which the head runs on single windows.
    """

    rescores = True
    """Whether finished rows can be scored more than once at no great cost."""

    def __init__(
        self, model: Model, *, average: Average, num_rows: int, size_YX: tuple[int, int], autocast: Autocast
    ) -> None:
        self.model, self.average, self.autocast = model, average, autocast
        self.rows = Rows(num_rows, size_YX)

    @abstractmethod
    def add(
        self,
        features: tuple[Tensor, ...],
        weight_ZYX: Float32[Tensor, "z y x"],
        places: Sequence[Place],
        flip: tuple[int, ...],
        kept_BR: Kept = None,
    ) -> None:
        """Take in a batch of windows.

        Args:
            features: of the (flipped) patches.
            weight_ZYX: weight of each voxel of a window.
            places: one per window, all with the same ``z``.
            flip: axes (-3, -2, -1) along which the patches were flipped.
            kept_BR: ROIs that may be in each window; the head is not asked for the others, they are background there.
        """

    @abstractmethod
    def score(
        self, rois: slice, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int
    ) -> Float32[Tensor, "R rows Y X"]:
        """Blended logits or probabilities of finished rows; meaningless where ``weight_ZYX`` is 0."""

    def finish(self, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int) -> None:
        """No window will touch these rows again; ``weight_ZYX`` is the weight that was added up there."""
        self.rows.divide(weight_ZYX, start, stop)

    def advance(self, base: int) -> None:
        """Let go of what lies in rows below ``base`` only."""
        self.rows.advance(base)

    def window_scores(
        self, features: tuple[Tensor, ...], rois: slice | None, flip: tuple[int, ...], kept_BR: Kept = None
    ) -> Tensor:
        """Float32 logits or probabilities of single windows, turned back."""
        with self.autocast():
            scores = self.model.score(features, rois) if kept_BR is None else self._of_kept(features, rois, kept_BR)
        scores = scores.float().flip(flip) if flip else scores.float()
        return scores.sigmoid() if self.average == "probabilities" else scores

    def _of_kept(
        self, features: tuple[Tensor, ...], rois: slice | None, kept_BR: Bool[Tensor, "B R"]
    ) -> Float[Tensor, "B r Z Y X"]:
        """Logits of the ROIs that may be in a window, background for the others."""
        first, stop, _ = (rois or slice(None)).indices(kept_BR.shape[1])
        kept_Br = kept_BR[:, first:stop]
        wanted = kept_Br.any(0).nonzero()[:, 0]
        size_ZYX = features[0].shape[2:]
        logits = features[0].new_full((len(kept_Br), stop - first, *size_ZYX), BACKGROUND_LOGIT)
        if len(wanted) > 0:
            found = self.model.score(features, wanted + first)
            logits[:, wanted] = torch.where(kept_Br[:, wanted, None, None, None], found, BACKGROUND_LOGIT).to(logits)
        return logits


@final
class BlendedScores(Blend):
    """Holds the scores of all ROIs."""

    def add(
        self,
        features: tuple[Tensor, ...],
        weight_ZYX: Float32[Tensor, "z y x"],
        places: Sequence[Place],
        flip: tuple[int, ...],
        kept_BR: Kept = None,
    ) -> None:
        """See ``Blend``."""
        for scores, at in zip(self.window_scores(features, None, flip, kept_BR), places, strict=True):
            self.rows.add(scores, weight_ZYX, at)

    def score(
        self, rois: slice, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int
    ) -> Float32[Tensor, "R rows Y X"]:
        """See ``Blend``."""
        return self.rows.view(start, stop)[rois]


@final
class BlendedMaps(Blend):
    """Holds the last maps, whatever the number of ROIs; an affine head may be applied after blending."""

    _slab: tuple[int, int, Tensor] | None = None

    def add(
        self,
        features: tuple[Tensor, ...],
        weight_ZYX: Float32[Tensor, "z y x"],
        places: Sequence[Place],
        flip: tuple[int, ...],
        kept_BR: Kept = None,
    ) -> None:
        """See ``Blend``."""
        (maps_BCZYX,) = features
        for maps, at in zip(maps_BCZYX.flip(flip) if flip else maps_BCZYX, places, strict=True):
            self.rows.add(maps, weight_ZYX, at)

    def score(
        self, rois: slice, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int
    ) -> Float32[Tensor, "R rows Y X"]:
        """See ``Blend``."""
        if self._slab is None or self._slab[:2] != (start, stop):
            # One copy in plain order for all ROIs: few output channels are slow on other memory orders.
            self._slab = (start, stop, self.rows.view(start, stop)[None].contiguous())
        return self.model.score((self._slab[2],), rois)[0]

    def finish(self, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int) -> None:
        """See ``Blend``."""
        super().finish(weight_ZYX, start, stop)
        self._slab = None


class _Window(NamedTuple):
    features: tuple[Tensor, ...]
    weight_ZYX: Tensor
    places: tuple[Place, ...]
    flip: tuple[int, ...]
    kept_BR: Kept


@final
class KeptWindows(Blend):
    """Holds each window's features and applies the head, of any kind, to a few ROIs at a time."""

    rescores = False

    def __init__(
        self, model: Model, *, average: Average, num_rows: int, size_YX: tuple[int, int], autocast: Autocast
    ) -> None:
        super().__init__(model, average=average, num_rows=num_rows, size_YX=size_YX, autocast=autocast)
        self._windows: list[_Window] = []

    def add(
        self,
        features: tuple[Tensor, ...],
        weight_ZYX: Float32[Tensor, "z y x"],
        places: Sequence[Place],
        flip: tuple[int, ...],
        kept_BR: Kept = None,
    ) -> None:
        """See ``Blend``."""
        self._windows.append(_Window(features, weight_ZYX, tuple(places), flip, kept_BR))

    def score(
        self, rois: slice, weight_ZYX: Float32[Tensor, "rows Y X"], start: int, stop: int
    ) -> Float32[Tensor, "R rows Y X"]:
        """See ``Blend``."""
        total = torch.zeros(rois.stop - rois.start, *weight_ZYX.shape, device=weight_ZYX.device)
        for window in self._windows:
            depth, height, width = window.weight_ZYX.shape
            z = window.places[0].z
            low, high = max(start, z), min(stop, z + depth)
            if low >= high:
                continue
            weight = window.weight_ZYX[low - z : high - z]
            scores_BRZYX = self.window_scores(window.features, rois, window.flip, window.kept_BR)
            scores_BRZYX = scores_BRZYX[:, :, low - z : high - z]
            for scores, at in zip(scores_BRZYX, window.places, strict=True):
                target = total[:, low - start : high - start, at.y : at.y + height, at.x : at.x + width]
                target.addcmul_(scores, weight)
        return total.div_(weight_ZYX.clamp_min(torch.finfo(torch.float32).tiny))

    def advance(self, base: int) -> None:
        """See ``Blend``."""
        self._windows = [w for w in self._windows if w.places[0].z + len(w.weight_ZYX) > base]


def make_blend(
    model: Model,
    *,
    num_rois: int,
    average: Average,
    num_rows: int,
    size_YX: tuple[int, int],
    autocast: Autocast,
) -> Blend:
    """The way that holds least.

    Few ROIs: their scores. Else, for a linear head whose logits are averaged: the maps. Else: each window's features.
    """
    kind: type[Blend] = BlendedScores
    if num_rois > FEW_ROIS:
        kind = BlendedMaps if model.linear_head and average == "logits" else KeptWindows
    return kind(model, average=average, num_rows=num_rows, size_YX=size_YX, autocast=autocast)

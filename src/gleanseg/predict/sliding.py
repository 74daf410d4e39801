"""Sliding windows over a volume, finished and handed out slab by slab.

Windows are walked by their first row (Z). Once all windows of one first row are done, no later window touches the rows
below the next one: they are final, are scored for a few ROIs at a time, and let go. So memory depends neither on the
volume's height nor on the number of ROIs. (Heads that are not linear keep the halo's few rows of scores per ROI.)

Axes: C image channels, R ROIs, Z Y X voxels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from gleanseg.predict.blend import BACKGROUND_LOGIT, Average, Blend, Model, Place, Rows, make_blend

Size = tuple[int, int, int]
Flip = tuple[int, ...]
Poll = Callable[[int, int], None]
"""Called between windows with how many are done, of how many. What it raises ends the prediction."""

_SLAB_VOXELS = 2**19
"""Voxels that are scored at once, per ROI, where that makes ``_SLAB_ROWS``."""
_SLAB_ROWS = 8
"""Thinner slabs would score their halo more often than their own rows."""
_CHUNK_VALUES = 2**24
"""Scores that are held at once where slabs cannot be thin."""


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """How windows lie and how they are joined.

    Attributes:
        patch_ZYX: the network's patch.
        step_ZYX: voxels from one window to the next.
        blend: weight within a window: Gaussian with its centre at 1, or constant.
        average: what overlapping windows average: logits, or probabilities as the semi-supervised literature does.
        window_batch: windows per forward pass.
        roi_chunk: ROIs scored at once, at most.
        flips: axes (-3 Z, -2 Y, -1 X) to flip, one tuple per pass; the empty tuple is the image as it is.
        swap: the channel of each ROI's other side, used for passes that flip X.
        bf16: run networks under bf16 autocast.
        is_air: tells windows (C Z Y X) that need no network; voxels in such windows only are background.
        may_hold: tells which ROIs (B R) windows (B C Z Y X) may hold; the others are background there, and a window
            that can hold none needs no network.
    """

    patch_ZYX: Size
    step_ZYX: Size
    blend: Literal["gaussian", "constant"] = "gaussian"
    average: Average = "logits"
    window_batch: int = 1
    roi_chunk: int = 8
    flips: tuple[Flip, ...] = ((),)
    swap: tuple[int, ...] | None = None
    bf16: bool = False
    is_air: Callable[[Tensor], bool] | None = None
    may_hold: Callable[[Tensor], Tensor] | None = None

    def starts(self, size_ZYX: Sequence[int]) -> list[tuple[int, ...]]:
        """First voxels of the windows along each axis of a volume, which is padded where it is smaller than one."""
        axes = zip(size_ZYX, self.patch_ZYX, self.step_ZYX, strict=True)
        return [window_starts(max(size, patch), patch, step) for size, patch, step in axes]

    def num_windows(self, size_ZYX: Sequence[int]) -> int:
        """Windows of a volume, those in air included."""
        return math.prod(len(starts) for starts in self.starts(size_ZYX))


def step_of(patch_ZYX: Size, *, overlap: float) -> Size:
    """Voxels from one window to the next when neighbours share this part of the patch, in [0, 1)."""
    z, y, x = (max(1, round(side * (1 - overlap))) for side in patch_ZYX)
    return z, y, x


def window_starts(size: int, patch: int, step: int) -> tuple[int, ...]:
    """First voxels ``min(k * step, size - patch)``; the last window is flush with the end.

    Args:
        size: length of the axis, at least ``patch``.
        patch: length of a window.
        step: voxels between windows, > 0.
    """
    last = size - patch
    return tuple(min(k * step, last) for k in range(-(-last // step) + 1))


def importance_map(patch_ZYX: Size, blend: Literal["gaussian", "constant"]) -> Float32[Tensor, "Z Y X"]:
    """Weight of each voxel of a window, in (0, 1].

    The Gaussian has a standard deviation of an eighth of each side and its peak at voxel ``side // 2``.
    """
    if blend == "constant":
        return torch.ones(patch_ZYX)
    axes = [torch.exp(-0.5 * ((torch.arange(side) - side // 2) * 8 / side).double() ** 2) for side in patch_ZYX]
    return torch.einsum("z,y,x->zyx", *axes).float()


class Slab(NamedTuple):
    """Finished rows of the volume.

    Attributes:
        start: first row; it may lie up to ``halo`` rows below the rows that are new.
        stop: row after the last.
        scores: iterates once over (ROIs, R Z Y X scores on the CPU) in channel order; a voxel belongs to an ROI where
            its score is above 0. A score is the logit, or the probability - 0.5 where probabilities are averaged.
            Nothing is given when all is background. Take them before the next slab.
    """

    start: int
    stop: int
    scores: Callable[[], Iterator[tuple[slice, Float32[Tensor, "R Z Y X"]]]]


class _Lane(NamedTuple):
    """Passes whose windows are blended together: one network, X flipped with sides to swap, or not."""

    member: int
    blend: Blend
    flips: tuple[Flip, ...]
    swapped: bool
    share: float


class Slider:
    """One volume under one or several networks.

    Several networks are averaged as probabilities, after the windows of each were blended.

    Args:
        models: in evaluation mode, on ``device``.
        image_CZYX: prepared image, on the CPU; zero-padded where it is smaller than the patch.
        num_rois: channels of the networks.
        sliding: how windows lie and are joined.
        device: where networks run and rows are held.
        halo: rows below the new ones that each slab repeats.
        poll: called between windows.
    """

    def __init__(
        self,
        models: Sequence[Model],
        image_CZYX: Float32[np.ndarray, "C Z Y X"],
        *,
        num_rois: int,
        sliding: Sliding,
        device: torch.device,
        halo: int = 0,
        poll: Poll | None = None,
    ) -> None:
        self.sliding, self.num_rois, self.device, self.halo, self.poll = sliding, num_rois, device, halo, poll
        self.autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=sliding.bf16)
        patch, self.inner_ZYX = sliding.patch_ZYX, image_CZYX.shape[1:]
        missing = [max(0, p - n) for p, n in zip(patch, self.inner_ZYX, strict=True)]
        self.before_ZYX = tuple(m // 2 for m in missing)
        margins = [(0, 0), *((m // 2, m - m // 2) for m in missing)]
        if any(missing):
            image_CZYX = np.pad(image_CZYX, margins)
        elif not image_CZYX.flags.writeable:  # PyTorch has no read-only tensors
            image_CZYX = image_CZYX.copy()
        self.image_CZYX = torch.from_numpy(image_CZYX)
        z, y, x = self.image_CZYX.shape[1:]
        self.starts, self.num_windows = sliding.starts((z, y, x)), sliding.num_windows((z, y, x))
        self.weight_ZYX = importance_map(patch, sliding.blend).to(device)
        num_rows = patch[0] + halo
        self.weights = Rows(num_rows, (y, x))
        self.weights.reserve(torch.empty(1, 1, 1, 1, device=device))
        self.lanes = [lane for m, model in enumerate(models) for lane in self._lanes(m, model, num_rows, (y, x))]
        self.num_models = len(models)
        self.rescores = all(lane.blend.rescores for lane in self.lanes)
        self._tails: dict[int, Tensor] = {}
        # Kept windows are scored anew for every slab, so their slabs are as tall as can be, with fewer ROIs at once.
        self.slab_rows, self.chunk = max(_SLAB_ROWS, _SLAB_VOXELS // (y * x)), sliding.roi_chunk
        if not self.rescores:
            self.slab_rows, self.chunk = z, max(1, min(self.chunk, _CHUNK_VALUES // (patch[0] * y * x)))

    def _lanes(self, member: int, model: Model, num_rows: int, size_YX: tuple[int, int]) -> Iterator[_Lane]:
        s = self.sliding
        for swapped in (False, True):
            flips = tuple(f for f in s.flips if (s.swap is not None and -1 in f) == swapped)
            if flips:
                blend = make_blend(
                    model,
                    num_rois=self.num_rois,
                    average=s.average,
                    num_rows=num_rows,
                    size_YX=size_YX,
                    autocast=self.autocast,
                )
                yield _Lane(member, blend, flips, swapped, len(flips) / len(s.flips))

    def slabs(self) -> Iterator[Slab]:
        """The volume's rows from below, each new row once."""
        done, patch = 0, self.sliding.patch_ZYX
        firsts = self.starts[0]
        for z, next_z in zip(firsts, (*firsts[1:], firsts[-1] + patch[0]), strict=True):
            self._advance(max(0, z - self.halo))
            places = [Place(z, y, x) for y, x in product(*self.starts[1:])]
            wanted = [p for p in places if not self._is_air(p)]
            done += len(places) - len(wanted)
            for i in range(0, len(wanted), self.sliding.window_batch):
                batch = wanted[i : i + self.sliding.window_batch]
                self._run(batch)
                done += len(batch)
                self._poll(done)
            if not wanted:
                self._poll(done)
            self._finish(z, next_z)
            yield from self._emit(z, next_z)

    def _poll(self, done: int) -> None:
        if self.poll is not None:
            self.poll(done, self.num_windows)

    def _window(self, place: Place) -> Tensor:
        z, y, x = self.sliding.patch_ZYX
        return self.image_CZYX[:, place.z : place.z + z, place.y : place.y + y, place.x : place.x + x]

    def _is_air(self, place: Place) -> bool:
        return self.sliding.is_air is not None and self.sliding.is_air(self._window(place))

    @torch.no_grad()
    def _run(self, places: Sequence[Place]) -> None:
        x_BCZYX = torch.stack([self._window(place) for place in places]).to(self.device)
        with self.autocast():
            kept_BR = None if self.sliding.may_hold is None else self.sliding.may_hold(x_BCZYX)
        if kept_BR is not None and not kept_BR.all(1).all():
            some = kept_BR.any(1)
            places = [place for place, any_roi in zip(places, some.tolist(), strict=True) if any_roi]
            x_BCZYX, kept_BR = x_BCZYX[some], kept_BR[some]
            if not places:
                return
        for lane in self.lanes:
            kept = kept_BR[:, self.sliding.swap] if kept_BR is not None and lane.swapped else kept_BR
            for flip in lane.flips:
                turned = x_BCZYX.flip(flip) if flip else x_BCZYX
                with self.autocast():
                    features = lane.blend.model.features(turned.contiguous(memory_format=torch.channels_last_3d))
                lane.blend.add(features, self.weight_ZYX / len(lane.flips), places, flip, kept)
        one = torch.ones(1, 1, 1, 1, device=self.device).expand(1, *self.sliding.patch_ZYX)
        for place in places:
            self.weights.add(one, self.weight_ZYX, place)

    def _advance(self, base: int) -> None:
        self.weights.advance(base)
        for lane in self.lanes:
            lane.blend.advance(base)

    @torch.no_grad()
    def _finish(self, start: int, stop: int) -> None:
        for lane in self.lanes:
            lane.blend.finish(self.weights.view(start, stop)[0], start, stop)

    def _emit(self, start: int, stop: int) -> Iterator[Slab]:
        """Slabs of the finished rows, in voxels of the volume without its padding."""
        before, size = self.before_ZYX[0], self.inner_ZYX[0]
        start, stop = max(start, before), min(stop, before + size)
        for low in range(start, stop, self.slab_rows):
            high, halo_low = min(low + self.slab_rows, stop), max(before, low - self.halo)
            yield Slab(halo_low - before, high - before, partial(self._scores, halo_low, low, high))

    def _scores(self, halo_low: int, low: int, high: int) -> Iterator[tuple[slice, Float32[Tensor, "R Z Y X"]]]:
        first = halo_low if self.rescores else low
        covered_ZYX = self._inner(self.weights.view(first, high))[0] > 0
        if self.rescores and not covered_ZYX.any():
            return
        for r in range(0, self.num_rois, self.chunk):
            rois = slice(r, min(r + self.chunk, self.num_rois))
            scores = self._score(rois, covered_ZYX, first, high)
            if not self.rescores and self.halo > 0:
                if r in self._tails:
                    scores = torch.cat([self._tails[r], scores], dim=1)
                self._tails[r] = scores[:, -self.halo :].clone()
            yield rois, scores.cpu()

    @torch.no_grad()
    def _score(self, rois: slice, covered_ZYX: Tensor, start: int, stop: int) -> Float32[Tensor, "R Z Y X"]:
        """Scores of finished rows, averaged over passes and networks."""
        means = [self._member_score(m, rois, start, stop) for m in range(self.num_models)]
        if self.sliding.average == "logits" and self.num_models == 1:
            result, background = means[0], BACKGROUND_LOGIT
        else:
            if self.sliding.average == "logits":
                means = [mean.sigmoid() for mean in means]
            result, background = torch.stack(means).mean(0) - 0.5, -0.5
        return result if covered_ZYX.all() else result.masked_fill(~covered_ZYX, background)

    def _member_score(self, member: int, rois: slice, start: int, stop: int) -> Tensor:
        lanes = [lane for lane in self.lanes if lane.member == member]
        if len(lanes) == 1:  # nearly always, and then its share is 1: no pass over all scores for that
            return self._lane_score(lanes[0], rois, start, stop)
        return torch.stack([lane.share * self._lane_score(lane, rois, start, stop) for lane in lanes]).sum(0)

    def _lane_score(self, lane: _Lane, rois: slice, start: int, stop: int) -> Tensor:
        weight_ZYX = self.weights.view(start, stop)[0]
        if not lane.swapped:
            return self._inner(lane.blend.score(rois, weight_ZYX, start, stop))
        assert self.sliding.swap is not None
        others = [slice(r, r + 1) for r in self.sliding.swap[rois]]
        return torch.cat([self._inner(lane.blend.score(r, weight_ZYX, start, stop)) for r in others])

    def _inner(self, rows_CZYX: Tensor) -> Tensor:
        """Without the padding of Y and X."""
        (_, y, x), (_, height, width) = self.before_ZYX, self.inner_ZYX
        return rows_CZYX[..., y : y + height, x : x + width]

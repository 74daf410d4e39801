"""From scores on the prepared grid to label layers on the native grid, slab by slab.

Scores are up-sampled by one matrix per axis and folded at once into label maps: a layer's voxel takes the ROI with the
largest score above 0. Matrices are linear interpolation, whose weights are never negative, so an ROI can win only near
a prepared voxel where it is above 0: each ROI is up-sampled inside that box alone. No whole-volume float array exists.

Axes: R ROIs, L layers, Z Y X voxels, N native and P prepared samples of one axis.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from gleanseg.data.resample import AxisMap, apply_matrices
from gleanseg.predict.layers import Labels, Layering

Size = tuple[int, int, int]


class Axis:
    """One axis of the way back: which prepared samples make each native sample of the crop.

    Args:
        axis: maps the prepared axis (input) to the native axis within the crop (output).
    """

    def __init__(self, axis: AxisMap) -> None:
        self.matrix: Float32[np.ndarray, "N P"] | None = None if axis.is_identity else axis.matrix(order=1)
        self.num_native, self.num_prepared = axis.num_out, axis.num_in
        if self.matrix is None:
            self.first = self.last = np.arange(axis.num_out)
        else:
            used = self.matrix > 0
            self.first = used.argmax(axis=1)
            self.last = used.shape[1] - 1 - used[:, ::-1].argmax(axis=1)

    @property
    def halo(self) -> int:
        """Most prepared samples below the newest one that a native sample needs."""
        return int((self.last - self.first).max(initial=0))

    def touched(self, low: int, high: int) -> slice:
        """Native samples made from prepared samples ``low`` to ``high - 1``, wholly or in part."""
        start = int(np.searchsorted(self.last, low, side="left"))
        return slice(start, max(start, int(np.searchsorted(self.first, high - 1, side="right"))))

    def complete(self, stop: int) -> int:
        """How many native samples need no prepared sample from ``stop`` on."""
        return int(np.searchsorted(self.last, stop, side="left"))

    def source(self, native: slice) -> slice:
        """Prepared samples that make these native samples."""
        return slice(int(self.first[native.start]), int(self.last[native.stop - 1]) + 1)

    def submatrix(self, native: slice, source: slice) -> NDArray[np.float32] | None:
        """The part of the matrix that makes ``native`` from ``source``; None for the identity."""
        return None if self.matrix is None else self.matrix[native, source]


class Restorer:
    """Label layers of a whole native volume in the making.

    Args:
        maps_ZYX: from the prepared grid to the native grid's crop, one per axis.
        native_ZYX: shape of the native volume, in the prepared image's orientation.
        crop_start_ZYX: first native voxel of the crop; everything outside the crop is background.
        layering: which ROI goes into which layer.
        probabilities: channels whose probabilities are kept, as float16 on the native grid.
        scores_are_logits: how scores become probabilities: by the sigmoid, or by adding 0.5.
    """

    def __init__(
        self,
        maps_ZYX: Sequence[AxisMap],
        *,
        native_ZYX: Size,
        crop_start_ZYX: Size,
        layering: Layering,
        probabilities: Sequence[int] = (),
        scores_are_logits: bool = True,
    ) -> None:
        self.layering, self.scores_are_logits = layering, scores_are_logits
        self.axes = [Axis(m) for m in maps_ZYX]
        self.layers: tuple[Labels, ...] = tuple(
            np.zeros(native_ZYX, dtype=layering.dtype) for _ in range(layering.num_layers)
        )
        self.probabilities: Mapping[int, NDArray[np.float16]] = {
            r: np.zeros(native_ZYX, dtype=np.float16) for r in probabilities
        }
        self._crop = tuple(
            slice(start, start + axis.num_native) for start, axis in zip(crop_start_ZYX, self.axes, strict=True)
        )
        self._done = 0

    @property
    def halo(self) -> int:
        """Rows (Z) below the new ones that each slab must repeat."""
        return self.axes[0].halo

    def slab(self, start: int, stop: int) -> "SlabFold":
        """Open the native rows that prepared rows ``start`` to ``stop - 1`` complete; slabs come in order."""
        rows = slice(self._done, self.axes[0].complete(stop))
        self._done = rows.stop
        assert rows.start >= rows.stop or self.axes[0].first[rows.start] >= start, "a slab lacks its halo"
        return SlabFold(self, start, rows)

    def views(self, rows: slice) -> list[Labels]:
        """The layers' voxels of these native rows inside the crop."""
        z, y, x = self._crop
        return [layer[z, y, x][rows] for layer in self.layers]

    def probability_view(self, roi: int, rows: slice) -> NDArray[np.float16]:
        """An ROI's probabilities in these native rows inside the crop."""
        z, y, x = self._crop
        return self.probabilities[roi][z, y, x][rows]


class SlabFold:
    """Folds the scores of one slab into the layers; made by ``Restorer.slab``.

    Args:
        restorer: the volume.
        start: first prepared row of the slab's scores.
        rows: native rows of the crop to make.
    """

    def __init__(self, restorer: Restorer, start: int, rows: slice) -> None:
        self.restorer, self.start, self.rows = restorer, start, rows
        self._labels = restorer.views(rows)
        self._best: list[NDArray[np.float32] | None] = [None] * len(self._labels)

    def fold(self, rois: slice, scores_RZYX: Float32[np.ndarray, "R Z Y X"]) -> None:
        """Let some ROIs compete for the slab's voxels; of equal scores the earlier ROI keeps the voxel."""
        if self.rows.start >= self.rows.stop:
            return
        for roi, scores_ZYX in zip(range(rois.start, rois.stop), scores_RZYX, strict=True):
            if roi in self.restorer.probabilities:
                self._keep_probability(roi, scores_ZYX)
            if scores_ZYX.max() > 0:
                self._compete(roi, scores_ZYX)

    def _compete(self, roi: int, scores_ZYX: Float32[np.ndarray, "Z Y X"]) -> None:
        axes = self.restorer.axes
        low_high = _bounding_box(scores_ZYX > 0)
        offset = (self.start, 0, 0)
        target = [axis.touched(lo + o, hi + o) for axis, (lo, hi), o in zip(axes, low_high, offset, strict=True)]
        target[0] = slice(max(target[0].start, self.rows.start), min(target[0].stop, self.rows.stop))
        if any(t.start >= t.stop for t in target):
            return
        upsampled = self._upsample(scores_ZYX, target)
        inside = (slice(target[0].start - self.rows.start, target[0].stop - self.rows.start), target[1], target[2])
        layer = self.restorer.layering.layer_of[roi]
        best = self._best[layer]
        if best is None:
            best = self._best[layer] = np.zeros(self._labels[layer].shape, dtype=np.float32)
        wins = upsampled > best[inside]
        np.copyto(best[inside], upsampled, where=wins)
        np.copyto(self._labels[layer][inside], self.restorer.layering.value_of(roi), where=wins)

    def _keep_probability(self, roi: int, scores_ZYX: Float32[np.ndarray, "Z Y X"]) -> None:
        _, y, x = self.restorer.axes
        upsampled = self._upsample(scores_ZYX, [self.rows, slice(0, y.num_native), slice(0, x.num_native)])
        if self.restorer.scores_are_logits:
            upsampled = 1 / (1 + np.exp(-np.clip(upsampled, -30, 30)))
        else:
            upsampled = upsampled + np.float32(0.5)
        self.restorer.probability_view(roi, self.rows)[:] = upsampled

    def _upsample(
        self, scores_ZYX: Float32[np.ndarray, "Z Y X"], target: Sequence[slice]
    ) -> Float32[np.ndarray, "z y x"]:
        axes = self.restorer.axes
        sources = [axis.source(t) for axis, t in zip(axes, target, strict=True)]
        matrices = [axis.submatrix(t, s) for axis, t, s in zip(axes, target, sources, strict=True)]
        z, y, x = sources
        return apply_matrices(scores_ZYX[z.start - self.start : z.stop - self.start, y, x], matrices)


def _bounding_box(mask_ZYX: Bool[np.ndarray, "Z Y X"]) -> list[tuple[int, int]]:
    plane_ZY, plane_YX = np.any(mask_ZYX, axis=2), np.any(mask_ZYX, axis=0)
    sides = (np.any(plane_ZY, axis=1), np.any(plane_ZY, axis=0), np.any(plane_YX, axis=0))
    return [(int(used.argmax()), len(used) - int(used[::-1].argmax())) for used in sides]

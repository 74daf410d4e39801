"""Which patch comes next, and reading it: a pure function of (seed, stream, position).

There is no hidden state: the sampler of a resumed run needs only the number of consumed samples.
Axes: Z Y X voxels, C channels.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.config import AugmentConfig
from gleanseg.data.augment import Draw, draw
from gleanseg.data.selection import Selection, Visible
from gleanseg.data.store import Store, StoredCase

Stream = Literal["labelled", "unlabelled"]
_STREAM_CODES: dict[str, int] = {"labelled": 0, "unlabelled": 1}
OUTSIDE = 0
"""Code of voxels outside the image or marked "ignore" in a ``Patch``; the store's codes are shifted up by one."""


class Patch(NamedTuple):
    """A piece of a volume, somewhat larger than the network's patch where it will be rotated or zoomed.

    Attributes:
        image: C Z Y X, normalised; 0 outside the volume.
        codes: Z Y X, the store's code + 1, or ``OUTSIDE``.
        center: the patch's centre in voxels of this array (Z, Y, X).
        table: code x ROI, for the run's ROIs; False for ROIs that are not known.
        known: ROI, whether the target is certain.
        truth: as ``table``, with the ROIs that the recipe hides; for diagnostics only, never in a batch.
        judged: ROI, whether ``truth`` is certain.
        spacing_mm: voxel size (Z, Y, X).
        key: this sample's random key.
        draw: the augmentation to apply.
        case: case id.
    """

    image: NDArray[np.float32]
    codes: NDArray[np.int32]
    center: NDArray[np.float64]
    table: NDArray[np.bool_]
    known: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    key: int
    draw: Draw
    case: str


class Sampler:
    """Draws patches from the labelled and the unlabelled stream.

    Each stream goes through its cases in a fresh permutation per pass. A labelled patch is centred on a voxel of an
    *annotated* ROI with probability ``foreground`` (the ROI drawn first, uniformly among those present in the case,
    so that small ones are seen as often as large ones), else placed uniformly.

    Args:
        store: prepared volumes.
        selection: what of it the run may see.
        patch_ZYX: the network's patch.
        foreground: share of centred patches, in [0, 1].
        augment: what to draw.
        mirror_ZYX: which axes may be flipped.
        seed: the run's seed.
    """

    def __init__(
        self,
        store: Store,
        selection: Selection,
        *,
        patch_ZYX: tuple[int, int, int],
        foreground: float,
        augment: AugmentConfig,
        mirror_ZYX: tuple[bool, bool, bool],
        seed: int,
    ) -> None:
        self.store, self.selection = store, selection
        self.patch_ZYX, self.foreground = np.array(patch_ZYX), foreground
        self.augment, self.mirror_ZYX, self.seed = augment, mirror_ZYX, seed
        self._streams: dict[str, Sequence[Visible]] = {
            "labelled": selection.labelled,
            # Without fully unlabelled cases the unknown ROIs of partly labelled ones carry the unlabelled terms.
            "unlabelled": selection.unlabelled or selection.labelled,
        }
        self._laps: dict[str, tuple[int, NDArray[np.int64]]] = {}

    def patch(self, stream: Stream, position: int) -> Patch:
        """The patch at a position of a stream, with its draws."""
        cases = self._streams[stream]
        lap, offset = divmod(position, len(cases))
        visible = cases[self._order(stream, lap)[offset]]
        rng = self._rng(stream, position, 1)
        key = int(rng.integers(2**62))
        drawn = draw(rng, self.augment, mirror_ZYX=self.mirror_ZYX)
        case = self.store.case(visible.id)
        start = self._place(case, visible, rng)
        try:
            return self._read(case, visible, start, key=key, drawn=drawn)
        except MemoryError as error:
            said = f": {error}" if str(error) else ""
            raise MemoryError(f"reading a patch of case {visible.id!r}{said}") from error

    def _order(self, stream: Stream, lap: int) -> NDArray[np.int64]:
        """A pass over a stream's cases; the last one is kept, for 100,000 cases take milliseconds to shuffle."""
        kept = self._laps.get(stream)
        if kept is None or kept[0] != lap:
            kept = self._laps[stream] = (lap, self._rng(stream, lap, 0).permutation(len(self._streams[stream])))
        return kept[1]

    def _rng(self, stream: Stream, position: int, purpose: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self.seed % 2**63, _STREAM_CODES[stream], position, purpose]))
        )

    def _place(self, case: StoredCase, visible: Visible, rng: np.random.Generator) -> NDArray[np.int64]:
        """First voxel of the patch; negative where the volume is smaller than the patch and lies in its middle."""
        shape, patch = np.array(case.grid.shape_ZYX), self.patch_ZYX
        room = shape - patch
        start = np.where(room > 0, rng.integers(0, np.maximum(room, 0) + 1), -((-room) // 2))
        present = visible.annotated & (case.num_voxels[self.selection.columns] > 0)
        if rng.random() < self.foreground and present.any():
            roi = rng.choice(np.flatnonzero(present))
            voxels = case.foreground(int(self.selection.columns[roi]))
            voxel = voxels[rng.integers(len(voxels))].astype(np.int64)
            jitter = rng.integers(-(patch // 4), patch // 4 + 1)
            centred = np.clip(voxel + jitter - patch // 2, 0, np.maximum(room, 0))
            start = np.where(room > 0, centred, start)
        placed: NDArray[np.int64] = start.astype(np.int64)
        return placed

    def _read(self, case: StoredCase, visible: Visible, start: NDArray[np.int64], *, key: int, drawn: Draw) -> Patch:
        center = start + (self.patch_ZYX - 1) / 2
        half = drawn.reach(self.patch_ZYX, case.grid.spacing_ZYX_mm)
        low, high = np.floor(center - half).astype(int), np.ceil(center + half).astype(int) + 1
        shape = np.array(case.grid.shape_ZYX)
        inner_low, inner_high = np.clip(low, 0, shape), np.clip(high, 0, shape)
        stored_image, stored_codes = case.read(
            (int(inner_low[0]), int(inner_low[1]), int(inner_low[2])),
            (int(inner_high[0]), int(inner_high[1]), int(inner_high[2])),
        )
        size = tuple(high - low)
        inside = tuple(slice(a, b) for a, b in zip(inner_low - low, inner_high - low, strict=True))
        image = np.zeros((len(stored_image), *size), dtype=np.float32)
        image[(slice(None), *inside)] = stored_image
        codes = np.full(size, OUTSIDE, dtype=np.int32)
        shifted = stored_codes.astype(np.int32) + 1
        if case.ignore_code is not None:
            shifted[stored_codes == case.ignore_code] = OUTSIDE
        codes[inside] = shifted
        truth = case.table[:, self.selection.columns]
        return Patch(
            image=image,
            codes=codes,
            center=center - low,
            table=truth & visible.known,
            known=visible.known,
            truth=truth,
            judged=case.known[self.selection.columns],
            spacing_mm=case.grid.spacing_ZYX_mm,
            key=key,
            draw=drawn,
            case=case.id,
        )

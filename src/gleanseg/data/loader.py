"""Batches in time: threads read and decompress ahead, the training device augments.

Threads share the volumes' files and are cheap to stop. They overlap with PyTorch, which lets go of the interpreter's
lock; among themselves they do not scale, as python-blosc2 holds it while it decompresses (2 ms for a 64^3 patch).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gleanseg.data.augment import move, strong, weak
from gleanseg.data.sampler import OUTSIDE, Patch, Sampler, Stream
from gleanseg.types import Batch, Views

AHEAD = 3
"""Steps whose patches are read in advance."""


class Loader:
    """Reads the patches of consecutive steps in the background.

    Args:
        sampler: where patches come from.
        batch: rows of the global batch.
        num_labelled: of these, rows from the labelled stream; the labelled rows come first.
        rank: this process; every ``world``-th row of each stream is its own.
        world: number of processes.
        workers: reading threads.
    """

    def __init__(
        self, sampler: Sampler, *, batch: int, num_labelled: int, rank: int = 0, world: int = 1, workers: int = 2
    ) -> None:
        self.sampler, self.batch, self.num_labelled = sampler, batch, num_labelled
        self.rank, self.world = rank, world
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="patches")

    def steps(self, start: int, stop: int) -> Iterator[list[Patch]]:
        """This rank's patches of steps ``start`` to ``stop - 1``, labelled rows first."""
        waiting: deque[list[Future[Patch]]] = deque()
        submitted = start
        for step in range(start, stop):
            while submitted < min(stop, step + 1 + AHEAD):
                waiting.append(self._submit(submitted))
                submitted += 1
            yield [future.result() for future in waiting.popleft()]

    def rows(self, step: int) -> list[tuple[Stream, int]]:
        """(stream, position) of this rank's rows of a step."""
        num_unlabelled = self.batch - self.num_labelled
        labelled: list[tuple[Stream, int]] = [
            ("labelled", step * self.num_labelled + i) for i in range(self.num_labelled)
        ]
        unlabelled: list[tuple[Stream, int]] = [
            ("unlabelled", step * num_unlabelled + i) for i in range(num_unlabelled)
        ]
        return labelled[self.rank :: self.world] + unlabelled[self.rank :: self.world]

    def _submit(self, step: int) -> list[Future[Patch]]:
        return [self._pool.submit(self.sampler.patch, stream, position) for stream, position in self.rows(step)]

    def close(self) -> None:
        """Stop the threads; patches not yet read are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def collate(
    patches: Sequence[Patch], *, patch_ZYX: tuple[int, int, int], views: Views, num_labelled: int, device: torch.device
) -> Batch:
    """Move patches to the device, augment them and join them into a batch.

    The batch tells codes apart only by ROIs that are known: nothing of a hidden label is in it.

    Args:
        patches: rows; the labelled ones first.
        patch_ZYX: the network's patch.
        views: which views to make.
        num_labelled: rows below it come from the labelled stream.
        device: where the augmentation runs.
    """
    images, codes = [], []
    for p in patches:
        place = (p.center, patch_ZYX, p.draw, p.spacing_mm)
        images.append(move(torch.from_numpy(p.image).to(device), *place, nearest=False))
        codes.append(_codes(p, patch_ZYX, device))
    weak_views = [weak(image, p.draw) for image, p in zip(images, patches, strict=True)]
    x: dict[str, Tensor] = {}
    if "weak" in views.names:
        x["weak"] = torch.stack(weak_views)
    if "strong" in views.names:
        x["strong"] = torch.stack([strong(w, p.draw, key=p.key) for w, p in zip(weak_views, patches, strict=True)])
    shifted = torch.stack(codes)
    valid = shifted != OUTSIDE
    merged = [np.unique(p.table, axis=0, return_inverse=True) for p in patches]
    visible = [torch.from_numpy(code_of.astype(np.int32)).to(device) for _, code_of in merged]
    return Batch(
        x=x,
        codes=torch.stack([new[row] for new, row in zip(visible, (shifted - 1).clamp_min(0), strict=True)]),
        table=torch.from_numpy(_joined([table for table, _ in merged])).to(device),
        known=torch.from_numpy(np.stack([p.known for p in patches])).to(device),
        valid=valid,
        key=torch.tensor([p.key for p in patches], device=device),
        spacing_mm=torch.tensor([p.draw.turned(p.spacing_mm) for p in patches], device=device, dtype=torch.float32),
        num_labelled=num_labelled,
    )


def collate_truth(patches: Sequence[Patch], batch: Batch, *, patch_ZYX: tuple[int, int, int]) -> Batch:
    """The batch as if nothing were hidden, for diagnostics: ``known`` becomes what the manifest knows; no views."""
    device = batch.codes.device
    codes = torch.stack([_codes(p, patch_ZYX, device) for p in patches])
    return batch._replace(
        x={},
        codes=(codes - 1).clamp_min(0),
        table=torch.from_numpy(_joined([p.truth for p in patches])).to(device),
        known=torch.from_numpy(np.stack([p.judged for p in patches])).to(device),
    )


def _codes(p: Patch, patch_ZYX: tuple[int, int, int], device: torch.device) -> Tensor:
    """Shifted codes Z Y X after the patch's spatial change."""
    labels = torch.from_numpy(p.codes).to(device)[None]
    place = (p.center, patch_ZYX, p.draw, p.spacing_mm)
    if not p.draw.moves:
        return move(labels, *place, nearest=True)[0]
    # Codes pass through float32, exact up to 2**24.
    return move(labels.float(), *place, nearest=True)[0].to(torch.int32)


def _joined(tables: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    most = max(len(table) for table in tables)
    joined = np.zeros((len(tables), most, tables[0].shape[1]), dtype=np.bool_)
    for row, table in enumerate(tables):
        joined[row, : len(table)] = table
    return joined

"""Batches in time: threads read and decompress ahead, the training device augments.

Threads share the volumes' files and are cheap to stop. They overlap with PyTorch, which lets go of the interpreter's
lock; among themselves they do not scale, as python-blosc2 holds it while it decompresses (2 ms for a 64^3 patch).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gleanseg.data.augment import move, strong, weak
from gleanseg.data.sampler import OUTSIDE, Patch, Sampler, Stream
from gleanseg.types import Batch, Views

_AHEAD = 3
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
            while submitted < min(stop, step + 1 + _AHEAD):
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
        # Codes pass through float32, exact up to 2**24.
        labels = torch.from_numpy(p.codes).to(device)[None]
        codes.append(
            move(labels.float(), *place, nearest=True)[0].to(torch.int32)
            if p.draw.moves
            else move(labels, *place, nearest=True)[0]
        )
    weak_views = [weak(image, p.draw) for image, p in zip(images, patches, strict=True)]
    x: dict[str, Tensor] = {}
    if "weak" in views.names:
        x["weak"] = torch.stack(weak_views)
    if "strong" in views.names:
        x["strong"] = torch.stack([strong(w, p.draw, key=p.key) for w, p in zip(weak_views, patches, strict=True)])
    shifted = torch.stack(codes)
    valid = shifted != OUTSIDE
    return Batch(
        x=x,
        codes=(shifted - 1).clamp_min(0),
        table=torch.from_numpy(_joined_tables(patches)).to(device),
        known=torch.from_numpy(np.stack([p.known for p in patches])).to(device),
        valid=valid,
        key=torch.tensor([p.key for p in patches], device=device),
        spacing_mm=torch.tensor([p.spacing_mm for p in patches], device=device, dtype=torch.float32),
        num_labelled=num_labelled,
    )


def _joined_tables(patches: Sequence[Patch]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    most = max(len(p.table) for p in patches)
    joined = np.zeros((len(patches), most, patches[0].table.shape[1]), dtype=np.bool_)
    for row, p in enumerate(patches):
        joined[row, : len(p.table)] = p.table
    return joined

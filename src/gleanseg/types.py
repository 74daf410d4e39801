"""What flows between the rooms: batches, terms, views, progress.

Axes: B cases of a batch, C image channels, R ROIs, V codes, Z Y X voxels (X runs to the patient's right-left axis).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Views(NamedTuple):
    """What a method must be given.

    Attributes:
        names: augmented versions of each patch, ``weak`` and/or ``strong``; all lie on one voxel grid.
        unlabelled: whether part of the batch comes from the unlabelled stream.
    """

    names: tuple[str, ...] = ("weak",)
    unlabelled: bool = False


class Progress(NamedTuple):
    """Where training stands: ``step`` optimiser steps of the stage's ``total`` are done."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total))


class Batch(NamedTuple):
    """One batch of patches and what is known of them.

    Attributes:
        x: image of each view.
        codes: which set of ROIs a voxel belongs to, a row of ``table``; meaningless where not ``valid``.
        table: whether code v of case b contains ROI r.
        known: whether case b is annotated for ROI r or known not to contain it.
        valid: False in padding, outside the image and where the annotator marked "ignore".
        key: random key of each sample; all randomness of a method derives from it.
        spacing_mm: voxel size (Z, Y, X).
        num_labelled: rows below it come from the labelled stream.
    """

    x: dict[str, Float[Tensor, "B C Z Y X"]]
    codes: Int[Tensor, "B Z Y X"]
    table: Bool[Tensor, "B V R"]
    known: Bool[Tensor, "B R"]
    valid: Bool[Tensor, "B Z Y X"]
    key: Int[Tensor, " B"]
    spacing_mm: Float[Tensor, "B 3"]
    num_labelled: int

    def y(self, rois: Int[Tensor, " r"] | None = None) -> Float[Tensor, "B R Z Y X"]:
        """Target masks (0 or 1) of all ROIs or of some, looked up from the codes.

        Meaningless where not ``known & valid``.
        """
        table_BVR = self.table if rois is None else self.table[:, :, rois]
        B, V, R = table_BVR.shape
        flat_BVR = table_BVR.float().reshape(B * V, R)
        rows = self.codes.long() + V * torch.arange(B, device=self.codes.device).reshape(B, 1, 1, 1)
        return flat_BVR[rows].movedim(-1, 1)

    def labelled(self) -> "Batch":
        """The rows from the labelled stream alone."""
        return self._replace(
            x={name: view[: self.num_labelled] for name, view in self.x.items()},
            codes=self.codes[: self.num_labelled],
            table=self.table[: self.num_labelled],
            known=self.known[: self.num_labelled],
            valid=self.valid[: self.num_labelled],
            key=self.key[: self.num_labelled],
            spacing_mm=self.spacing_mm[: self.num_labelled],
        )


class Mean(NamedTuple):
    """A loss term that is a mean: the engine divides once, over all ranks and only there.

    Attributes:
        total: sum of the elements, with gradient.
        count: how many elements; 0 means that the term adds exactly 0.
        weight: factor in the loss.
    """

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a term
    weight: float = 1.0

    def scaled(self, factor: float) -> "Mean":
        """The same term with ``factor`` times its weight."""
        return self._replace(weight=self.weight * factor)

    def watched(self) -> "Monitor":
        """The same quantity for the log alone."""
        return Monitor(self.total.detach(), self.count)


class Pooled(NamedTuple):
    """A loss term that is a function of additive statistics of the whole (global) batch.

    Attributes:
        sums: additive statistics, with gradient; the engine adds them up over ranks.
        value: maps the global sums to the term; must give 0 with a defined gradient when nothing was counted.
        weight: factor in the loss.
    """

    sums: Float[Tensor, "..."]
    value: Callable[[Tensor], Tensor]
    weight: float = 1.0

    def scaled(self, factor: float) -> "Pooled":
        """The same term with ``factor`` times its weight."""
        return self._replace(weight=self.weight * factor)


class Monitor(NamedTuple):
    """A quantity that is logged beside the loss terms and moves no weight, such as a share of decisions.

    Attributes:
        total: sum of what is averaged, without gradient.
        count: over how many; 0 means that this step says nothing of it.
    """

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]  # type: ignore[assignment]  # hides tuple.count, which nobody calls on a term


class Memo(NamedTuple):
    """What a method wants back after the step, of all ranks together: features for a memory, sums for an average.

    Attributes:
        rows: without gradient; of the same shape on every rank.
    """

    rows: Float[Tensor, " N *any"]


Term = Mean | Pooled | Monitor | Memo

ProgressBar = Callable[[int, int, str], None]
"""Called with how many items are done, of how many, and the present item."""

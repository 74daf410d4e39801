"""A case of a manifest, and the three states of an ROI in it."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_serializer

Split = Literal["train", "validation", "test"]


class State(StrEnum):
    """What is known of an ROI in a case."""

    ANNOTATED = "annotated"
    """Its voxels are given; none of them is a finding too."""
    ABSENT = "absent"
    """It is certainly nowhere in the image."""
    UNKNOWN = "unknown"
    """Nobody looked."""


class Strict(BaseModel):
    """A frozen table: every key must be known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Channel(Strict):
    """An image channel: its name, and its modality (``CT``, ``MR``, ...), which chooses the intensity treatment."""

    name: str
    modality: str


class Case(Strict):
    """One subject: images, perhaps labels, and what they say about each ROI.

    Attributes:
        id: unique name; file names of predictions are made from it.
        site: where it comes from; recipes hide labels by site.
        split: train, validation or test.
        images: one file per channel, or one 4D file with all channels.
        labels: one label map (with ``values``), or one binary mask (> 0) per ROI; None when unlabelled.
        values: label value -> every ROI that contains it. Values not listed (but 0) are an error.
        annotated: ROIs whose voxels the labels give.
        absent: ROIs that are certainly nowhere in the image.
        ignore: label value of voxels that nobody judged.
        spacing_mm: x, y, z; only for files without geometry (h5).
        labels_follow: what of the labels' headers places them: the whole ``position``, which must be the image's, or
            the ``orientation`` alone, for labels that hold the image's voxels but not where the image lies.
    """

    id: str
    site: str = ""
    split: Split = "train"
    images: tuple[str, ...]
    labels: str | dict[str, str] | None = None
    values: dict[int, tuple[str, ...]] = {}
    annotated: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    ignore: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    labels_follow: Literal["position", "orientation"] = "position"

    @model_serializer(mode="wrap")
    def _without_usual(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leaves the usual ``labels_follow`` out, so that manifests without the key keep their digests."""
        data = dump(self)
        if self.labels_follow == "position":
            data.pop("labels_follow", None)
        return data

    def label_files(self) -> tuple[str, ...]:
        """Names of the label files, as written in the manifest."""
        if self.labels is None:
            return ()
        return (self.labels,) if isinstance(self.labels, str) else tuple(self.labels.values())

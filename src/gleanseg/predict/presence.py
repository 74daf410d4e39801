"""Which ROIs are in a volume: the ROI-aware network over half-overlapping windows.

Axes: C channels, P outputs of the classifier, R ROIs, Z Y X voxels.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gleanseg.data.plan import Plan
from gleanseg.data.standardize import preprocess_image
from gleanseg.data.volume import Volume
from gleanseg.networks.classifier import Classifier
from gleanseg.parts.presence import RoiAware, inherits, sources
from gleanseg.predict.hardware import best_device, channels_last
from gleanseg.predict.sliding import Size
from gleanseg.rois.ontology import Ontology
from gleanseg.run.deploy import load_classifier
from gleanseg.run.folder import Run

_OVERLAP = 0.5


class Scan(NamedTuple):
    """What was found in a volume.

    Attributes:
        scores: of each ROI, in [0, 1]: the largest of all windows.
        centers_mm: where that window lies, from the volume's first voxel along (Z, Y, X) of the prepared grid.
        num_windows: how many were looked at.
    """

    scores: Float[np.ndarray, " R"]
    centers_mm: Float[np.ndarray, "R 3"]
    num_windows: int


class Sight(NamedTuple):
    """What speaks for an ROI in one window.

    Attributes:
        image: first channel of the window, as prepared.
        heat: presence in [0, 1] as each place of the window alone would have it; coarse, as the last map is.
        spacing_ZYX_mm: of both.
    """

    image: Float[np.ndarray, "Z Y X"]
    heat: Float[np.ndarray, "Z Y X"]
    spacing_ZYX_mm: tuple[float, float, float]


class Scanner:
    """Looks for ROIs in whole volumes.

    Args:
        classifier: trained; moved to ``device``.
        outputs: ROIs it was trained on.
        rois: ROIs to look for; those that are found in others take these others' scores, see ``sources``.
        ontology: relations of ``rois``.
        plan: how volumes are prepared for it.
        patch_ZYX: windows, of the size it was trained on.
        temperature: see ``RoiAware``.
        device: where it runs.

    Attributes:
        rois: as given.
        decided: those of which it can say anything.
        inherited: those of which it only knows what they are found in: a liver does not make a liver tumor.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        outputs: Sequence[str],
        rois: Sequence[str],
        ontology: Ontology,
        plan: Plan,
        patch_ZYX: Size,
        temperature: float = 1.0,
        device: torch.device,
    ) -> None:
        self.plan, self.patch_ZYX, self.device, self.rois = plan, patch_ZYX, device, tuple(rois)
        found = sources(rois, outputs, ontology, tumors="own")
        self.decided = tuple(roi for roi, source in zip(rois, found, strict=True) if source)
        self.inherited = frozenset(roi for roi in rois if inherits(roi, outputs, ontology))
        channels_last(classifier, bf16=False)
        self.roi_aware = RoiAware(classifier, found, temperature=temperature).to(device)

    @classmethod
    def from_run(
        cls,
        run: Path,
        *,
        rois: Sequence[str] | None = None,
        ontology: Ontology | None = None,
        device: torch.device | None = None,
    ) -> "Scanner":
        """The scanner of a presence run.

        Args:
            run: its folder.
            rois: what to look for; default: what it was trained on.
            ontology: relations of ``rois``; default: the run's.
            device: default: the first GPU, else the processor.

        Raises:
            UserError: no presence run, or one that knows none of the ROIs.
        """
        opened = Run.open(run)
        classifier = load_classifier(opened)
        patch = opened.recipe.sampling.patch
        assert patch != "auto", "a run's recipe is resolved"
        return cls(
            classifier,
            outputs=opened.rois,
            rois=rois or opened.rois,
            ontology=ontology or opened.ontology,
            plan=opened.plan,
            patch_ZYX=patch[::-1],
            temperature=opened.info.get("temperature", 1.0),
            device=device or best_device(),
        )

    def scan(self, volume: Volume, *, poll: Callable[[int, int], None] | None = None) -> Scan:
        """Look at every window of a volume in any orientation and spacing.

        Args:
            volume: with the plan's channels.
            poll: called with (windows done, windows in all).

        Raises:
            UserError: another number of channels, or no finite voxel.
        """
        return self.scan_prepared(preprocess_image(volume, self.plan).image, poll=poll)

    def scan_prepared(self, image_CZYX: NDArray[np.float32], *, poll: Callable[[int, int], None] | None = None) -> Scan:
        """Look at every window of an image that is on the plan's grid and intensity scale already."""
        padded, before = _padded(image_CZYX, self.patch_ZYX)
        places = list(product(*map(_starts, padded.shape[1:], self.patch_ZYX)))
        scores = np.zeros((len(places), len(self.rois)))
        for i, place in enumerate(places):
            scores[i] = self.roi_aware(self._window(padded, place))[0].double().cpu().numpy()
            if poll is not None:
                poll(i + 1, len(places))
        best = scores.argmax(0)
        centers = np.array(places)[best] + np.array(self.patch_ZYX) / 2 - before
        return Scan(scores.max(0), centers * np.array(self.plan.spacing_ZYX_mm), len(places))

    @torch.no_grad()
    def look(self, volume: Volume, roi: str, center_mm: tuple[float, float, float]) -> Sight:
        """What in the window that ``scan`` found most telling speaks for an ROI.

        Args:
            volume: that was scanned.
            roi: one of ``decided``.
            center_mm: of the window, as ``scan`` gives it.
        """
        padded, before = _padded(preprocess_image(volume, self.plan).image, self.patch_ZYX)
        start = np.array(center_mm) / self.plan.spacing_ZYX_mm - np.array(self.patch_ZYX) / 2 + before
        window = self._window(padded, np.rint(start).astype(int).tolist())
        classifier, outputs = self.roi_aware.classifier, self.roi_aware.sources[self.rois.index(roi)]
        logits_ZYX = classifier.heat_map(classifier.encode(window)).float()[:, outputs].amax(1, keepdim=True)
        scores = (logits_ZYX / self.roi_aware.temperature).sigmoid()
        heat = functional.interpolate(scores, size=self.patch_ZYX, mode="trilinear")[0, 0]
        return Sight(window[0, 0].cpu().numpy(), heat.cpu().numpy(), self.plan.spacing_ZYX_mm)

    def _window(self, padded_CZYX: NDArray[np.float32], place: Sequence[int]) -> Tensor:
        z, y, x = (slice(start, start + side) for start, side in zip(place, self.patch_ZYX, strict=True))
        return torch.from_numpy(np.ascontiguousarray(padded_CZYX[:, z, y, x]))[None].to(self.device)


def _starts(side: int, patch: int) -> list[int]:
    """First voxels of half-overlapping windows, evenly spread, the last one flush with the end."""
    if side <= patch:
        return [0]
    num = 1 + int(np.ceil((side - patch) / (patch * (1 - _OVERLAP))))
    return [round(start) for start in np.linspace(0, side - patch, num)]


def _padded(image_CZYX: NDArray[np.float32], patch_ZYX: Size) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """As training pads: the volume in the middle, zeros around it; and how many come before it on each axis."""
    missing = np.maximum(np.array(patch_ZYX) - image_CZYX.shape[1:], 0)
    before = missing // 2
    if not missing.any():
        return image_CZYX, before
    return np.pad(image_CZYX, [(0, 0), *zip(before.tolist(), (missing - before).tolist(), strict=True)]), before

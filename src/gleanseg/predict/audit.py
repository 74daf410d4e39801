"""Which structures of a collection are present but unlabelled, and which labels look wrong."""

import csv
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.manifest import Case, Manifest, State
from gleanseg.errors import UserError
from gleanseg.parts.presence import LEAST_MM3
from gleanseg.predict.presence import Scanner
from gleanseg.run.folder import write_text
from gleanseg.types import ProgressBar


class Verdict(StrEnum):
    """What is thought of one (case, ROI) pair."""

    ANNOTATED = "annotated"
    LATENT = "latent"
    AMBIGUOUS = "ambiguous"
    ABSENT = "absent"
    UNDECIDED = "undecided"
    """The network knows neither the ROI nor what it is found in."""


class Pair(NamedTuple):
    """One (case, ROI) pair.

    Attributes:
        case: id.
        site: of the case.
        roi: id.
        state: what the manifest says.
        score: presence in [0, 1].
        verdict: see ``Verdict``.
        suspect: why the label looks wrong; empty where it does not.
        center_mm: middle of the window with that score, from the first voxel of the prepared grid (Z, Y, X).
    """

    case: str
    site: str
    roi: str
    state: str
    score: float
    verdict: Verdict
    suspect: str
    center_mm: tuple[float, float, float]


class Audit(NamedTuple):
    """All pairs of a manifest.

    Attributes:
        name: of the manifest.
        rois: ids, in the manifest's order.
        cases: ids.
        pairs: case by case.
        phi_high: threshold above which an ROI is there.
        phi_low: and below which it is not.
    """

    name: str
    rois: tuple[str, ...]
    cases: tuple[str, ...]
    pairs: tuple[Pair, ...]
    phi_high: float
    phi_low: float

    @property
    def suspects(self) -> tuple[Pair, ...]:
        """Labels that look wrong, the surest first."""
        found = [pair for pair in self.pairs if pair.suspect]
        return tuple(sorted(found, key=lambda pair: -abs(pair.score - 0.5)))

    def telling(self, *, most: int = 12, of_each: int = 2) -> tuple[Pair, ...]:
        """What is there though a label denies it or is missing: suspects, then latent ones, the surest first.

        Args:
            most: pairs.
            of_each: most pairs of one ROI.
        """
        latent = sorted((p for p in self.pairs if p.verdict is Verdict.LATENT), key=lambda pair: -pair.score)
        chosen: list[Pair] = []
        for pair in (*self.suspects, *latent):
            if pair.score > self.phi_high and sum(pair.roi == other.roi for other in chosen) < of_each:
                chosen.append(pair)
        return tuple(chosen[:most])

    def number_of(self, roi: str, verdict: Verdict) -> int:
        """Cases in which an ROI has a verdict."""
        return sum(pair.roi == roi and pair.verdict is verdict for pair in self.pairs)

    def save(self, folder: Path) -> None:
        """Write ``presence.json`` and ``presence.csv``.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            header = {"manifest": self.name, "phi_high": self.phi_high, "phi_low": self.phi_low}
            rows = [pair._asdict() for pair in self.pairs]
            write_text(folder / "presence.json", json.dumps({**header, "pairs": rows}, indent=1))
            with (folder / "presence.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(Pair._fields)
                writer.writerows([*pair[:-1], " ".join(f"{mm:.0f}" for mm in pair.center_mm)] for pair in self.pairs)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None


def audit(
    scanner: Scanner,
    manifest: Manifest,
    *,
    cases: Sequence[Case] | None = None,
    phi_high: float = 0.8,
    phi_low: float = 0.1,
    progress: ProgressBar | None = None,
) -> Audit:
    """Scan cases and set what is found against what the manifest says.

    A label is suspect when it is annotated with at least 200 mm3 and the network is sure that the ROI is absent, or
    when the ROI is said to be absent, or annotated without a voxel, and the network is sure that it is there. Of an ROI
    whose score is that of what it is found in, the network can only be sure that it is absent.

    Args:
        scanner: looks for the manifest's ROIs.
        manifest: whose cases.
        cases: some of them; default: all.
        phi_high: an ROI with a higher score is there.
        phi_low: and with a lower one is not.
        progress: called with (done, total, case).

    Raises:
        UserError: an image that cannot be read.
    """
    chosen = list(manifest.cases if cases is None else cases)
    pairs: list[Pair] = []
    for i, case in enumerate(chosen):
        pairs += _judge(scanner, manifest, case, phi_high, phi_low)
        if progress is not None:
            progress(i + 1, len(chosen), case.id)
    ids = tuple(case.id for case in chosen)
    return Audit(manifest.name, tuple(manifest.rois), ids, tuple(pairs), phi_high, phi_low)


def _judge(scanner: Scanner, manifest: Manifest, case: Case, phi_high: float, phi_low: float) -> list[Pair]:
    found = scanner.scan(read_image(manifest, case))
    states, volumes = manifest.states(case), _volumes_mm3(manifest, case)
    place = {roi: r for r, roi in enumerate(scanner.rois)}
    pairs = []
    for roi in manifest.rois:
        score = float(found.scores[place[roi]])
        there = score > phi_high and roi not in scanner.inherited  # a liver does not make a liver tumor
        sure = 1 if there else -1 if score < phi_low else 0
        z, y, x = (float(mm) for mm in found.centers_mm[place[roi]])
        decided = roi in scanner.decided
        verdict = _verdict(states[roi], sure) if decided else Verdict.UNDECIDED
        suspect = _suspect(states[roi], sure, volumes.get(roi, 0.0)) if decided else ""
        pairs.append(Pair(case.id, case.site or "", roi, states[roi].value, score, verdict, suspect, (z, y, x)))
    return pairs


def _verdict(state: State, sure: int) -> Verdict:
    if state is State.ANNOTATED:
        return Verdict.ANNOTATED
    if state is State.ABSENT:
        return Verdict.ABSENT
    return {1: Verdict.LATENT, 0: Verdict.AMBIGUOUS, -1: Verdict.ABSENT}[sure]


def _suspect(state: State, sure: int, volume_mm3: float) -> str:
    if state is State.ANNOTATED and sure < 0 and volume_mm3 >= LEAST_MM3:
        return f"annotated with {volume_mm3 / 1000:.1f} ml, but looks absent"
    if state is State.ANNOTATED and sure > 0 and volume_mm3 == 0:
        return "annotated without a voxel, but looks present"
    if state is State.ABSENT and sure > 0:
        return "said to be absent, but looks present"
    return ""


def _volumes_mm3(manifest: Manifest, case: Case) -> dict[str, float]:
    labels = read_labels(manifest, case)
    if labels is None:
        return {}
    voxel = float(np.prod(labels.grid.spacing_ZYX_mm))
    counts = np.bincount(labels.codes.reshape(-1), minlength=len(labels.table))
    voxels = counts[: len(labels.table)] @ labels.table
    return {roi: float(n) * voxel for roi, n in zip(manifest.rois, voxels, strict=True)}

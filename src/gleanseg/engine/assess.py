"""How far the scores of a trained ROI-aware network can be trusted: on patches drawn as training draws them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gleanseg.data.loader import collate, collate_truth
from gleanseg.data.sampler import Sampler, Stream
from gleanseg.data.selection import Visible
from gleanseg.engine.setup import Setup
from gleanseg.evaluate.calibration import auroc, decisions, fit_temperature, probabilities, reliability
from gleanseg.methods.presence import Presence
from gleanseg.types import Batch

_PATCHES = 512
"""Patches at most; enough that a share of 0.9 is known to within 0.03 for an ROI that half of them hold."""
_PER_CASE = 16
_SEED = 2


class Pairs(NamedTuple):
    """Logits and labels of (patch, ROI) pairs.

    Attributes:
        logits: N R.
        present: N R.
        sure: N R, whether ``present`` is certain.
    """

    logits: NDArray[np.float64]
    present: NDArray[np.bool_]
    sure: NDArray[np.bool_]

    def of(self, roi: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The certain pairs of one ROI, or of all."""
        part = slice(None) if roi is None else slice(roi, roi + 1)
        chosen = self.sure[:, part]
        return self.logits[:, part][chosen], self.present[:, part][chosen]


@dataclass(frozen=True, kw_only=True)
class RoiAssessment:
    """One ROI's figures; NaN where there is nothing to count."""

    roi: str
    present: int
    absent: int
    auroc: float
    ece: float
    positive: float
    negative: float
    positive_precision: float
    negative_precision: float


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """All figures of one group of pairs, after calibration.

    Attributes:
        group: ``known`` (labels that training may use, of held-out cases) or ``hidden`` (training cases' ROIs that the
            recipe hides: what the network must decide in segmentation training).
        temperature: what logits are divided by.
        ece_raw: expected calibration error before that.
        ece: and after it.
        score: bins of the reliability curve: mean score,
        observed: share present,
        pairs: and how many.
        rois: each ROI's figures.
    """

    group: str
    temperature: float
    ece_raw: float
    ece: float
    score: list[float]
    observed: list[float]
    pairs: list[float]
    rois: list[RoiAssessment]

    @property
    def mean_auroc(self) -> float:
        """Over ROIs that have one; NaN if none has."""
        values = [roi.auroc for roi in self.rois if not np.isnan(roi.auroc)]
        return float(np.mean(values)) if values else float("nan")


def known_pairs(method: Presence, setup: Setup, *, device: torch.device) -> Pairs:
    """Pairs of the validation cases, or of the training cases when there are none."""
    cases = setup.selection.validation or setup.selection.train
    rows = [_row(method, *batch) for batch in _batches(setup, [c for c in cases if c.known.any()], device)]
    return _joined([(logits, seen) for logits, seen, _ in rows])


def hidden_pairs(method: Presence, setup: Setup, *, device: torch.device) -> Pairs:
    """Pairs of training cases that the manifest knows and the recipe hides."""
    rows = [_row(method, *batch) for batch in _batches(setup, setup.selection.train, device)]
    return _joined([(logits, unseen) for logits, _, unseen in rows])


def assess(
    pairs: Pairs, rois: Sequence[str], *, group: str, temperature: float, phi_high: float = 0.8, phi_low: float = 0.1
) -> Assessment:
    """Figures of a group of pairs at a temperature."""
    logits, present = pairs.of()
    curve = reliability(probabilities(logits, temperature), present)
    return Assessment(
        group=group,
        temperature=temperature,
        ece_raw=reliability(probabilities(logits, 1.0), present).ece,
        ece=curve.ece,
        score=curve.score.tolist(),
        observed=curve.observed.tolist(),
        pairs=curve.pairs.tolist(),
        rois=[_assess_roi(pairs, r, roi, temperature, phi_high, phi_low) for r, roi in enumerate(rois)],
    )


def calibrate(pairs: Pairs) -> float:
    """The temperature of all ROIs together."""
    return fit_temperature(*pairs.of())


def to_json(assessments: Sequence[Assessment]) -> str:
    """What ``presence.json`` holds; figures that do not exist are null."""
    groups = [_without_nan({**asdict(a), "mean_auroc": a.mean_auroc}) for a in assessments]
    return json.dumps({"groups": groups}, indent=1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _assess_roi(pairs: Pairs, r: int, roi: str, temperature: float, phi_high: float, phi_low: float) -> RoiAssessment:
    logits, present = pairs.of(r)
    scores = probabilities(logits, temperature)
    decided = decisions(scores, present, phi_high=phi_high, phi_low=phi_low)
    return RoiAssessment(
        roi=roi,
        present=int(present.sum()),
        absent=int((~present).sum()),
        auroc=auroc(scores, present),
        ece=reliability(scores, present).ece,
        **decided._asdict(),
    )


def _joined(rows: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> Pairs:
    labels = np.concatenate([label for _, label in rows])
    return Pairs(np.concatenate([logits for logits, _ in rows]), labels[..., 0], labels[..., 1])


@torch.no_grad()
def _row(
    method: Presence, batch: Batch, truth: Batch
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Logits; (present, sure) by visible labels; (present, sure) by hidden ones."""
    was_training = method.training
    logits = method.eval().net(batch.x["weak"]).double().cpu().numpy()
    method.train(was_training)
    present, sure = method.labels(batch)
    true_present, true_sure = method.labels(truth)
    seen = torch.stack([present, sure], dim=-1).cpu().numpy()
    unseen = torch.stack([true_present, true_sure & ~batch.known], dim=-1).cpu().numpy()
    return logits, seen, unseen


def _batches(setup: Setup, cases: Sequence[Visible], device: torch.device) -> Iterator[tuple[Batch, Batch]]:
    """The same patches every time: half of them around annotated voxels, half anywhere."""
    recipe = setup.recipe
    patch = recipe.sampling.patch
    assert patch != "auto", "a resolved recipe has a patch"
    sampler = Sampler(
        setup.store,
        setup.selection._replace(train=tuple(cases)),
        patch_ZYX=patch[::-1],
        foreground=0.5,
        augment=recipe.augment,
        mirror_ZYX=setup.mirror_ZYX,
        seed=_SEED,
    )
    per_case = max(1, min(_PER_CASE, _PATCHES // max(1, len(cases))))
    num_labelled = sum(bool(case.annotated.any()) for case in cases)
    streams: dict[Stream, int] = {"labelled": num_labelled, "unlabelled": len(cases) - num_labelled}
    for stream, num in streams.items():
        for start in range(0, min(_PATCHES, num * per_case), recipe.sampling.batch):
            rows = [sampler.patch(stream, start + i) for i in range(recipe.sampling.batch)]
            batch = collate(rows, patch_ZYX=patch[::-1], views=Presence.views, num_labelled=len(rows), device=device)
            yield batch, collate_truth(rows, batch, patch_ZYX=patch[::-1])

"""One picture of several runs: for each case a slice with outlines above the surfaces in three dimensions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gleanseg.data.manifest import Case, Manifest
from gleanseg.errors import UserError, nearest
from gleanseg.evaluate.predictions import Predictions
from gleanseg.evaluate.surface import Box, join_boxes
from gleanseg.report.facts import Facts, read_facts
from gleanseg.report.figures import Color, Panel, largest_slices, panels, view, window
from gleanseg.report.results import Results, digits, is_share, mean, metric_name
from gleanseg.report.scenes import Scene, read_scenes
from gleanseg.report.sheet import Column, Strip, draw_sheet, size_px
from gleanseg.report.surfaces import Camera, frame_of, render
from gleanseg.report.tables import Look
from gleanseg.rois.ontology import Ontology

Masks = Mapping[str, NDArray[np.bool_]]
_DISTANCES = frozenset({"hd95", "asd", "assd"})


def picture(
    runs: Sequence[Path],
    *,
    names: Sequence[str] = (),
    cases: Sequence[str] = (),
    rois: Sequence[str] = (),
    split: str = "test",
    camera: Camera | None = None,
    width_px: int = 300,
) -> bytes:
    """Draw cases as rows, and reference and runs as columns.

    Args:
        runs: folders with predictions of the split, trained on one manifest.
        names: of the columns; default: the folders' names.
        cases: to show; default: worst, middle and best of the first run, or the first three when it is not evaluated.
        rois: to show; default: all that the runs share.
        split: whose predictions.
        camera: side from which surfaces are seen.
        width_px: of a column.

    Returns:
        The bytes of a PNG file.

    Raises:
        UserError: no predictions, another manifest, or a case or ROI that is not there.
    """
    if names and len(names) != len(runs):
        raise UserError(f"{len(names)} names for {len(runs)} runs; expected one each")
    told = [read_facts(Path(run)) for run in runs]
    manifest = _manifest(told)
    shared = [roi for roi in told[0].rois if all(roi in facts.rois for facts in told)]
    _check(rois, shared, what="ROI", where="all of the runs")
    shown = list(rois) or shared
    predicted = [_predictions(facts, manifest, split) for facts in told]
    there = [case.id for case in manifest.cases if all(one.files(case.id) for one in predicted)]
    _check(cases, there, what="case", where=f"the {split} predictions of all runs")
    scores = [next((r for r in facts.results if r.split == split), None) for facts in told]
    chosen = list(cases) or typical(there, scores[0])
    if not chosen:
        raise UserError(f"{runs[0]}: no {split} case has a prediction of every run; predict the split with each")
    strips = []
    for id in chosen:
        scenes = read_scenes(manifest, manifest.case(id), predicted, rois=shown)
        of_case = [_score(id, shown, results) for results in scores]
        strips.append(
            _strip(manifest.case(id), scenes, of_case, told[0].look, manifest.ontology(), camera or Camera(), width_px)
        )
    heads = ["reference", *(names or [facts.name for facts in told])]
    return draw_sheet(strips, heads, names={r: name for r, (name, _) in told[0].look.items()}, width_px=width_px)


def typical(cases: Sequence[str], results: Results | None) -> list[str]:
    """The worst, the middle and the best case; without scores the first three, as nobody can choose the nicest then."""
    scored = [case for case in results.cases if case in cases] if results else []
    if len(scored) < 3:
        return list(cases[:3])
    return [scored[0], scored[len(scored) // 2], scored[-1]]


def _manifest(told: Sequence[Facts]) -> Manifest:
    first = told[0]
    if first.manifest is None:
        raise UserError(f"{first.path}: {first.manifest_problem}")
    for other in told[1:]:
        if other.info.get("manifest_digest") != first.info.get("manifest_digest"):
            raise UserError(f"{other.path}: was trained on another manifest than {first.path}; choose runs of one")
    return first.manifest


def _predictions(facts: Facts, manifest: Manifest, split: str) -> Predictions:
    folder = facts.path / "predictions" / split
    if not folder.is_dir():
        raise UserError(f"{folder}: no predictions; run `gleanseg predict {facts.path} --split {split}` first")
    return Predictions.open(folder, ontology=manifest.ontology(), wanted=facts.rois)


def _check(wanted: Sequence[str], known: Sequence[str], *, what: str, where: str) -> None:
    for name in wanted:
        if name not in known:
            raise UserError(f"{what} {name!r}: not in {where}{nearest(name, known)}")


def _score(case: str, rois: Sequence[str], results: Results | None) -> str:
    """Dice and one distance of a case, means over the ROIs that are shown."""
    if results is None:
        return "not evaluated"
    first = [m for m in results.metrics if is_share(m)][:1] + [m for m in results.metrics if m in _DISTANCES][:1]
    parts = []
    for metric in first:
        value = mean(v for roi in rois if (v := results.value(case, roi, metric)) is not None)
        if not np.isnan(value):
            unit = "" if is_share(metric) else f" {results.units}"
            parts.append(f"{metric_name(metric)} {value:.{digits(metric)}f}{unit}")
    return "   ".join(parts)


def _strip(
    case: Case, scenes: Sequence[Scene], scores: Sequence[str], look: Look, ontology: Ontology, camera: Camera,
    width_px: int,
) -> Strip:  # fmt: skip
    boxes = {roi: join_boxes(*(scene.box(roi) for scene in scenes)) for roi in look}
    tight = join_boxes(*boxes.values())
    if tight is None:
        raise UserError(f"case {case.id!r}: nothing to show in reference and predictions; choose another case")
    present = [roi for roi, box in boxes.items() if box is not None]
    colors = {roi: look[roi][1] for roi in present}
    near = view(tight, shape_ZYX=scenes[0].reference.shape_ZYX, spacing_ZYX_mm=scenes[0].spacing_ZYX_mm)
    masks = [
        {roi: labels.mask(roi, near) for roi in present if roi in labels}
        for labels in (scenes[0].reference, *(scene.prediction for scene in scenes))
    ]
    slices = _slices(scenes[0], masks, colors, near)
    spacing = scenes[0].spacing_ZYX_mm
    frame = frame_of(_union(*masks), spacing_ZYX_mm=spacing, camera=camera)
    glass = [roi for roi in present if any(roi in ontology.containing(other) for other in present)]
    surfaces = [
        render(
            one, colors=colors, spacing_ZYX_mm=spacing, frame=frame, size_px=size_px(frame.size_mm, width_px),
            camera=camera, glass=glass,
        )
        for one in masks
    ]  # fmt: skip
    columns = zip(slices, surfaces, ["", *scores], strict=True)
    return Strip(case.id, tuple(Column(*column) for column in columns), colors)


def _slices(scene: Scene, masks: Sequence[Masks], colors: Mapping[str, Color], near: Box) -> list[Panel]:
    """The axial slice in which most of the reference is; of the first prediction, where the reference has nothing."""
    target = next(target for target in map(_union, masks) if target.any())
    gray_range = window(scene.image, modality=scene.modality, focus=scene.image[near][target])
    return [
        panels(
            scene.image[near], reference=masks[0], prediction=prediction, colors=colors,
            spacing_ZYX_mm=scene.spacing_ZYX_mm, gray_range=gray_range, slices_ZYX=largest_slices(target),
            offset_ZYX=(near[0].start, near[1].start, near[2].start), full_shape_ZYX=scene.reference.shape_ZYX,
        )[0]
        for prediction in ({}, *masks[1:])
    ]  # fmt: skip


def _union(*groups: Masks) -> NDArray[np.bool_]:
    """Voxels of any mask; without a mask a single False."""
    found: NDArray[np.bool_] = np.zeros((1, 1, 1), dtype=np.bool_)
    for masks in groups:
        for mask in masks.values():
            found = found | mask
    return found

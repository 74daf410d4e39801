"""The picture part: which cases and ROIs are shown, worst first."""

from collections.abc import Sequence
from pathlib import Path

from gleanseg.data.manifest import Case, Manifest
from gleanseg.errors import UserError
from gleanseg.evaluate.predictions import Predictions
from gleanseg.evaluate.surface import Box
from gleanseg.report.figures import Panel, largest_slices, panel_svg, panels, scale_bar_mm, view, window
from gleanseg.report.markup import Html, html, number, plural, tag
from gleanseg.report.results import Results, digits, is_share, metric_name
from gleanseg.report.scenes import Scene, read_scenes
from gleanseg.report.tables import Look, counted, roi_name

ROIS_PER_CASE = 6
"""Most ROIs of one case that get a picture: its worst ones."""
MAX_BYTES = 5_500_000
"""Size of all pictures together, so that the page stays below 8 MB."""
_ALL_OUTLINES = 12  # with more ROIs, a picture shows only its own
_OPEN_CASES = 3
_ROW_HEIGHT = 250


def gallery(
    predictions: Path, *, manifest: Manifest, rois: Sequence[str], look: Look, results: Results | None, max_cases: int
) -> Html:
    """Pictures of the worst cases; of the first cases by name when nothing was evaluated.

    Args:
        predictions: folder of one split with ``labels.json``.
        manifest: where images and references are listed.
        rois: of the run.
        look: display name and color of each ROI.
        results: scores of the same split, if there are any.
        max_cases: most cases that are shown.
    """
    predicted = Predictions.open(predictions, ontology=manifest.ontology(), wanted=rois)
    known = {case.id for case in manifest.cases}
    ids = [c for c in (results.cases if results else sorted(known)) if c in known and predicted.files(c)]
    parts: list[Html] = []
    size = 0
    for position, case_id in enumerate(ids[:max_cases]):
        if size > MAX_BYTES:
            text = f"{plural(len(ids[:max_cases]) - position, 'more case')} left out to keep this page small."
            parts.append(tag("p", text, class_="empty"))
            break
        article = _case(
            manifest.case(case_id), manifest, predicted, rois, look, results, is_open=position < _OPEN_CASES
        )
        size += len(article)
        parts.append(article)
    if not ids:
        return tag("p", f"No prediction in {predictions.name} belongs to a case of the manifest.", class_="empty")
    return html(parts)


def _case(
    case: Case, manifest: Manifest, predicted: Predictions, rois: Sequence[str], look: Look, results: Results | None, *,
    is_open: bool,
) -> Html:  # fmt: skip
    try:
        (scene,) = read_scenes(manifest, case, [predicted], rois=rois)
        body = _figures(case, scene, look, results)
    except UserError as error:
        body = tag("p", f"No picture: {error}", class_="empty")
    score = ""
    if results is not None:
        score = f"mean {metric_name(results.main)} {number(results.case_mean(case.id), digits(results.main))}"
    heading = tag("summary", tag("span", case.id, class_="case-id"), tag("span", score, class_="score"),
                  tag("span", f"site {case.site}" if case.site else None, class_="quiet"))  # fmt: skip
    return tag("details", heading, body, class_="case", open=is_open)


def _figures(case: Case, scene: Scene, look: Look, results: Results | None) -> Html:
    present = [roi for roi in look if scene.box(roi) is not None]
    if not present:
        return tag("p", "Neither the reference nor the prediction of this case has a voxel to show.", class_="empty")
    scored = results.worst_rois(case.id) if results else []
    order = [roi for roi in scored if roi in present] + [roi for roi in present if roi not in scored]
    shown, left_out = order[:ROIS_PER_CASE], order[ROIS_PER_CASE:]
    parts = [_figure(case, roi, scene, look, results) for roi in shown]
    if left_out:
        parts.append(tag("p", f"Not shown, with better scores: {counted(left_out, look)}.", class_="quiet"))
    return html(parts)


def _figure(case: Case, roi: str, scene: Scene, look: Look, results: Results | None) -> Html:
    tight = scene.box(roi)
    assert tight is not None, "only ROIs with voxels are shown"
    box = view(tight, shape_ZYX=scene.reference.shape_ZYX, spacing_ZYX_mm=scene.spacing_ZYX_mm)
    strip = panel_strip([(panel, "") for panel in planes(scene, roi, box, look)], case.id, look[roi][0])
    notes = [
        tag("span", text, class_="note")
        for masks, text in (
            (scene.reference, "Reference is empty: all of the prediction is too much."),
            (scene.prediction, "Prediction is empty: missed completely."),
        )
        if masks.box(roi) is None
    ]
    caption = tag("figcaption", tag("strong", roi_name(roi, look)), _scores(case.id, roi, results), notes)
    return tag("figure", caption, strip, class_="overlay")


def planes(scene: Scene, roi: str, box: Box, look: Look, *, at: Scene | None = None) -> tuple[Panel, ...]:
    """Three planes through an ROI, with the outlines of all ROIs, or among many only its own.

    Args:
        scene: what is shown.
        roi: that the planes cut where it is largest, by the reference if that has it.
        box: the part of the volume that is shown.
        look: display name and color of each ROI.
        at: the scene that decides on planes and gray values, so that several are alike; default: ``scene``.
    """
    at = at or scene
    near = [roi] if len(look) > _ALL_OUTLINES else list(look)
    target = next(m for m in (at.reference.mask(roi, box), at.prediction.mask(roi, box)) if m.any())
    return panels(
        scene.image[box],
        reference={r: scene.reference.mask(r, box) for r in near if r in scene.reference},
        prediction={r: scene.prediction.mask(r, box) for r in near if r in scene.prediction},
        colors={r: color for r, (_, color) in look.items()},
        spacing_ZYX_mm=scene.spacing_ZYX_mm,
        gray_range=window(at.image, modality=at.modality, focus=at.image[box][target]),
        slices_ZYX=largest_slices(target),
        focus=roi,
        offset_ZYX=(box[0].start, box[1].start, box[2].start),
        full_shape_ZYX=scene.reference.shape_ZYX,
    )


def panel_strip(drawn: Sequence[tuple[Panel, Html | str]], case_id: str, name: str) -> Html:
    """Panels side by side at one height, each with a text below; without a text it says which plane it is."""
    aspect = sum(panel.size_mm[0] / panel.size_mm[1] for panel, _ in drawn)
    slots = [_panel(panel, case_id, name, text) for panel, text in drawn]
    return tag("div", slots, class_="panels", style=f"max-width:{round(aspect * _ROW_HEIGHT) + 8 * (len(slots) - 1)}px")


def _scores(case_id: str, roi: str, results: Results | None) -> Html:
    if results is None:
        return tag("span", "not scored", class_="quiet")
    shown = []
    for metric in results.metrics[:3]:
        value = results.value(case_id, roi, metric)
        if value is not None:
            unit = "" if is_share(metric) else f" {results.units}"
            shown.append(tag("span", f"{metric_name(metric)} {number(value, digits(metric))}{unit}"))
    if volumes := results.volumes_ml(case_id, roi):
        reference, prediction = (number(v, 1) for v in volumes)
        shown.append(tag("span", f"{prediction} ml predicted", class_="quiet"))
        shown.append(tag("span", f"{reference} ml reference", class_="quiet"))
    return html(shown)


def _panel(panel: Panel, case_id: str, name: str, text: Html | str) -> Html:
    label = (
        f"{panel.plane} slice {panel.slice_index + 1} of {panel.num_slices} through {name}, case {case_id}: "
        "reference dashed, prediction solid"
    )
    letters = [
        tag("span", letter, class_=f"letter {side}", aria_hidden="true")
        for letter, side in zip(panel.letters, ("left", "right", "top", "bottom"), strict=True)
    ]
    width, height = panel.size_mm
    length = scale_bar_mm(width)
    bar = tag("span", f"{length} mm", class_="scale", style=f"width:{100 * length / width:.1f}%")
    shape = f"aspect-ratio:{width:.1f}/{height:.1f}"
    picture = tag("div", panel_svg(panel, label=label), letters, bar, class_="panel", style=shape, tabindex=0)
    below = tag("div", text or f"{panel.plane} {panel.slice_index + 1} of {panel.num_slices}", class_="plane")
    return tag("div", picture, below, class_="slot", style=f"flex:{width / height:.3f} 1 0")

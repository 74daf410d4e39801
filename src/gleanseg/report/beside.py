"""Runs side by side: rows are cases, columns the reference and each run's prediction, on one slice of one ROI."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gleanseg.data.manifest import Case, Manifest
from gleanseg.errors import UserError
from gleanseg.evaluate.labels import Labels
from gleanseg.evaluate.predictions import Predictions
from gleanseg.evaluate.surface import join_boxes
from gleanseg.report.facts import Facts
from gleanseg.report.figures import view
from gleanseg.report.gallery import panel_strip, planes
from gleanseg.report.markup import Html, html, number, plural, tag
from gleanseg.report.results import Results, digits, is_share, metric_name
from gleanseg.report.scenes import Scene, read_scenes
from gleanseg.report.tables import Look, roi_name

MAX_CASES = 6
"""Cases that are shown: those on which the runs differ most."""


class Column(NamedTuple):
    """One run.

    Attributes:
        name: of its folder.
        predictions: of the split that is shown.
        results: what these score; None when they were not evaluated.
    """

    name: str
    predictions: Predictions
    results: Results | None

    def score(self, case: str, roi: str) -> float:
        """The main metric; NaN where it is undefined or unknown."""
        value = self.results.value(case, roi, self.results.main) if self.results else None
        return math.nan if value is None else value


def beside(f: Facts, others: Sequence[Facts]) -> Html:
    """Pictures of a run and of others on the same cases.

    Args:
        f: the run of the report, whose manifest gives images and references.
        others: the runs beside it.

    Raises:
        UserError: no manifest, a run without predictions of the split, or no case in common.
    """
    if f.manifest is None:
        raise UserError(f"{f.path}: no pictures beside other runs. {f.manifest_problem}")
    split = f.predicted_splits[0] if f.predicted_splits else "test"
    columns = [_column(one, split, f.manifest, f.rois) for one in (f, *others)]
    cases = [c for c in f.manifest.cases if all(column.predictions.files(c.id) for column in columns)]
    if not cases:
        raise UserError(f"{f.path}: has no predicted case of the {split} split in common with the runs beside it")
    order = sorted(cases, key=lambda case: (-_differing(case.id, f.rois, columns)[0], case.id))
    rows = [_row(case, f.manifest, f.rois, f.look, columns) for case in order[:MAX_CASES]]
    scored = all(column.results for column in columns)
    which = "those on which they differ most, and of each the ROI on which they do" if scored else "the first by name"
    lead = (
        f"{plural(len(cases), 'case')} of the {split} split that all runs predicted; {which}. "
        "One axial slice, where the reference is largest: the reference first, then each run over it."
    )
    return html((tag("p", lead, class_="lead"), _means(columns), rows))


def _column(f: Facts, split: str, manifest: Manifest, rois: Sequence[str]) -> Column:
    predictions = Predictions.open(f.path / "predictions" / split, ontology=manifest.ontology(), wanted=rois)
    return Column(f.name, predictions, next((r for r in f.results if r.split == split), None))


def _differing(case: str, rois: Sequence[str], columns: Sequence[Column]) -> tuple[float, str]:
    """How far the runs' scores of a case lie apart at most, and for which ROI; -1 where no two are defined."""
    found = [(-1.0, "")]
    for roi in rois:
        scores = [column.score(case, roi) for column in columns]
        if not any(math.isnan(score) for score in scores):
            found.append((max(scores) - min(scores), roi))
    return max(found, key=lambda pair: pair[0])


def _row(case: Case, manifest: Manifest, rois: Sequence[str], look: Look, columns: Sequence[Column]) -> Html:
    try:
        scenes = read_scenes(manifest, case, [column.predictions for column in columns], rois=rois)
    except UserError as error:
        return tag("p", f"No picture: {error}", class_="empty")
    there = [roi for roi in rois if any(scene.box(roi) for scene in scenes)]
    if not there:
        return tag("p", f"{case.id}: neither the reference nor a prediction has a voxel to show.", class_="empty")
    _, roi = _differing(case.id, there, columns)
    roi = roi or there[0]
    first = next(scene for scene in scenes if scene.box(roi))
    tight = join_boxes(*(scene.box(roi) for scene in scenes))
    assert tight is not None, "a scene has a box"
    box = view(tight, shape_ZYX=first.reference.shape_ZYX, spacing_ZYX_mm=first.spacing_ZYX_mm)
    shown = [first._replace(prediction=_nothing(first)), *scenes]
    texts = [tag("strong", "Reference"), *(_text(column, case.id, roi) for column in columns)]
    drawn = [(planes(s, roi, box, look, at=first)[0], text) for s, text in zip(shown, texts, strict=True)]
    caption = tag("figcaption", tag("strong", case.id), tag("span", roi_name(roi, look)),
                  tag("span", f"site {case.site}", class_="quiet") if case.site else None)  # fmt: skip
    return tag("figure", caption, panel_strip(drawn, case.id, look[roi][0]), class_="overlay")


def _nothing(scene: Scene) -> Labels:
    return Labels([], rois=(), shape_ZYX=scene.reference.shape_ZYX)


def _text(column: Column, case: str, roi: str) -> Html:
    score = column.score(case, roi)
    told = "" if column.results is None else f" {metric_name(column.results.main)} {_number(score, column.results)}"
    return html((tag("strong", column.name), told))


def _number(value: float, results: Results) -> str:
    unit = "" if is_share(results.main) else f" {results.units}"
    return number(value, digits(results.main)) + unit


def _means(columns: Sequence[Column]) -> Html:
    """A small table of the runs' means."""
    scored = [(column, column.results) for column in columns if column.results is not None]
    if not scored:
        return Html("")
    head = tag("tr", tag("th", "Run", scope="col"), tag("th", "Mean", scope="col", class_="num"),
               tag("th", "Interval", scope="col", class_="num"), tag("th", "Protocol", scope="col"))  # fmt: skip
    rows = []
    for column, results in scored:
        mean = results.overall[results.main]
        interval = f"{_number(mean.low, results)} to {_number(mean.high, results)}"
        cells = (tag("td", f"{metric_name(results.main)} {_number(mean.mean, results)}", class_="num strong"),
                 tag("td", interval, class_="num"), tag("td", results.protocol))  # fmt: skip
        rows.append(tag("tr", tag("th", column.name, scope="row"), cells))
    table = tag("table", tag("thead", head), tag("tbody", rows, class_="rows"))
    return tag("div", table, class_="scroll box means", tabindex=0)

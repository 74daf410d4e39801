"""Tables of the page: results per ROI, scores per case, facts, rows of logs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gleanseg.report.charts import Axis, interval_axis, interval_plot
from gleanseg.report.markup import Child, Html, html, number, plural, rgb, tag
from gleanseg.report.results import NOTHING, Estimate, Results, digits, is_share, metric_name

Look = Mapping[str, tuple[str, tuple[int, int, int]]]
"""ROI id -> display name and color."""

_PLOT_WIDTH = 260
_MAX_ROI_COLUMNS = 16
_MANY_ROIS = 20  # from here on the worst come first, in a box that scrolls


def facts(entries: Sequence[tuple[str, Child]], *, listing: bool = False) -> Html:
    """Name and value pairs, side by side or one a line; entries without a value are left out."""
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in entries if value not in (None, "")]
    return tag("dl", rows, class_="facts listing" if listing else "facts")


def roi_name(roi: str, look: Look) -> Html:
    """Color swatch and display name."""
    name, color = look[roi]
    return html((tag("span", class_="swatch", style=f"background:{rgb(color)}"), name))


def results_table(results: Results, look: Look) -> Html:
    """One row per ROI: cases, mean and interval as a picture, then all metrics in numbers."""
    main = results.main
    axis = _axis(results, main)
    metrics = results.metrics
    many = len(results.rois) > _MANY_ROIS
    head = [
        _sortable("ROI"),
        tag("th", tag("span", f"{metric_name(main)} per case, mean, interval", class_="sr"),
            interval_axis(axis, width=_PLOT_WIDTH), scope="col", class_="plot"),
        *(
            _sortable(_heading(m, results), numeric=True, sort="ascending" if many and m == main else None)
            for m in metrics
        ),
        _sortable("Cases", numeric=True),
    ]  # fmt: skip
    order = sorted(results.rois, key=lambda roi: _nan_last(results, roi)) if many else results.rois
    rows = [_result_row(roi, results, look, axis) for roi in order]
    overall = []
    if len(results.rois) > 1:
        estimate = results.overall.get(main, NOTHING)
        plot = interval_plot(
            axis, [results.case_mean(c) for c in results.cases], mean=estimate.mean, low=estimate.low,
            high=estimate.high, label=_in_words("mean of the ROIs", main, estimate), width=_PLOT_WIDTH,
        )  # fmt: skip
        cells = [_estimate_cell(results.overall.get(metric, NOTHING), metric) for metric in metrics]
        first = tag("th", "Mean of the ROIs", scope="row")
        last = tag("td", len(results.cases), class_="num")
        overall = [tag("tr", first, tag("td", plot, class_="plot"), cells, last, class_="overall")]
    body = tag("tbody", rows, class_="rows")
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", head)), tag("tbody", overall), body, class_="results sortable"),
        class_="scroll box tall" if many else "scroll box",
        tabindex=0,
    )


def _nan_last(results: Results, roi: str) -> float:
    mean = results.estimates.get((roi, results.main), NOTHING).mean
    return math.inf if math.isnan(mean) else mean


def _axis(results: Results, metric: str) -> Axis:
    values = [v for (_, _, m), v in results.scores.items() if m == metric and math.isfinite(v)]
    low = min(values, default=0.0)
    if is_share(metric):
        start, stop = next((s for s in (0.9, 0.8, 0.6, 0.4) if low >= s), 0.0), 1.0
    else:
        start, stop = 0.0, max(values, default=1.0) or 1.0
    return Axis(start, stop, 10, _PLOT_WIDTH - 10)


def _result_row(roi: str, results: Results, look: Look, axis: Axis) -> Html:
    main = results.main
    estimate = results.estimates.get((roi, main), NOTHING)
    values = results.values(roi, main)
    plot = interval_plot(
        axis, values, mean=estimate.mean, low=estimate.low, high=estimate.high,
        label=_in_words(look[roi][0], main, estimate), width=_PLOT_WIDTH,
    )  # fmt: skip
    counted_apart = (
        (results.missed, "missed", "the reference has voxels, the prediction none"),
        (results.false_positives, "false positive", "the prediction has voxels, the reference none"),
        (results.both_empty, "both empty", "neither has a voxel"),
    )
    also = [
        tag("span", f"{counts[roi]} {text}", class_="also", title=explained)
        for counts, text, explained in counted_apart
        if counts.get(roi)
    ]
    return tag(
        "tr",
        tag("th", roi_name(roi, look), scope="row", data_value=look[roi][0]),
        tag("td", plot, class_="plot"),
        [_estimate_cell(results.estimates.get((roi, metric), NOTHING), metric) for metric in results.metrics],
        tag("td", len(values), also, class_="num", data_value=len(values)),
    )


def _in_words(name: str, metric: str, e: Estimate) -> str:
    d = digits(metric)
    return f"{name}: mean {metric_name(metric)} {number(e.mean, d)}, interval {number(e.low, d)} to {number(e.high, d)}"


def _estimate_cell(estimate: Estimate, metric: str) -> Html:
    d = digits(metric)
    value = tag("span", number(estimate.mean, d), class_="value")
    if math.isnan(estimate.mean):
        return tag("td", value, class_="num", data_value="")
    interval = tag("span", f"{number(estimate.low, d)} to {number(estimate.high, d)}", class_="range")
    return tag("td", value, interval, class_="num", data_value=f"{estimate.mean:.6g}")


def _heading(metric: str, results: Results) -> Child:
    unit = None if is_share(metric) else tag("span", f" {results.units}", class_="unit")
    return html((metric_name(metric), unit))


def _sortable(title: Child, *, numeric: bool = False, sort: str | None = None) -> Html:
    button = tag("button", title, type="button")
    return tag("th", button, scope="col", class_="num" if numeric else None, aria_sort=sort)


def case_table(results: Results, look: Look, sites: Mapping[str, str]) -> Html:
    """One row per case, worst first, with the main score of each ROI (of many ROIs only the worst)."""
    shown = results.rois if len(results.rois) <= _MAX_ROI_COLUMNS else ()
    others = [m for m in results.metrics if m != results.main][:3]
    with_sites = any(sites.get(case) for case in results.cases)
    head = [
        _sortable("Case"),
        _sortable("Site") if with_sites else None,
        _sortable(f"Mean {metric_name(results.main)}", numeric=True, sort="ascending"),
        *(_sortable(html(("Mean ", _heading(metric, results))), numeric=True) for metric in others),
        _sortable("Worst ROI") if len(results.rois) > 1 else None,
        *(_sortable(roi_name(roi, look), numeric=True) for roi in shown),
    ]
    rows = [_case_row(case, results, look, sites.get(case, "") if with_sites else None, others, shown)
            for case in results.cases]  # fmt: skip
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows, class_="rows"), class_="cases sortable")
    return tag("div", table, class_="scroll box tall", tabindex=0)


def _case_row(
    case: str, results: Results, look: Look, site: str | None, others: Sequence[str], shown: Sequence[str]
) -> Html:
    worst = results.worst_rois(case)
    worst_text = f"{look[worst[0]][0]} {number(results.value(case, worst[0], results.main))}" if worst else "–"  # noqa: RUF001
    return tag(
        "tr",
        tag("th", case, scope="row", data_value=case),
        tag("td", site or "–", data_value=site) if site is not None else None,  # noqa: RUF001
        _score_cell(results.case_mean(case), results.main, strong=True),
        [_score_cell(results.case_mean(case, metric), metric) for metric in others],
        tag("td", worst_text, data_value=worst_text) if len(results.rois) > 1 else None,
        [_score_cell(results.value(case, roi, results.main), results.main) for roi in shown],
    )


def _score_cell(value: float | None, metric: str, *, strong: bool = False) -> Html:
    if value is None:
        return tag("td", tag("span", "unknown", class_="quiet"), class_="num", data_value="")
    if math.isnan(value):
        return tag("td", tag("span", "both empty", class_="quiet"), class_="num", data_value="")
    bar = None
    if is_share(metric):
        bar = tag("span", class_="bar", style=f"--share:{max(0.0, min(1.0, value)):.3f}")
    kind = "num strong" if strong else "num"
    return tag("td", number(value, digits(metric)), bar, class_=kind, data_value=f"{value:.6g}")


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """A log as a table: the union of the keys as columns."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = tag("thead", tag("tr", [tag("th", key, scope="col") for key in keys]))
    body = tag("tbody", [tag("tr", [tag("td", _plain(row.get(key))) for key in keys]) for row in rows])
    return tag("div", tag("table", head, body), class_="scroll box", tabindex=0)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    return ", ".join(_plain(v) for v in value) if isinstance(value, list) else "" if value is None else str(value)


def counted(rois: Sequence[str], look: Look, *, most: int = 6) -> str:
    """Display names in a sentence, the number when there are many."""
    names = [look[roi][0] for roi in rois]
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {plural(len(names) - most + 1, 'other ROI')}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

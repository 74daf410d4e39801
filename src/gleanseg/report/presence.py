"""What a run knows of presence: decisions on unknown ROIs over training, how good a presence network's scores are."""

import math
from collections.abc import Sequence
from typing import Any

from gleanseg.report.assembly import Section
from gleanseg.report.charts import Series, line_chart, smooth
from gleanseg.report.facts import Facts
from gleanseg.report.markup import Html, html, number, plural, tag
from gleanseg.report.tables import roi_name

_ROUTES = {
    "routed_positive": "present: latent",
    "routed_negative": "absent: latent",
    "routed_ambiguous": "ambiguous",
}
_RIGHT = {"right_positive": "present, confirmed", "right_negative": "absent, confirmed"}
_GROUPS = {
    "known": "Known pairs of held-out cases",
    "hidden": "Hidden pairs of training cases: what segmentation training asks the network to decide",
}
_SIDE, _MARGIN, _LARGEST_DOT = 200, 34, 10


def decision_charts(f: Facts, steps: Sequence[int], marks: Sequence[tuple[float, str]]) -> list[tuple[str, Html]]:
    """Titles and charts of the routing of unknown ROIs; none for methods that route nothing."""
    charts = []
    for title, names in (("Unknown ROIs of a patch, share", _ROUTES), ("Decisions that hidden labels confirm", _RIGHT)):
        logged = {name: [_monitor(row, name) for row in f.log] for name in names}
        series = [
            Series(names[name], steps, smooth(values, max(1, len(values) // 40)), position)
            for position, (name, values) in enumerate(logged.items(), start=1)
            if any(math.isfinite(value) for value in values)
        ]
        if series:
            chart = line_chart(series, label=f"{title} over training steps", y_range=(0.0, 1.0), stages=marks)
            charts.append((title, chart))
    return charts


def presence(f: Facts) -> Section:
    """Calibration and decisions of a presence network."""
    groups = f.presence.get("groups", [])
    if not groups:
        text = "Scores are calibrated, and decisions counted, when the training ends."
        return Section("presence", "Presence", tag("p", text, class_="empty"))
    temperature = tag(
        "p",
        f"Logits are divided by a temperature of {number(groups[0]['temperature'], 2)}, fitted on the validation "
        "cases. An ROI counts as there above a score of 0.8 and as absent below 0.1.",
        class_="lead",
    )
    return Section("presence", "Presence", html((temperature, [_group(f, group) for group in groups])))


def _group(f: Facts, group: dict[str, Any]) -> Html:
    ranking = "" if group["mean_auroc"] is None else f"; mean AUROC {number(group['mean_auroc'])}"
    calibration = (
        f"Calibration error {_percent(group['ece'])}, before the temperature {_percent(group['ece_raw'])}; "
        f"{plural(int(sum(group['pairs'])), 'pair')} of a patch and an ROI{ranking}."
    )
    return html((
        tag("h3", _GROUPS.get(group["group"], group["group"])),
        tag("p", calibration, class_="lead"),
        tag("div", _curve(group), _table(f, group), class_="beside"),
    ))  # fmt: skip


def _curve(group: dict[str, Any]) -> Html:
    """The reliability curve: dots on the diagonal are honest; their size tells how many pairs they stand for."""
    most = max((pairs for pairs in group["pairs"]), default=0) or 1
    low, high, top = _MARGIN, _MARGIN + _SIDE, _LARGEST_DOT + 1
    drawn = [
        tag("rect", x=low, y=top, width=_SIDE, height=_SIDE, class_="frame-box"),
        tag("line", x1=low, y1=top + _SIDE, x2=high, y2=top, class_="diagonal"),
    ]
    for score, observed, pairs in zip(group["score"], group["observed"], group["pairs"], strict=True):
        if score is not None and observed is not None:
            title = tag("title", f"score {score:.2f}: {100 * observed:.0f} % of {int(pairs)} are there")
            drawn.append(
                tag("circle", title, cx=low + score * _SIDE, cy=top + (1 - observed) * _SIDE,
                    r=2.5 + (_LARGEST_DOT - 2.5) * math.sqrt(pairs / most), class_="pairs-dot")
            )  # fmt: skip
    for value in (0.0, 0.5, 1.0):
        drawn.append(tag("text", f"{value:g}", x=low + value * _SIDE, y=top + _SIDE + 16, class_="middle"))
        drawn.append(tag("text", f"{value:g}", x=low - 6, y=top + 4 + (1 - value) * _SIDE, class_="end"))
    drawn.append(tag("text", "score", x=low + _SIDE / 2, y=top + _SIDE + 32, class_="middle"))
    width, height = high + _LARGEST_DOT + 1, top + _SIDE + 38
    picture = tag("svg", drawn, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
                  aria_label="Share of pairs that are there, by score")  # fmt: skip
    return tag("figure", tag("figcaption", "Share that is there, by score"), picture, class_="chart-card narrow")


def _table(f: Facts, group: dict[str, Any]) -> Html:
    heads = ("ROI", "there", "absent", "AUROC", "said there", "right", "said absent", "right")
    rows = []
    for roi in group["rois"]:
        numbers = [
            str(roi["present"]),
            str(roi["absent"]),
            number(roi["auroc"]),
            _percent(roi["positive"]),
            _percent(roi["positive_precision"]),
            _percent(roi["negative"]),
            _percent(roi["negative_precision"]),
        ]
        name = roi_name(roi["roi"], f.look) if roi["roi"] in f.look else roi["roi"]
        rows.append(tag("tr", tag("th", name, scope="row"), [tag("td", text, class_="num") for text in numbers]))
    head = tag("tr", [tag("th", text, scope="col", class_="num" if i else None) for i, text in enumerate(heads)])
    table = tag("table", tag("thead", head), tag("tbody", rows, class_="rows"))
    return tag("div", table, class_="scroll box", tabindex=0)


def _percent(share: float | None) -> str:
    return number(None) if share is None else f"{number(100 * share, 1)} %"


def _monitor(row: dict[str, Any], name: str) -> float:
    value = row.get("monitors", {}).get(name)
    return float(value) if isinstance(value, (int, float)) else float("nan")

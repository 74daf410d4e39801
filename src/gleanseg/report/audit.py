"""The page of an audit: labels that look wrong, and a heat map of cases x ROIs. Self-contained, as every report."""

from collections import defaultdict
from collections.abc import Sequence

from gleanseg.predict.audit import Audit, Pair, Verdict
from gleanseg.predict.presence import Sight
from gleanseg.report.assembly import Section, assemble
from gleanseg.report.heat import heat_pictures
from gleanseg.report.markup import Html, html, number, plural, tag
from gleanseg.report.tables import Look, roi_name

_ROW, _HEAD, _CELL = 20, 40, (4.0, 20.0)
_WIDTH = 860
_EXPLAINED = {
    Verdict.ANNOTATED: "annotated",
    Verdict.LATENT: "latent: there, but nobody labelled it",
    Verdict.AMBIGUOUS: "ambiguous",
    Verdict.ABSENT: "absent",
    Verdict.UNDECIDED: "the network cannot tell",
}


def audit_page(found: Audit, look: Look, sights: Sequence[tuple[Pair, Sight]] = ()) -> str:
    """The whole page.

    Args:
        found: the audit.
        look: display name and color of each ROI.
        sights: pairs that get a picture, with what was seen.
    """
    latent = [pair for pair in found.pairs if pair.verdict is Verdict.LATENT]
    title = tag("h1", found.name)
    sentence = (
        f"{plural(len(found.cases), 'case')}, {plural(len(found.rois), 'ROI')}: "
        f"{plural(len(latent), 'structure')} there but unlabelled, {plural(len(found.suspects), 'label')} that "
        f"{'looks' if len(found.suspects) == 1 else 'look'} wrong."
    )
    headline = tag("div", title, tag("p", sentence, class_="sentence"), class_="what")
    sections = [
        Section("suspects", "Labels that look wrong", _suspects(found.suspects, look)),
        Section("map", "Presence", _presence(found, look)),
        Section("where", "Where", heat_pictures(sights, look)),
        Section("counts", "Counts", _counts(found, look)),
    ]
    return assemble(f"{found.name}: presence audit", headline, sections)


def _suspects(pairs: Sequence[Pair], look: Look) -> Html:
    if not pairs:
        return tag("p", "None: wherever the network is sure, it agrees with the labels.", class_="empty")
    texts, numbers = ("Case", "Site", "ROI", "Why"), ("Score", "Where, mm")
    head = tag("tr", _heads(texts), _heads(numbers, class_="num"))
    rows = [
        tag(
            "tr",
            tag("th", pair.case, scope="row"),
            tag("td", pair.site or "–"),  # noqa: RUF001
            tag("td", roi_name(pair.roi, look)),
            tag("td", pair.suspect),
            tag("td", number(pair.score, 2), class_="num"),
            tag("td", ", ".join(f"{mm:.0f}" for mm in reversed(pair.center_mm)), class_="num"),
        )
        for pair in pairs
    ]
    lead = (
        "The surest first. Where: the middle of the window that decided, as x, y, z from the first voxel in RAS order."
    )
    table = tag("table", tag("thead", head), tag("tbody", rows, class_="rows"), class_="cases")
    return html((tag("p", lead, class_="lead"), tag("div", table, class_="scroll box tall", tabindex=0)))


def _heads(names: Sequence[str], *, class_: str | None = None) -> list[Html]:
    return [tag("th", name, scope="col", class_=class_) for name in names]


def _presence(found: Audit, look: Look) -> Html:
    """Shade is the score; a frame marks what is annotated, a dot what is latent."""
    by_case: dict[str, dict[str, Pair]] = defaultdict(dict)
    for pair in found.pairs:
        by_case[pair.case][pair.roi] = pair
    order = sorted(found.cases, key=lambda id: (_site(by_case[id]), [-p.score for p in by_case[id].values()], id))
    cell = min(_CELL[1], max(_CELL[0], _WIDTH / max(1, len(order))))
    names = [look[roi][0] for roi in found.rois]
    margin = round(max((len(name) for name in names), default=0) * 7.3) + 10
    height, width = _HEAD + _ROW * len(names) + 4, round(cell * len(order)) + 2
    labels = [
        tag("text", name, x=margin - 6, y=_HEAD + _ROW * (r + 0.5) + 3.5, class_="row-name end")
        for r, name in enumerate(names)
    ]
    left = tag("svg", labels, viewBox=f"0 0 {margin} {height}", width=margin, height=height, class_="names",
               aria_hidden="true")  # fmt: skip
    cells = [
        _cell(by_case[case][roi], name, x=cell * c, y=float(_HEAD + _ROW * r), width=cell)
        for c, case in enumerate(order)
        for r, (roi, name) in enumerate(zip(found.rois, names, strict=True))
    ]
    picture = tag(
        "svg", _sites(order, by_case, cell), cells, viewBox=f"0 0 {width} {height}", width=width, height=height,
        role="img", aria_label="Presence scores of every ROI in every case; the counts stand below.",
    )  # fmt: skip
    lead = "Each column is a case, each row an ROI; the more color, the surer is the network that the ROI is there."
    samples = (
        (Verdict.ANNOTATED, "", "annotated"),
        (Verdict.LATENT, "", "latent: there, but nobody labelled it"),
        (Verdict.ABSENT, "wrong", "the label looks wrong"),
    )
    legend = tag("ul", [_sample(verdict, suspect, text) for verdict, suspect, text in samples], class_="legend states")
    body = tag("div", left, tag("div", picture, class_="scroll", tabindex=0), class_="matrix")
    return html((tag("p", lead, class_="lead"), legend, body))


def _sample(verdict: Verdict, suspect: str, text: str) -> Html:
    pair = Pair("", "", "", "", 0.5, verdict, suspect, (0.0, 0.0, 0.0))
    drawn = _marks(pair, x=0.0, y=0.0, width=20.0)
    return tag("li", tag("svg", drawn, viewBox="0 0 20 20", width=20, height=20, aria_hidden="true"), text)


def _site(pairs: dict[str, Pair]) -> str:
    return next(iter(pairs.values())).site


def _sites(order: Sequence[str], by_case: dict[str, dict[str, Pair]], cell: float) -> list[Html]:
    drawn, before = [], None
    for c, case in enumerate(order):
        site = _site(by_case[case])
        if site != before:
            drawn.append(tag("text", site or "no site", x=cell * c, y=33, class_="site"))
            before = site
    return drawn


def _cell(pair: Pair, name: str, *, x: float, y: float, width: float) -> Html:
    title = tag("title", f"{pair.case}, {name}: {pair.verdict.value}, score {pair.score:.2f}")
    return tag("g", title, _marks(pair, x=x, y=y, width=width))


def _marks(pair: Pair, *, x: float, y: float, width: float) -> list[Html]:
    inner = max(width - 1, 1.0)
    shade = 0.04 + 0.8 * pair.score
    parts = [tag("rect", x=x, y=y + 1, width=inner, height=_ROW - 2, class_="heat", fill_opacity=shade)]
    if pair.verdict is Verdict.ANNOTATED:
        parts.append(tag("rect", x=x, y=y + 1, width=inner, height=4, class_="heat-annotated"))
    if pair.verdict is Verdict.LATENT:
        parts.append(tag("rect", x=x, y=y + _ROW - 5, width=inner, height=4, class_="heat-latent"))
    if pair.suspect:
        cross = f"M{x:.1f} {y + 2}l{inner:.1f} {_ROW - 4}m0 -{_ROW - 4}l-{inner:.1f} {_ROW - 4}"
        parts.append(tag("path", d=cross, class_="heat-suspect"))
    return parts


def _counts(found: Audit, look: Look) -> Html:
    shown = [verdict for verdict in Verdict if any(found.number_of(roi, verdict) for roi in found.rois)]
    head = tag("tr", _heads(["ROI"]), _heads([_EXPLAINED[v] for v in shown], class_="num"))
    rows = [
        tag(
            "tr",
            tag("th", roi_name(roi, look), scope="row"),
            [tag("td", found.number_of(roi, v), class_="num") for v in shown],
        )
        for roi in found.rois
    ]
    table = tag("table", tag("thead", head), tag("tbody", rows, class_="rows"))
    return tag("div", table, class_="scroll box", tabindex=0)

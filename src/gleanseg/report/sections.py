"""Text, charts and tables of each section of the page."""

import math
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gleanseg import __version__
from gleanseg.report.assembly import Section
from gleanseg.report.charts import Series, line_chart, smooth
from gleanseg.report.facts import Facts
from gleanseg.report.markup import Child, Html, duration, html, number, plural, tag, when
from gleanseg.report.presence import decision_charts
from gleanseg.report.results import Estimate, Results, digits, metric_name
from gleanseg.report.tables import counted, facts, results_table, rows_table
from gleanseg.run.folder import text_encoder

_MAX_ROI_LINES = 7
_MAX_ACCESS_ROWS = 50
_PACKAGES = ("torch", "numpy", "nibabel", "SimpleITK", "monai", "scipy", "blosc2", "lightning-fabric")


def headline(f: Facts) -> Html:
    """What was trained on what, and the main figure with its interval."""
    status = str(f.info.get("status", "unknown"))
    name = tag("h1", f.name, tag("span", status, class_=f"badge {'good' if status == 'finished' else 'open'}"))
    sentence = tag("p", _sentence(f), class_="sentence")
    return html((tag("div", name, sentence, _key_facts(f), class_="what"), _figure(f)))


def _sentence(f: Facts) -> str:
    stages = [stage["method"]["name"] for stage in f.recipe.get("stage", ())]
    method = ", then ".join(stages) if stages else f.recipe.get("method", {}).get("name", "")
    network = f.recipe.get("network", {}).get("name", "")
    how = " with ".join(part for part in (method, network) if part)
    data = f"{'on ' if how else 'Trained on '}{f.manifest.name}" if f.manifest else ""
    return f"{' '.join(part for part in (how, data) if part) or 'Segmentation'}: {counted(f.rois, f.look)}."


def _key_facts(f: Facts) -> Html:
    splits = Counter(case.split for case in f.states)
    labelled = sum(case.split == "train" and "annotated" in case.states for case in f.states)
    train = f"{plural(splits['train'], 'case')}, {labelled:,} with annotations" if f.states else None
    held_out = [f"{splits[s]:,} {s}" for s in ("validation", "test") if splits[s]]
    sites = {case.site for case in f.states if case.site}
    steps = max((row.get("step", 0) for row in f.log), default=0)
    elapsed = f.info.get("elapsed_s") or max((row.get("time_s", 0.0) for row in f.log), default=0.0)
    return facts([
        ("Training", train),
        ("Held out", ", ".join(held_out)),
        ("Sites", f"{len(sites):,}" if sites else None),
        ("ROIs", f"{len(f.rois):,}"),
        ("Length", f"{steps:,} steps" if steps else None),
        ("Time", duration(float(elapsed)) if elapsed else None),
    ])  # fmt: skip


def _figure(f: Facts) -> Html:
    if not f.segments:
        return _auroc(f)
    if f.best is not None:
        main = f.best.main
        estimate = f.best.overall.get(main)
        if estimate is not None:
            over = f"mean over {plural(len(f.best.rois), 'ROI')}" if len(f.best.rois) > 1 else "mean over cases"
            return _big(
                f"{metric_name(main)}, {f.best.split} split",
                number(estimate.mean, digits(main)),
                _interval(estimate, f.best),
                f"{over}, {plural(len(f.best.cases), 'case')}, protocol {f.best.protocol}",
            )
    if f.validation:
        last = f.validation[-1]
        moment = f"at step {last.get('step', 0):,}"
        return _big(f"{_metric(f)}, validation during training", number(last.get("mean")), moment,
                    "patch-wise training check; run an evaluation for the final figure")  # fmt: skip
    return _big("No score yet", "–", "nothing was evaluated", "")  # noqa: RUF001


def _auroc(f: Facts) -> Html:
    """The figure of a presence network: of held-out cases when training has ended, else the last validation's."""
    title = "AUROC, patches of held-out cases"
    known = next((group for group in f.presence.get("groups", ()) if group.get("group") == "known"), None)
    if known is not None:
        pairs = plural(int(sum(known["pairs"])), "pair")
        return _big(title, number(known["mean_auroc"]), "mean over ROIs", f"{pairs} of a patch and an ROI")
    if f.validation:
        last = f.validation[-1]
        return _big(title, number(last.get("mean")), f"at step {last.get('step', 0):,}", "training goes on")
    return _big(title, number(None), "nothing was validated", "")


def _interval(estimate: Estimate, results: Results) -> str:
    d = digits(results.main)
    return f"{number(estimate.low, d)} to {number(estimate.high, d)}, {results.confidence:.0%} interval"


def _big(title: str, value: str, interval: str, below: str) -> Html:
    return tag(
        "div", tag("span", title, class_="title"), tag("span", value, class_="value"),
        tag("span", interval, class_="interval-text"), tag("span", below, class_="below"), class_="figure",
    )  # fmt: skip


def warnings(f: Facts) -> Section | None:
    """What the reader must know first: about the run, then of the doctor; None when there is nothing to say."""
    items = [tag("li", tag("span", "run", class_="severity warning"), text) for text in _run_warnings(f)]
    told = [finding for finding in f.findings or () if finding.get("severity") in ("error", "warning")]
    items += [_finding(finding) for finding in told[:30]]
    if len(told) > 30:
        items.append(
            tag("li", f"{plural(len(told) - 30, 'more finding')}: gleanseg doctor {f.info.get('manifest', '')}")
        )
    if not items:
        return None
    return Section("warnings", "Read this first", tag("ul", items, class_="warnings"))


def _run_warnings(f: Facts) -> list[str]:
    told = [f.manifest_problem] if f.manifest_problem else []
    status = f.info.get("status", "finished")
    if status != "finished":
        told.append(f"Training is not finished (status: {status}); figures may change.")
    if f.best is not None and f.best.split != "test":
        told.append(f"The figures are from the {f.best.split} split, not from held-out test cases.")
    if f.best is not None:
        missed, invented = sum(f.best.missed.values()), sum(f.best.false_positives.values())
        if missed or invented:
            told.append(
                f"One mask is empty in {plural(missed + invented, 'case and ROI pair')} ({missed} missed, {invented} "
                f"false positive); protocol {f.best.protocol} says what they score, and they weigh on the means."
            )
        told.extend(f.best.left_out)
    return told


def _finding(finding: dict[str, Any]) -> Html:
    severity = str(finding.get("severity"))
    where = finding.get("case")
    text: list[Child] = [tag("strong", f"{where}: ") if where else None, str(finding.get("message", ""))]
    if remedy := finding.get("remedy"):
        text.append(tag("span", f" {remedy}", class_="quiet"))
    return tag("li", tag("span", severity, class_=f"severity {severity}"), tag("span", text))


def results(f: Facts) -> Section:
    """Per-ROI results of every evaluated split."""
    evaluated = [r for r in f.results if r.rois]
    if not evaluated:
        command = tag("code", f"gleanseg evaluate {f.path}")
        return Section("results", "Results", tag("p", "No evaluation yet. Make it with ", command, ".", class_="empty"))
    parts = []
    for one in evaluated:
        if len(evaluated) > 1:
            parts.append(tag("h3", f"{one.split.capitalize()} split, protocol {one.protocol}"))
        text = (
            f"Means over the cases in which the ROI is known, with {one.confidence:.0%} bootstrap intervals over "
            "cases; faint dots are cases. "
            f"Protocol {one.protocol}, {plural(len(one.cases), 'case')} of the {one.split} split."
        )
        parts += [tag("p", text, class_="lead"), results_table(one, f.look)]
    return Section("results", "Results", html(parts))


def training(f: Facts) -> Section:
    """Learning curves."""
    if not f.log and not f.validation:
        return Section("training", "Training", tag("p", "Nothing was logged yet.", class_="empty"))
    offsets, marks = _stages(f)
    steps = [row.get("step", 0) + offsets.get(row.get("stage", ""), 0) for row in f.log]
    charts = [
        _chart("Loss", _loss_chart(f, steps, marks)),
        _chart(f"Validation {_metric(f)}", _validation_chart(f, offsets, marks)),
        *(_chart(title, chart) for title, chart in decision_charts(f, steps, marks)),
        _chart("Learning rate", _from_zero(f, "lr", steps, marks, span=1)),
        _chart("Speed", _from_zero(f, "rate", steps, marks, span=max(1, len(steps) // 40), unit="steps/s")),
    ]
    return Section("training", "Training", tag("div", charts, class_="charts"))


def _stages(f: Facts) -> tuple[dict[str, int], list[tuple[float, str]]]:
    """Steps done before each stage, and where the stages begin when there are several."""
    last: dict[str, int] = {}
    for row in (*f.log, *f.validation):
        stage = str(row.get("stage", ""))
        last[stage] = max(last.get(stage, 0), int(row.get("step", 0)))
    offsets, before = {}, 0
    for stage, steps in last.items():
        offsets[stage] = before
        before += steps
    return offsets, [(float(offset), stage) for stage, offset in offsets.items()] if len(offsets) > 1 else []


def _chart(title: str, chart: Html) -> Html:
    return tag("figure", tag("figcaption", title), chart, class_="chart-card")


def _from_zero(
    f: Facts, key: str, steps: Sequence[int], marks: Sequence[tuple[float, str]], *, span: int, unit: str = ""
) -> Html:
    """A logged value over the steps, its axis from 0; smoothed over ``span`` rows with the raw values behind."""
    values = [_float(row.get(key)) for row in f.log]
    highest = max((v for v in values if math.isfinite(v)), default=0.0)
    series = [Series("", steps, smooth(values, span), 0, "main")]
    if span > 1:
        series.append(Series("", steps, values, 0, "faint"))
    label = {"lr": "Learning rate", "rate": "Training speed"}[key]
    return line_chart(
        series, label=f"{label} over training steps", unit=unit, y_range=(0.0, highest * 1.08 or 1.0), stages=marks,
        digits=6,
    )  # fmt: skip


def _loss_chart(f: Facts, steps: Sequence[int], marks: Sequence[tuple[float, str]]) -> Html:
    loss = [_float(row.get("loss")) for row in f.log]
    span = max(1, len(loss) // 40)
    names = list(dict.fromkeys(name for row in f.log for name in row.get("terms", {})))
    series = []
    if len(names) > 1:
        for position, name in enumerate(names, start=1):
            values = [_float(row.get("terms", {}).get(name)) for row in f.log]
            series.append(Series(name, steps, smooth(values, span), position))
    if span > 1:
        series.append(Series("", steps, loss, 0, "faint"))
    series.append(Series("loss", steps, smooth(loss, span), 0, "main"))
    positive = [y for s in series if s.weight != "faint" for y in s.ys if y > 0]
    wide = bool(positive) and max(positive) > 30 * min(positive) and min(loss, default=0.0) > 0
    return line_chart(series, label="Loss and its terms over training steps", log=wide, stages=marks)


def _metric(f: Facts) -> str:
    """What the validation during training measured."""
    return "AUROC" if f.validation and f.validation[-1].get("metric") == "auroc" else "Dice"


def _validation_chart(f: Facts, offsets: dict[str, int], marks: Sequence[tuple[float, str]]) -> Html:
    if not f.validation:
        return tag("p", "No validation was made; the recipe's train.validate_every says how often.", class_="empty")
    steps = [int(row.get("step", 0)) + offsets.get(str(row.get("stage", "")), 0) for row in f.validation]
    rois = list(dict.fromkeys(roi for row in f.validation for roi in row.get("scores", {})))
    few = len(rois) <= _MAX_ROI_LINES
    series = []
    if len(rois) > 1:
        for position, roi in enumerate(rois, start=1):
            values = [_float(row.get("scores", {}).get(roi)) for row in f.validation]
            name = f.look[roi][0] if roi in f.look else roi
            series.append(Series(name if few else "", steps, values, position, "normal" if few else "faint"))
    series.append(Series("mean", steps, [_float(row.get("mean")) for row in f.validation], 0, "main"))
    low = min((y for s in series for y in s.ys if y == y), default=0.0)
    y_range = (0.0 if low < 0.5 else 0.5 if low < 0.75 else 0.75, 1.0)
    return line_chart(series, label="Validation Dice over training steps", y_range=y_range, stages=marks)


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def recipe(f: Facts) -> Section:
    """The main choices in a table, the whole file below."""
    r = f.recipe
    if not r:
        return Section("recipe", "Recipe", tag("p", "recipe.toml is missing or damaged.", class_="empty"))
    optimizer, sampling, train = r.get("optimizer", {}), r.get("sampling", {}), r.get("train", {})
    spacing = f.plan.get("spacing_ZYX_mm")
    table = facts([
        ("Method", _named(r.get("method", {}))),
        ("Network", _named(r.get("network", {}))),
        ("Head", _named(r.get("head", {}))),
        ("Text encoder", text_encoder(f.info)),
        ("ROI-aware network", _roi_aware(f.info)),
        ("Patch", _sizes(sampling.get("patch"), "voxels")),
        ("Voxel size", _sizes(spacing[::-1], "mm") if spacing else None),
        ("Batch", str(sampling.get("batch", ""))),
        ("Optimizer", " ".join(str(optimizer[k]) for k in ("name", "schedule") if k in optimizer)),
        ("Learning rate", f"{optimizer['lr']:g}" if "lr" in optimizer else None),
        ("Steps", f"{train['steps']:,}" if "steps" in train else None),
        ("Precision", str(train.get("precision", ""))),
        ("Seed", str(r.get("seed", ""))),
    ])  # fmt: skip
    whole = tag("details", tag("summary", "recipe.toml"), tag("pre", tag("code", f.recipe_text), tabindex=0))
    return Section("recipe", "Recipe", html((table, whole)))


def _roi_aware(info: dict[str, Any]) -> str | None:
    """Which frozen network the method consulted."""
    aware = info.get("roi_aware")
    if not aware:
        return None
    outputs = plural(len(aware["outputs"]), "ROI")
    return f"{_named(aware['network'])} of {aware['from']}, {outputs}, SHA-256 {aware['sha256'][:12]}"


def _named(table: dict[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in table.items() if key != "name")
    return f"{table.get('name', '')} ({options})" if options else str(table.get("name", ""))


def _sizes(sizes: object, unit: str) -> str | None:
    if isinstance(sizes, (list, tuple)):
        return " × ".join(f"{size:g}" for size in sizes) + f" {unit}"  # noqa: RUF001
    return str(sizes) if sizes is not None else None


def origin(f: Facts) -> Section:
    """Versions, hashes, protocols and the readings of the test split."""
    digests = [key for key in f.info if key.endswith("_digest")]
    table = facts(
        [
            ("Trained with", f"gleanseg {f.info.get('version', 'unknown')}"),
            ("Started", when(str(f.info.get("created", "")))),
            *((key.capitalize(), tag("code", str(f.info[key]))) for key in ("manifest", "store") if key in f.info),
            *(
                (f"{key.removesuffix('_digest').capitalize()} SHA-256", tag("code", str(f.info[key])))
                for key in digests
            ),
            ("Report made with", f"gleanseg {__version__}, Python {platform.python_version()}, {_versions()}"),
            ("Machine of the report", f"{platform.system()} {platform.machine()}"),
        ],
        listing=True,
    )
    parts = [table, *_environment(f), *(_protocol(one) for one in f.results)]
    parts.append(tag("h3", "Readings of the test split"))
    if f.access:
        parts.append(tag("p", f"{plural(len(f.access), 'reading')} logged in access.jsonl.", class_="lead"))
        rows = [{k: when(v) if k == "time" else v for k, v in row.items()} for row in f.access[-_MAX_ACCESS_ROWS:]]
        parts.append(rows_table(rows))
    else:
        parts.append(tag("p", "None was logged: nothing in this run has read the test split.", class_="empty"))
    return Section("origin", "Origin", html(parts))


def _environment(f: Facts) -> list[Html]:
    told = f.info.get("environment")
    if not isinstance(told, dict) or not told:
        return []
    entries = [(str(k), str(v)) for k, v in told.items()]
    return [tag("h3", "Environment of the training"), facts(entries, listing=True)]


def _protocol(one: Results) -> Html:
    entries = [(k, tag("code", v) if k.endswith("SHA-256") else v) for k, v in one.details.items()]
    return html(
        (tag("h3", f"Evaluation of the {one.split} split: protocol {one.protocol}"), facts(entries, listing=True))
    )


def _versions() -> str:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)

"""``gleanseg evaluate``: numbers for predictions, with intervals, and what was empty, missed or invented."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from gleanseg.evaluate.evaluation import Evaluation, RoiSummary
    from gleanseg.evaluate.statistics import Interval

_NAMES = {"dice": "Dice", "jaccard": "Jaccard", "hd95": "HD95", "asd": "ASD", "assd": "ASSD", "nsd": "NSD"}
_FIRST = ("dice", "hd95", "nsd", "asd", "jaccard", "assd")
_NARROW = 100  # characters; below it the table keeps three metrics, and one interval


@dataclass(frozen=True, kw_only=True)
class Command:
    """Score predictions: Dice, Jaccard, HD95, ASD, ASSD and NSD per case and known ROI, as JSON, CSV and a table.

    Of a run: gleanseg evaluate RUN --split test

    Of any folder: gleanseg evaluate PREDICTIONS --manifest M.json --values 1=liver 2=liver,liver_tumor
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|PREDICTIONS")]
    """Run folder, or a folder of label maps (one CASE.nii.gz per case)."""
    manifest: Path | None = None
    """Manifest with the reference labels; needed for a folder of label maps, known for a run."""
    split: Literal["train", "validation", "test"] = "test"
    """Cases to score."""
    protocol: str = "default"
    """Definitions, units and what empty masks score: default, ssl3d, ssl4mis, mots-v1, mots-v2, or a TOML file."""
    values: tuple[str, ...] = ()
    """What another tool's label maps hold: VALUE=ROI, or VALUE=ROI,ROI for a value inside several."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the JSON and CSV files of a folder of label maps; default: PREDICTIONS/evaluation."""
    against: tuple[Path, ...] = ()
    """Saved evaluations (JSON) of another method, one per seed: tests whether these predictions differ."""
    allow_missing: bool = False
    """Leave cases without a prediction out, and say so, instead of stopping."""
    num_workers: int | None = None
    """Cases at a time; default: one per core, at most 8."""

    def run(self) -> int:
        """Evaluate."""
        from gleanseg.cli.progress import console
        from gleanseg.evaluate.evaluation import Evaluation, compare
        from gleanseg.evaluate.protocol import Protocol

        others = [Evaluation.load(path) for path in self.against]
        name = Protocol.load(self.protocol).name
        file = f"{self.split}.json" if name == "default" else f"{self.split}-{name}.json"
        if (self.path / "run.json").is_file():
            result, folder = self._of_run(), self.path / "evaluation"
        else:
            result, folder = self._of_folder(), self.out or self.path / "evaluation"
            result.save(folder / file)
            result.save_csv((folder / file).with_suffix(".csv"))
        show_evaluation(result)
        for metric in result.metrics if others else ():
            test = compare(result, others, metric=metric)
            console.print(
                f"{_NAMES[metric]}: difference [bold]{test.difference:+.4f}[/bold] "
                f"(95 % {test.low:+.4f} to {test.high:+.4f}), Wilcoxon p = {test.p_wilcoxon:.3g}, "
                f"{test.num_pairs} pairs in {test.num_cases} cases"
            )
        console.print(f"saved: [bold]{folder / file}[/bold] and .csv")
        return 0

    def _of_run(self) -> "Evaluation":
        from gleanseg.errors import UserError

        given = {"--manifest": self.manifest, "--values": self.values, "--out": self.out}
        for option, value in {**given, "--allow-missing": self.allow_missing}.items():
            if value:
                raise UserError(f"{self.path} is a run, which knows its own; leave {option} out")
        from gleanseg import api
        from gleanseg.cli.progress import bar

        with bar("evaluate") as progress:
            return api.evaluate(
                self.path, split=self.split, protocol=self.protocol, num_workers=self.num_workers, progress=progress
            )

    def _of_folder(self) -> "Evaluation":
        from gleanseg.cli.progress import bar
        from gleanseg.data.manifest import Manifest
        from gleanseg.errors import UserError
        from gleanseg.evaluate.evaluator import evaluate_folder
        from gleanseg.evaluate.predictions import parse_values

        if self.manifest is None:
            raise UserError(f"{self.path}: not a run (no run.json); for a folder of label maps give --manifest")
        manifest = Manifest.load(self.manifest)
        values = parse_values(self.values, manifest.ontology()) if self.values else None
        with bar("evaluate") as progress:
            return evaluate_folder(
                manifest,
                self.path,
                split=self.split,
                protocol=self.protocol,
                values=values,
                allow_missing=self.allow_missing,
                num_workers=self.num_workers,
                progress=progress,
            )


def show_evaluation(result: "Evaluation") -> None:
    """Print a table of ROIs, and below it what is in no mean."""
    from gleanseg.cli.progress import console

    metrics = [m for m in _FIRST if m in result.metrics]
    shown = metrics if console.width >= _NARROW else metrics[:3]
    console.print(_table(result, shown, console.width))
    left_out = [_NAMES[m] for m in metrics if m not in shown]
    facts = [
        f"distances in {'millimeters' if result.unit == 'mm' else 'voxels'}; 95 % bootstrap intervals over cases",
        "empty: not there, not predicted; missed: there, nothing predicted; invented: not there, but predicted",
        f"{', '.join(left_out)}: in the files" if left_out else "",
        _list("no ROI known, not scored", result.unscored),
        _list("[yellow]prediction missing, in no mean[/yellow]", result.missing),
        _list("[yellow]not predicted, in no mean[/yellow]", result.not_predicted),
        f"{result.skipped_absent} absent (case, ROI) pairs left out by the protocol" if result.skipped_absent else "",
    ]
    for fact in filter(None, facts):
        console.print(f"[dim]{fact}[/dim]")


def _table(result: "Evaluation", metrics: "Sequence[str]", width: int) -> "Table":
    from rich import box
    from rich.table import Table

    all_intervals = width >= _NARROW + 13 * (len(metrics) - 1)
    title = f"{result.split} split, {len(result.cases)} cases, protocol {result.protocol}"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_footer=True
    )
    table.add_column("ROI", footer=f"mean of {len(result.rois)}", overflow="fold", min_width=12)
    for metric in metrics:
        mean = _cell(metric, result.summary.mean[metric], interval=all_intervals or metric == metrics[0])
        table.add_column(_NAMES[metric], justify="right", no_wrap=True, footer=mean)
    rois = result.summary.rois.values()
    counts = {"cases": 0, "empty": 1, "missed": 2, "invented": 3}
    for head, i in counts.items():
        total = sum((r.cases, r.both_empty, r.missed, r.false_positives)[i] for r in rois)
        table.add_column(head, justify="right", no_wrap=True, footer=_count(total, warn=i > 1))
    for roi, summary in result.summary.rois.items():
        cells = [_cell(m, summary.metrics[m], interval=all_intervals or m == metrics[0]) for m in metrics]
        table.add_row(roi, *cells, *_counts(summary, volume=width >= _NARROW))
    return table


def _counts(summary: "RoiSummary", *, volume: bool) -> tuple[str, str, str, str]:
    invented = _count(summary.false_positives, warn=True)
    if summary.false_positives and volume:
        invented += f" [dim]({summary.false_positive_ml:.2g} ml)[/dim]"
    return str(summary.cases), _count(summary.both_empty), _count(summary.missed, warn=True), invented


def _count(number: int, *, warn: bool = False) -> str:
    if number == 0:
        return "[dim]0[/dim]"
    return f"[yellow]{number}[/yellow]" if warn else str(number)


def _cell(metric: str, value: "Interval", *, interval: bool) -> str:
    """Mean and interval; overlaps with three decimals, distances with two."""
    if math.isnan(value.mean):
        return "[dim]-[/dim]"
    digits = 3 if metric in ("dice", "jaccard", "nsd") else 2
    mean = f"[bold]{value.mean:.{digits}f}[/bold]"
    if math.isnan(value.low) or not interval:
        return mean
    return f"{mean} [dim]{value.low:.{digits}f}-{value.high:.{digits}f}[/dim]"


def _list(what: str, names: "Sequence[str]") -> str:
    if not names:
        return ""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{what}: {', '.join(names[:6])}{more}"

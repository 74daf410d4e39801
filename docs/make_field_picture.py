"""Write docs/images/field-*.svg: test Dice of every method against what a step of it costs.

python docs/make_field_picture.py
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
EXPERIMENTS = ("field-hippocampus", "field-left-atrium")
YARDSTICK = "supervised"
COLORS = {"better": "#0b7a4b", "tie": "#5f6b76", "worse": "#b3372f", YARDSTICK: "#1f4fa3"}


class Point(NamedTuple):
    """A method of the picture.

    Attributes:
        name: of its runs.
        cost: time of a step, supervised ones being 1.
        dice: test mean over seeds, with the mean bounds of its interval over cases.
        verdict: against the supervised runs.
    """

    name: str
    cost: float
    dice: tuple[float, float, float]
    verdict: str


def points(result: dict[str, Any], costs: dict[str, Any]) -> list[Point]:
    """Methods whose cost was measured, best first.

    Args:
        result: of the experiment.
        costs: ``methods`` of method_cost.json.
    """
    found = []
    verdicts = {c["a"]: verdict(c) for c in result["comparisons"] if c["split"] == "test" and c["b"] == YARDSTICK}
    for name in dict.fromkeys(run["name"] for run in result["runs"] if "test" in run["evaluation"]):
        dice = [run["evaluation"]["test"]["mean"]["dice"] for run in result["runs"] if run["name"] == name]
        cost = costs.get(name.replace("-", "_"))
        if cost:
            bounds = tuple(mean(d[key] for d in dice) for key in ("mean", "low", "high"))
            found.append(Point(name, cost["relative"]["median"], bounds, verdicts.get(name, YARDSTICK)))
    return sorted(found, key=lambda p: -p.dice[0])


def verdict(comparison: dict[str, Any]) -> str:
    """Better or worse where the interval leaves out 0."""
    return "better" if comparison["low"] > 0 else "worse" if comparison["high"] < 0 else "tie"


def spread(wanted: list[float], gap: float) -> list[float]:
    """Places in falling order at least ``gap`` apart, as near to ``wanted`` (falling, too) as blocks allow."""
    blocks: list[list[float]] = []  # of each: where its labels want to be on average, and how many they are
    for i, place in enumerate(wanted):
        blocks.append([place + i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            last = blocks.pop()
            total = blocks[-1][1] + last[1]
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + last[0] * last[1]) / total, total]
    places = [place for place, number in blocks for _ in range(int(number))]
    return [place - i * gap for i, place in enumerate(places)]


def draw(found: list[Point], path: Path) -> None:
    """One point per method, its name in a column at the right."""
    mpl.rcParams |= {"svg.hashsalt": "gleanseg", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    figure = Figure(figsize=(8.4, 6.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = min(p.dice[1] for p in found), max(p.dice[2] for p in found)
    most = max(p.cost for p in found)
    margin = (high - low) / 60
    axes.set(xscale="log", xlim=(0.85, most * 3.2), ylim=(low - margin, high + margin))
    gap = (high - low) / 34
    for point, place in zip(found, spread([p.dice[0] for p in found], gap), strict=True):
        color, (at, lower, upper) = COLORS[point.verdict], point.dice
        axes.vlines(point.cost, lower, upper, color=color, alpha=0.25, linewidth=1)
        axes.plot(point.cost, at, "o", color=color, markersize=5)
        axes.plot([point.cost * 1.03, most * 1.25], [at, place], color=color, alpha=0.25, linewidth=0.6)
        axes.text(most * 1.28, place, f"{point.name}  {at:.3f}", va="center", color=color)
        if point.verdict == YARDSTICK:
            axes.hlines(at, 0.85, most * 1.2, color=color, alpha=0.4, linewidth=0.8, linestyle="--")
    ticks = [t for t in (1, 1.5, 2, 3, 4, 6, 8, 12) if t <= most * 1.1]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time of a step, times a supervised one (log)")
    axes.set_ylabel("test Dice; lines: 95 % interval over cases")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [axes.plot([], [], "o", color=color, label=f"{name}")[0] for name, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, title="against supervised")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Draw what was measured."""
    costs = json.loads((RESULTS / "method_cost.json").read_text())["methods"]
    for name in EXPERIMENTS:
        if (RESULTS / f"{name}.json").exists():
            draw(points(json.loads((RESULTS / f"{name}.json").read_text()), costs), IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()

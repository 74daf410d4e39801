"""Write docs/field.md: every method under one budget, and what ranks differently from the papers.

python docs/make_field.py
"""

import json
import re
import tomllib
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import Any, NamedTuple

from make_field_picture import YARDSTICK, verdict
from scipy.stats import spearmanr

from gleanseg.report.papers import PaperTable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EXPERIMENTS = ROOT / "benchmarks" / "experiments"
PAGE = ROOT / "docs" / "field.md"
LABELLED_ROWS = 2  # of a step, whatever the method
HEAD = """\
# The field on one engine

Every method with its default options, on one engine, one network, one split, one sampler. Made from
`benchmarks/results/field-*.json` by `python docs/make_field.py`; [measured](performance.md) has the same runs with
intervals of each.

**The budget is the same for all**: about 1,500 passes of two rows forward and backward, counted in multiplications. A
method whose step costs three times a supervised one takes a third of the steps, and so sees a third of the labelled
patches. This is not what papers do: there all methods take the same number of *steps*, and the supervised yardstick
stops when it has had a fraction of the others' compute.

"""
TITLES = {
    "field-hippocampus": "Hippocampus, 20 labelled cases of 160",
    "field-left-atrium": "Left atrium at 1.25 mm, 8 labelled cases of 56",
}
ABOUT = {
    "field-hippocampus": """\
All methods; DoDNet is left out, as labelled cases know both parts, and ACTION++ is its second stage alone.""",
    "field-left-atrium": """\
The five methods that were best on the hippocampus' development cases and can learn a single ROI, with the yardstick,
mean teacher and LLM-SegNet. Steps as above.""",
}
TAIL = """\
## What ranks differently from the papers, and why

{counts}

* **Dice goes with steps, not with ideas.** On the hippocampus the rank correlation of test Dice with the number of
  steps that the budget leaves is {steps:.2f}, and with the measured time of a step {cost:.2f}: cheap methods lead, the
  costliest come last. With the published Dice of the {shared} rows that the LLM-SegNet paper lists for the left atrium
  with 8 labelled cases it is {published:.2f}.
* **Here training is what is short, not labels.** With all 160 cases labelled, supervised training of a network twice as
  wide reaches a test Dice of {everything:.3f} ([measured](performance.md)): unlabelled cases can add little on the
  hippocampus, and a method that spends its budget on them pays for it.
* **Where every method takes the same number of steps the picture turns**: on the left atrium with 1,000 steps each
  LLM-SegNet reaches {language:.3f} and supervised training {plain:.3f}, an undecided difference in its favour
  ([measured](performance.md#left-atrium-at-half-resolution-with-8-labelled-cases-and-with-4)); 500 more supervised
  steps, as above, reach {longer:.3f} for less compute.
* **Ramps are a share of the run.** With a few hundred steps, weights of the unlabelled terms are full only after the
  first 40 %, and teachers, banks and adversaries that the papers train for 6,000 to 30,000 steps have hardly formed.
* **No checkpoint is chosen on test cases.** The published numbers of several methods are those of the checkpoint that
  was best on the test list; ours are the last step's.
* **Defaults, not tuned weights.** Nothing was tuned for any method; the recipes' rate and augmentation were chosen with
  supervised training, mean teacher and LLM-SegNet on development cases, which may favour these.

What follows for users: with minutes of training on a small structure, label more or train longer before reaching for
unlabelled cases; and compare methods at equal compute, not at equal steps. What does not follow: that these methods are
worth nothing where training is long and labels are few, which is where their papers are.
"""


class Row(NamedTuple):
    """A method's line: steps of a budget, mean Dice of each split, and the difference from the yardstick."""

    name: str
    seeds: int
    steps: int
    development: float
    test: float
    against: dict[str, Any] | None


def rows(name: str) -> list[Row]:
    """Lines of an experiment, best test Dice first."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    told = {run["name"]: run for run in tomllib.loads((EXPERIMENTS / f"{name}.toml").read_text())["run"]}
    compared = {c["a"]: c for c in result["comparisons"] if (c["b"], c["split"]) == (YARDSTICK, "test")}
    found = []
    for method in dict.fromkeys(run["name"] for run in result["runs"] if "test" in run["evaluation"]):
        runs = [run["evaluation"] for run in result["runs"] if run["name"] == method]
        development, test = (
            mean(run[split]["mean"]["dice"]["mean"] for run in runs) for split in ("validation", "test")
        )
        row = Row(method, len(runs), steps_of(told[method]), development, test, compared.get(method))
        found.append(row)
    return sorted(found, key=lambda row: -row.test)


def steps_of(run: dict[str, Any]) -> int:
    """Steps of all stages, as the experiment's file sets them."""
    return sum(int(number) for number in re.findall(r"\bsteps=(\d+)", " ".join(run["overrides"])))


def table(found: list[Row]) -> str:
    """Lines as Markdown."""
    lines = [
        "| method | steps | labelled patches seen | development | test | against supervised (95 %) | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        c = row.against
        difference = f"{c['difference']:+.3f} ({c['low']:+.3f} to {c['high']:+.3f}) | {verdict(c)}" if c else "- | "
        page = row.name.replace("-", "_")
        lines.append(
            f"| [{row.name}](methods/{page}.md) | {row.steps:,} | {LABELLED_ROWS * row.steps:,} |"
            f" {row.development:.3f} | {row.test:.3f} | {difference} |"
        )
    return "\n".join(lines) + "\n"


def section(name: str) -> str:
    """A table and its picture."""
    found = rows(name)
    seeds = sorted({row.seeds for row in found})
    return f"""\
## {TITLES[name]}

{ABOUT[name]} Mean Dice over {" or ".join(map(str, seeds))} seeds.

{table(found)}
![Test Dice of each method against the time of its step]({f"images/{name}.svg"})

`python benchmarks/run_queue.py benchmarks/experiments/{name}.toml --folder FOLDER`

"""


def tail() -> str:
    """What to make of it, with the numbers that it rests on."""
    found, costs = rows("field-hippocampus"), json.loads((RESULTS / "method_cost.json").read_text())["methods"]
    cost = [costs[row.name.replace("-", "_")]["relative"]["median"] for row in found]
    dice = [row.test for row in found]
    paper = published()
    shared = [row for row in found if row.name.replace("-", "_") in paper]
    counts = []
    for name, where in (("field-hippocampus", "the hippocampus"), ("field-left-atrium", "the left atrium")):
        verdicts = [verdict(row.against) for row in rows(name) if row.against]
        told = ", ".join(f"{verdicts.count(one)} {one}" for one in ("better", "tie", "worse"))
        counts.append(f"of {len(verdicts)} methods on {where}: {told}")
    return TAIL.format(
        counts=fill(f"Against supervised training with the same compute, {'; '.join(counts)}.", 120),
        shared=len(shared),
        published=spearmanr(
            [paper[row.name.replace("-", "_")] for row in shared], [row.test for row in shared]
        ).statistic,
        steps=spearmanr([row.steps for row in found], dice).statistic,
        cost=spearmanr(cost, dice).statistic,
        everything=test_dice("hippocampus", "supervised-all-160"),
        language=test_dice("left-atrium-half", "llm-segnet"),
        plain=test_dice("left-atrium-half", "supervised"),
        longer=test_dice("field-left-atrium", "supervised"),
    )


def published() -> dict[str, float]:
    """Dice of each method with 8 labelled cases of the Left Atrium, as the LLM-SegNet paper lists it."""
    table = PaperTable.load("left-atrium")
    (dice,) = (i for i, column in enumerate(table.column) if column.metric == "dice")
    return {table.method(row): row.values[dice] for row in table.row if row.labelled == 8 and row.values}


def test_dice(experiment: str, name: str) -> float:
    """Mean over seeds."""
    runs = json.loads((RESULTS / f"{experiment}.json").read_text())["runs"]
    return mean(run["evaluation"]["test"]["mean"]["dice"]["mean"] for run in runs if run["name"] == name)


def page() -> str:
    """The whole page."""
    return HEAD + "".join(section(name) for name in TITLES) + tail()


if __name__ == "__main__":
    PAGE.write_text(page())

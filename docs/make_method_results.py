"""Write what we measured of each method into its page, between two marks, so that no number there was typed.

python docs/make_method_results.py
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "methods"
START, END = "<!-- measured -->\n", "<!-- end of measured -->\n"
YARDSTICK = "supervised"
EXPERIMENTS = {
    "field-hippocampus": "hippocampus, 20 labelled cases, equal budgets",
    "field-left-atrium": "left atrium at 1.25 mm, 8 labelled cases, equal budgets",
}


def page(path: Path) -> str:
    """A method's page with what was measured; unchanged where it has no marks."""
    text = path.read_text()
    if START not in text:
        return text
    before, _, rest = text.partition(START)
    return before + START + measured(path.stem) + END + rest.partition(END)[2]


def measured(method: str) -> str:
    """A table with a row per experiment that ran the method; empty if none did."""
    rows = []
    for name, what in EXPERIMENTS.items():
        path = RESULTS / f"{name}.json"
        result = json.loads(path.read_text()) if path.exists() else {"runs": [], "comparisons": []}
        runs = [run for run in result["runs"] if run["name"].replace("-", "_") == method and run["evaluation"]]
        if runs:
            rows.append(f"| {what} | {len(runs)} | {dice(runs, 'validation')} | {dice(runs, 'test')} | "
                        f"{against(result['comparisons'], method)} |\n")  # fmt: skip
    heads = "| measured by us | seeds | development | test | against supervised (95 %) |\n|---|---|---|---|---|\n"
    return heads + "".join(rows) if rows else ""


def dice(runs: list[dict[str, Any]], split: str) -> str:
    """Mean over seeds."""
    found = [run["evaluation"][split]["mean"]["dice"]["mean"] for run in runs if split in run["evaluation"]]
    return f"{mean(found):.3f}" if found else ""


def against(comparisons: list[dict[str, Any]], method: str) -> str:
    """Difference of test Dice from the supervised runs, with its interval."""
    found = [c for c in comparisons if (c["a"].replace("-", "_"), c["b"], c["split"]) == (method, YARDSTICK, "test")]
    return f"{found[0]['difference']:+.3f} ({found[0]['low']:+.3f} to {found[0]['high']:+.3f})" if found else "-"


if __name__ == "__main__":
    for one in PAGES.glob("*.md"):
        one.write_text(page(one))

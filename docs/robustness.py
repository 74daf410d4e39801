"""Sections of docs/performance.md about crashes, growth over long runs, and forecasts, one for each result."""

from typing import Any


def drills(result: dict[str, Any]) -> str:
    """What was killed, and what went wrong."""
    found = result["drills"]
    most = {name: row for name, row in found.items() if row["moments"] >= result["moments"]}
    rows = "".join(f"| {name} | {_drilled(row)} |\n" for name, row in most.items())
    others = [row for name, row in found.items() if name not in most]
    joined = {key: sum(row[key] for row in others) for key in ("moments", "killed")}
    joined["went_wrong"] = [words for row in others for words in row["went_wrong"]]
    return f"""\
## Crash drills

Killed with SIGKILL at random moments of its course, by the clock or just before a change to a file, and started again:
every file must equal that of an undisturbed run, and nothing else be left. Moments by the clock may come after the end.

| command or method | moments | killed | went wrong |
|---|---|---|---|
{rows}| {len(others)} other methods, {result["others"]} each | {_drilled(joined)} |

`{result["command"]}`
"""


def _drilled(row: dict[str, Any]) -> str:
    return f"{row['moments']} | {row['killed']} | {len(row['went_wrong'])}"


def soak(result: dict[str, Any]) -> str:
    """How much long runs grow."""
    rows = "".join(
        f"| {name} | {part['total']} | {part['seconds']:.0f} s | {part['grew']['mib']:+.1f} MiB | "
        f"{part['grew']['handles']:+.0f} | {part['grew']['threads']:+.0f} |\n"
        for name, part in result["parts"].items()
    )
    return f"""\
## Long runs

Steps of training or cases that one process works through; growth from the first to the last third after a warm-up, of
which {result["most_mib"]:.0f} MiB are let pass as the allocator's wandering.

| what | steps or cases | took | memory | files | threads |
|---|---|---|---|---|---|
{rows}
`{result["command"]}`
"""


def forecast(result: dict[str, Any]) -> str:
    """What was foretold against what was measured."""

    def disk(row: dict[str, Any]) -> str:
        return f"{row['disk_ratio']:.2f}" if "disk_ratio" in row else "-"

    rows = "".join(
        f"| {row['configuration']} | {row['forecast_mib']:.0f} MiB | {row['measured_mib']:.0f} MiB "
        f"| {row['ratio']:.2f} | {disk(row)} |\n"
        for row in result["rows"]
    )
    return f"""\
## Forecast of memory and disk

What is said before work starts, against the peak of a fresh process and the largest size of its folder.

| what | told | measured | ratio | ratio, disk |
|---|---|---|---|---|
{rows}
`{result["command"]}`
"""

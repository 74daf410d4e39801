"""A resumable queue of experiments: one run at a time, so that no run is timed while another works.

    python benchmarks/run_queue.py benchmarks/experiments/hippocampus.toml --folder runs/hippocampus

The file lists runs: a recipe, overrides, and what to do with the test split. Whatever is finished is skipped; a run
that was interrupted is resumed from its checkpoint; results are written to ``benchmarks/results/<name>.json`` after
each run, with the command that made them.
"""

import argparse
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from gleanseg.run.environment import processor

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="TOML file with [[run]] tables")
    parser.add_argument("--folder", type=Path, required=True, help="where run folders lie")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    experiment = tomllib.loads(arguments.experiment.read_text())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with (arguments.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second queue on this folder waits
        for run in experiment["run"]:
            for seed in run.get("seeds", [0]):
                name = f"{run['name']}-{seed}"
                if arguments.only in name:
                    work_off(experiment, run, seed, arguments.folder / name)
        collect(experiment, arguments)
    return 0


def work_off(experiment: dict[str, Any], run: dict[str, Any], seed: int, folder: Path) -> None:
    """Train, predict and evaluate one run, whatever of it is not done yet."""
    if (folder / "done.json").exists():
        return
    overrides = [f"manifest={json.dumps(str(Path(experiment['manifest']).resolve()))}", f"seed={seed}"]
    # A run may build on another of the same queue.
    overrides += [text.replace("{folder}", str(folder.parent.resolve())) for text in run.get("overrides", [])]
    train = ["train", str(ROOT / run["recipe"]), "-o", str(folder), "--resume"]
    for override in overrides:
        train += ["--override", override]
    gleanseg(train)
    seconds = json.loads((folder / "run.json").read_text())["elapsed_s"]
    start = time.perf_counter()
    for split in run.get("splits", experiment.get("splits", ["validation"])):
        gleanseg(["predict", str(folder), "--split", split, "--resume"])
        gleanseg(["evaluate", str(folder), "--split", split])
    done = {"train_s": seconds, "predict_and_evaluate_s": round(time.perf_counter() - start, 1), "command": train}
    (folder / "done.json").write_text(json.dumps(done))


def gleanseg(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "gleanseg.cli.main", *arguments]
    print("+", shlex.join(["gleanseg", *arguments]), flush=True)
    subprocess.run(command, check=True)


def collect(experiment: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Write what all finished runs reached."""
    runs = []
    for run in experiment["run"]:
        for seed in run.get("seeds", [0]):
            folder = arguments.folder / f"{run['name']}-{seed}"
            if (folder / "done.json").exists():
                runs.append({"name": run["name"], "seed": seed, **figures(folder)})
    result = {
        "experiment": experiment["name"],
        "command": f"python benchmarks/run_queue.py {os.path.relpath(arguments.experiment, ROOT)} --folder FOLDER",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "runs": runs,
    }
    path = ROOT / "benchmarks" / "results" / f"{experiment['name']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(runs)} finished runs in {path}")


def figures(folder: Path) -> dict[str, Any]:
    done = json.loads((folder / "done.json").read_text())
    info = json.loads((folder / "run.json").read_text())
    scores = {}
    for path in sorted((folder / "evaluation").glob("*.json")):
        rows = json.loads(path.read_text())["summary"]
        scores[path.stem] = rows
    if (folder / "presence.json").exists():
        scores["presence"] = json.loads((folder / "presence.json").read_text())["groups"]
    if routes := mean_monitors(folder):
        scores["routes"] = routes
    kept = ("version", "recipe_digest", "splits_digest", "manifest_digest")
    return {**{k: info[k] for k in kept}, **{k: done[k] for k in done if k != "command"}, "evaluation": scores}


def mean_monitors(folder: Path) -> dict[str, list[float]]:
    """What the method let one watch, averaged over each quarter of the run."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = sorted({name for row in rows for name in row.get("monitors", {})})
    quarters = [rows[len(rows) * q // 4 : len(rows) * (q + 1) // 4] for q in range(4)]
    means: dict[str, list[float]] = {}
    for name in names:
        values = [[row["monitors"][name] for row in quarter if name in row.get("monitors", {})] for quarter in quarters]
        means[name] = [round(sum(v) / len(v), 4) if v else float("nan") for v in values]
    return means


if __name__ == "__main__":
    sys.exit(main())

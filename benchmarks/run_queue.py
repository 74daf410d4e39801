"""A resumable queue of experiments: one run at a time, so that no run is timed while another works.

    python benchmarks/run_queue.py benchmarks/experiments/hippocampus.toml --folder runs/hippocampus

The file lists runs: a recipe, overrides, seeds; its ``predict`` holds further arguments of ``gleanseg predict``.
Whatever is finished is skipped; a run that was interrupted is resumed from its checkpoint; results are written to
``benchmarks/results/<name>.json`` after each run, with their command. Runs that stand there already, made from the same
recipe on another day or machine, are kept and not run again.

``--side-by-side N`` runs N at once, each on a processor core of its own with one thread. Small 3D networks use single
cores better than several, so more gets done; how long such a run took says nothing and is not recorded.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import numpy as np

from gleanseg.config import Recipe
from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.statistics import bootstrap_interval, credited, paired_test
from gleanseg.run.environment import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Job(NamedTuple):
    """One run of the experiment."""

    entry: dict[str, Any]
    seed: int
    folder: Path

    @property
    def key(self) -> tuple[str, int]:
        """What tells the experiment's runs apart."""
        return self.entry["name"], self.seed


class Experiment:
    """The runs of an experiment and what they reached.

    Args:
        experiment: contents of its file.
        arguments: of the command line.
    """

    def __init__(self, experiment: dict[str, Any], arguments: argparse.Namespace) -> None:
        self.experiment, self.arguments = experiment, arguments
        self.jobs = [
            Job(entry, seed, arguments.folder / f"{entry['name']}-{seed}")
            for entry in experiment["run"]
            for seed in entry.get("seeds", [0])
        ]
        self.path = RESULTS / f"{experiment['name']}.json"
        self.lock = threading.Lock()
        self.cores: Queue[int] = Queue()
        for core in sorted(os.sched_getaffinity(0))[: arguments.side_by_side]:
            self.cores.put(core)

    def work(self) -> None:
        """Run whatever is neither finished here nor kept in the results."""
        kept = self._kept()
        wanted = [
            job for job in self.jobs if self.arguments.only in f"{job.entry['name']}-{job.seed}" and job.key not in kept
        ]
        done: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(self.arguments.side_by_side) as pool:
            for job in wanted:
                needed = done.get(job.entry.get("needs", ""))
                done[job.folder.name] = pool.submit(self._one, job, needed)
        for future in done.values():
            future.result()
        self.collect()

    def _one(self, job: Job, needed: "Future[None] | None") -> None:
        if needed is not None:
            needed.result()
        core = self.cores.get()
        try:
            self._work_off(job, core)
        finally:
            self.cores.put(core)
        with self.lock:
            self.collect()

    def _work_off(self, job: Job, core: int) -> None:
        """Train, predict and evaluate one run, whatever of it is not done yet."""
        if self._is_done(job):
            return
        train = ["train", str(ROOT / job.entry["recipe"]), "-o", str(job.folder), "--resume"]
        for override in self._overrides(job):
            train += ["--override", override]
        alone = self.arguments.side_by_side == 1
        call = gleanseg if alone else lambda words: gleanseg(words, core=core)
        call(train)
        start = time.perf_counter()
        for split in self._splits(job):
            call(["predict", str(job.folder), "--split", split, "--resume", *self.experiment.get("predict", [])])
            call(["evaluate", str(job.folder), "--split", split])
        done: dict[str, Any] = {
            "settings": self._digest(job),
            "side_by_side": self.arguments.side_by_side,
            "threads": os.cpu_count() if alone else 1,
        }
        if alone:
            done["train_s"] = json.loads((job.folder / "run.json").read_text())["elapsed_s"]
            done["predict_and_evaluate_s"] = round(time.perf_counter() - start, 1)
        (job.folder / "done.json").write_text(json.dumps(done))

    def _is_done(self, job: Job) -> bool:
        """Whether the folder holds this very run, judged on all its splits; with other settings it is refused."""
        done, judged = job.folder / "done.json", {path.stem for path in evaluations(job.folder)}
        if not done.exists() or not judged.issuperset(self._splits(job)):
            return False
        return bool(json.loads(done.read_text()).get("settings") == self._digest(job))

    def _splits(self, job: Job) -> list[str]:
        """What it is judged on."""
        splits: list[str] = job.entry.get("splits", self.experiment.get("splits", ["validation"]))
        return splits

    def _overrides(self, job: Job) -> list[str]:
        manifest = json.dumps(str(Path(self.experiment["manifest"]).resolve()))
        given = [f"manifest={manifest}", f"seed={job.seed}", *job.entry.get("overrides", [])]
        return [text.replace("{folder}", str(self.arguments.folder.resolve())) for text in given]

    def _kept(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Results of earlier days that this file would make again with the same recipe."""
        if not self.path.exists():
            return {}
        rows = {(row["name"], row["seed"]): row for row in json.loads(self.path.read_text())["runs"]}
        return {
            job.key: row
            for job in self.jobs
            if (row := rows.get(job.key)) and row.get("settings") == self._digest(job)
            if set(row["evaluation"]).issuperset(self._splits(job))
        }

    def _digest(self, job: Job) -> str:
        """Of what the recipe says, defaults left out, so that an option added later does not make results stale."""
        recipe = Recipe.load(ROOT / job.entry["recipe"], overrides=self._overrides(job))
        said = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"manifest", "store"})
        said.get("presence", {}).pop("run", None)  # a folder's name
        if "predict" in self.experiment:
            said["predicted_with"] = self.experiment["predict"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def collect(self) -> None:
        """Write what all finished runs reached, and how they compare."""
        rows = self._kept()
        for job in self.jobs:
            if self._is_done(job):
                rows[job.key] = {"name": job.entry["name"], "seed": job.seed}
                rows[job.key] |= figures(job.folder)
        ordered = [rows[job.key] for job in self.jobs if job.key in rows]
        words = f"python benchmarks/run_queue.py {os.path.relpath(self.arguments.experiment, ROOT)} --folder FOLDER"
        result = {
            "experiment": self.experiment["name"],
            "command": words,  # each run tells how many ran beside it
            "comparisons": list(comparisons(ordered, self.experiment.get("compare", ()))),
            "runs": ordered,
        }
        self.path.write_text(json.dumps(result) + "\n")
        print(f"{len(ordered)} of {len(self.jobs)} runs in {self.path}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="TOML file with [[run]] tables")
    parser.add_argument("--folder", type=Path, required=True, help="where run folders lie")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--side-by-side", type=int, default=1, help="runs at once, each on one core")
    arguments = parser.parse_args()
    experiment = tomllib.loads(arguments.experiment.read_text())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with (arguments.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second queue on this folder waits
        Experiment(experiment, arguments).work()
    return 0


def gleanseg(arguments: list[str], *, core: int | None = None) -> None:
    """Run the command line, on one core with one thread if a core is named."""
    command = [sys.executable, "-m", "gleanseg.cli.main", *arguments]
    print("+", shlex.join(["gleanseg", *arguments]), flush=True)
    if core is None:
        subprocess.run(command, check=True)
    else:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(["taskset", "-c", str(core), *command], check=True, env=environment)


def figures(folder: Path) -> dict[str, Any]:
    """What a finished run reached: the Dice of every case, means with intervals, and what it let one watch."""
    info = json.loads((folder / "run.json").read_text())
    found: dict[str, Any] = {k: info[k] for k in ("version", "recipe_digest", "splits_digest", "manifest_digest")}
    found |= {"processor": processor(), "python": platform.python_version()}
    found |= json.loads((folder / "done.json").read_text())
    found["evaluation"] = {path.stem: scores(Evaluation.load(path)) for path in evaluations(folder)}
    if (folder / "presence.json").exists():
        found["presence"] = json.loads((folder / "presence.json").read_text())["groups"]
    if watched := mean_monitors(folder):
        found["watched"] = watched
    return found


def evaluations(folder: Path) -> list[Path]:
    return sorted((folder / "evaluation").glob("*.json"))


def scores(evaluation: Evaluation) -> dict[str, Any]:
    """Dice of cases x ROIs, and the mean of each metric with its interval over cases."""
    means = {metric: bootstrap_interval(evaluation.values(metric))._asdict() for metric in evaluation.metrics}
    table = [[None if np.isnan(v) else round(v, 5) for v in row] for row in evaluation.values("dice").tolist()]
    return {"mean": means, "rois": evaluation.rois, "cases": evaluation.cases, "dice": table}


def comparisons(rows: list[dict[str, Any]], wanted: list[list[str]]) -> Any:
    """Paired differences of Dice between two runs' names, over cases and seeds; of all pairs, or of those wanted."""
    names = list(dict.fromkeys(row["name"] for row in rows if row["evaluation"]))
    for a, b in wanted or combinations(names, 2):
        sides = [[row for row in rows if row["name"] == name] for name in (a, b)]
        for split in ("validation", "test"):
            tables = [[np.array(r["evaluation"][split]["dice"], float) for r in side if split in r["evaluation"]]
                      for side in sides]  # fmt: skip
            if all(tables):
                x, y = np.stack(tables[0]), np.stack(tables[1])
                # Everything of these splits is known, so that undefined means: rightly nothing.
                found = paired_test(*credited(x, y, (np.isnan(x), np.isnan(y)), perfect=1.0))
                yield {"a": a, "b": b, "split": split, **found._asdict()}


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

"""Many crash drills, and one of every method: ``make drills``.

    PYTHONPATH=tests python -m drills --moments 100

Writes ``benchmarks/results/drills.json`` after every moment, and goes on from there when it is started again at the
same commit. Exits with 1 when a drill went wrong; what went wrong stands in the file.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from drills.harness import DrillError, Drills, moments
from gleanseg.run.environment import environment
from gleanseg.run.folder import now, write_text

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def main() -> int:
    """Drill, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100, help="of each command and shape of training state")
    parser.add_argument("--others", type=int, default=3, help="moments of every other method")
    parser.add_argument("--only", nargs="*", default=(), help="names of drills")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="drills at a time")
    parser.add_argument("--result", type=Path, default=RESULTS / "drills.json")
    arguments = parser.parse_args()
    found = begun(arguments.result, moments=arguments.moments, others=arguments.others)
    lock = Lock()
    with tempfile.TemporaryDirectory(prefix="drills-") as folder, ThreadPoolExecutor(arguments.jobs) as pool:

        def drill(name: str, number: int) -> None:
            drills, row = Drills(Path(folder) / name), found["drills"][name]
            for moment in moments(name, number)[row["moments"] :]:
                went_wrong, killed = [], False
                try:
                    killed = drills.kill(name, moment)
                except DrillError as error:
                    went_wrong.append(str(error))
                with lock:
                    row["moments"] += 1
                    row["killed"] += killed
                    row["went_wrong"] += went_wrong
                    write_text(arguments.result, json.dumps(found | {"date": now()}, indent=1) + "\n")
                for words in went_wrong:
                    print(words, file=sys.stderr)
            print(f"{name}: {row['moments']} moments, {row['killed']} killed, {len(row['went_wrong'])} went wrong")

        begun_drills = []
        for name, is_main in Drills.all().items():
            if not arguments.only or name in arguments.only:
                found["drills"].setdefault(name, {"moments": 0, "killed": 0, "went_wrong": []})
                number = arguments.moments if is_main else arguments.others
                begun_drills.append(pool.submit(drill, name, number))
        for ended in begun_drills:
            ended.result()
    return 1 if any(row["went_wrong"] for row in found["drills"].values()) else 0


def begun(result: Path, **counts: int) -> dict[str, Any]:
    """What stands in a file of the same commit and counts; else a new result."""
    here = {key: value.removesuffix("-dirty") for key, value in environment().items()}
    fresh = {"command": shlex.join(["python", "-m", "drills", *sys.argv[1:]]), "environment": here, **counts}
    if result.is_file():
        there: dict[str, Any] = json.loads(result.read_text())
        if all(there.get(key) == value for key, value in fresh.items() if key != "command"):
            return there
    return {**fresh, "drills": {}}


if __name__ == "__main__":
    sys.exit(main())

"""The run folder: all that resume, predict and report need.

```
run.json         what was trained on what        recipe.toml      resolved recipe
plan.json        how volumes are prepared        splits.json      cases by role, visible labels
log.jsonl        loss terms                      validation.jsonl Dice on the validation split
checkpoints/     <stage>-<step>.safetensors      access.jsonl     each reading of the test split
codes.safetensors        what a dynamic head knows of each ROI
texts.safetensors        vectors of what language says of the task
roi_aware.safetensors    the frozen ROI-aware network
predictions/     evaluation/     tensorboard/    report.html
.lock            while a process trains here
```
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from gleanseg.config import Recipe
from gleanseg.data.plan import Plan
from gleanseg.errors import UserError
from gleanseg.files import discard, whole
from gleanseg.lock import LOCK_FILE
from gleanseg.rois.ontology import Ontology, builtin

FORMAT = 1
Part = Callable[[Path], Mapping[str, Any]]
"""Writes files of its own into a new run folder and returns entries of run.json."""
_OF_PARTS = ("codes.safetensors", "texts.safetensors", "roi_aware.safetensors")
_MADE_FIRST = {"recipe.toml", "plan.json", "splits.json", "checkpoints", *_OF_PARTS}
"""What a new run folder holds before its ``run.json``."""
_CHECKPOINT = re.compile(r"(?P<stage>.+)-(?P<step>\d{8})\.safetensors")


class Run:
    """A run folder that exists.

    Args:
        path: the folder.
        info: contents of run.json.
    """

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self.path, self.info = path, dict(info)

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        recipe: Recipe,
        plan: Plan,
        info: Mapping[str, Any],
        splits: object,
        parts: Sequence[Part] = (),
        resume: bool = False,
    ) -> "Run":
        """Make a new run folder; ``run.json`` is written last.

        Args:
            path: new or empty.
            recipe: resolved.
            plan: how volumes were prepared.
            info: contents of run.json.
            splits: contents of splits.json.
            parts: each writes further files and returns entries of run.json.
            resume: ``path`` may also hold what a process left that was killed here; that is made anew.

        Raises:
            UserError: the folder exists and is not empty, or cannot be made.
        """
        path = Path(path)
        if resume and path.is_dir():
            _remove_half_made(path)
        if path.exists() and (not path.is_dir() or _contents(path)):
            if resume:
                raise UserError(f"{path}: holds other things and no run.json; choose another --out")
            raise UserError(f"{path}: the run folder exists; continue it with --resume, or choose another --out")
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be made ({error.strerror}); choose another --out") from None
        try:
            write_text(path / "recipe.toml", recipe.to_toml())
            write_text(path / "plan.json", plan.model_dump_json(indent=1))
            write_text(path / "splits.json", json.dumps(splits, indent=1))
            run = cls(path, {"gleanseg": FORMAT, "created": now(), **info})
            for part in parts:
                run.info.update(part(path))
            run.update()
        except BaseException:
            shutil.rmtree(path)  # it was new or empty, and nothing is left half-written
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run folder.

        Raises:
            UserError: not a run folder, or one of a newer format.
        """
        path = Path(path)
        try:
            info = json.loads((path / "run.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path}: not a run folder (no run.json); expected the --out of `gleanseg train`") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path / 'run.json'}: damaged ({error}); restore it from a backup") from None
        if info.get("gleanseg") != FORMAT:
            raise UserError(f"{path}: run format {info.get('gleanseg')}, this gleanseg reads {FORMAT}; update gleanseg")
        return cls(path, info)

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half-written; for whoever holds the folder's lock."""
        for part in (*self.path.glob(".*.part"), *(self.path / "checkpoints").glob(".*.part")):
            discard(part)

    def update(self, **changes: object) -> None:
        """Change entries of run.json, atomically."""
        self.info.update(changes)
        write_text(self.path / "run.json", json.dumps(self.info, indent=1))

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return Recipe.load(self.path / "recipe.toml")

    @cached_property
    def plan(self) -> Plan:
        """How volumes were prepared; the predictor prepares its input the same way."""
        return Plan.model_validate_json((self.path / "plan.json").read_text())

    @property
    def rois(self) -> tuple[str, ...]:
        """ROI ids in channel order."""
        return tuple(self.info["rois"])

    @cached_property
    def ontology(self) -> Ontology:
        """The built-in ontology and the manifest's own ROIs."""
        return builtin().extended(self.info["own_rois"])

    @property
    def overlaps(self) -> frozenset[frozenset[str]]:
        """Pairs of ROIs that share voxels in the training data."""
        return frozenset(frozenset(pair) for pair in self.info["overlaps"])

    def checkpoint_path(self, stage: str, step: int) -> Path:
        """Where the checkpoint of a stage's step lies."""
        return self.path / "checkpoints" / f"{stage}-{step:08d}.safetensors"

    def checkpoints(self, stage: str | None = None) -> list[Path]:
        """Complete checkpoints of a stage, oldest first; without a stage those of the furthest stage."""
        found: dict[str, list[Path]] = {}
        for path in sorted((self.path / "checkpoints").glob("*.safetensors")):
            if match := _CHECKPOINT.fullmatch(path.name):
                found.setdefault(match["stage"], []).append(path)
        if stage is not None:
            return found.get(stage, [])
        order = [s.name for s in self.recipe.stages]
        return next((found[name] for name in reversed(order) if name in found), [])

    def checkpoint(self, which: str | Path | None = None) -> Path:
        """The checkpoint to predict with: ``last``, ``best``, a file, or by default what ``train.select`` says.

        Raises:
            UserError: no such checkpoint.
        """
        which = which or self.recipe.train.select
        if which == "last":
            if not (all_of_them := self.checkpoints()):
                raise UserError(f"{self.path}: no checkpoint yet; train longer or continue with --resume")
            return all_of_them[-1]
        path = self.path / "checkpoints" / "best.safetensors" if which == "best" else Path(which)
        if not path.is_file():
            hint = "; set train.validate_every to keep the best" if which == "best" else ""
            raise UserError(f"{path}: no such checkpoint{hint}")
        return path

    def record_test_access(self, *, purpose: str, cases: int) -> None:
        """Log that the test split was read; nothing in a run reads it silently."""
        append_line(self.path / "access.jsonl", {"time": now(), "split": "test", "purpose": purpose, "cases": cases})


def _contents(path: Path) -> list[Path]:
    return [inside for inside in path.iterdir() if inside.name != LOCK_FILE]


def _remove_half_made(path: Path) -> None:
    """Empty a folder in which a process was killed while it made a run; anything else in it keeps all as it is."""
    inside = _contents(path)
    if any(p.name not in _MADE_FIRST and not (p.name.startswith(".") and p.name.endswith(".part")) for p in inside):
        return
    checkpoints = path / "checkpoints"  # is made first, and empty
    if not checkpoints.is_dir() or any(checkpoints.iterdir()):
        return
    for file in inside:
        discard(file)


def text_encoder(info: Mapping[str, Any]) -> str:
    """What turned names of ROIs, or texts of the task, into vectors, as run.json tells it; empty where nothing did."""
    made = [info[part] for part in ("codes", "texts") if part in info]
    told = [" ".join(str(entry[key]) for key in ("encoder", "revision") if entry.get(key)) for entry in made]
    return ", ".join(dict.fromkeys(filter(None, told)))


def now() -> str:
    """The present time as text, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see either the old or the new contents."""
    try:
        with whole(path) as part:
            part.write_text(text)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); free disk space or change rights") from None


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add one JSON line, on a line of its own also where the one before was cut off.

    Raises:
        UserError: the disk is full or not writable, or the file is a link, which may lead out of the run folder.
    """
    line = json.dumps(row).encode() + b"\n"
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with os.fdopen(handle, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
    except OSError as error:
        is_link = error.errno == errno.ELOOP
        remedy = "make it a plain file, links are not followed" if is_link else "free disk space or change rights"
        raise UserError(f"{path}: cannot be written ({error.strerror}); {remedy}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All JSON lines of a log; one cut off by a crash or a full disk is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def truncate_lines(path: Path, *, stage: str, keep: int) -> None:
    """Drop a stage's rows whose ``step`` is beyond ``keep``, so that a resumed log has no step twice."""
    if path.exists():
        rows = [row for row in read_lines(path) if row["stage"] != stage or row["step"] <= keep]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

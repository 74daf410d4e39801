"""A crash drill: a command is killed at a moment, started again, and must leave what an undisturbed one leaves.

Each command is a process of its own, forked from a server that has imported everything: only its work takes time.
A moment is a share of the undisturbed command's time, or of the changes it makes to files; there the process kills
itself just before the change, so that no gap between two changes is too short to be hit.
"""

import gzip
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gleanseg.resolve import names
from support.data import RECIPE, write_cases

_IMPORTED_ONCE = ("gleanseg.api", "gleanseg.cli.train", "gleanseg.cli.progress", "torch.utils.tensorboard", "nibabel")
_TIMES = {"time_s", "rate", "wait_s", "elapsed_s", "created"}
"""What tells when something was done, or how fast."""
_NOT_COMPARED = ("tfevents", "access.jsonl")
"""Both tell of every attempt."""
_PATIENCE_S = 300.0
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

SHAPES_OF_STATE = {
    "supervised": "weights alone",
    "mean_teacher": "a teacher",
    "dan": "two players",
    "ss_net": "a memory of features",
    "bcp": "two stages",
}
"""Methods that stand for what training must bring over a crash."""
COMMANDS = ("prepare", "predict", "evaluate")
STRAIGHT = "supervised"
"""The method whose run is predicted with and evaluated."""
_STAGES = """
[[stage]]
name = "pretraining"
steps = 3
method = {name = "bcp", pretraining = true}
[[stage]]
name = "self-training"
steps = 3
method = {name = "bcp"}
"""
_MORE = {
    "action": "queue = 64\nwidth = 8",
    "action_pretraining": "bank = 4\nwidth = 8\nwindows = [2, 2, 2]",
    "bcp": _STAGES,
    "dan": "critic_width = 4",
    "latent_class": '[presence]\nrun = "presence"',
    "llm_segnet": '[text]\nknowledge = ["liver"]\nvectors = "random"',
    "mcf": 'other = {name = "unet3d", width = 4, levels = 2}',
    "sassnet": "critic_width = 4",
}
"""What the recipes of some methods say besides; before the first table, of ``[method]``."""
_ROWS = {"bcp": 4}
"""Methods that mix two labelled rows of a batch."""
_CLASSIFIERS = {"presence": "latent_class"}
_UNET, _CLASSIFIER = 'name = "unet3d"\nwidth = 4\nlevels = 3', 'name = "resnet18"\nwidth = 8'


class DrillError(AssertionError):
    """A drill did not end as it must."""


class Moment(NamedTuple):
    """When to kill.

    Attributes:
        kind: what ``at`` is a share of: the ``clock``'s time, or the number of ``changes`` to files.
        at: in [0, 1).
        times: how often; after the first, what is killed is the command that was started again.
    """

    kind: Literal["clock", "changes"]
    at: float
    times: int = 1


def moments(name: str, number: int) -> list[Moment]:
    """As many moments of a drill, spread over its whole course, always the same: both kinds in turns, some twice."""
    chance, kinds = random.Random(name), itertools.cycle(("changes", "clock"))
    return [Moment(next(kinds), (i + chance.random()) / number, 2 if i % 5 == 4 else 1) for i in range(number)]


class Ended(NamedTuple):
    """How a process ended: exit code (negative: the signal), seconds, and changes to files, if it lived to tell."""

    code: int
    seconds: float
    changes: int


class Undisturbed(NamedTuple):
    """What a command leaves, and what it takes."""

    left: dict[str, str]
    seconds: float
    changes: int


class Drill(NamedTuple):
    """A command that is killed.

    Attributes:
        first: its arguments.
        again: arguments after it was killed.
        out: folder that is compared.
        source: what is in ``out`` before the command; None: there is no such folder.
    """

    first: Sequence[str]
    again: Sequence[str]
    out: Path
    source: Path | None = None

    def reset(self) -> None:
        """Bring ``out`` into the state before the command."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.source is not None:
            shutil.copytree(self.source, self.out)


class Drills:
    """All drills, in one folder with a small data set.

    Args:
        folder: empty or new.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Undisturbed] = {}
        self._server = multiprocessing.get_context("forkserver")
        self._server.set_forkserver_preload(list(_IMPORTED_ONCE))

    @staticmethod
    def all() -> dict[str, bool]:
        """Names of all drills, and whether each belongs to those that are drilled most."""
        others = [name for name in names("methods") if name not in SHAPES_OF_STATE]
        return dict.fromkeys((*COMMANDS, *SHAPES_OF_STATE), True) | dict.fromkeys(others, False)

    def kill(self, name: str, moment: Moment) -> bool:
        """Kill a command at a moment, start it again and compare what it leaves.

        Returns:
            whether it still ran at that moment, the first time.

        Raises:
            DrillError: it failed when started again, or left something else.
        """
        drill, expected = self._drill(name), self.undisturbed(name)
        drill.reset()
        codes = []
        for arguments in (drill.first, *[drill.again] * (moment.times - 1)):
            if moment.kind == "clock":
                ended = self._run(arguments, drill.out, after_s=moment.at * expected.seconds)
            else:
                ended = self._run(arguments, drill.out, before_change=1 + int(moment.at * expected.changes))
            if ended.code not in (0, -signal.SIGKILL):
                raise DrillError(f"{name}, {moment}: exit code {ended.code}\n{self._said()}")
            codes.append(ended.code)
        self._compare(drill, expected, f"{name}, {moment}")
        return codes[0] != 0

    def terminate(self, name: str, *, after_change: int, within_s: float) -> Path:
        """Send SIGTERM once a command has made so many changes, expect exit code 75, start it again and compare.

        Returns:
            the newest checkpoint that was there when it had ended.

        Raises:
            DrillError: it took longer, ended otherwise, or left something else when started again.
        """
        drill, expected = self._drill(name), self.undisturbed(name)
        drill.reset()
        ended = self._run(drill.first, drill.out, before_change=after_change, number=signal.SIGTERM)
        if ended.code != 75 or ended.seconds > within_s:
            raise DrillError(f"{name}: exit code {ended.code} {ended.seconds:.1f} s after SIGTERM\n{self._said()}")
        newest = max(drill.out.glob("checkpoints/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        self._compare(drill, expected, f"{name}, terminated")
        return newest

    def undisturbed(self, name: str) -> Undisturbed:
        """What a command leaves when nobody kills it; found once.

        Raises:
            DrillError: it failed.
        """
        if name not in self._found:
            drill, ended = self._through(name)
            self._found[name] = Undisturbed(snapshot(drill.out), ended.seconds, ended.changes)
        return self._found[name]

    def _compare(self, drill: Drill, expected: Undisturbed, when: str) -> None:
        again = self._run(drill.again, drill.out)
        if again.code != 0:
            raise DrillError(f"{when}: exit code {again.code} when started again\n{self._said()}")
        left = snapshot(drill.out)
        differing = sorted(n for n in {*left, *expected.left} if left.get(n) != expected.left.get(n))
        if differing:
            told = ", ".join(_told(n, left, expected.left) for n in differing[:6])
            raise DrillError(f"{when}: {told}")

    def _run(
        self,
        arguments: Sequence[str],
        out: Path,
        *,
        after_s: float | None = None,
        before_change: int | None = None,
        number: int = signal.SIGKILL,
    ) -> Ended:
        """Run the command line in a process of its own, and kill it after a while or before a change to a file."""
        here, there = self._server.Pipe(duplex=False)
        with here:
            process = self._server.Process(
                target=_command, args=(list(arguments), str(out), str(self._log), there, before_change, int(number))
            )
            process.start()
            there.close()
            if not here.poll(_PATIENCE_S):
                raise DrillError(f"{arguments}: its process did not start")
            here.recv()
            start, changes = time.perf_counter(), 0
            if after_s is not None:
                process.join(after_s)
                process.kill()
            process.join(_PATIENCE_S)
            if process.exitcode is None:
                process.kill()
                process.join()
                raise DrillError(f"{arguments}: still at work after {_PATIENCE_S:.0f} s\n{self._said()}")
            seconds = time.perf_counter() - start
            try:
                changes, signalled = here.recv()
                seconds = time.perf_counter() - signalled if signalled else seconds
            except EOFError:
                pass
        return Ended(process.exitcode, seconds, changes)

    def _drill(self, name: str) -> Drill:
        folder, _ = self.folder, self._data
        out = folder / f"{name}-drill"
        if name == "prepare":
            command = ["prepare", str(self._recipe(STRAIGHT)), "-o", str(out), "--workers", "2"]
            return Drill(command, command, out)
        if name == "predict":
            command = ["predict", str(out), "--split", "test", "--probabilities", "liver"]
            return Drill(command, [*command, "--resume"], out, self._made(STRAIGHT))
        if name == "evaluate":
            command = ["evaluate", str(out), "--split", "test"]
            return Drill(command, command, out, self._made("predict"))
        if name in _CLASSIFIERS.values():
            self._made(next(needed for needed, user in _CLASSIFIERS.items() if user == name))
        command = ["train", str(self._recipe(name)), "-o", str(out)]
        return Drill(command, [*command, "--resume"], out)

    def _through(self, name: str) -> tuple[Drill, Ended]:
        """Run a drill's command without killing it."""
        drill = self._drill(name)
        drill.reset()
        ended = self._run(drill.first, drill.out)
        if ended.code != 0:
            raise DrillError(f"{name}: exit code {ended.code}\n{self._said()}")
        return drill, ended

    def _made(self, name: str) -> Path:
        """What an undisturbed command leaves, kept for commands that go on from there."""
        kept = self.folder / name
        if not kept.exists():
            shutil.copytree(self._through(name)[0].out, kept)
        return kept

    def _recipe(self, method: str) -> Path:
        path = self.folder / f"{method}.toml"
        more = _MORE.get(method, "")
        text = RECIPE.format(method=method, steps=6)
        if more and not more.lstrip().startswith("["):
            text = text.replace(f'name = "{method}"', f'name = "{method}"\n{more}')
            more = ""
        text = text.replace("batch = 2", f"batch = {_ROWS.get(method, 2)}")
        if method in (*_CLASSIFIERS, *_CLASSIFIERS.values()):
            text = text.replace("patch = [16, 16, 16]", "patch = [16, 16, 32]")
        if method in _CLASSIFIERS:
            text = text.replace(_UNET, _CLASSIFIER)
        path.write_text(text + more)
        return path

    @cached_property
    def _data(self) -> Path:
        """The data set, and the store that training reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = write_cases(self.folder)
        ended = self._run(["prepare", str(self._recipe(STRAIGHT))], manifest.with_suffix(".store"))
        if ended.code != 0:
            raise DrillError(f"prepare: exit code {ended.code}\n{self._said()}")
        return manifest

    @property
    def _log(self) -> Path:
        return self.folder / "said.txt"

    def _said(self) -> str:
        return self._log.read_text()[-2000:] if self._log.exists() else ""


def _command(
    arguments: list[str], out: str, log: str, parent: Connection, before_change: int | None, number: int
) -> None:
    """In the new process: the command line, which may signal itself before a change to a file."""
    import torch

    from gleanseg.cli.main import main

    torch.set_num_threads(1)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    changes, signalled = 0, 0.0
    counter = itertools.count(1)

    def watch(event: str, what: tuple[Any, ...]) -> None:
        nonlocal changes, signalled
        if _changes(event, what, out):
            changes = next(counter)
            if changes == before_change:
                signalled = time.perf_counter()
                os.kill(os.getpid(), number)

    parent.send("ready")
    sys.addaudithook(watch)
    code = main(arguments)
    parent.send((changes, signalled))
    sys.exit(code)


def _changes(event: str, what: tuple[Any, ...], folder: str) -> bool:
    """Whether what Python is about to do changes a file in a folder."""
    if event not in _CHANGES and not (event == "open" and isinstance(what[2], int) and what[2] & _WRITING):
        return False
    paths = [os.fsdecode(path) for path in what[:2] if isinstance(path, str | bytes | os.PathLike)]
    # Relative paths are those of shutil.rmtree, which works with descriptors of folders.
    return any(path.startswith(folder) or not os.path.isabs(path) for path in paths[: 2 if event == "os.rename" else 1])


def snapshot(folder: Path) -> dict[str, str]:
    """Every file and folder by name, with a hash of its contents but for times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[f"{name}/"] = ""
        elif not any(part in name for part in _NOT_COMPARED):
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    if path.suffix == ".safetensors":
        from gleanseg.run.checkpoint import digest, load

        tensors, info = load(path)
        return _dump({**info, "sha256": digest(tensors)})  # the one in the file is of the times as well
    if path.suffix == ".jsonl":
        return b"\n".join(_dump(json.loads(line)) for line in path.read_text().splitlines())
    if path.suffix == ".json":
        return _dump(json.loads(path.read_text()))
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _dump(told: Any) -> bytes:
    kept = {key: value for key, value in told.items() if key not in _TIMES} if isinstance(told, dict) else told
    return json.dumps(kept, sort_keys=True).encode()


def _told(name: str, left: Mapping[str, str], expected: Mapping[str, str]) -> str:
    if name not in left:
        return f"{name} is missing"
    return f"{name} differs" if name in expected else f"{name} was left"

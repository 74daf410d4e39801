"""MOTS: seven public CT data sets, each with the labels of one task, as one manifest with the published split."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from gleanseg.data.sources import kits, lits, msd
from gleanseg.data.sources.common import Draft, Names, paired
from gleanseg.errors import UserError, nearest

if TYPE_CHECKING:
    import gleanseg.data.manifest

# What each data set's folder is called, without case and punctuation; the first is the name that messages offer.
_FOLDERS = {
    "liver": ("LITS", "LITS17", "Task03_Liver", "0Liver", "Liver"),
    "kidney": ("KiTS19", "KiTS", "1Kidney", "Kidney"),
    "hepaticvessel": ("Task08_HepaticVessel", "2HepaticVessel", "HepaticVessel"),
    "pancreas": ("Task07_Pancreas", "3Pancreas", "Pancreas"),
    "colon": ("Task10_Colon", "4Colon", "Colon"),
    "lung": ("Task06_Lung", "5Lung", "Lung"),
    "spleen": ("Task09_Spleen", "6Spleen", "Spleen"),
}
_SCHEMES = {
    "hepaticvessel": "mots-2-hepatic-vessel",
    "pancreas": "mots-3-pancreas",
    "colon": "mots-4-colon",
    "lung": "mots-5-lung",
    "spleen": "mots-6-spleen",
}
_LISTED = 20
"""Missing cases that a note names."""


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import the MOTS benchmark from a folder that holds its seven data sets (LITS, KiTS19, Task06_Lung ...)."""

    folders: tuple[str, ...] = ()
    """TASK=FOLDER for a data set whose folder has another name or lies elsewhere: kidney=/data/k19. Tasks: liver,
    kidney, hepaticvessel, pancreas, colon, lung, spleen."""
    require_all: bool = False
    """Stop unless every case of the published split is there."""
    name: str = "mots"
    """Of the manifest."""


class Task(NamedTuple):
    """One of the seven tasks, as published.

    Attributes:
        name: of the task.
        site: of its cases in the manifest.
        stem: of its data set's case ids, before the number.
        id: pattern of its case ids in the manifest.
        split: number of a case -> ``train`` or ``test``.
    """

    name: str
    site: str
    stem: str
    id: str
    split: dict[int, str]

    @property
    def ids(self) -> dict[str, str]:
        """Case id -> ``train`` or ``test``."""
        return {self.id.format(number): role for number, role in self.split.items()}


@cache
def tasks() -> tuple[Task, ...]:
    """The tasks in the benchmark's order, with the split that its authors published."""
    data = json.loads((files("gleanseg.data.sources") / "mots_split.json").read_text(encoding="utf-8"))
    return tuple(
        Task(
            name=name,
            site=item["site"],
            stem=item["file"].partition("{")[0],
            id=item["id"],
            split={number: role for role in ("train", "test") for number in item[role]},
        )
        for name, item in data["tasks"].items()
    )


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """Import each data set that is there, and join them; ``notes`` says what is missing.

    Args:
        root: folder in which the data sets lie, or lie one folder deeper.
        options: see ``Options``.

    Raises:
        UserError: no data set found, two for one task, a data set with other labels or further cases, or, with
            ``require_all``, anything missing.
    """
    from gleanseg.data.manifest import Manifest

    folders = _named(options.folders)
    found = [(task, folders.get(task.name) or _find(root, task.name)) for task in tasks()]
    parts = [_part(task, folder) for task, folder in found if folder is not None]
    if not parts:
        offered = ", ".join(names[0] for names in _FOLDERS.values())
        raise UserError(f"{root}: holds none of the seven data sets; expected folders such as {offered}")
    manifest = Manifest.merge(parts, name=options.name)
    if options.require_all and (lacking := _lacking(manifest)):
        raise UserError(f"{root}: --require-all: {'; '.join(lacking)}")
    return manifest


def notes(manifest: "gleanseg.data.manifest.Manifest") -> list[str]:
    """What of the benchmark a manifest holds, and what is missing, one line per data set."""
    lacking = _lacking(manifest)
    told = []
    for task in tasks():
        cases = [case for case in manifest.cases if case.site == task.site]
        if cases:
            train = sum(case.split == "train" for case in cases)
            folder = os.path.commonpath([os.path.normpath(manifest.path(case.images[0]).parent) for case in cases])
            told.append(f"{task.name}: {task.site} in {folder}, {train} train, {len(cases) - train} test")
    if lacking:
        told += [*lacking, "the manifest is not the published benchmark: its results cannot stand in its table"]
    return told


def _lacking(manifest: "gleanseg.data.manifest.Manifest") -> list[str]:
    here = {case.id for case in manifest.cases}
    told = []
    for task in tasks():
        missing = [id for id in task.ids if id not in here]
        if len(missing) == len(task.split):
            told.append(f"{task.name}: not found, expected a folder called {' or '.join(_FOLDERS[task.name])}")
        elif missing:
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            listed = ", ".join(missing[:_LISTED])
            told.append(f"{task.name}: {len(missing)} of {len(task.split)} published cases missing: {listed}{more}")
    return told


def _named(given: Sequence[str]) -> dict[str, Path]:
    folders = {}
    for item in given:
        task, equals, folder = item.partition("=")
        if not equals or task not in _FOLDERS:
            raise UserError(
                f"--folders {item!r}: expected TASK=FOLDER, where TASK is one of {', '.join(_FOLDERS)}"
                f"{nearest(task, _FOLDERS)}"
            )
        folders[task] = Path(folder).absolute()
        if not folders[task].is_dir():
            raise UserError(f"--folders {item!r}: no such folder; name the folder of the data set")
    return folders


def _find(root: Path, task: str) -> Path | None:
    """The folder of a task's data set: directly in the root, or else one folder deeper."""
    known = {_plain(name) for name in _FOLDERS[task]}
    for pattern in ("*", "*/*"):
        found = sorted(f for f in root.glob(pattern) if _plain(f.name) in known and f.is_dir())
        if len(found) > 1:
            raise UserError(
                f"{root}: {found[0].relative_to(root)} and {found[1].relative_to(root)} both look like the {task} task;"
                f" choose one with --folders {task}=FOLDER"
            )
        if found:
            return found[0]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.casefold())


def _part(task: Task, folder: Path) -> "gleanseg.data.manifest.Manifest":
    """One data set with the benchmark's ids, site and split; unlabelled cases are no part of the benchmark."""
    from gleanseg.data.manifest import Manifest

    whole = _imported(task, folder)
    cases = []
    for case in whole.cases:
        match = re.fullmatch(rf"{re.escape(task.stem)}(\d+)", case.id)
        number = int(match[1]) if match else -1
        if number not in task.split:
            raise UserError(
                f"{folder}: case {case.id!r} is not in the published split of the {task.name} task; this is another"
                " edition of the data set, or holds further cases: move them away"
            )
        # dataset.json lists what was published; a download that broke off lacks files.
        if all(whole.path(name).is_file() for name in (*case.images, *case.label_files())):
            update = {"id": task.id.format(number), "site": task.site, "split": task.split[number]}
            cases.append((number, case.model_copy(update=update)))
    if not cases:
        raise UserError(f"{folder}: none of its {len(whole.cases)} listed cases has its files there; download them")
    return Manifest(
        name=task.name,
        rois=whole.rois,
        channels=whole.channels,
        cases=tuple(case for _, case in sorted(cases, key=lambda pair: pair[0])),
        root=folder,
        source=str(folder),
    )


def _imported(task: Task, folder: Path) -> "gleanseg.data.manifest.Manifest":
    if task.name == "liver":
        return lits.to_manifest(folder, lits.Options(images_ts="skip"))
    if task.name == "kidney":
        return kits.to_manifest(folder, kits.Options(images_ts="skip"))
    names = Names((), own=False, source=folder)
    values = {value: (roi,) for value, roi in names.ontology.scheme(_SCHEMES[task.name]).items()}
    rois = tuple(roi for listed in values.values() for roi in listed)
    if not (folder / "dataset.json").is_file():
        draft = Draft(name=task.name, root=folder, names=names, channels=[("ct", "CT")])
        for id, (image, label) in paired(folder, "Tr").items():
            if label is None:
                raise UserError(f"{folder}: {image} has no labelsTr/{id}.nii.gz; download it, or remove the image")
            known: dict[str, Any] = {"labels": label, "values": values, "annotated": rois}
            draft.cases.append({"id": id, "site": task.site, "images": (image,)} | known)
        return draft.manifest()
    manifest = msd.to_manifest(folder, msd.Options(images_ts="skip", name=task.name))
    if set(manifest.rois) != set(rois):
        raise UserError(
            f"{folder}: annotates {', '.join(manifest.rois)}, expected {', '.join(rois)}; choose the folder of the"
            f" {task.name} task with --folders {task.name}=FOLDER"
        )
    return manifest

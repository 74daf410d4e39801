"""Splits of the semi-supervised literature: fixed lists of ids, whose order says which cases are labelled first.

A list that lies with the data wins; else the published one, which comes with the package as ``<name>_split.json``.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gleanseg.data.sources.common import assign_splits
from gleanseg.errors import UserError, nearest

if TYPE_CHECKING:
    import gleanseg.data.manifest

Lists = Mapping[str, Sequence[str]]
"""Split (``train``, ``validation``, ``test``) -> ids in their order."""
_SPLITS = ("train", "validation", "test")
_LISTED = 10
"""Missing cases that a note names."""


def published(name: str, form: str = "{}") -> dict[str, tuple[str, ...]]:
    """The lists that come with the package.

    Args:
        name: of the importer.
        form: makes a case id of what the file lists.
    """
    data = json.loads((files("gleanseg.data.sources") / f"{name}_split.json").read_text(encoding="utf-8"))
    return {split: tuple(form.format(item) for item in data[split]) for split in _SPLITS if split in data}


def lists_of(
    root: Path, names: Mapping[str, str], found: Mapping[str, object], *, id_of: Callable[[str], str], otherwise: Lists
) -> Lists | None:
    """The lists to go by: those that lie in the folder or beside it, else the published ones where they fit.

    Args:
        root: folder that was imported.
        names: split -> name of its list file, one case a line.
        found: ids of the cases that are there.
        id_of: makes a case id of a line.
        otherwise: published lists.

    Returns:
        None when there are no list files and no case is a published one.

    Raises:
        UserError: a file lists a case that is not there, or two files list the same one.
    """
    own: dict[str, list[str]] = {}
    for split, name in names.items():
        path = next((p for p in (root / name, root.parent / name) if p.is_file()), None)
        if path is not None:
            own[split] = _read(path, root, found, id_of)
    if own:
        _refuse_repeats(root, own, names)
        rest = [id for id in sorted(found) if not any(id in ids for ids in own.values())]
        return own if "train" in own else {"train": rest, **own}
    return otherwise if any(id in found for ids in otherwise.values() for id in ids) else None


def arranged(
    cases: Mapping[str, dict[str, Any]], lists: Lists | None, *, split: str | None, seed: int
) -> list[dict[str, Any]]:
    """Cases in the order of the lists with their splits; those that no list names are left out.

    Args:
        cases: drafts by id.
        lists: None: all cases, sorted by id.
        split: draws among the cases of the training list, see ``assign_splits``.
        seed: of the drawing.
    """
    train = [cases[id] for id in (sorted(cases) if lists is None else lists["train"]) if id in cases]
    assign_splits(train, split, seed=seed)
    held = {name: ids for name, ids in (lists or {}).items() if name != "train"}
    return train + [cases[id] | {"split": name} for name, ids in held.items() for id in ids if id in cases]


def compared(manifest: "gleanseg.data.manifest.Manifest", lists: Lists) -> list[str]:
    """Notes: whether a manifest is the published benchmark, and what is missing."""
    here = {split: [case.id for case in manifest.cases if case.split == split] for split in _SPLITS}
    if all(here[split] == list(lists.get(split, ())) for split in _SPLITS):
        return [f"the published split: {', '.join(f'{len(ids)} {split}' for split, ids in lists.items())}"]
    ids = [case.id for case in manifest.cases]
    notes = []
    for split, wanted in lists.items():
        if missing := [id for id in wanted if id not in ids]:
            more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
            listed = ", ".join(missing[:_LISTED])
            notes.append(f"{len(missing)} of the {len(wanted)} published {split} cases missing: {listed}{more}")
    return [*notes, "the manifest is not the published benchmark: its results cannot stand in its table"]


def _read(path: Path, root: Path, found: Mapping[str, object], id_of: Callable[[str], str]) -> list[str]:
    ids = []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        name = line.partition(",")[0].strip()
        if name and id_of(name) not in found:
            raise UserError(
                f"{path}: lists case {name!r}, which has no folder or file in {root}{nearest(id_of(name), found)}"
            )
        ids += [id_of(name)] if name else []
    return ids


def _refuse_repeats(root: Path, own: Mapping[str, Iterable[str]], names: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for split, ids in own.items():
        for id in ids:
            if id in seen:
                raise UserError(
                    f"{root}: case {id!r} stands in {names[seen[id]]} and in {names[split]}; remove it from one"
                    if seen[id] != split
                    else f"{root}: case {id!r} stands twice in {names[split]}; remove it once"
                )
            seen[id] = split

"""What must hold in a manifest beyond types: everything is told in one line that names file, case, key and remedy."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from gleanseg.data.case import Case, Channel
from gleanseg.errors import UserError, nearest
from gleanseg.rois.ontology import Ontology


def one_line(error: ValidationError, data: Mapping[str, Any], source: str) -> str:
    """The first thing wrong with the types of a manifest, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    place, where = _place(tuple(first["loc"]), data)
    key = str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = _KEYS["cases" if "cases" in first["loc"] else "channels" if "channels" in first["loc"] else ""]
        said = f"unknown key {key!r}{nearest(key, known) or '; known are ' + ', '.join(known)}"
    elif first["type"] == "missing":
        said = f"key {key!r} is missing"
    else:
        found = repr(first["input"])
        found = found if len(found) < 80 else found[:77] + "..."
        said = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, found {found}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{source}{place}: {said}{more}"


_KEYS = {
    "": ("gleanseg", "name", "rois", "channels", "own_rois", "cases"),
    "channels": ("name", "modality"),
    "cases": ("id", "site", "split", "images", "labels", "values", "annotated", "absent", "ignore", "spacing_mm"),
}


def _place(loc: tuple[int | str, ...], data: Mapping[str, Any]) -> tuple[str, str]:
    """The case a location lies in, and the key inside it."""
    if len(loc) > 1 and loc[0] == "cases" and isinstance(loc[1], int):
        case = data["cases"][loc[1]]
        name = case.get("id") if isinstance(case, Mapping) else getattr(case, "id", None)
        said = f", case {name!r}" if name else f", case number {loc[1] + 1}"
        return said, ".".join(map(str, loc[2:]))
    return "", ".".join(map(str, loc))


def check(
    rois: tuple[str, ...], channels: tuple[Channel, ...], cases: tuple[Case, ...], ontology: Ontology, source: str
) -> None:
    """Raise a UserError for the first inconsistency of a manifest. One pass over the cases, no file is touched."""
    for key, listed, wanted in (
        ("cases", cases, "a manifest needs at least one case"),
        ("rois", rois, "list the ids of the ROIs it is about"),
        ("channels", channels, "list a name and a modality for each image channel"),
    ):
        if not listed:
            raise UserError(f"{source}: {key!r} is empty; {wanted}")
    _no_twins(rois, f"{source}: ROI", "'rois'")
    _no_twins((c.name for c in channels), f"{source}: channel", "'channels'")
    for roi in rois:
        if roi not in ontology:
            raise UserError(
                f"{source}: ROI {roi!r} in 'rois' is not in the ontology{nearest(roi, ontology)}"
                " (a new structure is declared under 'own_rois')"
            )
    _no_twins((c.id for c in cases), f"{source}: case id", "'cases'")
    seen: set[object] = set()
    known = frozenset(rois)
    owner: dict[tuple[str, ...], Case] = {}
    for case in cases:
        where = f"{source}, case {case.id!r}"
        other = owner.setdefault(case.images, case)
        if other is not case:
            raise UserError(
                f"{where} ({case.split}): has the image {case.images[0]!r} of case {other.id!r} ({other.split});"
                " keep one of them, with the labels of both"
            )
        _check_files(case, len(channels), where)
        # Most cases share a few patterns of labels: each pattern is checked once.
        keys: object = frozenset(case.labels) if isinstance(case.labels, dict) else type(case.labels)
        pattern = (tuple(case.values.items()), case.annotated, case.absent, case.ignore, keys)
        if pattern not in seen:
            seen.add(pattern)
            _check_labels(case, known, ontology, where)


def _no_twins(names: Iterable[str], what: str, where: str) -> None:
    listed = list(names)
    if len(set(listed)) < len(listed):
        name, times = Counter(listed).most_common(1)[0]
        raise UserError(f"{what} {name!r} stands {times} times in {where}; each must be unique")


def _check_files(case: Case, num_channels: int, where: str) -> None:
    if not is_file_name(case.id):
        raise UserError(
            f"{where}: 'id' becomes part of file names: no {' '.join(_SHOWN)}, control characters, outer blanks or "
            f"dots, no name of a device such as CON or NUL, at most {_MOST_BYTES} bytes (fewer beyond ASCII)"
        )
    if len(case.images) not in (1, num_channels):
        raise UserError(
            f"{where}: 'images' lists {len(case.images)} files, expected {num_channels} (one a channel) or one 4D file"
        )
    for name in (*case.images, *case.label_files()):
        if not name or not name.isprintable():
            said = f"{name!r} holds control characters" if name else "is empty"
            raise UserError(f"{where}: a file name {said}; name the file or leave the key out")
    if case.spacing_mm is not None:
        if min(case.spacing_mm) <= 0:
            raise UserError(f"{where}: 'spacing_mm' {list(case.spacing_mm)} must be above 0")
        if not any("#" in name for name in case.images):
            raise UserError(f"{where}: 'spacing_mm' is for files without geometry (file.h5#dataset); remove it")


_SHOWN = '/\\:*?"<>|'
_MOST_BYTES, _MOST_QUOTED = 150, 230
"""Of an id, and of its folder in a store, where 255 bytes are what file systems take."""
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])(\..*)?", re.IGNORECASE)
"""Names that Windows takes for devices, whatever follows their dot."""


def is_file_name(id: str) -> bool:
    """Whether every file system takes this as part of a file name, and as one that stays in its folder."""
    return (
        id.isprintable()  # neither control characters, nor lone surrogates, nor marks that turn the direction of text
        and set(id).isdisjoint(_SHOWN)
        and 0 < len(id.encode()) <= _MOST_BYTES
        and len(quote(id)) <= _MOST_QUOTED
        and id == id.strip(" .")
        and not _DEVICES.fullmatch(id)
    )


def _check_labels(case: Case, rois: frozenset[str], ontology: Ontology, where: str) -> None:
    given = _given(case, rois, where)
    for key, listed in (("annotated", case.annotated), ("absent", case.absent)):
        _inside(listed, rois, f"{where}: {key!r}")
        _no_twins(listed, f"{where}: ROI", repr(key))
    both = sorted(set(case.annotated) & set(case.absent))
    if both:
        raise UserError(f"{where}: ROI {both[0]!r} is both annotated and absent; absent means nowhere in the image")
    if case.labels is None and case.annotated:
        raise UserError(f"{where}: ROI {case.annotated[0]!r} is annotated, but the case has no 'labels'")
    if case.labels is not None and not case.annotated:
        raise UserError(
            f"{where}: has 'labels' but annotates nothing; list in 'annotated' the ROIs that they delineate"
        )
    try:
        ontology.closure(case.annotated, case.absent)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for roi in case.annotated:
        if roi not in given and not _from_members(roi, given, set(case.annotated), set(case.absent), ontology):
            source = "no mask in 'labels'" if isinstance(case.labels, dict) else "no entry of 'values'"
            raise UserError(f"{where}: ROI {roi!r} is annotated, but {source} gives it; add it or move it to 'absent'")


def _given(case: Case, rois: frozenset[str], where: str) -> set[str]:
    """ROIs that the labels can give, after checking that they are described in one way."""
    if isinstance(case.labels, dict):
        if case.values:
            raise UserError(f"{where}: 'values' belongs to one label map, but 'labels' holds a mask per ROI; remove it")
        if not case.labels:
            raise UserError(f"{where}: 'labels' is empty; leave it out or name a mask per ROI")
        _inside(case.labels, rois, f"{where}: 'labels'")
        return set(case.labels)
    if case.labels is None:
        if case.values or case.ignore is not None:
            raise UserError(
                f"{where}: 'values' and 'ignore' describe 'labels', which is missing; add it or remove them"
            )
        return set()
    if not case.values:
        raise UserError(f"{where}: 'values' is missing; say which ROIs each value of {case.labels!r} stands for")
    if case.ignore is not None and case.ignore in case.values:
        raise UserError(f"{where}: value {case.ignore} is both 'ignore' and in 'values'; choose one")
    for value, listed in case.values.items():
        _inside(listed, rois, f"{where}: value {value}")
    return {roi for listed in case.values.values() for roi in listed}


def _inside(listed: Iterable[str], rois: frozenset[str], where: str) -> None:
    for roi in listed:
        if roi not in rois:
            raise UserError(f"{where} names ROI {roi!r}, which is not in the manifest's 'rois'{nearest(roi, rois)}")


def _from_members(roi: str, given: set[str], annotated: set[str], absent: set[str], ontology: Ontology) -> bool:
    """Whether a union is complete through its members: each absent, or annotated and given, and one of them given."""
    members = ontology[roi].members
    covered = [
        m for m in members if m in annotated and (m in given or _from_members(m, given, annotated, absent, ontology))
    ]
    return bool(covered) and all(m in covered or m in absent for m in members)

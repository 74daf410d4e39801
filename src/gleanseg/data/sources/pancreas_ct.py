"""NIH Pancreas-CT: DICOM series with NIfTI labels, or the h5 files of the semi-supervised literature."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg.data.sources.common import Draft, Names
from gleanseg.data.sources.published import Lists, arranged, compared, lists_of, published
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_LISTS = {"train": "train.list", "test": "test.list"}
_ID = "PANCREAS_{:04d}"
_WITHDRAWN = (_ID.format(25), _ID.format(70))
_ORIGINAL = _ID.format(2)
_NAMES = re.compile(r"(?:PANCREAS_|label|image)(\d{4})(?:_norm)?(?:\.nii\.gz|\.nii|\.h5)?", re.IGNORECASE)


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import NIH Pancreas-CT: PANCREAS_0001/.../*.dcm and label0001.nii.gz, anywhere below; or image0001_norm.h5.

    train.list and test.list give the split and its order; without them the published split is taken.
    """

    withdrawn: Literal["keep", "drop"] = "keep"
    """Cases 25 and 70, which the provider withdrew as cut from the scan of case 2: keep, as published, or drop them."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST to draw among the cases of the training list: rest/6/0. Default: all train."""
    seed: int = 0
    """Draws the split."""
    name: str = "pancreas_ct"
    """Of the data set, which is its cases' site too."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """List the files; cases keep the published order, whose first N are the labelled ones of each setting.

    Images without a label come in as unlabelled; a label without an image does not.

    Args:
        root: folder that holds images and labels, at any depth.
        options: see ``Options``.

    Raises:
        UserError: no case found, or a case with two series, two labels or two h5 files.
    """
    series, labels, h5 = _found(root)
    cases = {id: _h5_case(id, file, options) for id, file in h5.items()}
    for id, folder in series.items():
        if id not in cases:
            cases[id] = _dicom_case(id, folder, labels.get(id), options)
    if options.withdrawn == "drop":
        cases = {id: case for id, case in cases.items() if id not in _WITHDRAWN}
    if not cases:
        raise UserError(
            f"{root}: holds no PANCREAS_0001 folder with .dcm files and no image0001_norm.h5; name its folder"
        )
    draft = Draft(name=options.name, root=root, names=Names((), own=False, source=root), channels=[("ct", "CT")])
    lists = lists_of(root, _LISTS, series | h5, id_of=_id_of, otherwise=_published())
    draft.cases = arranged(cases, lists, split=options.split, seed=options.seed)
    return draft.manifest()


def notes(manifest: "gleanseg.data.manifest.Manifest") -> list[str]:
    """Whether it is the published split, and what leaks in it."""
    splits = {case.id: case.split for case in manifest.cases}
    repeats = [f"{id} ({splits[id]})" for id in (*_WITHDRAWN, _ORIGINAL) if id in splits]
    told = compared(manifest, _published())
    if len(repeats) > 1:
        told.append(
            f"{', '.join(repeats)} show one scan: the provider withdrew 25 and 70 as cut from 2, and the"
            " published split has them on both sides; report results with --withdrawn drop too"
        )
    return told


def _published() -> Lists:
    return published("pancreas_ct", _ID)


def _id_of(name: str) -> str:
    match = _NAMES.fullmatch(name)
    return _ID.format(int(match[1])) if match else name


def _found(root: Path) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Series folders, label files and h5 files, as names from the root, by case id."""
    series: dict[str, str] = {}
    labels: dict[str, str] = {}
    h5: dict[str, str] = {}
    for place, folders, files in os.walk(root):
        folders.sort()
        here = Path(place).relative_to(root)
        owner = next((part for part in here.parts if re.fullmatch(r"PANCREAS_\d{4}", part)), None)
        if owner is not None:
            if any(name.lower().endswith(".dcm") for name in files):
                _add(series, owner, here.as_posix(), root)
            continue
        for name in sorted(files):
            if not _NAMES.fullmatch(name):
                continue
            if name.endswith(".h5"):
                _add(h5, _id_of(name), (here / name).as_posix(), root)
            elif name.startswith("label"):
                _add(labels, _id_of(name), (here / name).as_posix(), root)
    return series, labels, h5


def _add(into: dict[str, str], id: str, name: str, root: Path) -> None:
    if id in into:
        raise UserError(f"{root}: {into[id]!r} and {name!r} both belong to case {id!r}; remove one")
    into[id] = name


def _dicom_case(id: str, folder: str, label: str | None, options: Options) -> dict[str, Any]:
    case: dict[str, Any] = {"id": id, "site": options.name, "images": (folder,)}
    if label is None:
        return case
    # The labels hold the series' voxels, perhaps in another order; where in the scanner, their headers need not say.
    known = {"labels": label, "values": {1: ("pancreas",)}, "annotated": ("pancreas",), "labels_follow": "orientation"}
    return case | known


def _h5_case(id: str, file: str, options: Options) -> dict[str, Any]:
    return {
        "id": id,
        "site": options.name,
        "images": (f"{file}#image",),
        "labels": f"{file}#label",
        "values": {1: ("pancreas",)},
        "annotated": ("pancreas",),
        "spacing_mm": (1.0, 1.0, 1.0),
    }

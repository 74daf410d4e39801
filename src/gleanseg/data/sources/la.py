"""Left Atrium benchmark (2018 challenge) in the forms of the semi-supervised literature: h5, or the original NRRD."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from gleanseg.data.sources.common import Draft, Names, assign_splits
from gleanseg.errors import UserError, nearest

if TYPE_CHECKING:
    import gleanseg.data.manifest

_H5 = "mri_norm2.h5"
_NRRD = ("lgemri.nrrd", "laendo.nrrd")


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import the Left Atrium benchmark: CASE/mri_norm2.h5 (or lgemri.nrrd + laendo.nrrd), train.list, test.list."""

    split: str | None = None
    """TRAIN/VALIDATION/TEST to draw among the cases of train.list (or all, without lists): rest/8/0.
    Default: all train."""
    seed: int = 0
    """Draws the split."""
    spacing: tuple[float, float, float] = (0.625, 0.625, 0.625)
    """Voxel size x, y, z in mm of the h5 files, which do not hold it."""
    name: str = "la"
    """Of the data set, which is its cases' site too."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """Read the lists; cases keep the published order, whose first N are the labelled ones of each setting.

    Args:
        root: folder of the lists, or the folder of the cases.
        options: see ``Options``.

    Raises:
        UserError: no case found, or a listed one has no folder.
    """
    places = [root, *sorted(f for f in root.iterdir() if f.is_dir())] if root.is_dir() else []
    found: dict[str, Path] = {}
    for place in places:
        for file in (*sorted(place.glob(f"*/{_H5}")), *sorted(place.glob(f"*/{_NRRD[0]}"))):
            found.setdefault(file.parent.name, file)
    if not found:
        raise UserError(f"{root}: holds no CASE/{_H5} and no CASE/{_NRRD[0]}; name the folder that train.list lies in")
    train, test = _listed(root, "train.list", found), _listed(root, "test.list", found)
    if both := sorted(set(train or ()) & set(test or ())):
        raise UserError(f"{root}: case {both[0]!r} stands in train.list and in test.list; remove it from one")
    if train is None:
        train = [id for id in sorted(found) if id not in (test or ())]
    draft = Draft(name=options.name, root=root, names=Names((), own=False, source=root), channels=[("lge", "MR")])
    draft.cases = [_case(id, found[id], root, options) for id in train]
    assign_splits(draft.cases, options.split, seed=options.seed)
    draft.cases += [_case(id, found[id], root, options) | {"split": "test"} for id in test or ()]
    return draft.manifest()


def _listed(root: Path, name: str, found: dict[str, Path]) -> list[str] | None:
    """Ids of a list file, in its order; None when there is no such file."""
    path = next((p for p in (root / name, root.parent / name) if p.is_file()), None)
    if path is None:
        return None
    ids = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    for id in ids:
        if id not in found:
            raise UserError(f"{path}: lists case {id!r}, which has no folder in {root}{nearest(id, found)}")
    return ids


def _case(id: str, file: Path, root: Path, options: Options) -> dict[str, Any]:
    folder = file.parent.relative_to(root).as_posix()
    case: dict[str, Any] = {"id": id, "site": options.name, "annotated": ("left_atrium",)}
    if file.name == _H5:
        return case | {
            "images": (f"{folder}/{_H5}#image",),
            "labels": f"{folder}/{_H5}#label",
            "values": {1: ("left_atrium",)},
            "spacing_mm": options.spacing,
        }
    image, label = _NRRD
    return case | {"images": (f"{folder}/{image}",), "labels": f"{folder}/{label}", "values": {255: ("left_atrium",)}}

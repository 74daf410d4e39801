"""Left Atrium benchmark (2018 challenge) in the forms of the semi-supervised literature: h5, or the original NRRD."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from gleanseg.data.sources.common import Draft, Names
from gleanseg.data.sources.published import arranged, compared, lists_of, published
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_H5 = "mri_norm2.h5"
_NRRD = ("lgemri.nrrd", "laendo.nrrd")
_LISTS = {"train": "train.list", "test": "test.list"}


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import the Left Atrium benchmark: CASE/mri_norm2.h5, or CASE/lgemri.nrrd and laendo.nrrd of the challenge.

    train.list and test.list give the split and its order; without them the published split is taken.
    """

    split: str | None = None
    """TRAIN/VALIDATION/TEST to draw among the cases of the training list (or all, where none is a published one):
    rest/8/0. Default: all train."""
    seed: int = 0
    """Draws the split."""
    spacing: tuple[float, float, float] = (0.625, 0.625, 0.625)
    """Voxel size x, y, z in mm of the h5 files, which do not hold it."""
    name: str = "la"
    """Of the data set, which is its cases' site too."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """List the cases; they keep the published order, whose first N are the labelled ones of each setting.

    Where a case has both forms, the h5 file is taken.

    Args:
        root: folder of the lists, or the folder of the cases.
        options: see ``Options``.

    Raises:
        UserError: no case found, a listed one has no folder, or an image has no label.
    """
    places = [root, *sorted(f for f in root.iterdir() if f.is_dir())] if root.is_dir() else []
    found: dict[str, Path] = {}
    for place in places:
        for file in (*sorted(place.glob(f"*/{_H5}")), *sorted(place.glob(f"*/{_NRRD[0]}"))):
            found.setdefault(file.parent.name, file)
    if not found:
        raise UserError(f"{root}: holds no CASE/{_H5} and no CASE/{_NRRD[0]}; name the folder that train.list lies in")
    lists = lists_of(root, _LISTS, found, id_of=str, otherwise=published("la"))
    cases = {id: _case(id, file, root, options) for id, file in found.items()}
    draft = Draft(name=options.name, root=root, names=Names((), own=False, source=root), channels=[("lge", "MR")])
    draft.cases = arranged(cases, lists, split=options.split, seed=options.seed)
    return draft.manifest()


def notes(manifest: "gleanseg.data.manifest.Manifest") -> list[str]:
    """Whether it is the published split."""
    return compared(manifest, published("la"))


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
    if not file.with_name(label).is_file():
        raise UserError(f"{file.parent}: holds {image} but no {label}; download it, or remove the folder")
    return case | {"images": (f"{folder}/{image}",), "labels": f"{folder}/{label}", "values": {255: ("left_atrium",)}}

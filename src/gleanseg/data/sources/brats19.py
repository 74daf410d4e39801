"""BraTS 2019: the challenge's training folders, or the h5 files of the semi-supervised literature."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg.data.sources.common import Draft, Names
from gleanseg.data.sources.published import arranged, compared, lists_of, published
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
_SEG = "seg"
Channel = Literal["flair", "t1", "t1ce", "t2"]
Region = Literal["whole", "core", "enhancing"]


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import BraTS 2019: HGG/CASE/CASE_flair.nii.gz, ..., CASE_seg.nii.gz, LGG alike; or data/CASE.h5.

    By default as the semi-supervised literature has it: the whole tumor from FLAIR alone, with the published split.
    """

    channels: tuple[Channel, ...] = ("flair",)
    """Modalities that make the image, in this order."""
    regions: tuple[Region, ...] = ("whole",)
    """Tumor regions to annotate; they nest."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST to draw among the cases of the training list (or all, where none is a published one):
    rest/25/0. Default: all train."""
    seed: int = 0
    """Draws the split."""
    name: str = "brats19"
    """Of the data set, which is its cases' site too."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """List the files; cases keep the published order, whose first N are the labelled ones of each setting.

    Args:
        root: folder of HGG and LGG, or one that holds it; or the folder of ``data`` with the h5 files.
        options: see ``Options``.

    Raises:
        UserError: no case found, a case without one of its files, or h5 files asked for what they do not hold.
    """
    names = Names((), own=False, source=root)
    regions = tuple(names.ontology.find(f"brain_tumor_{region}").id for region in options.regions)
    if not regions or not options.channels:
        raise UserError(f"{root}: --channels and --regions need at least one name each")
    cases = _folders(root, options, names, regions) or _h5(root, options, regions)
    if not cases:
        raise UserError(f"{root}: holds no HGG/CASE or LGG/CASE folder and no data/CASE.h5; name another folder")
    draft = Draft(name=options.name, root=root, names=names, channels=[(c, "MR") for c in options.channels])
    lists = lists_of(root, _LISTS, cases, id_of=str, otherwise=published("brats19"))
    draft.cases = arranged(cases, lists, split=options.split, seed=options.seed)
    return draft.manifest()


def notes(manifest: "gleanseg.data.manifest.Manifest") -> list[str]:
    """Whether it is the published split."""
    return compared(manifest, published("brats19"))


def _folders(root: Path, options: Options, names: Names, regions: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Drafts of the challenge's folders; which regions a label value lies in, the ontology says."""
    scheme = names.ontology.scheme("brats")
    inside = {value: {part, *names.ontology.containing(part)} for value, part in scheme.items()}
    values = {value: tuple(r for r in regions if r in found) for value, found in inside.items()}
    folders = [*root.glob("[HL]GG/*"), *root.glob("*/[HL]GG/*")]
    cases: dict[str, dict[str, Any]] = {}
    for folder in sorted(f for f in folders if f.is_dir() and not f.name.startswith(".")):
        cases[folder.name] = {
            "id": folder.name,
            "site": options.name,
            "images": tuple(_file(folder, channel, root) for channel in options.channels),
            "labels": _file(folder, _SEG, root),
            "values": values,
            "annotated": regions,
        }
    return cases


def _file(folder: Path, what: str, root: Path) -> str:
    for ending in (".nii.gz", ".nii"):
        if (file := folder / f"{folder.name}_{what}{ending}").is_file():
            return file.relative_to(root).as_posix()
    raise UserError(f"{folder}: holds no {folder.name}_{what}.nii.gz; download it, or remove the folder")


def _h5(root: Path, options: Options, regions: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Drafts of h5 files with the data sets ``image`` (normalized FLAIR) and ``label`` (1: whole tumor)."""
    place = next((p for p in (root / "data", root) if p.is_dir() and any(p.glob("BraTS*.h5"))), None)
    if place is None:
        return {}
    if options.channels != ("flair",) or regions != ("brain_tumor_whole",):
        raise UserError(
            f"{place}: its h5 files hold FLAIR and the whole tumor only; leave out --channels and --regions"
        )
    prefix = "" if place == root else "data/"
    return {
        file.stem: {
            "id": file.stem,
            "site": options.name,
            "images": (f"{prefix}{file.name}#image",),
            "labels": f"{prefix}{file.name}#label",
            "values": {1: regions},
            "annotated": regions,
            "spacing_mm": (1.0, 1.0, 1.0),
        }
        for file in sorted(place.glob("BraTS*.h5"))
    }

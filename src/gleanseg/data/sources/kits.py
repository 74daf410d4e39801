"""KiTS19 layout: a folder per case with the image and the label map (1 kidney with its cysts, 2 tumor)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg.data.sources.common import Draft, Names, assign_splits, slug
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_PLACES = ("", "data", "origin")
"""Sub-folders that the cases lie in: of the download, of the git repository, of the MOTS preparation."""


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import KiTS19: case_NNNNN/imaging.nii.gz and case_NNNNN/segmentation.nii.gz."""

    split: str | None = None
    """TRAIN/VALIDATION/TEST among the labelled cases: 0.8/0.1/0.1, 168/21/21 or rest/21/21. Default: all train."""
    seed: int = 0
    """Draws the split."""
    images_ts: Literal["test", "train", "skip"] = "test"
    """What becomes of cases without a segmentation: test cases, unlabelled training cases, or nothing."""
    name: str = "kits19"
    """Of the data set, which is its cases' site too."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """List the folders; images and labels are not opened.

    The files store (slice, row, column) with an affine that says so, in nine cases as qform alone; the readers honor
    both, so nothing is turned here.

    Args:
        root: folder of the cases, or of ``data`` with the cases in it.
        options: see ``Options``.

    Raises:
        UserError: no such layout, or a segmentation without its image.
    """
    names = Names((), own=False, source=root)
    draft = Draft(name=slug(options.name), root=root, names=names, channels=[("ct", "CT")])
    values = {value: (roi,) for value, roi in names.ontology.scheme("mots-1-kidney").items()}
    unlabelled: list[dict[str, Any]] = []
    bare: list[str] = []
    for place in _cases(root):
        image, label = (_file(place, name) for name in ("imaging", "segmentation"))
        if image is None:
            bare += [place.name] if label else []
            continue
        case: dict[str, Any] = {"id": place.name, "site": slug(options.name)}
        case["images"] = (image.relative_to(root).as_posix(),)
        if label is None:
            unlabelled.append(case | {"split": options.images_ts})
        else:
            known = {"values": values, "annotated": ("kidneys", "kidney_tumor")}
            draft.cases.append(case | {"labels": label.relative_to(root).as_posix()} | known)
    if bare:
        more = f" and {len(bare) - 1} more cases" if len(bare) > 1 else ""
        raise UserError(
            f"{root}: {bare[0]}{more} have segmentation.nii.gz without imaging.nii.gz; the repository holds no images:"
            " download them with the script that comes with it"
        )
    assign_splits(draft.cases, options.split, seed=options.seed)
    if options.images_ts != "skip":
        draft.cases += unlabelled
    return draft.manifest()


def _cases(root: Path) -> list[Path]:
    for place in _PLACES:
        folder = root / place
        listed = sorted(folder.iterdir()) if folder.is_dir() else []
        if cases := [f for f in listed if re.fullmatch(r"case_\d{5}", f.name) and f.is_dir()]:
            return cases
    raise UserError(f"{root}: holds no case_NNNNN folder, and none in data; name the folder of KiTS19")


def _file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / f"{name}.nii.gz", folder / f"{name}.nii") if p.is_file()), None)

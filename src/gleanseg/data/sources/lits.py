"""LiTS (liver and liver tumors) as its challenge gives it, or under the Decathlon's names (Task03_Liver)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg.data.sources.common import Draft, Names, assign_splits, paired, slug, stem
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_CHALLENGE = re.compile(r"(?P<kind>volume|segmentation|test-volume)-(?P<number>\d+)")
_DECATHLON = re.compile(r"liver_(?P<number>\d+)")
Pairs = dict[int, tuple[str, str | None]]


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import LiTS: volume-N.nii and segmentation-N.nii in any sub-folders, or imagesTr/liver_N.nii.gz and labelsTr."""

    split: str | None = None
    """TRAIN/VALIDATION/TEST among the labelled cases: 0.8/0.1/0.1, 91/20/20 or rest/20/20. Default: all train."""
    seed: int = 0
    """Draws the split."""
    images_ts: Literal["test", "train", "skip"] = "test"
    """What becomes of test-volume-N.nii (or imagesTs): test cases, unlabelled training cases, or nothing."""
    name: str = "lits"
    """Of the data set, which is its cases' site too."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """List the files; images and labels are not opened. Both layouts give a case the same id, ``liver_N``.

    Args:
        root: folder of the batches (``Training Batch 1`` and so on), or of ``imagesTr`` and ``labelsTr``.
        options: see ``Options``.

    Raises:
        UserError: no such layout, a case whose other half is missing, or one that is there twice.
    """
    names = Names((), own=False, source=root)
    labelled, unlabelled = _decathlon(root) if (root / "imagesTr").is_dir() else _challenge(root)
    if not labelled:
        raise UserError(
            f"{root}: holds no volume-N.nii with its segmentation-N.nii, and no imagesTr/liver_N.nii.gz;"
            " name the folder of LiTS"
        )
    draft = Draft(name=slug(options.name), root=root, names=names, channels=[("ct", "CT")])
    values = {value: (roi,) for value, roi in names.ontology.scheme("mots-0-liver").items()}
    for number, (image, label) in sorted(labelled.items()):
        case: dict[str, Any] = {"id": f"liver_{number}", "site": slug(options.name), "images": (image,)}
        draft.cases.append(case | {"labels": label, "values": values, "annotated": ("liver", "liver_tumor")})
    assign_splits(draft.cases, options.split, seed=options.seed)
    if options.images_ts != "skip":
        for id, image in unlabelled.items():
            case = {"id": id, "site": slug(options.name), "images": (image,), "split": options.images_ts}
            draft.cases.append(case)
    return draft.manifest()


def _challenge(root: Path) -> tuple[Pairs, dict[str, str]]:
    found: dict[str, dict[int, str]] = {"volume": {}, "segmentation": {}, "test-volume": {}}
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        for file in sorted(files):
            if match := _CHALLENGE.fullmatch(stem(file) or ""):
                of_kind, number = found[match["kind"]], int(match["number"])
                path = (Path(folder) / file).relative_to(root).as_posix()
                if number in of_kind:
                    raise UserError(f"{root}: {of_kind[number]} and {path} are one case; remove one of them")
                of_kind[number] = path
    volumes, segmentations = found["volume"], found["segmentation"]
    for number in sorted(volumes.keys() ^ segmentations.keys()):
        there = volumes.get(number) or segmentations[number]
        lacks = f"{'segmentation' if number in volumes else 'volume'}-{number}.nii"
        raise UserError(
            f"{root}: {there} has no {lacks} in any sub-folder; download it, or remove the one that is there"
        )
    pairs: Pairs = {number: (image, segmentations[number]) for number, image in volumes.items()}
    return pairs, {f"liver_test_{number}": image for number, image in sorted(found["test-volume"].items())}


def _decathlon(root: Path) -> tuple[Pairs, dict[str, str]]:
    pairs: Pairs = {}
    for id, (image, label) in paired(root, "Tr").items():
        match = _DECATHLON.fullmatch(id)
        if match is None:
            raise UserError(
                f"{root}: found {image}, expected imagesTr/liver_N.nii.gz; name the folder of the liver task"
            )
        if label is None:
            raise UserError(f"{root}: {image} has no labelsTr/{id}.nii.gz; download it, or remove the image")
        pairs[int(match["number"])] = (image, label)
    return pairs, {id: image for id, (image, _) in paired(root, "Ts").items()}

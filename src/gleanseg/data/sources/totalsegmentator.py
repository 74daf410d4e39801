"""TotalSegmentator layout: a folder per subject, in it the image and one file per structure."""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg.data.sources.common import Draft, Names, assign_splits, slug, stem
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_IMAGES = {"ct": "CT", "mri": "MR"}
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import TotalSegmentator's layout: SUBJECT/ct.nii.gz, SUBJECT/segmentations/STRUCTURE.nii.gz, meta.csv."""

    version: Literal["auto", "v1", "v2"] = "auto"
    """Whose structures were looked for: 104 (v1) or 117 (v2). Auto: the one whose names cover all files."""
    missing: Literal["absent", "unknown"] = "absent"
    """What a structure without a file means: certainly not in the image, or not annotated."""
    rois: tuple[str, ...] = ()
    """Only these ROIs. Default: all structures of the version."""
    map: tuple[str, ...] = ()
    """FILE=ROI for structure files that the version does not name; FILE= to leave a file out."""
    own: bool = False
    """Declare names that the ontology lacks as ROIs of this data set."""
    also: tuple[str, ...] = ()
    """Further ROIs that follow from the annotated ones, such as kidneys."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST to draw instead of meta.csv's: 90/10 (per cent), 0.8/0.1/0.1, 160/20/20 or rest/20/20."""
    seed: int = 0
    """Draws the split."""
    name: str = "totalsegmentator"
    """Of the data set; the site of cases for which meta.csv names no institute."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """List the folders; images and masks are not opened. A file with an empty mask is an annotation too.

    Args:
        root: folder with the subjects' folders (or one subject's folder), and meta.csv where there is one.
        options: see ``Options``.

    Raises:
        UserError: no such layout, or a structure file that names no ROI.
    """
    subjects = _subjects(root)
    names = Names(options.map, own=options.own, source=root)
    files = {f for _, masks in subjects.values() for f in masks}
    scheme = _structures(options.version, files, names, root)
    roi_of = {f: names.rois(f, usual=scheme.get(f)) for f in sorted(files)}
    names.finish(sorted(files))
    looked_for = dict.fromkeys([*scheme.values(), *(roi for rois in roi_of.values() for roi in rois)])
    if options.rois:
        wanted = [names.ontology.find(r).id if r not in names.own_rois else r for r in options.rois]
        if strange := [r for r in wanted if r not in looked_for]:
            raise UserError(f"{root}: --rois names {strange[0]!r}, which is no structure of this data set")
        looked_for = dict.fromkeys(wanted)
    images = {image for image, _ in subjects.values()}
    kinds = {Path(i).name.split(".")[0] for i in images}
    if len(kinds) > 1:
        raise UserError(
            f"{root}: holds subjects with ct and with mri images; import each kind from a folder of its own"
        )
    (kind,) = kinds
    draft = Draft(name=slug(options.name), root=root, names=names, also=options.also, channels=[(kind, _IMAGES[kind])])
    meta = _meta(root)
    for id, (image, masks) in subjects.items():
        labels = {roi: masks[f] for f in sorted(masks) for roi in roi_of[f] if roi in looked_for}
        case: dict[str, Any] = {"id": id, "site": slug(meta.get(id, {}).get("institute", "")) or slug(options.name)}
        case["images"] = (image,)
        if labels:
            case |= {"labels": labels, "annotated": tuple(r for r in looked_for if r in labels)}
        if options.missing == "absent":
            case["absent"] = tuple(r for r in looked_for if r not in labels and not _holds(r, labels, names))
        given = meta.get(id, {}).get("split", "").strip().casefold()
        if options.split is None and given in _SPLITS:
            case["split"] = _SPLITS[given]
        draft.cases.append(case)
    assign_splits(draft.cases, options.split, seed=options.seed)
    return draft.manifest()


def _holds(roi: str, labels: Mapping[str, str], names: Names) -> bool:
    """Whether a structure without a file contains one that has a file, so that it cannot be absent."""
    return roi in names.ontology and any(
        part in names.ontology and roi in names.ontology.containing(part) for part in labels
    )


def _subjects(root: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Subject -> image and masks by structure, as names from the root."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = [root, *sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))]
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for folder in folders:
        place = "" if folder == root else f"{folder.name}/"
        listed = os.listdir(folder)
        image = next((f for f in sorted(listed) if stem(f) in _IMAGES), None)
        if image is None:
            continue
        masks = {}
        if "segmentations" in listed:
            for file in sorted(os.listdir(folder / "segmentations")):
                if (structure := stem(file)) is not None:
                    masks[structure] = f"{place}segmentations/{file}"
        found[folder.resolve().name] = (f"{place}{image}", masks)
    if not found:
        raise UserError(
            f"{root}: holds no SUBJECT/ct.nii.gz and no SUBJECT/mri.nii.gz; name the folder of the subjects"
        )
    return found


def _structures(version: str, files: set[str], names: Names, root: Path) -> dict[str, str]:
    """Structure -> ROI of the version that was looked for."""
    schemes = {v: {roi: roi for roi in names.ontology.scheme(f"totalsegmentator-{v}").values()} for v in ("v1", "v2")}
    if version != "auto":
        return schemes[version]
    strange = {
        v: sorted(f for f in files if f not in s and f.casefold() not in names.given) for v, s in schemes.items()
    }
    best = min(schemes, key=lambda v: (len(strange[v]), v))
    if len(strange["v1"]) == len(strange["v2"]) and files:
        raise UserError(
            f"{root}: its structures fit v1 as well as v2; say which were looked for with --version v1 or v2"
        )
    return schemes[best]


def _meta(root: Path) -> dict[str, dict[str, str]]:
    """Rows of meta.csv by subject: semicolons (or commas), with or without a byte order mark; none without the file."""
    path = root / "meta.csv"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig")
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first else ",")
    if "image_id" not in (rows.fieldnames or ()):
        raise UserError(f"{path}: has no column 'image_id', found {first[:80]!r}; mend or rename it")
    return {row["image_id"]: {k: v or "" for k, v in row.items() if k} for row in rows}

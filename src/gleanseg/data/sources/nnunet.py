"""nnU-Net v2 raw layout: channels, regions, ignore label, ``splits_final.json`` and the in-place ``dataset`` key."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg import reading
from gleanseg.data.sources.common import Draft, Names, assign_splits, entry, modality, read_json, slug
from gleanseg.errors import UserError, nearest

if TYPE_CHECKING:
    import gleanseg.data.manifest


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import a raw data set of nnU-Net v2 (DatasetXXX_Name)."""

    map: tuple[str, ...] = ()
    """NAME=ROI for labels whose names the ontology lacks or finds vague (tumor=kidney_tumor); NAME=ROI+ROI when a
    label lies in several ROIs; NAME= for background."""
    own: bool = False
    """Declare names that the ontology lacks as ROIs of this data set."""
    also: tuple[str, ...] = ()
    """Further ROIs that follow from the annotated ones, such as kidneys."""
    fold: int | None = None
    """Fold of splits_final.json: its 'train' trains, its 'val' validates. Default: all train."""
    splits: Path | None = None
    """splits_final.json. Default: beside dataset.json, or in nnU-Net's preprocessed folder."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST to draw instead of a fold: 0.8/0.1/0.1, 160/20/20 or rest/20/20."""
    seed: int = 0
    """Draws the split."""
    images_ts: Literal["test", "train", "skip"] = "test"
    """What becomes of imagesTs: test cases (with labelsTs where it is there), unlabelled training cases, or nothing."""
    name: str | None = None
    """Of the data set, which is its cases' site too. Default: the folder's name."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """Read ``dataset.json`` and list the folders; images and labels are not opened.

    Args:
        root: the DatasetXXX_Name folder.
        options: see ``Options``.

    Raises:
        UserError: no such layout, a label whose ROI is not known, or a fold that is not there.
    """
    path = root / "dataset.json"
    data = read_json(path, hint="nnU-Net's raw layout has it beside imagesTr and labelsTr")
    if options.fold is not None and options.split is not None:
        raise UserError("--fold and --split exclude each other; choose one")
    name = slug(options.name or re.sub(r"^Dataset\d{3}_", "", root.resolve().name))
    names = Names(options.map, own=options.own, source=path)
    values, ignore = _values(data, names, path)
    annotated = tuple(dict.fromkeys(roi for rois in values.values() for roi in rois))
    channels = [
        str(c) for _, c in sorted(entry(data, "channel_names", dict, path=path).items(), key=lambda c: int(c[0]))
    ]
    draft = Draft(name=name, root=root, names=names, also=options.also,
                  channels=[(slug(c), modality(c)) for c in channels])  # fmt: skip
    ending = str(entry(data, "file_ending", str, path=path))
    labelled = {"values": values, "annotated": annotated} | ({} if ignore is None else {"ignore": ignore})
    found = _listed(data, path) if "dataset" in data else _scanned(root, "Tr", ending, len(channels))
    for id, (images, label) in found.items():
        case: dict[str, Any] = {"id": id, "site": name, "images": images}
        draft.cases.append(case | (labelled | {"labels": label} if label else {}))
    if options.fold is None:
        assign_splits(draft.cases, options.split, seed=options.seed)
    else:
        _assign_fold(draft.cases, _splits_path(root, options), options.fold)
    if options.images_ts != "skip" and (root / "imagesTs").is_dir():
        for id, (images, label) in _scanned(root, "Ts", ending, len(channels)).items():
            case = {"id": id, "site": name, "images": images, "split": options.images_ts}
            known = label and options.images_ts == "test"
            draft.cases.append(case | (labelled | {"labels": label} if known else {}))
    return draft.manifest()


def _values(data: Mapping[str, Any], names: Names, path: Path) -> tuple[dict[int, tuple[str, ...]], int | None]:
    """Label value -> ROIs. Regions list the values they are made of; plain labels are regions of one value."""
    members: dict[int, list[str]] = {}
    ignore = None
    labels = entry(data, "labels", dict, path=path)
    for name, value in labels.items():
        listed = value if isinstance(value, list) else [value]
        if not listed or not all(isinstance(v, int) for v in listed):
            raise UserError(f"{path}: label {name!r} is {value!r}, expected a whole number or a list of them; mend it")
        if name == "ignore":
            ignore = listed[0]
        elif listed != [0]:
            for roi in names.rois(name):
                for v in listed:
                    members.setdefault(v, []).append(roi)
    names.finish(n for n in labels if n not in ("background", "ignore"))
    regions = [n for n, v in labels.items() if isinstance(v, list) and n != "background"]
    order = data.get("regions_class_order")
    num = sum(n != "ignore" and v not in (0, [0]) for n, v in labels.items())
    if regions and (not isinstance(order, list) or len(order) != num):
        raise UserError(f"{path}: 'regions_class_order' is {order!r}, expected {num} values, one per region; add it")
    return {v: tuple(dict.fromkeys(members[v])) for v in sorted(members) if v != 0}, ignore


Found = dict[str, tuple[tuple[str, ...], str | None]]


def _scanned(root: Path, part: str, ending: str, num_channels: int) -> Found:
    """Cases of imagesTr or imagesTs, by the four-digit channel number at the end of each name."""
    folder = root / f"images{part}"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; nnU-Net's raw layout has the images in it")
    channels: dict[str, dict[int, str]] = {}
    form = re.compile(rf"(?P<id>[^.].*)_(?P<channel>\d{{4}}){re.escape(ending)}")
    for file in sorted(os.listdir(folder)):
        if match := form.fullmatch(file):
            channels.setdefault(match["id"], {})[int(match["channel"])] = f"images{part}/{file}"
    labels = set(os.listdir(root / f"labels{part}")) if (root / f"labels{part}").is_dir() else set()
    found: Found = {}
    for id, files in channels.items():
        if sorted(files) != list(range(num_channels)):
            raise UserError(
                f"{folder}: case {id!r} has channels {sorted(files)}, expected 0 to {num_channels - 1}"
                f" ('channel_names' of dataset.json); add the missing {id}_XXXX{ending}"
            )
        label = f"labels{part}/{id}{ending}" if f"{id}{ending}" in labels else None
        found[id] = (tuple(files[c] for c in range(num_channels)), label)
    return found


def _listed(data: Mapping[str, Any], path: Path) -> Found:
    """Cases of the ``dataset`` key, which names files in place."""
    found: Found = {}
    for id, item in entry(data, "dataset", dict, path=path).items():
        if not isinstance(item, dict) or not isinstance(item.get("images"), list):
            raise UserError(f'{path}: \'dataset\' entry {id!r} is not {{"images": [...], "label": ...}}; mend it')
        label = item.get("label")
        images = tuple(Path(os.path.expandvars(str(i))).as_posix() for i in item["images"])
        found[str(id)] = (images, Path(os.path.expandvars(str(label))).as_posix() if label else None)
    return found


def _splits_path(root: Path, options: Options) -> Path:
    if options.splits is not None:
        return options.splits
    places = [root / "splits_final.json", root.parent.parent / "nnUNet_preprocessed" / root.name / "splits_final.json"]
    if base := os.environ.get("nnUNet_preprocessed"):  # noqa: SIM112 - nnU-Net spells it so
        places.append(Path(base) / root.name / "splits_final.json")
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise UserError(
            f"{root}: --fold needs splits_final.json, found none beside dataset.json; name it with --splits"
        )
    return found


def _assign_fold(cases: list[dict[str, Any]], path: Path, fold: int) -> None:
    try:
        folds = reading.read_json(path)
        chosen = {"train": set(folds[fold]["train"]), "validation": set(folds[fold]["val"])} if fold >= 0 else None
    except IndexError:
        raise UserError(f"{path}: holds folds 0 to {len(folds) - 1}, asked for {fold}; choose another --fold") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not a list of {{"train": [...], "val": [...]}} ({error}); mend it') from None
    if chosen is None:
        raise UserError(f"--fold {fold}: folds are counted from 0")
    ids = {str(c["id"]) for c in cases}
    for name, listed in chosen.items():
        if strange := sorted(listed - ids):
            raise UserError(
                f"{path}: fold {fold} names case {strange[0]!r} ({name}), which has no image{nearest(strange[0], ids)}"
            )
    for case in cases:
        where = [name for name, listed in chosen.items() if case["id"] in listed]
        if len(where) != 1:
            said = "in both lists" if where else "in neither list"
            raise UserError(f"{path}: fold {fold} has case {case['id']!r} {said}; list it once")
        case["split"] = where[0]

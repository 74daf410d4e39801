"""Medical Segmentation Decathlon layout: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from gleanseg.data.sources.common import Draft, Names, assign_splits, entry, modality, read_json, slug, stem
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

# Labels of the ten tasks, in the order of their values: "cancer" means something else in each.
_TASKS = {
    "braintumour": ("edema", "non-enhancing tumor", "enhancing tumour"),
    "heart": ("left atrium",),
    "liver": ("liver", "cancer"),
    "hippocampus": ("anterior", "posterior"),
    "prostate": ("pz", "tz"),
    "lung": ("cancer",),
    "pancreas": ("pancreas", "cancer"),
    "hepaticvessel": ("vessel", "tumour"),
    "spleen": ("spleen",),
    "colon": ("colon cancer primaries",),
}


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import a data set in the layout of the Medical Segmentation Decathlon (dataset.json)."""

    map: tuple[str, ...] = ()
    """NAME=ROI for labels whose names the ontology lacks or finds vague (cancer=liver_tumor); NAME=ROI+ROI when a
    label lies in several ROIs; NAME= for background."""
    own: bool = False
    """Declare names that the ontology lacks as ROIs of this data set."""
    also: tuple[str, ...] = ()
    """Further ROIs that follow from the annotated ones, such as hippocampus or brain_tumor_whole."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST among the labelled cases: 0.8/0.1/0.1, 160/20/20 or rest/20/20. Default: all train."""
    seed: int = 0
    """Draws the split."""
    images_ts: Literal["test", "train", "skip"] = "test"
    """What becomes of the unlabelled images listed as test: test cases, unlabelled training cases, or nothing."""
    name: str | None = None
    """Of the data set, which is its cases' site too. Default: as dataset.json says."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """Read ``dataset.json``; images and labels are not opened.

    Args:
        root: folder with ``dataset.json``.
        options: see ``Options``.

    Raises:
        UserError: no such layout, or a label whose ROI is not known.
    """
    path = root / "dataset.json"
    data = read_json(path, hint="the msd layout has it beside imagesTr and labelsTr")
    name = options.name or str(data.get("name") or root.name)
    labels = entry(data, "labels", dict, path=path)
    if not all(re.fullmatch(r"\d+", str(value)) for value in labels):
        raise UserError(
            f"{path}: 'labels' maps {next(iter(labels))!r} to a value, which is nnU-Net's layout:"
            " use 'gleanseg import nnunet'"
        )
    names = Names(options.map, own=options.own, source=path)
    called = {value: label for value, label in sorted((int(v), str(n)) for v, n in labels.items()) if value != 0}
    usual = _scheme(root, name, list(called.values()), names)
    values = {value: names.rois(label, usual=usual.get(value)) for value, label in called.items()}
    names.finish(called.values())
    annotated = tuple(dict.fromkeys(roi for rois in values.values() for roi in rois))
    channels = [str(c) for _, c in sorted(entry(data, "modality", dict, path=path).items(), key=lambda kv: int(kv[0]))]
    draft = Draft(name=slug(name), root=root, names=names, also=options.also,
                  channels=[(slug(c), modality(c)) for c in channels])  # fmt: skip
    for image, label in (_files(item, path) for item in entry(data, "training", list, path=path)):
        case: dict[str, Any] = {"id": _id(image), "site": slug(name), "images": (image,)}
        if label is not None:
            case |= {"labels": label, "values": values, "annotated": annotated}
        if not Path(image).name.startswith("._"):
            draft.cases.append(case)
    assign_splits(draft.cases, options.split, seed=options.seed)
    for image, _ in (_files(item, path) for item in data.get("test", ()) if options.images_ts != "skip"):
        if not Path(image).name.startswith("._"):
            draft.cases.append({"id": _id(image), "site": slug(name), "images": (image,), "split": options.images_ts})
    return draft.manifest()


def _scheme(root: Path, name: str, labels: Sequence[str], names: Names) -> dict[int, str]:
    """Published meaning of the label values, when name and labels are those of one of the ten tasks."""
    folder = re.match(r"Task(\d\d)_(\w+)", root.resolve().name)
    task = slug(folder[2] if folder else name).replace("_", "")
    task = {"brats": "braintumour"}.get(task, task)
    if _TASKS.get(task) != tuple(label.casefold() for label in labels):
        return {}
    return dict(names.ontology.scheme(f"msd-task{list(_TASKS).index(task) + 1:02}"))


def _files(item: object, path: Path) -> tuple[str, str | None]:
    """Image and label of a list entry, without the leading ``./``."""
    if isinstance(item, str):
        item = {"image": item}
    if not isinstance(item, dict) or not isinstance(item.get("image"), str):
        raise UserError(f'{path}: list entry {item!r} is neither a path nor {{"image": ..., "label": ...}}; mend it')
    label = item.get("label")
    return _clean(item["image"]), _clean(label) if isinstance(label, str) else None


def _clean(name: str) -> str:
    return Path(name.replace("\\", "/")).as_posix()


def _id(image: str) -> str:
    return stem(Path(image).name.removeprefix("._")) or Path(image).name

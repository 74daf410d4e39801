"""Any folder of images and labels that belong together by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from gleanseg.data.sources.common import Draft, Names, assign_splits, modality, slug, stem
from gleanseg.errors import UserError

if TYPE_CHECKING:
    import gleanseg.data.manifest

_CASE, _ROI = "{case}", "{roi}"


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """Import images and labels that belong together by name. Cases without labels come in as unlabelled.

    A place is a folder (images, whose files or DICOM sub-folders are named after the cases) or a pattern such as
    "{case}/flair.nii.gz", "scans/{case}_0000.nii.gz" or "{case}.h5#image".
    """

    modality: tuple[str, ...]
    """What each channel is: CT, or FLAIR T1c; as many as --images."""
    images: tuple[str, ...] = ("images",)
    """Folder or pattern of each channel."""
    masks: str | None = None
    """Folder or pattern of the label maps, or of one mask per ROI ("masks/{roi}/{case}.nii.gz", or a folder with a
    sub-folder for each ROI). Default: labels, where that folder exists."""
    labels: tuple[str, ...] = ()
    """What the values of label maps mean: 1=liver 2=liver_tumor (2=liver_tumor+NAME when in several, 3= for
    background), or one published scheme, such as totalsegmentator-v2 or brats."""
    annotated: tuple[str, ...] = ()
    """ROIs that the labelled cases annotate. Default: all that --labels names, or the masks that a case has."""
    absent: tuple[str, ...] = ()
    """ROIs that are certainly nowhere in any labelled case."""
    ignore: int | None = None
    """Label value of voxels that nobody judged."""
    map: tuple[str, ...] = ()
    """NAME=ROI for folders of masks whose names the ontology lacks or finds vague."""
    own: bool = False
    """Declare names that the ontology lacks as ROIs of this data set."""
    also: tuple[str, ...] = ()
    """Further ROIs that follow from the annotated ones, such as kidneys or brain_tumor_whole."""
    rois: tuple[str, ...] = ()
    """Further ROIs that the manifest is about though no case annotates them; needed where no case has labels."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST among the labelled cases: 0.8/0.1/0.1, 160/20/20 or rest/20/20. Default: all train."""
    seed: int = 0
    """Draws the split."""
    spacing: tuple[float, float, float] | None = None
    """Voxel size x, y, z in mm of h5 files, which do not hold it."""
    name: str | None = None
    """Of the data set, which is its cases' site too. Default: the folder's name."""


def to_manifest(root: Path, options: Options) -> "gleanseg.data.manifest.Manifest":
    """Match files by name; nothing is opened.

    Args:
        root: folder that places start from.
        options: see ``Options``.

    Raises:
        UserError: a place that holds nothing, labels without an image, or a name that is no ROI.
    """
    if len(options.modality) != len(options.images):
        raise UserError(
            f"--modality names {len(options.modality)} channels, --images {len(options.images)}; they must be as many"
        )
    name = slug(options.name or root.resolve().name)
    names = Names(options.map, own=options.own, source=root)
    images = [_matched(root, place) for place in options.images]
    for place, found in zip(options.images, images, strict=True):
        if not found:
            raise UserError(f"{root}: no image at {place!r}; name a folder or a pattern such as '{{case}}/ct.nii.gz'")
        if odd := sorted({i for i, _ in images[0]} ^ {i for i, _ in found}):
            raise UserError(f"{root}: case {odd[0]!r} has no file at every place of --images ({place!r}); complete it")
    ids = sorted({i for i, _ in images[0]})
    masks = _masks(root, options, ids)
    values = _values(options, names)
    per_roi = any(roi for _, roi in masks)
    met = sorted({roi for _, roi in masks if roi})
    roi_of = {m: names.rois(m) for m in met}
    names.finish(met)
    channels = [(slug(m), modality(m)) for m in options.modality]
    draft = Draft(name=name, root=root, names=names, channels=channels, also=options.also, rois=options.rois)
    for id in ids:
        case: dict[str, Any] = {"id": id, "site": name, "images": tuple(found[id, ""] for found in images)}
        if options.spacing is not None:
            case["spacing_mm"] = options.spacing
        given = {roi: masks[id, m] for m in met if (id, m) in masks for roi in roi_of[m]}
        if per_roi and given:
            case |= {"labels": given} | _said(options, names, tuple(given))
        elif (id, "") in masks:
            if not values:
                raise UserError(f"{root}: say what the values of {masks[id, '']!r} mean: --labels 1=liver 2=...")
            listed = tuple(dict.fromkeys(roi for rois in values.values() for roi in rois))
            case |= {"labels": masks[id, ""], "values": values} | _said(options, names, listed)
        draft.cases.append(case)
    labelled = [c for c in draft.cases if "labels" in c]
    assign_splits(labelled or draft.cases, options.split, seed=options.seed)
    return draft.manifest()


def _said(options: Options, names: Names, given: tuple[str, ...]) -> dict[str, Any]:
    """Which ROIs a labelled case annotates and lacks, and its ignore value."""
    chosen = tuple(_roi(n, names, "--annotated") for n in options.annotated)
    said: dict[str, Any] = {"annotated": tuple(r for r in chosen if r in given) if chosen else given}
    if options.absent:
        said["absent"] = tuple(_roi(n, names, "--absent") for n in options.absent)
    return said if options.ignore is None else said | {"ignore": options.ignore}


def _roi(name: str, names: Names, flag: str) -> str:
    if slug(name) in names.own_rois:
        return slug(name)
    try:
        return names.ontology.find(name).id
    except UserError as error:
        raise UserError(f"{flag} {name!r}: {error}") from None


def _values(options: Options, names: Names) -> dict[int, tuple[str, ...]]:
    """Meaning of label values: pairs, or one scheme of the ontology."""
    if len(options.labels) == 1 and "=" not in options.labels[0]:
        return {value: (roi,) for value, roi in names.ontology.scheme(options.labels[0]).items()}
    values: dict[int, tuple[str, ...]] = {}
    for item in options.labels:
        value, equals, rois = item.partition("=")
        if not equals or not re.fullmatch(r"-?\d+", value):
            raise UserError(f"--labels {item!r}: expected VALUE=ROI, for example 1=liver")
        if int(value) in values:
            raise UserError(f"--labels {item!r}: value {value} is given twice; join its ROIs with '+'")
        listed = [r.strip() for r in rois.split("+") if r.strip()]
        values[int(value)] = tuple(dict.fromkeys(roi for r in listed for roi in names.rois(r)))
    return values


Found = dict[tuple[str, str], str]


def _masks(root: Path, options: Options, ids: list[str]) -> Found:
    """(case, ROI name or "") -> label file, of cases that have an image."""
    place = options.masks if options.masks is not None else "labels"
    found = _matched(root, place) if _CASE in place else _in_folder(root, place, options)
    strange = sorted(id for id, _ in found if id not in set(ids))
    if strange:
        name = next(name for (id, _), name in found.items() if id == strange[0])
        raise UserError(f"{root}: labels {name!r} have no image of the same name; pair them, or remove the labels")
    if not found and (options.labels or options.masks):
        raise UserError(f"{root}: no labels at {place!r}; name their folder or pattern with --masks")
    if not found and not options.rois:
        raise UserError(f"{root}: no labels at {place!r}; say with --rois what the manifest is about")
    return found


def _in_folder(root: Path, place: str, options: Options) -> Found:
    folder = root / place
    if not folder.is_dir():
        if options.masks is not None:
            raise UserError(f"{folder}: no such folder; name the folder or pattern of the labels with --masks")
        return {}
    found = _matched(root, place, series=False)
    if found:
        return found
    for sub in sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")):
        found |= {(id, sub.name): file for (id, _), file in _matched(root, f"{place}/{sub.name}", series=False).items()}
    return found


def _matched(root: Path, place: str, *, series: bool = True) -> Found:
    """(case, ROI name or "") -> name from the root, of all files that a folder holds or a pattern fits.

    Args:
        root: folder that the place starts from.
        place: folder or pattern.
        series: sub-folders of a folder are DICOM series.
    """
    if _CASE in place:
        return _by_pattern(root, place)
    folder = root / place
    if not folder.is_dir():
        return {}
    found: Found = {}
    for file in sorted(folder.iterdir()):
        id = stem(file.name) if file.is_file() else file.name if series and not file.name.startswith(".") else None
        if id is None:
            continue
        name = (Path(place) / file.name).as_posix()
        if (id, "") in found:
            raise UserError(f"{folder}: {found[id, '']!r} and {name!r} both belong to case {id!r}; remove one")
        found[id, ""] = name
    return found


def _by_pattern(root: Path, pattern: str) -> Found:
    path, hash, dataset = pattern.partition("#")
    form = _regex(path)
    found: Found = {}
    for file in sorted(root.glob(path.replace(_CASE, "*").replace(_ROI, "*"))):
        name = file.relative_to(root).as_posix()
        if (match := form.fullmatch(name)) and not file.name.startswith("."):
            parts: Mapping[str, str] = match.groupdict()
            found[parts["case"], parts.get("roi", "")] = f"{name}{hash}{dataset}"
    return found


def _regex(path: str) -> re.Pattern[str]:
    """Pattern as a regular expression; a second ``{case}`` must repeat the first."""
    text = re.escape(Path(path).as_posix())
    for word in ("case", "roi"):
        mark = re.escape(f"{{{word}}}")
        text = text.replace(mark, rf"(?P<{word}>[^/]+?)", 1).replace(mark, rf"(?P={word})")
    return re.compile(text.replace(r"\*", "[^/]*"))

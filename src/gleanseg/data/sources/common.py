"""What importers share: names to ROIs, seeded splits, and a draft that becomes a manifest.

Nothing here or in the importers loads pydantic or numpy before an import really starts: the command line lists the
options of all importers in its help.
"""

import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gleanseg import reading
from gleanseg.errors import UserError, nearest

if TYPE_CHECKING:
    import gleanseg.data.manifest
    import gleanseg.rois.ontology

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def stem(name: str) -> str | None:
    """File name without its volume ending, or None when it is no volume (or the ``._`` twin that macOS leaves)."""
    if name.startswith("."):
        return None
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), None)


def paired(root: Path, part: str) -> dict[str, tuple[str, str | None]]:
    """Image and label, as names from the root, of each case of ``images<part>`` and ``labels<part>``; sorted by name.

    Args:
        root: folder of the data set; without ``images<part>`` in it there is no case.
        part: ``Tr`` or ``Ts``.
    """
    images, labels = (_by_stem(root / f"{kind}{part}") for kind in ("images", "labels"))
    return {
        id: (f"images{part}/{file}", f"labels{part}/{labels[id]}" if id in labels else None)
        for id, file in images.items()
    }


def _by_stem(folder: Path) -> dict[str, str]:
    listed = sorted(os.listdir(folder)) if folder.is_dir() else []
    return {id: file for file in listed if (id := stem(file)) is not None}


def slug(name: str) -> str:
    """A name as an id: lower case, words joined by underscores."""
    return re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_")


def modality(name: str) -> str:
    """``CT``, ``MR`` or ``PT`` for what data sets call their channels; other names in upper case."""
    words = set(re.findall(r"[0-9a-z]+", name.casefold()))
    if words & {"ct", "cta", "cbct", "ncct", "cect"}:
        return "CT"
    if words & {"pet", "pt", "suv", "fdg"}:
        return "PT"
    sequences = {"mr", "mri", "flair", "adc", "dwi", "swi", "lge", "cine", "pd", "bssfp"}
    if words & sequences or any(re.match(r"t[12]([a-z]*|gd)$", w) for w in words):
        return "MR"
    return name.strip().upper() or "UNKNOWN"


def read_json(path: Path, *, hint: str) -> dict[str, Any]:
    """A JSON object of a data set.

    Raises:
        UserError: missing (``hint`` says what is expected there) or not an object.
    """
    try:
        data = reading.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); mend it") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a {type(data).__name__}, expected a JSON object; {hint}")
    return data


def entry(data: Mapping[str, Any], key: str, kind: type | tuple[type, ...], *, path: Path) -> Any:
    """A required entry of a data set's JSON, of one of these types."""
    if key not in data:
        raise UserError(f"{path}: key {key!r} is missing{nearest(key, data) or '; found ' + ', '.join(data)}")
    if not isinstance(data[key], kind):
        raise UserError(f"{path}: {key!r} is a {type(data[key]).__name__}, expected another type; mend it")
    return data[key]


class Names:
    """Translates what a data set calls its structures to ROI ids.

    Args:
        given: ``name=roi`` of the user; ``name=roi+roi`` when the label lies in several ROIs, ``name=`` to treat it
            as background.
        own: declare names that the ontology lacks as this data set's own ROIs.
        source: file that messages name.
    """

    def __init__(self, given: Sequence[str], *, own: bool, source: Path | str):
        from gleanseg.rois.ontology import builtin

        self.ontology = builtin()
        self.source = source
        self.own = own
        self.own_rois: dict[str, dict[str, Any]] = {}
        self.given: dict[str, tuple[str, ...]] = {}
        self._waiting: set[str] = set()
        for item in given:
            name, equals, rois = item.rpartition("=")
            if not equals or not name:
                raise UserError(f"--map {item!r}: expected NAME=ROI, for example cancer=liver_tumor")
            self.given[name.casefold()] = tuple(self._roi(r.strip(), item) for r in rois.split("+") if r.strip())
            self._waiting.add(name)

    def _roi(self, name: str, item: str) -> str:
        try:
            return self.ontology.find(name).id
        except UserError as error:
            if self.own:
                return self._declare(name)
            raise UserError(f"--map {item!r}: {error}; --own declares it") from None

    def _declare(self, name: str) -> str:
        id = slug(name)
        id = id if id[:1].isalpha() else f"roi_{id}"
        self.own_rois.setdefault(id, {"name": name} if name != id else {})
        return id

    def rois(self, name: str, *, usual: str | None = None) -> tuple[str, ...]:
        """ROIs that a label called ``name`` stands for, its containers not included.

        Args:
            name: as the data set writes it.
            usual: the ROI that it stands for in this very data set, where the name alone does not tell.

        Raises:
            UserError: neither the user, nor the ontology, nor the data set's own scheme knows the name.
        """
        if name.casefold() in self.given:
            self._waiting = {w for w in self._waiting if w.casefold() != name.casefold()}
            return self.given[name.casefold()]
        if usual is not None:
            return (usual,)
        try:
            return (self.ontology.find(name).id,)
        except UserError as error:
            if self.own:
                return (self._declare(name),)
            raise UserError(
                f"{self.source}: label {name!r}: {error}; say --map {name!r}=ROI, or --own to declare it"
            ) from None

    def finish(self, met: Iterable[str]) -> None:
        """Complain of a ``--map`` that no label used; ``met`` are the names that occurred."""
        for name in sorted(self._waiting):
            listed = list(met)
            raise UserError(
                f"{self.source}: --map names label {name!r}, which does not occur{nearest(name, listed)}"
                f" (labels: {', '.join(listed)})"
            )


@dataclass(kw_only=True)
class Draft:
    """A manifest in the making.

    Attributes:
        name: of the data set.
        root: folder that names of files start from.
        channels: name and modality of each.
        names: what translated the labels.
        cases: keyword arguments of ``Case``; ``values`` and ``annotated`` without containers.
        also: further ROIs to list: unions and parents that follow from the annotated ones.
        rois: further ROIs to list, whatever is known of them.
    """

    name: str
    root: Path
    channels: Sequence[tuple[str, str]]
    names: Names
    cases: list[dict[str, Any]] = field(default_factory=list)
    also: Sequence[str] = ()
    rois: Sequence[str] = ()

    def manifest(self) -> "gleanseg.data.manifest.Manifest":
        """Add containers to all values and check everything.

        Raises:
            UserError: nothing found, or what ``Manifest`` complains of.
        """
        from gleanseg.data.manifest import Channel, Manifest

        if not self.cases:
            raise UserError(f"{self.root}: no case found; check that this is the folder of the data set")
        ontology = self.names.ontology.extended(self.names.own_rois)
        listed: dict[str, None] = {}
        for case in self.cases:
            for key in ("annotated", "absent"):
                listed.update(dict.fromkeys(case.get(key, ())))
        extra = [ontology.find(name).id for name in self.also]
        rois = tuple(dict.fromkeys([*listed, *extra, *(ontology.find(name).id for name in self.rois)]))
        memo: dict[tuple[str, ...], tuple[str, ...]] = {}
        for case in self.cases:
            self._complete(case, rois, extra, ontology, memo)
        for roi in extra:
            if not any(roi in case.get("annotated", ()) for case in self.cases):
                raise UserError(f"{self.root}: --also {roi} follows from no case: only unions of annotated ROIs do")
        return Manifest(
            name=self.name,
            rois=rois,
            channels=tuple(Channel(name=n, modality=m) for n, m in self.channels),
            own_rois=self.names.own_rois,
            cases=tuple(self.cases),
            root=self.root,
            source=str(self.root),
        )

    def _complete(
        self,
        case: dict[str, Any],
        rois: tuple[str, ...],
        extra: Sequence[str],
        ontology: "gleanseg.rois.ontology.Ontology",
        memo: dict[tuple[str, ...], tuple[str, ...]],
    ) -> None:
        if case.get("values"):
            for listed in case["values"].values():
                if listed not in memo:
                    every = [*listed, *(c for roi in listed for c in ontology.containing(roi))]
                    memo[listed] = tuple(dict.fromkeys(roi for roi in every if roi in rois))
            case["values"] = {value: memo[listed] for value, listed in case["values"].items()}
        if isinstance(case.get("labels"), dict):
            case["labels"] = {roi: name for roi, name in case["labels"].items() if roi in rois}
        if extra and case.get("annotated"):
            known, _ = ontology.closure(case["annotated"], case.get("absent", ()))
            follows = tuple(e for e in extra if e in known and e not in case["annotated"])
            case["annotated"] = (*case["annotated"], *follows)


def assign_splits(cases: Sequence[dict[str, Any]], split: str | None, *, seed: int) -> None:
    """Draw train, validation and test among cases that have no split of their own yet.

    Args:
        cases: drafts; their order stays.
        split: ``160/20/20`` cases, ``0.8/0.1/0.1`` shares, ``80/10/10`` per cent (whole numbers that add up to 100), or
            ``rest/20/20``; two numbers, as in ``90/10``, leave the test split empty; None: all train.
        seed: of the drawing; the same ids and seed always give the same split.

    Raises:
        UserError: the text has another form, or its numbers do not add up.
    """
    free = sorted((c for c in cases if "split" not in c), key=lambda c: str(c["id"]))
    sizes = (len(free), 0, 0) if split is None else _sizes(split, len(free))
    random.Random(seed).shuffle(free)
    names = ("test",) * sizes[2] + ("validation",) * sizes[1] + ("train",) * sizes[0]
    for case, name in zip(free, names, strict=True):
        case["split"] = name


def _sizes(split: str, total: int) -> tuple[int, int, int]:
    numbers = _numbers(split)
    given = [n for n in numbers if n is not None]
    shares = "." in split
    if shares and None not in numbers and abs(sum(given) - 1) > 1e-6:
        raise UserError(f"--split {split!r}: the shares add up to {sum(given):g}, expected 1")
    if not shares and None not in numbers and sum(given) == 100:
        shares, numbers = True, [n and n / 100 for n in numbers]
    if shares:
        sizes = [None if n is None else round(n * total) for n in numbers]
        sizes[0] = None  # rounding goes to training
    else:
        sizes = [None if n is None else int(n) for n in numbers]
    wanted = sum(n for n in sizes if n is not None)
    rest = total - wanted
    if rest < 0 or (None not in sizes and rest != 0):
        raise UserError(f"--split {split!r}: asks for {wanted} cases, found {total}; write 'rest' for what remains")
    train, validation, test = (rest if n is None else n for n in sizes)
    return train, validation, test


def _numbers(split: str) -> list[float | None]:
    """Train, validation and test as written; None for the one that is ``rest``."""
    try:
        numbers = [None if p == "rest" else float(p) for p in split.split("/")]
    except ValueError:
        numbers = []
    numbers += [0.0] * (len(numbers) == 2)
    if len(numbers) != 3 or numbers.count(None) > 1 or any(n is not None and n < 0 for n in numbers):
        raise UserError(
            f"--split {split!r}: expected TRAIN/VALIDATION/TEST, such as 0.8/0.1/0.1, 160/20/20 or rest/20/20, or"
            " TRAIN/VALIDATION, such as 90/10"
        )
    return numbers

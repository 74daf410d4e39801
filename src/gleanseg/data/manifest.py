"""The manifest: which cases there are, and what each says about each ROI. The only input of everything after it."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr, ValidationError

from gleanseg.data.case import Case, Channel, Split, State, Strict
from gleanseg.data.manifest_checks import check, one_line
from gleanseg.errors import UserError, nearest
from gleanseg.reading import read_json
from gleanseg.rois.ontology import Ontology, builtin

__all__ = ["Case", "Channel", "Manifest", "Split", "State"]


class Manifest(Strict):
    """A checked list of cases.

    Attributes:
        gleanseg: version of the format.
        name: of the data set.
        rois: ids of all ROIs that this manifest is about, in the order that stores and runs keep.
        channels: of every case, in the order of their images.
        own_rois: definitions of ROIs that the built-in ontology lacks.
        cases: at least one.

    Args:
        root: folder that relative paths start from; the current folder when not given.
        source: file that messages name.

    Raises:
        UserError: anything inconsistent, in one line that names the file, the case and the key.
    """

    gleanseg: Literal[1] = 1
    name: str
    rois: tuple[str, ...]
    channels: tuple[Channel, ...]
    own_rois: dict[str, dict[str, Any]] = {}
    cases: tuple[Case, ...]
    _root: Path = PrivateAttr(default=Path())
    _states: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, State]] = PrivateAttr(default_factory=dict)

    def __init__(self, *, root: Path | None = None, source: str = "manifest", **data: Any):
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise UserError(one_line(error, data, source)) from None
        self._root = Path() if root is None else root
        try:
            ontology = self.ontology()
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        check(self.rois, self.channels, self.cases, ontology, source)

    @property
    def root(self) -> Path:
        """Folder that relative paths start from."""
        return self._root

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read and check a manifest; the files it names are not touched (``gleanseg doctor`` does that).

        Raises:
            UserError: missing or broken file, or anything inconsistent in it.
        """
        try:
            data = read_json(path, pairs=_no_repeats)
        except FileNotFoundError:
            raise UserError(f"{path}: no such manifest; make one with 'gleanseg import'") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a JSON manifest ({error}); mend it or import again") from None
        if not isinstance(data, dict) or "gleanseg" not in data:
            raise UserError(f"{path}: not a gleanseg manifest (no key 'gleanseg'); make one with 'gleanseg import'")
        return cls(root=path.absolute().parent, source=str(path), **{str(k): v for k, v in data.items()})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "Manifest":
        """A copy with other fields; what was concluded from the old ones stays behind."""
        copy = super().model_copy(update=update, deep=deep)
        for concluded in ("_ontology", "_by_id", "_digest"):
            copy.__dict__.pop(concluded, None)
        copy._states = {}
        return copy

    def save(self, path: Path) -> None:
        """Write the manifest, one case a line, with paths relative to its new place when they can be.

        The file appears complete or not at all.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(self._rooted(path.absolute().parent).to_json(), encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def to_json(self) -> str:
        """The manifest as text: keys in order, one case a line, defaults left out."""
        head = self.model_dump(mode="json", exclude={"cases", "gleanseg"}, exclude_defaults=True)
        lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
        cases = ",\n".join(f"  {json.dumps(_plain(c), ensure_ascii=False)}" for c in self.cases)
        return "\n".join(['{"gleanseg": 1,', *lines, ' "cases": [', cases, " ]}", ""])

    def ontology(self) -> Ontology:
        """The built-in ontology with this manifest's own ROIs."""
        return self._ontology

    @cached_property
    def _ontology(self) -> Ontology:
        return builtin().extended(self.own_rois) if self.own_rois else builtin()

    def states(self, case: Case) -> dict[str, State]:
        """State of every ROI of the manifest in a case, unions and parts concluded by the ontology."""
        key = (case.annotated, case.absent)
        if key not in self._states:
            annotated, absent = self.ontology().closure(case.annotated, case.absent)
            self._states[key] = {
                roi: State.ANNOTATED if roi in annotated else State.ABSENT if roi in absent else State.UNKNOWN
                for roi in self.rois
            }
        return dict(self._states[key])

    def path(self, name: str) -> Path:
        """Where a file that the manifest names lies."""
        return self._root / name

    def case(self, id: str) -> Case:
        """The case with this id.

        Raises:
            UserError: there is none; the nearest ids are offered.
        """
        if id not in self._by_id:
            raise UserError(f"{self.name}: no case {id!r}{nearest(id, self._by_id)}")
        return self._by_id[id]

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {c.id: c for c in self.cases}

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: changes when anything in the manifest does."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def merge(manifests: Sequence["Manifest"], *, name: str) -> "Manifest":
        """Join manifests: ROIs in order of appearance, cases one after another; what one does not annotate is unknown.

        Channels must be the same; a single one may be called differently when its modality is the same. Cases without a
        site get the name of their manifest as site. Ids that occur in more than one manifest get its name in front.

        Raises:
            UserError: nothing to merge, other channels, or one ROI defined in two ways.
        """
        if not manifests:
            raise UserError(f"{name}: nothing to merge; name at least one manifest")
        first = manifests[0]
        own: dict[str, dict[str, Any]] = {}
        for m in manifests:
            if not _alike(m.channels, first.channels):
                found, wanted = (", ".join(f"{c.name} ({c.modality})" for c in x.channels) for x in (m, first))
                raise UserError(
                    f"{m.name}: channels {found} differ from {first.name}'s {wanted};"
                    " only manifests with the same channels merge"
                )
            for roi, definition in m.own_rois.items():
                if own.setdefault(roi, definition) != definition:
                    raise UserError(
                        f"{m.name}: own_rois.{roi} is defined differently in another manifest; make them alike"
                    )
        uses = Counter(c.id for m in manifests for c in m.cases)
        return Manifest(
            name=name,
            rois=tuple(dict.fromkeys(r for m in manifests for r in m.rois)),
            channels=first.channels,
            own_rois=own,
            cases=tuple(
                c.model_copy(update={"site": c.site or m.name, "id": c.id if uses[c.id] == 1 else f"{m.name}_{c.id}"})
                for m in manifests
                for c in m._rooted(first.root).cases
            ),
            root=first.root,
            source=name,
        )

    def _rooted(self, root: Path) -> "Manifest":
        """The same manifest with paths written from another folder."""
        old, new = str(self._root.absolute()), str(root.absolute())
        if old == new:
            return self
        move = _Mover(old, new)
        cases = tuple(
            c.model_copy(
                update={
                    "images": tuple(map(move, c.images)),
                    "labels": {k: move(v) for k, v in c.labels.items()}
                    if isinstance(c.labels, dict)
                    else c.labels and move(c.labels),
                }
            )
            for c in self.cases
        )
        moved = self.model_copy(update={"cases": cases})
        moved._root = root
        return moved


class _Mover:
    """Rewrites names from one folder to another: absolute ones stay, others stay relative unless only / is shared."""

    def __init__(self, old: str, new: str):
        self.old, self.new = old, new
        self.folders: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        folder, _, file = name.rpartition("/")
        if name.startswith("/") or os.path.isabs(name):
            return name
        if folder not in self.folders:
            place = os.path.normpath(os.path.join(self.old, folder))
            try:
                shared = os.path.commonpath([place, self.new])
            except ValueError:  # other drives
                shared = ""
            far = os.path.dirname(shared) == shared
            self.folders[folder] = Path(place if far else os.path.relpath(place, self.new)).as_posix()
        return file if self.folders[folder] == "." else f"{self.folders[folder]}/{file}"


def _alike(a: tuple[Channel, ...], b: tuple[Channel, ...]) -> bool:
    return a == b or (len(a) == len(b) == 1 and a[0].modality == b[0].modality)


def _plain(case: Case) -> Mapping[str, Any]:
    return case.model_dump(mode="json", exclude_defaults=True)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = [k for k, n in Counter(k for k, _ in pairs).items() if n > 1]
        raise ValueError(f"key {twice[0]!r} stands twice in one object")
    return made

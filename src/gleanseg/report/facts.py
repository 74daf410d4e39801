"""Everything that a run folder says, read once; what is missing is empty, so that a report can be made at any time."""

import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gleanseg.data.manifest import Manifest, State
from gleanseg.errors import UserError
from gleanseg.reading import read_json
from gleanseg.report.figures import Color
from gleanseg.report.matrix import CaseStates
from gleanseg.report.results import SPLITS, Results, find_results
from gleanseg.rois.ontology import Ontology, builtin
from gleanseg.run.folder import Run, read_lines

_PALETTE: tuple[Color, ...] = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run as its files tell it.

    Attributes:
        path: the run folder.
        info: run.json.
        recipe_text: recipe.toml as written.
        plan: plan.json.
        log: rows of log.jsonl.
        validation: rows of validation.jsonl.
        access: rows of access.jsonl.
        splits: splits.json: role -> case ids, for ``train`` with the ROIs whose labels the run sees.
        results: evaluations, the test split first.
        manifest: None when it could not be read.
        manifest_problem: why not, or what is odd about it.
        findings: of the doctor, most severe first; None when no diagnosis is there.
        presence: presence.json of a presence run, else empty.
    """

    path: Path
    info: dict[str, Any]
    recipe_text: str
    plan: dict[str, Any]
    log: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    access: list[dict[str, Any]]
    splits: dict[str, Any]
    results: list[Results]
    manifest: Manifest | None
    manifest_problem: str = ""
    findings: list[dict[str, Any]] | None = field(default=None)
    presence: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe as nested mappings; empty when it is missing or damaged."""
        try:
            return tomllib.loads(self.recipe_text)
        except tomllib.TOMLDecodeError:
            return {}

    @property
    def segments(self) -> bool:
        """Whether the run's network segments; one of method ``presence`` only says what is there."""
        stages = self.recipe.get("stage") or [self.recipe]
        return bool(stages[-1].get("method", {}).get("name") != "presence")

    @property
    def name(self) -> str:
        """Of the run: its folder's name."""
        return self.path.resolve().name

    @property
    def rois(self) -> tuple[str, ...]:
        """ROIs of the run in channel order."""
        return tuple(self.info.get("rois", ()))

    @cached_property
    def look(self) -> dict[str, tuple[str, Color]]:
        """Display name and color of every ROI of the run and of its results."""
        ontology = self._ontology
        wanted = dict.fromkeys([*self.rois, *(roi for results in self.results for roi in results.rois)])
        found: dict[str, tuple[str, Color]] = {}
        for position, roi in enumerate(wanted):
            if roi in ontology:
                found[roi] = (ontology[roi].name, ontology[roi].color)
            else:
                found[roi] = (roi, _PALETTE[position % len(_PALETTE)])
        return found

    @cached_property
    def _ontology(self) -> Ontology:
        return builtin().extended(self.info.get("own_rois", {}))

    @cached_property
    def sites(self) -> dict[str, str]:
        """Case -> site."""
        return {case.id: case.site for case in self.manifest.cases} if self.manifest else {}

    @cached_property
    def states(self) -> list[CaseStates]:
        """State of each of the run's ROIs in every case, with what the recipe hid marked ``hidden``."""
        if self.manifest is None:
            return []
        train = self.splits.get("train", {})
        validation = set(self.splits.get("validation", ()))
        rows = []
        for case in self.manifest.cases:
            split = "validation" if case.id in validation else "train" if case.id in train else str(case.split)
            of_case = self.manifest.states(case)
            seen = train.get(case.id) if isinstance(train, dict) else None
            states = []
            for roi in self.rois:
                state = of_case.get(roi, State.UNKNOWN)
                hidden = seen is not None and state == State.ANNOTATED and roi not in seen
                states.append("hidden" if hidden else str(state))
            rows.append(CaseStates(case.id, case.site, split, tuple(states)))
        return rows

    @cached_property
    def best(self) -> Results | None:
        """The evaluation that the headline quotes."""
        return next((r for r in self.results if r.rois), None)

    @cached_property
    def predicted_splits(self) -> list[str]:
        """Splits with predictions, the evaluated one of the headline first."""
        folder = self.path / "predictions"
        found = [path.name for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
        order = [self.best.split] if self.best else []
        return sorted(
            found,
            key=lambda name: (name not in order, name not in SPLITS, SPLITS.index(name) if name in SPLITS else 0, name),
        )


def read_facts(path: Path) -> Facts:
    """Read a run folder.

    Raises:
        UserError: not a run folder, or one of its files is damaged.
    """
    run = Run.open(path)
    manifest, problem = _manifest(run.info)
    recipe = path / "recipe.toml"
    return Facts(
        path=path,
        info=run.info,
        recipe_text=recipe.read_text() if recipe.is_file() else "",
        plan=_json(path / "plan.json"),
        log=read_lines(path / "log.jsonl"),
        validation=read_lines(path / "validation.jsonl"),
        access=read_lines(path / "access.jsonl"),
        splits=_json(path / "splits.json"),
        results=find_results(path),
        manifest=manifest,
        manifest_problem=problem,
        findings=_findings(run),
        presence=_json(path / "presence.json"),
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it from a backup") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}; restore it from a backup")
    return value


def _manifest(info: dict[str, Any]) -> tuple[Manifest | None, str]:
    path = info.get("manifest")
    if not path:
        return None, "run.json names no manifest."
    try:
        manifest = Manifest.load(Path(path))
    except UserError as error:
        return None, f"The manifest could not be read: {error}"
    if info.get("manifest_digest") not in (None, manifest.digest()):
        return (
            manifest,
            f"{path} has changed since the volumes were prepared; states and pictures show it as it is now.",
        )
    return manifest, ""


def _findings(run: Run) -> list[dict[str, Any]] | None:
    places = [run.path / "diagnosis.json"]
    for key in ("manifest", "store"):
        if place := run.info.get(key):
            places += [Path(place).with_suffix(".diagnosis.json"), Path(place) / "diagnosis.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return None
    order = ("error", "warning", "note")
    listed = [f for f in _json(found).get("findings", []) if isinstance(f, dict)]
    return sorted(listed, key=lambda f: order.index(f["severity"]) if f.get("severity") in order else len(order))

"""Finished runs as rows of a paper's table: what each scored, and why a run may not stand in it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gleanseg.config import Recipe
from gleanseg.errors import UserError
from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import VOLUMES
from gleanseg.methods import method_class
from gleanseg.reading import read_json
from gleanseg.report.papers import PaperRow, PaperTable
from gleanseg.run.folder import Run, read_lines

ORIGIN_FILE = "prediction.json"
BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that may stand in the table.

    Attributes:
        path: the run folder.
        row: id of the table's row, or a name of its own when no row describes it.
        method: of the last stage.
        settings: SHA-256 of the recipe without its seed; runs of one row must share it.
        seed: of the run.
        labelled: training cases with a visible label, when the recipe hides some; None: all labels are used.
        evaluation: of the test split, with the table's protocol.
        record: what the files say about its origin, for the JSON.
    """

    path: Path
    row: str
    method: str
    settings: str
    seed: int
    labelled: int | None
    evaluation: Evaluation
    record: dict[str, Any]


class NotReadyError(Exception):
    """A run that is no row yet: not finished, or not evaluated; the message says what to do."""


def digest_of(ids: Iterable[str]) -> str:
    """SHA-256 of case ids, as evaluations have it for their split."""
    return hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


def result_path(run: Path, protocol: Protocol) -> Path:
    """Where ``gleanseg evaluate`` puts the test split's result."""
    return run / "evaluation" / ("test.json" if protocol.name == "default" else f"test-{protocol.name}.json")


def read_finished(path: Path, table: PaperTable, protocol: Protocol) -> Finished:
    """Read a run and check that its numbers were made as a benchmark must be.

    Args:
        path: run folder.
        table: whose rows and split.
        protocol: that scored the test split.

    Raises:
        NotReadyError: the run is not finished, or its test split not evaluated with this protocol.
        UserError: trained or chosen on the test split, another split, another manifest, an incomplete evaluation, or
            predictions of a checkpoint that neither the last step nor validation chose.
    """
    run = Run.open(path)
    if run.info.get("status") != "finished":
        raise NotReadyError(f"{path}: training is {run.info.get('status', 'not finished')}; continue it with --resume")
    method = run.recipe.stages[-1].method.name
    if method == "presence":
        raise NotReadyError(f"{path}: its method 'presence' segments nothing")
    result = result_path(path, protocol)
    if not result.is_file():
        raise NotReadyError(
            f"{path}: not evaluated with {protocol.name}; run predict and `evaluate --protocol {protocol.name}`"
        )
    evaluation = Evaluation.load(result)
    splits = _json(path / "splits.json")
    train, validation = set(splits["train"]), set(splits["validation"])
    test = {*evaluation.cases, *evaluation.missing, *evaluation.unscored}
    for ids, what in ((validation, "chose its checkpoint"), (train, "trained")):
        if both := sorted(ids & test):
            raise UserError(f"{path}: {what} on case {both[0]!r} of the test split ({len(both)} in all); train it anew")
    labelled = {id for id, rois in splits["train"].items() if rois}
    _check_split(path, table, evaluation, train | validation, labelled)
    _check_evaluation(path, run, evaluation, protocol)
    _check_counts(path, table, evaluation)
    origin = _checkpoint(path, run)
    row = find_row(run.recipe, table, num_labelled=len(labelled))
    reads = [line for line in read_lines(path / "access.jsonl") if line.get("split") == "test"]
    record = {
        "run": str(path), "seed": run.recipe.seed, "recipe_sha256": run.recipe.digest(),
        "manifest_sha256": evaluation.manifest_digest, "test_sha256": evaluation.split_digest,
        "train_sha256": digest_of(train | validation), "validation_cases": len(validation),
        "labelled_cases": len(labelled), "labelled_sha256": digest_of(labelled),
        "predictions_sha256": evaluation.predictions_digest, "checkpoint": origin.get("checkpoint"),
        "checkpoint_sha256": origin.get("checkpoint_sha256"), "inference": _inference(origin),
        "test_reads": len(reads), "trained_by": _code(run), "version": evaluation.version,
        "evaluated": evaluation.created,
    }  # fmt: skip
    settings = run.recipe.model_copy(update={"seed": 0}).digest()
    seen = len(labelled) if hides_labels(run.recipe) else None
    return Finished(
        path=path, row=row.id if row else own_name(run.recipe, table, labelled=seen), method=method, settings=settings,
        seed=run.recipe.seed, labelled=seen, evaluation=evaluation, record=record,
    )  # fmt: skip


def hides_labels(recipe: Recipe) -> bool:
    """Whether the recipe trains on fewer labels than the manifest has."""
    return recipe.data.labelled is not None or bool(recipe.data.annotate)


def find_row(recipe: Recipe, table: PaperTable, *, num_labelled: int) -> PaperRow | None:
    """The row that describes a recipe best; None when none does."""
    flat = _settings(recipe)
    fitting = [
        row
        for row in table.row
        if all(flat.get(key) == value for key, value in table.keys(row).items())
        and (not hides_labels(recipe) if row.labelled is None else row.labelled == num_labelled)
    ]
    return max(fitting, key=lambda row: len(table.keys(row)), default=None)


def own_name(recipe: Recipe, table: PaperTable, *, labelled: int | None) -> str:
    """Name of a run that no row describes: its method, its labels, and what tells it from the nearest row."""
    flat = _settings(recipe)
    method = str(flat["method.name"])
    near = [table.keys(row) for row in table.row if (table.method(row), row.labelled) == (method, labelled)]
    apart = [[f"{k} = {flat.get(k)}" for k, value in keys.items() if flat.get(k) != value] for keys in near]
    seen = [] if labelled is None else [f"{labelled} labelled"]
    return ", ".join([method, *seen, *min(apart, key=len, default=[])])


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe with dotted keys; ``method`` is that of its last stage, with the options it leaves out."""
    named = recipe.stages[-1].method
    try:
        options = asdict(method_class(named)[1])
    except UserError:  # a plug-in that is not installed here; its results may stand in the table all the same
        options = named.options
    return _flat({**recipe.model_dump(mode="json"), "method": {"name": named.name, **options}})


def _check_split(path: Path, table: PaperTable, evaluation: Evaluation, train: set[str], labelled: set[str]) -> None:
    if table.split is None:
        return
    wanted = {"test": table.split.test, "train": table.split.train}
    found = {"test": evaluation.split_digest, "train": digest_of(train)}
    sizes = {"test": len(evaluation.cases), "train": len(train)}
    published = table.split.labelled.get(str(len(labelled)))
    if published is not None:
        wanted["labelled"], found["labelled"], sizes["labelled"] = published, digest_of(labelled), len(labelled)
    for name in wanted:
        if found[name] != wanted[name]:
            raise UserError(
                f"{path}: its {name} cases ({sizes[name]}, SHA-256 {found[name][:12]}) are not the published ones"
                f" (SHA-256 {wanted[name][:12]}); import the whole benchmark and train on that manifest"
            )


def _check_evaluation(path: Path, run: Run, evaluation: Evaluation, protocol: Protocol) -> None:
    if evaluation.protocol_digest != protocol.digest():
        raise UserError(f"{path}: {protocol.name} has changed since it was evaluated; evaluate it again")
    if evaluation.manifest_digest != run.info["manifest_digest"]:
        raise UserError(f"{path}: was evaluated with another version of the manifest than it trained on; train it anew")
    for ids, what in ((evaluation.missing, "without a prediction"), (evaluation.unscored, "without a known ROI")):
        if ids:
            raise UserError(f"{path}: test case {ids[0]!r} ({len(ids)} in all) is {what}; predict and evaluate again")


def _check_counts(path: Path, table: PaperTable, evaluation: Evaluation) -> None:
    """The same test cases may still come with other labels than the published ones."""
    known = np.isfinite(evaluation.values(VOLUMES[0])).sum(axis=0)
    for column in table.column:
        if column.test and column.roi in evaluation.rois:
            found = int(known[evaluation.rois.index(column.roi)])
            if found != column.test:
                raise UserError(
                    f"{path}: {column.roi} is scored in {found} test cases, expected {column.test} as published; import"
                    " the benchmark anew and train on that manifest"
                )


def _checkpoint(path: Path, run: Run) -> dict[str, Any]:
    """What the predictions were made with: the last checkpoint, or the best on validation, and no other."""
    origin = _json(path / "predictions" / "test" / ORIGIN_FILE)
    last = run.checkpoints()[-1].name if run.checkpoints() else None
    if origin.get("checkpoint") not in (last, BEST):
        raise UserError(
            f"{path}: predictions are of checkpoint {origin.get('checkpoint')}, expected the last ({last}) or the best"
            " on validation: another can only have been chosen by its test scores; predict and evaluate again"
        )
    return origin


def _code(run: Run) -> dict[str, Any]:
    """Version of gleanseg that trained the run, and the commit where it came from a checkout."""
    return {"version": run.info.get("version"), "commit": run.info.get("environment", {}).get("commit")}


def _inference(origin: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in origin.items() if k not in ("run", "checkpoint", "checkpoint_sha256")}


def _json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a row needs it to show where its numbers come from") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); restore it from a backup") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}; restore it from a backup")
    return data


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat

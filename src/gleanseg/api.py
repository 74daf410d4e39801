"""What the command line does, as functions."""

from pathlib import Path
from typing import Literal

from gleanseg.config import Recipe
from gleanseg.data.doctor import Diagnosis
from gleanseg.data.doctor import examine as diagnose
from gleanseg.data.labels import read_image
from gleanseg.data.manifest import Manifest
from gleanseg.data.preprocess import prepare as prepare_store
from gleanseg.data.store import Store
from gleanseg.data.unchanged import is_unchanged
from gleanseg.engine.fit import fit
from gleanseg.errors import UserError
from gleanseg.evaluate.evaluator import Evaluation, evaluate_folder
from gleanseg.predict.audit import Audit
from gleanseg.predict.audit import audit as examine_presence
from gleanseg.predict.inputs import predict_inputs
from gleanseg.predict.predictor import Predictor
from gleanseg.predict.presence import Scanner
from gleanseg.reading import file_digest
from gleanseg.report.audit import audit_page
from gleanseg.report.html import write_report as report
from gleanseg.run.folder import Run, write_text
from gleanseg.types import ProgressBar

Split = Literal["train", "validation", "test"]
__all__ = ["Audit", "Diagnosis", "audit", "diagnose", "evaluate", "fit", "is_prepared", "predict", "prepare", "report"]


def prepare(
    recipe: Recipe, *, out: Path | None = None, num_workers: int | None = None, progress: ProgressBar | None = None
) -> Store:
    """Bring all volumes of a recipe's manifest onto one grid and intensity scale, into a store.

    Args:
        recipe: names the manifest and how to prepare it.
        out: store folder; default: the recipe's.
        num_workers: cases at a time; default: one per core, fewer when memory is short.
        progress: called with (done, total, case).

    Raises:
        UserError: bad manifest or images, a store made by another recipe, or a full disk.
    """
    # Before it is parsed: a change in between is seen the next time.
    file = file_digest(recipe.manifest) if recipe.manifest.is_file() else ""
    return prepare_store(
        Manifest.load(recipe.manifest),
        recipe.prepare,
        out or recipe.store_path,
        manifest_file=file,
        num_workers=num_workers,
        progress=progress,
    )


def is_prepared(recipe: Recipe) -> bool:
    """Whether ``prepare`` would find nothing to do; quick, however many cases there are."""
    return is_unchanged(recipe.manifest, recipe.prepare, recipe.store_path)


def predict(
    run: Path,
    *,
    split: Split = "test",
    checkpoint: str | None = None,
    deploy: str | None = None,
    resume: bool = False,
    progress: ProgressBar | None = None,
) -> Path:
    """Segment a split of the manifest that a run was trained on.

    Args:
        run: run folder.
        split: cases to segment; reading the test split is logged in the run.
        checkpoint: ``last``, ``best`` or a file; default: what the recipe selects.
        deploy: which of the method's networks; default: its first.
        resume: skip cases that are already there.
        progress: called with (done, total, case).

    Returns:
        The folder of predictions, ``predictions/<split>`` in the run.
    """
    predictor = Predictor.from_run(run, checkpoint=checkpoint, deploy=deploy)
    return predict_inputs(predictor, Run.open(run), split=split, resume=resume, progress=progress)


def audit(
    run: Path,
    manifest: Path,
    *,
    out: Path,
    split: Split | None = None,
    phi_high: float = 0.8,
    phi_low: float = 0.1,
    progress: ProgressBar | None = None,
) -> Audit:
    """Find structures that are present but unlabelled, and labels that look wrong.

    Args:
        run: folder of a presence training.
        manifest: the collection.
        out: folder for ``presence.json``, ``presence.csv`` and ``presence.html``.
        split: only these cases; default: all.
        phi_high: an ROI with a higher score is there.
        phi_low: an ROI with a lower score is not.
        progress: called with (done, total, case).

    Raises:
        UserError: no presence run, thresholds that cross, or images that cannot be read.
    """
    if not 0 <= phi_low <= phi_high <= 1:
        raise UserError(f"--phi-low {phi_low} --phi-high {phi_high}: expected 0 <= phi_low <= phi_high <= 1")
    collection = Manifest.load(manifest)
    ontology = collection.ontology()
    scanner = Scanner.from_run(run, rois=collection.rois, ontology=ontology)
    cases = [case for case in collection.cases if split is None or case.split == split]
    found = examine_presence(scanner, collection, cases=cases, phi_high=phi_high, phi_low=phi_low, progress=progress)
    found.save(out)
    look = {roi: (ontology[roi].name, ontology[roi].color) for roi in found.rois}
    sights = [
        (pair, scanner.look(read_image(collection, collection.case(pair.case)), pair.roi, pair.center_mm))
        for pair in found.telling()
    ]
    write_text(out / "presence.html", audit_page(found, look, sights))
    return found


def evaluate(
    run: Path,
    *,
    split: Split = "test",
    protocol: str = "default",
    num_workers: int | None = None,
    progress: ProgressBar | None = None,
) -> Evaluation:
    """Score a run's predictions of a split against the known ROIs; saved as ``evaluation/<split>.json`` and ``.csv``.

    Args:
        run: run folder with predictions of the split.
        split: which cases; reading the test split is logged in the run.
        protocol: file name in ``evaluate/protocols``.
        num_workers: cases at a time.
        progress: called with (done, total, case).
    """
    opened = Run.open(run)
    manifest = Manifest.load(Path(opened.info["manifest"]))
    predictions = opened.path / "predictions" / split
    if not predictions.is_dir():
        raise UserError(f"{predictions}: no predictions; run `gleanseg predict {run} --split {split}` first")
    if split == "test":
        opened.record_test_access(purpose="evaluate", cases=sum(case.split == split for case in manifest.cases))
    result = evaluate_folder(
        manifest, predictions, split=split, protocol=protocol, num_workers=num_workers, progress=progress
    )
    folder = opened.path / "evaluation"
    name = split if result.protocol == "default" else f"{split}-{result.protocol}"
    result.save(folder / f"{name}.json")
    result.save_csv(folder / f"{name}.csv")
    return result

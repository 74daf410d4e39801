"""What a user asks to be predicted: files, folders, a manifest, or a split of what the run was trained on."""

from collections.abc import Callable
from pathlib import Path

from gleanseg.data.manifest import Manifest, Split
from gleanseg.errors import UserError
from gleanseg.predict.predictor import Predictor
from gleanseg.predict.writer import file_items, manifest_items, write_predictions
from gleanseg.run.folder import Run
from gleanseg.types import ProgressBar


def predict_inputs(
    predictor: Predictor,
    run: Run,
    *,
    inputs: Path | None = None,
    out: Path | None = None,
    split: Split | None = None,
    resume: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    progress: ProgressBar | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """Predict and write.

    Args:
        predictor: of the run.
        run: where reading its test split is logged.
        inputs: image file, DICOM folder, folder of images, or manifest (``.json``); None: the run's own manifest.
        out: output folder; None, for the run's own manifest only: ``predictions/<split>`` in the run.
        split: of a manifest; by default ``test`` of the run's own, and all cases of another.
        resume: skip cases that are complete.
        num_parts: of how many processes this is one.
        part_id: which one, from 0.
        progress: called with (done, total, case).
        note: told what the largest case will take.

    Returns:
        The output folder.

    Raises:
        UserError: see ``write_predictions``, ``file_items`` and ``manifest_items``.
    """
    own = Path(run.info["manifest"])
    if inputs is None:
        inputs, split = own, split or "test"
        out = out or run.path / "predictions" / split
    if out is None:
        raise UserError(f"{inputs}: say where its predictions go: -o FOLDER")
    if inputs.suffix.lower() == ".json":
        manifest = Manifest.load(inputs)
        items = manifest_items(manifest, split=split, channels=[c.name for c in predictor.plan.channels])
        reads_test = split in (None, "test") and any(case.split == "test" for case in manifest.cases)
        if reads_test and manifest.digest() == run.info["manifest_digest"]:
            count = sum(case.split == "test" for case in manifest.cases)
            run.record_test_access(purpose="predict", cases=count)
    elif split is not None:
        raise UserError(f"{inputs}: --split chooses among the cases of a manifest (.json); leave it out for images")
    else:
        items = file_items(inputs, num_channels=len(predictor.plan.channels))
    share = {"num_parts": num_parts, "part_id": part_id}
    write_predictions(predictor, items, out, resume=resume, progress=progress, note=note, **share)
    return out

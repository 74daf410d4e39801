"""Made-up finished runs for paper tables: what `bench` reads, and no more."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.protocol import Protocol
from gleanseg.evaluate.scores import Row
from gleanseg.report.finished import digest_of

TRAIN, TEST = [f"a{i}" for i in range(6)], ["t0", "t1", "t2"]


def make_finished(
    path: Path, *, method: str = 'name = "mean_teacher"', seed: int = 0, labelled: int | None = 2,
    dice: float | Sequence[float] = 0.8, hd95: float = 9.0, train: list[str] = TRAIN,
    validation: tuple[str, ...] = (), test: list[str] = TEST, checkpoint: str = "main-00000020.safetensors",
    more: str = "", status: str = "finished", **evaluation: Any,
) -> Path:  # fmt: skip
    """A run folder with what the table reads; test cases score ``dice``, or a little more and less than it."""
    dices = [dice + 0.01 * (i - 1) for i in range(len(test))] if isinstance(dice, float) else dice
    (path / "checkpoints").mkdir(parents=True)
    for step in (10, 20):
        (path / "checkpoints" / f"main-{step:08d}.safetensors").touch()
    (path / "predictions" / "test").mkdir(parents=True)
    (path / "predictions" / "test" / "prediction.json").write_text(
        json.dumps({"checkpoint": checkpoint, "mirror": False})
    )
    hidden = "" if labelled is None else f"[data]\nlabelled = {labelled}\n"
    (path / "recipe.toml").write_text(f'manifest = "m.json"\nseed = {seed}\n{hidden}[method]\n{method}\n{more}')
    info = {"gleanseg": 1, "status": status, "manifest_digest": "m" * 64, "rois": ["left_atrium"],
            "version": "0.1.0", "environment": {"commit": "c" * 40}}  # fmt: skip
    (path / "run.json").write_text(json.dumps(info))
    seen = {id: ["left_atrium"] if labelled is None or i < labelled else [] for i, id in enumerate(train)}
    (path / "splits.json").write_text(json.dumps({"train": seen, "validation": list(validation)}))
    (path / "access.jsonl").write_text('{"split": "test", "purpose": "evaluate", "cases": 3}\n')
    protocol = Protocol.load("ssl3d")
    rows = [
        Row(id, "left_atrium", metric, value)
        for id, of_case in zip(test, dices, strict=True)
        for metric, value in {
            "dice": of_case, "hd95": hd95, "reference_ml": 1.0, "prediction_ml": 1.0
        }.items()
    ]  # fmt: skip
    given: dict[str, Any] = {
        "protocol": "ssl3d", "protocol_digest": protocol.digest(), "metrics": ("dice", "hd95"), "unit": "voxel",
        "manifest": "la", "manifest_digest": "m" * 64, "split": "test", "split_digest": digest_of(test),
        "predictions": "p", "predictions_digest": "p" * 64, "created": "2025-01-01T00:00:00+00:00", "version": "0.1.0",
        "rows": tuple(rows),
    }  # fmt: skip
    Evaluation(**given | evaluation).save(path / "evaluation" / "test-ssl3d.json")
    return path

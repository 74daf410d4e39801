"""What a prediction will take is told before it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from stand_ins import Threshold, make_predictor

from gleanseg.data.volume import Grid
from gleanseg.errors import UserError
from gleanseg.predict.forecast import predict_need
from gleanseg.predict.writer import file_items, write_predictions


def grid(*shape_ZYX: int) -> Grid:
    return Grid(shape_ZYX, np.diag([1.5, 1.5, 1.5, 1.0]))


def test_the_need_grows_with_the_image() -> None:
    predictor = make_predictor(Threshold(0.5))
    small, large = (predict_need(predictor, grid(n, n, n)).total for n in (40, 160))
    voxels = 160**3
    assert 12 * voxels < large - small < 40 * voxels
    assert small < large / 2


MEASURE = """
import json, sys
from support.memory import peak
from pathlib import Path
import torch
from gleanseg.data import images
from gleanseg.predict.forecast import predict_need
from gleanseg.predict.memory import resident
from gleanseg.predict.writer import file_items, write_predictions
from gleanseg.config import PredictConfig
from stand_ins import Threshold, make_predictor
torch.set_num_threads(1)
predictor = make_predictor(Threshold(0.5), config=PredictConfig(overlap=0.0))
source = Path(sys.argv[1])
held = resident()
foretold = held + predict_need(predictor, images.read_grid(source)[0]).total
write_predictions(predictor, file_items(source), Path(sys.argv[2]))
print(json.dumps([foretold, peak(), held]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process has held")
@pytest.mark.slow
def test_the_forecast_is_near_what_is_measured(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, (200, 200, 240)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1.0])), tmp_path / "a.nii")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.nii"), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    foretold, measured, held = json.loads(done.stdout.splitlines()[-1])
    assert abs(foretold / measured - 1) < 0.25
    assert measured > held + (100 << 20), "more than the libraries was measured"


def test_a_case_that_cannot_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, side in (("a", 20), ("b", 30)):
        nib.save(nib.Nifti1Image(np.zeros((side,) * 3, np.int16), np.eye(4)), tmp_path / f"{name}.nii")
    (tmp_path / "c.nii").write_bytes(b"broken")
    told: list[str] = []
    items = [item for item in file_items(tmp_path) if item.id != "c"]
    write_predictions(make_predictor(Threshold(0.5)), items, tmp_path / "out", note=told.append)
    assert len(told) == 1
    assert told[0].startswith("the largest case, b, needs about 0.0")
    monkeypatch.setattr("gleanseg.predict.memory.available_memory", lambda: 200_000)
    with pytest.raises(UserError, match=r"case 'b': .*GiB are free; lower --window-batch"):
        write_predictions(make_predictor(Threshold(0.5)), file_items(tmp_path), tmp_path / "other")
    assert not (tmp_path / "other").exists()

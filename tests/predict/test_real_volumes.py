"""Real volumes with foreign orientations; outputs must lie on their grids exactly."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from stand_ins import Threshold, make_plan

from gleanseg.data import images
from gleanseg.data.manifest import Channel
from gleanseg.data.plan import Intensity
from gleanseg.predict.predictor import Predictor
from gleanseg.predict.writer import file_items, write_predictions
from gleanseg.rois.ontology import builtin

DENSE_HU = -200.0


def dense_predictor() -> Predictor:
    plan = make_plan(
        ("skull",),
        spacing_ZYX_mm=(2.0, 3.0, 4.0),
        intensity=(Intensity(kind="ct_window", low=-1000, high=1000, mean=0, std=500),),
        crop="body",
        channels=(Channel(name="ct", modality="CT"),),
    )
    net = Threshold(DENSE_HU / 500)
    return Predictor([net], plan=plan, rois=("skull",), ontology=builtin(), patch_ZYX=(64, 64, 64))


@pytest.mark.parametrize("name", ["ct_torso.nii.gz", "dicom_series"])
def test_a_torso(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "ct_example" / name
    items = file_items(source)
    assert write_predictions(dense_predictor(), items, tmp_path) == [name.removesuffix(".nii.gz")]
    volume = images.read(source)
    found = nib.load(tmp_path / f"{items[0].id}.nii.gz")
    assert found.shape == volume.grid.shape_ZYX[::-1]
    np.testing.assert_allclose(found.affine, volume.grid.affine, atol=1e-4)
    assert nib.aff2axcodes(found.affine) == tuple(volume.grid.orientation)
    mask, dense = np.asarray(found.dataobj).T > 0, volume.array > DENSE_HU
    assert 2 * (mask & dense).sum() / (mask.sum() + dense.sum()) > 0.97

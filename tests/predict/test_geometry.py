"""Objects painted in the patient's millimetres are found again there, after import, prepare, predict and restore.

Axes are drawn at random: oblique, flipped, anisotropic, half of them left-handed. SimpleITK writes what goes in and
judges what comes out. Left and right lie apart in sign, so that a swap could not hide.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gleanseg.config import PrepareConfig
from gleanseg.data.manifest import Manifest
from gleanseg.data.preprocess import prepare
from gleanseg.data.store import Store
from gleanseg.networks.head import Rois
from gleanseg.predict.predictor import Predictor
from gleanseg.predict.writer import file_items, manifest_items, write_predictions
from gleanseg.rois.ontology import builtin
from support.dicom import series

ROIS = ("kidney_left", "kidney_right")
MIDDLE, RADIUS_MM, REACH_MM = np.array([-5.0, 8.0, 12.0]), 8.0, 25.0
# LPS mm, as SimpleITK has it: the patient's left is where x grows.
CENTERS = dict(zip(ROIS, MIDDLE + np.array([[12.0, 3.0, -2.0], [-12.0, -3.0, 4.0]]), strict=True))


class Frame(NamedTuple):
    """A grid in LPS mm: columns of ``directions`` are those of voxel axes x, y, z."""

    directions: NDArray[np.float64]
    spacing: NDArray[np.float64]
    size: tuple[int, ...]

    @property
    def origin(self) -> NDArray[np.float64]:
        """Of a grid whose middle voxel lies near the objects' middle."""
        return MIDDLE - self.directions @ (self.spacing * (np.array(self.size) - 1) / 2)

    def painted(self) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """Image (left 1000, right -1000) and labels (left 1, right 2), Z Y X."""
        index_ZYX3 = np.stack(np.indices(self.size[::-1])[::-1], axis=-1)
        points = index_ZYX3 * self.spacing @ self.directions.T + self.origin
        left, right = (np.linalg.norm(points - CENTERS[roi], axis=-1) < RADIUS_MM for roi in ROIS)
        return 1000 * (left.astype(np.int16) - right.astype(np.int16)), left + 2 * right.astype(np.uint8)

    def write(self, path: Path, array_ZYX: NDArray[np.generic]) -> Path:
        """Let SimpleITK write voxels."""
        image = sitk.GetImageFromArray(array_ZYX)
        image.SetSpacing(self.spacing.tolist())
        image.SetOrigin(self.origin.tolist())
        image.SetDirection(self.directions.ravel().tolist())
        sitk.WriteImage(image, str(path))
        return path


def frame(seed: int, *, handed: int) -> Frame:
    """Random directions of this handedness, and spacings from 0.8 to 3.2 mm."""
    rng = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    directions[:, 2] *= handed * np.sign(np.linalg.det(directions))
    spacing = rng.uniform(0.8, 3.2, 3).round(2)
    return Frame(directions, spacing, tuple(int(n) for n in np.ceil(2 * REACH_MM / spacing)))


class Sides(nn.Module):
    """Left is where the intensity is above half of the painted one, right where it is below its negative."""

    linear_head = False

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Tensor:
        x = features[0] / 1000
        both = torch.cat([x - 0.5, -x - 0.5], dim=1)
        return both if rois is None else both[:, rois]


def imported(folder: Path, image: Path, labels: Path) -> tuple[Manifest, Store]:
    """A manifest of one case, and its store on a grid of 1.5 x 1.5 x 2 mm."""
    case = {"id": "a", "images": [str(image)], "labels": str(labels), "values": {1: ROIS[:1], 2: ROIS[1:]}}
    manifest = Manifest(
        name="m", rois=ROIS, channels=({"name": "ct", "modality": "CT"},), cases=({**case, "annotated": ROIS},)
    )
    config = PrepareConfig(spacing=(1.5, 1.5, 2.0), intensity="none", crop="none")
    return manifest, prepare(manifest, config, folder / "store", num_workers=1)


def predictor(store: Store) -> Predictor:
    patch_ZYX = (16, 16, 16)
    return Predictor([Sides()], plan=store.plan, rois=ROIS, ontology=builtin(), patch_ZYX=patch_ZYX)


def judge(label_map: Path, values: Sequence[int] = (1, 2)) -> None:
    """SimpleITK's centre of each object lies within half a voxel of where it was painted, along every voxel axis."""
    image = sitk.ReadImage(str(label_map))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    assert shapes.GetLabels() == tuple(values)
    for roi, value in zip(ROIS, values, strict=True):
        off_mm = np.array(shapes.GetCentroid(value)) - CENTERS[roi]
        off_voxels = np.reshape(image.GetDirection(), (3, 3)).T @ off_mm / image.GetSpacing()
        assert np.abs(off_voxels).max() < 0.5, roi
        assert shapes.GetPhysicalSize(value) == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.12)


def judge_store(store: Store) -> None:
    """The same of prepared images and labels, by the grid that the store names (RAS)."""
    case = store.case("a")
    image, codes = case.read((0, 0, 0), case.grid.shape_ZYX)
    for column, (roi, painted) in enumerate(zip(ROIS, (image[0] > 500, image[0] < -500), strict=True)):
        for mask in (painted, case.table[codes, column]):
            k, j, i = (index.mean() for index in np.nonzero(mask))
            found = case.grid.affine @ [i, j, k, 1]
            off_voxels = np.linalg.solve(case.grid.affine[:3, :3], found[:3] - CENTERS[roi] * [-1, -1, 1])
            assert np.abs(off_voxels).max() < 0.5, roi


@pytest.mark.parametrize("handed", [1, -1])
@pytest.mark.parametrize(
    ("ending", "seed"), [("nii.gz", 0), ("nii", 1), ("nrrd", 2), ("mha", 3), ("mhd", 4), ("nhdr", 5), ("nii.gz", 6)]
)
def test_objects_stay_where_they_are(tmp_path: Path, ending: str, seed: int, handed: int) -> None:
    grid = frame(seed, handed=handed)
    assert np.sign(np.linalg.det(grid.directions)) == handed
    image, labels = grid.painted()
    source = grid.write(tmp_path / f"a.{ending}", image)
    judge(grid.write(tmp_path / "labels.nii.gz", labels))  # the judge itself finds what was painted
    manifest, store = imported(tmp_path, source, tmp_path / "labels.nii.gz")
    judge_store(store)
    write_predictions(predictor(store), file_items(source), tmp_path / "own")
    write_predictions(predictor(store), manifest_items(manifest), tmp_path / "nifti")
    for found in (tmp_path / "own" / f"a.{ending}", tmp_path / "nifti" / "a.nii.gz"):
        judge(found)
        written, given = sitk.ReadImage(str(found)), sitk.ReadImage(str(source))
        assert written.GetSize() == given.GetSize()
        np.testing.assert_allclose(written.GetOrigin(), given.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(written.GetDirection(), given.GetDirection(), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_objects_of_dicom_stay_where_they_are(tmp_path: Path, seed: int) -> None:
    grid = frame(seed, handed=1)  # of the two, the only one that slices along their normal can have
    image, labels = grid.painted()
    step, across = grid.directions[:, 2] * grid.spacing[2], grid.directions[:, :2].T
    series(
        tmp_path / "a", voxels=image, directions=across, step=step, origin=grid.origin,
        PixelSpacing=[float(grid.spacing[1]), float(grid.spacing[0])], RescaleIntercept=0,
    )  # fmt: skip
    _, store = imported(tmp_path, tmp_path / "a", grid.write(tmp_path / "labels.nii.gz", labels))
    judge_store(store)
    write_predictions(predictor(store), file_items(tmp_path / "a"), tmp_path / "out")
    judge(tmp_path / "out" / "a.nii.gz")

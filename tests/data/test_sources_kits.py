"""KiTS19's layout, and where its voxels lie in the patient."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from gleanseg.data import images
from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.sources.kits import Options, to_manifest
from gleanseg.data.standardize import target_grid
from gleanseg.data.volume import Grid, grid_to_ras
from gleanseg.errors import UserError

# Stored axes are slices (downwards), rows (backwards) and columns (to the left): axis codes I, P, L.
SPACING = (3.0, 0.75, 0.75)  # slice, row, column
AFFINE = np.array([[0, 0, -0.75, 12.0], [0, -0.75, 0, 20.0], [-3.0, 0, 0, 90.0], [0, 0, 0, 1]])
SHAPE = (5, 9, 11)
TUMOR = [(1, 2, 8), (1, 3, 8), (2, 2, 8)]


def place_in(affine: np.ndarray, voxel: tuple[int, int, int]) -> np.ndarray:
    return (affine @ [*voxel, 1.0])[:3]


def write(folder: Path, *, form: str, dtype: type) -> None:
    folder.mkdir(parents=True)
    label = np.zeros(SHAPE, dtype=dtype)
    label[1:3, 1:5, 6:9] = 1
    for voxel in TUMOR:
        label[voxel] = 2
    for name, array in (("imaging", (label * 50).astype(np.int16)), ("segmentation", label)):
        image = nibabel.Nifti1Image(array, None)
        image.header.set_zooms(SPACING)
        (image.header.set_sform if form == "sform" else image.header.set_qform)(AFFINE, code=1)
        nibabel.save(image, folder / f"{name}.nii.gz")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize("place", ["", "data", "origin"])
def test_cases(tmp_path: Path, place: str) -> None:
    for number in (0, 15):
        touch(tmp_path / place / f"case_{number:05d}", "imaging.nii.gz", "segmentation.nii.gz")
    touch(tmp_path / place / "case_00210", "imaging.nii.gz")
    touch(tmp_path / place / "notes", "imaging.nii.gz")
    manifest = to_manifest(tmp_path, Options())
    assert [(c.id, c.site, c.split) for c in manifest.cases] == [
        ("case_00000", "kits19", "train"), ("case_00015", "kits19", "train"), ("case_00210", "kits19", "test"),
    ]  # fmt: skip
    prefix = f"{place}/" if place else ""
    assert manifest.cases[0].images == (f"{prefix}case_00000/imaging.nii.gz",)
    assert manifest.cases[0].labels == f"{prefix}case_00000/segmentation.nii.gz"
    assert {v: set(r) for v, r in manifest.cases[0].values.items()} == {1: {"kidneys"}, 2: {"kidneys", "kidney_tumor"}}
    assert manifest.cases[2].labels is None
    assert len(to_manifest(tmp_path, Options(images_ts="skip")).cases) == 2


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no case_NNNNN folder"):
        to_manifest(tmp_path, Options())
    for number in (3, 4):
        touch(tmp_path / f"case_{number:05d}", "segmentation.nii.gz")
    with pytest.raises(UserError, match=r"case_00003 and 1 more cases have segmentation\.nii\.gz without imaging"):
        to_manifest(tmp_path, Options())


@pytest.mark.parametrize(("form", "dtype"), [("sform", np.uint8), ("qform", np.uint16)])
def test_voxels_keep_their_place_in_the_patient(tmp_path: Path, form: str, dtype: type) -> None:
    write(tmp_path / "case_00023", form=form, dtype=dtype)
    manifest = to_manifest(tmp_path, Options())
    case = manifest.cases[0]
    volume = read_image(manifest, case)
    assert volume.grid.orientation == "IPL"
    assert volume.grid.spacing_ZYX_mm == pytest.approx((0.75, 0.75, 3.0), abs=1e-6)
    labels = read_labels(manifest, case)
    assert labels is not None
    tumor_ZYX = labels.table[:, manifest.rois.index("kidney_tumor")][labels.codes]
    wanted = sorted(tuple(place_in(AFFINE, v).round(3)) for v in TUMOR)
    found = sorted(tuple(place_in(volume.grid.affine, (x, y, z)).round(3)) for z, y, x in np.argwhere(tumor_ZYX))
    assert found == wanted
    # In the order that networks see, the tumor is at the same place, and Z runs along the slices.
    array, grid, axes = images.to_ras(volume)
    assert grid.orientation == "RAS"
    assert grid.shape_ZYX == SHAPE
    assert grid.spacing_ZYX_mm == pytest.approx(SPACING, abs=1e-6)
    turned = sorted(tuple(place_in(grid.affine, (x, y, z)).round(3)) for z, y, x in np.argwhere(array[0] == 100))
    assert turned == wanted
    assert np.array_equal(axes.undo(array), volume.array)


def test_slices_get_the_spacing_of_slices() -> None:
    # case_00000: 611 x 512 x 512 of 0.5, 0.919922, 0.919922 mm; taken as x, y, z it would become 381 x 588 x 314.
    affine = np.array([[0, 0, -0.919922, 0], [0, -0.919922, 0, 0], [-0.5, 0, 0, 0], [0, 0, 0, 1]])
    ras, _ = grid_to_ras(Grid((512, 512, 611), affine))
    grid, _ = target_grid(ras, (1.5, 0.8, 0.8))
    assert np.abs(np.subtract(grid.shape_ZYX, (203, 588, 588))).max() <= 1

"""DICOM series: sorted by position, on the right grid, and refused with a reason when they make no volume."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from gleanseg.data import images
from gleanseg.errors import UserError
from support.dicom import VOXELS, series


def test_a_series_is_sorted_by_position_and_scaled(tmp_path: Path) -> None:
    volume = images.read(series(tmp_path / "ct"))
    np.testing.assert_array_equal(volume.array, VOXELS.astype(np.int32) - 1024)
    assert volume.grid.spacing_ZYX_mm == (2.5, 0.7, 0.8)
    # LPS (10, -20, 30) is RAS (-10, 20, 30); columns run left, rows run posterior.
    np.testing.assert_allclose(volume.grid.affine, [[-0.8, 0, 0, -10], [0, -0.7, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    assert volume.grid.orientation == "LPS"
    grid, channels = images.read_grid(tmp_path / "ct")
    assert channels == 1
    assert grid.same_as(volume.grid, tolerance_mm=0.0)


def test_results_lie_on_the_series_grid(tmp_path: Path) -> None:
    turned = np.array([[0.96, 0.28, 0], [0, 0, -1.0]])  # oblique coronal
    volume = images.read(series(tmp_path / "ct", directions=turned))
    images.write(tmp_path / "a.nii.gz", volume.array, volume)
    found = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(found.affine, volume.grid.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj).T, volume.array)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(found.get_qform(), volume.grid.affine, atol=1e-5)
    images.write(tmp_path / "a.nrrd", volume.array, volume)
    np.testing.assert_allclose(images.read(tmp_path / "a.nrrd").grid.affine, volume.grid.affine, atol=1e-9)


def test_a_broken_slope_makes_floats(tmp_path: Path) -> None:
    volume = images.read(series(tmp_path / "pet", RescaleSlope=0.5, RescaleIntercept=0))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, VOXELS * np.float32(0.5))


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (folder / "notes.txt").write_text("hello")
    (folder / "DICOMDIR").write_bytes(b"\0" * 200)
    assert images.read(folder).array.shape == (4, 5, 6)


def test_several_series_are_listed_and_chosen_by_name(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", uid="1.2.3")
    series(folder, uid="1.2.9", prefix="t", SeriesDescription="lung")
    with pytest.raises(UserError, match=r"holds 2 series \(CT body 1.2.3, 4 slices, UID 1.2.3; CT lung, 4 slices"):
        images.read(folder)
    assert images.read(tmp_path / "ct#lung").array.shape == (4, 5, 6)
    with pytest.raises(UserError, match=r"no DICOM image of series 'liver'"):
        images.read(tmp_path / "ct#liver")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"skip": 1}, r"5\.00 mm between s9\.dcm and s7\.dcm, expected 2\.50 mm"),
        ({"step": np.array([0.0, 0.5, 2.5])}, r"11\.3 degrees off their normal \(gantry tilt\)"),
        ({"step": np.array([0.0, 0.0, 0.0])}, r"lie at the same position"),
        ({"NumberOfFrames": 2}, r"multi-frame DICOM is not read"),
        ({"SamplesPerPixel": 3}, r"color DICOM"),
        ({"PixelSpacing": None}, r"has no PixelSpacing"),
    ],
)
def test_what_makes_no_volume(tmp_path: Path, change: dict[str, object], said: str) -> None:
    folder = series(tmp_path / "ct", **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said) as told:
        images.read(folder)
    assert "\n" not in str(told.value)


def test_a_localizer_of_the_same_series_is_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    odd = pydicom.dcmread(folder / "s9.dcm")
    odd.ImageOrientationPatient = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
    odd.save_as(folder / "t.dcm")
    with pytest.raises(UserError, match=r"t\.dcm differs in size or direction from s6\.dcm"):
        images.read(folder)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    with pytest.raises(UserError, match=r"ct: holds no DICOM image; expected one file per slice"):
        images.read(tmp_path / "ct")


def test_single_slice_takes_its_thickness(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    assert images.read(folder).grid.spacing_ZYX_mm == (5.0, 0.7, 0.8)


def test_real_series(shared_data: Path) -> None:
    volume = images.read(shared_data / "ct_example" / "dicom_series")
    assert volume.array.shape == (20, 512, 512)
    assert (int(volume.array.min()), int(volume.array.max())) == (-1024, 1839)
    assert volume.grid.orientation == "LPS"
    assert volume.grid.spacing_ZYX_mm == (2.0, 0.9765625, 0.9765625)
    np.testing.assert_allclose(volume.grid.affine[:3, 3], [249.51171875, 437.51171875, -804.5])
    # The patient lies on the back: the table is behind, and what is behind has negative y in RAS.
    array, _, _ = images.to_ras(volume)
    rows = np.flatnonzero((array > -300).any(axis=(0, 2)))
    assert rows[0] < array.shape[1] - 1 - rows[-1] + array.shape[1] // 4


def test_real_torso_holds_its_part(shared_data: Path) -> None:
    """The part's header kept the origin of the whole, so only its voxels tell that it is the last 30 slices."""
    whole = images.read(shared_data / "ct_example" / "ct_torso.nii.gz")
    part = images.read(shared_data / "ct_example" / "s0001" / "ct.nii.gz")
    np.testing.assert_array_equal(whole.array[82:], part.array)
    np.testing.assert_array_equal(whole.grid.affine, part.grid.affine)
    assert images.content_hash(whole._replace(array=whole.array[82:])) == images.content_hash(part)

"""Every format gives the same voxels on the same grid, and what is written lies exactly on the grid it came from."""

import gzip
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
from numpy.typing import NDArray

from gleanseg.data import images
from gleanseg.data.volume import Grid, Volume
from gleanseg.errors import UserError

SHAPE_XYZ = (7, 6, 5)


def rotation(axis: str, degrees: float) -> NDArray[np.float64]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (0, 2), "z": (0, 1)}[axis]
    r = np.eye(3)
    r[i, i] = r[j, j] = c
    r[i, j], r[j, i] = -s, s
    return r


def affine(matrix: NDArray[np.float64], origin: tuple[float, float, float]) -> NDArray[np.float64]:
    made = np.eye(4)
    made[:3, :3] = matrix
    made[:3, 3] = origin
    return made.astype(np.float32).astype(np.float64)  # what a NIfTI header can hold


AFFINES = {
    "straight": affine(np.diag([0.8, 0.9, 2.5]), (-10.0, 20.0, 30.5)),
    "negative strides": affine(np.diag([-0.8, -0.9, 2.5]), (100.0, 20.0, -30.5)),
    "permuted": affine(np.array([[0, 0, 2.5], [-0.8, 0, 0], [0, 0.9, 0]]), (1.0, 2.0, 3.0)),
    "oblique": affine(rotation("z", 25) @ rotation("x", -12) @ np.diag([0.8, -0.9, 2.5]), (-4.2, 7.7, 90.1)),
}


def voxels(dtype: type = np.int16) -> NDArray[np.generic]:
    return np.arange(np.prod(SHAPE_XYZ)).reshape(SHAPE_XYZ).astype(dtype)


def nifti(
    path: Path, matrix: NDArray[np.float64], *, forms: str = "both", array: NDArray[np.generic] | None = None
) -> Path:
    array = voxels() if array is None else array
    image = nib.Nifti1Image(array, None)
    image.header.set_zooms([*np.linalg.norm(matrix[:3, :3], axis=0), *[1.0] * (array.ndim - 3)])
    if forms in ("sform", "both"):
        image.header.set_sform(matrix, code=2)
    if forms in ("qform", "both"):
        image.header.set_qform(matrix, code=1, strip_shears=True)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("forms", ["sform", "qform", "both"])
@pytest.mark.parametrize("name", AFFINES)
def test_nifti_goes_out_exactly_as_it_came_in(tmp_path: Path, name: str, forms: str) -> None:
    source = nifti(tmp_path / "in.nii.gz", AFFINES[name], forms=forms)
    wanted = nib.load(source)
    volume = images.read(source)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, voxels().T)
    np.testing.assert_array_equal(volume.grid.affine, wanted.affine)
    np.testing.assert_allclose(volume.grid.affine, AFFINES[name], atol=1e-4)
    assert images.read_grid(source)[0].same_as(volume.grid, tolerance_mm=0.0)
    images.write(tmp_path / "out.nii.gz", volume.array > 3, volume)
    found = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(found.affine, wanted.affine)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), voxels() > 3)
    for key in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d",
                "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units"):  # fmt: skip
        np.testing.assert_array_equal(found.header[key], wanted.header[key], err_msg=key)
    assert found.get_data_dtype() == np.uint8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.nii.gz", "out.nii.gz"]


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("name", AFFINES)
def test_other_formats_keep_the_grid(tmp_path: Path, name: str, ending: str) -> None:
    volume = images.read(nifti(tmp_path / "in.nii", AFFINES[name]))
    images.write(tmp_path / f"a{ending}", volume.array, volume)
    again = images.read(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.grid.affine, volume.grid.affine, atol=1e-6)
    grid, channels = images.read_grid(tmp_path / f"a{ending}")
    assert channels == 1
    assert grid.same_as(again.grid, tolerance_mm=0.0)
    # From that format to itself nothing moves (NRRD multiplies spacing and direction: the last bit may differ).
    images.write(tmp_path / f"b{ending}", again.array.astype(np.float32), again)
    np.testing.assert_allclose(images.read(tmp_path / f"b{ending}").grid.affine, again.grid.affine, atol=1e-13)
    images.write(tmp_path / "back.nii.gz", again.array, again)
    np.testing.assert_allclose(nib.load(tmp_path / "back.nii.gz").affine, volume.grid.affine, atol=1e-5)


def test_simpleitk_agrees_on_where_voxels_lie(tmp_path: Path) -> None:
    volume = images.read(nifti(tmp_path / "in.nii.gz", AFFINES["oblique"]))
    images.write(tmp_path / "a.mha", volume.array, volume)
    image = sitk.ReadImage(str(tmp_path / "a.mha"))
    x, y, z = image.TransformIndexToPhysicalPoint((3, 2, 4))
    np.testing.assert_allclose((volume.grid.affine @ [3, 2, 4, 1])[:3], [-x, -y, z], atol=1e-5)
    assert image.GetPixel(3, 2, 4) == voxels()[3, 2, 4]


@pytest.mark.parametrize("name", AFFINES)
def test_to_ras_and_back(tmp_path: Path, name: str) -> None:
    volume = images.read(nifti(tmp_path / "in.nii", AFFINES[name]))
    array, grid, axes = images.to_ras(volume)
    assert grid.orientation == "RAS"
    assert np.shares_memory(array, volume.array)
    np.testing.assert_array_equal(axes.undo(array), volume.array)
    np.testing.assert_array_equal(axes.undo(axes.apply(np.stack([volume.array] * 2))), np.stack([volume.array] * 2))
    # A voxel keeps its value and its place in the patient.
    z, y, x = np.argwhere(array == 123)[0]
    k, j, i = np.argwhere(volume.array == 123)[0]
    np.testing.assert_allclose(grid.affine @ [x, y, z, 1], volume.grid.affine @ [i, j, k, 1], atol=1e-9)
    # nibabel comes to the same order.
    wanted = nib.as_closest_canonical(nib.load(tmp_path / "in.nii"))
    np.testing.assert_array_equal(array.T, np.asanyarray(wanted.dataobj))
    np.testing.assert_allclose(grid.affine, wanted.affine, atol=1e-9)


def test_grid_says_where_and_how() -> None:
    grid = Grid((5, 6, 7), AFFINES["negative strides"])
    assert grid.orientation == "LPS"
    assert grid.spacing_ZYX_mm == pytest.approx((2.5, 0.9, 0.8), abs=1e-6)
    moved = grid.affine.copy()
    moved[:3, 3] += (0.3, 0, 0.4)
    assert grid.offset_mm(Grid(grid.shape_ZYX, moved)) == pytest.approx(0.5)
    assert not grid.same_as(Grid(grid.shape_ZYX, moved))
    assert grid.same_as(Grid(grid.shape_ZYX, moved), tolerance_mm=0.51)
    assert not grid.same_as(Grid((5, 6, 8), grid.affine))
    sheared = AFFINES["straight"].copy()
    sheared[0, 1] = 0.9 * np.tan(np.radians(30))
    assert Grid((5, 6, 7), sheared).skew == pytest.approx(0.5, abs=1e-6)
    assert Grid((5, 6, 7), AFFINES["oblique"]).skew < 1e-6


def test_scaled_values_are_float32(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", AFFINES["straight"])
    image = nib.load(path)
    image.header.set_slope_inter(0.5, -1024)
    raw = path.read_bytes()
    (tmp_path / "b.nii").write_bytes(image.header.binaryblock + raw[348:])
    array = images.read(tmp_path / "b.nii").array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, voxels().T * np.float32(0.5) - 1024)


@pytest.mark.parametrize(
    ("stored", "read"), [("<f8", "f4"), (">i2", "i2"), ("<u2", "u2"), ("<f4", "f4"), ("<i4", "i4")]
)
def test_types(tmp_path: Path, stored: str, read: str) -> None:
    kind = nib.Nifti1Header(endianness=stored[0])
    image = nib.Nifti1Image(voxels().astype(stored), AFFINES["straight"], kind, dtype=np.dtype(stored[1:]))
    nib.save(image, tmp_path / "a.nii.gz")
    volume = images.read(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.dtype(read)
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, voxels().T)
    images.write(tmp_path / "b.nii", volume.array, volume)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "b.nii").dataobj), voxels())


def test_nifti2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(voxels(), AFFINES["oblique"]), tmp_path / "a.nii.gz")
    volume = images.read(tmp_path / "a.nii.gz")
    images.write(tmp_path / "b.nii.gz", volume.array, volume)
    assert isinstance(nib.load(tmp_path / "b.nii.gz"), nib.Nifti2Image)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").affine, nib.load(tmp_path / "a.nii.gz").affine)


@pytest.mark.parametrize(("shape", "wanted"), [
    ((7, 6, 5, 1), (5, 6, 7)),
    ((7, 6, 5, 3), (3, 5, 6, 7)),
    ((7, 6, 5, 1, 3), (3, 5, 6, 7)),
    ((7, 6, 1, 2), (2, 1, 6, 7)),
    ((7, 6), (1, 6, 7)),
])  # fmt: skip
def test_channels_come_first_and_single_axes_go(
    tmp_path: Path, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(array, AFFINES["straight"]), tmp_path / "a.nii")
    volume = images.read(tmp_path / "a.nii")
    assert volume.array.shape == wanted
    np.testing.assert_array_equal(volume.array.reshape(-1), array.T.reshape(-1))
    grid, channels = images.read_grid(tmp_path / "a.nii")
    assert (grid.shape_ZYX, channels) == (wanted[-3:], wanted[0] if len(wanted) == 4 else 1)
    assert volume.num_channels == channels


def test_channels_of_every_format_survive(tmp_path: Path) -> None:
    array = np.arange(2 * 5 * 6 * 7, dtype=np.float32).reshape(2, 5, 6, 7)
    like = Volume(array, Grid((5, 6, 7), AFFINES["oblique"]), tmp_path / "none", None)
    for ending in images.SUFFIXES:
        images.write(tmp_path / f"a{ending}", array, like)
        again = images.read(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(again.array, array)
        assert images.read_grid(tmp_path / f"a{ending}")[1] == 2
        np.testing.assert_allclose(again.grid.affine, like.grid.affine, atol=1e-5)


def test_h5_axes_are_x_y_z(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = voxels(np.float64)
        file["label"] = voxels(np.uint8)
        file["flat"] = np.zeros(3)
    volume = images.read(tmp_path / "a.h5#image", spacing_mm=(0.5, 0.6, 2.0))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, voxels().T)
    assert volume.grid.spacing_ZYX_mm == (2.0, 0.6, 0.5)
    assert images.read(tmp_path / "a.h5#label").grid.spacing_ZYX_mm == (1.0, 1.0, 1.0)
    assert images.read_grid(tmp_path / "a.h5#label")[0].shape_ZYX == (5, 6, 7)
    with pytest.raises(UserError, match=r"a\.h5#labels: expected .*found data sets flat, image, label"):
        images.read(tmp_path / "a.h5#labels")
    with pytest.raises(UserError, match=r"no such file"):
        images.read(tmp_path / "b.h5#image")
    (tmp_path / "c.h5").write_bytes(b"not hdf5")
    with pytest.raises(UserError, match=r"c\.h5: not a complete HDF5 file"):
        images.read(tmp_path / "c.h5#image")


def test_content_hash_sees_voxels_only(tmp_path: Path) -> None:
    volume = images.read(nifti(tmp_path / "a.nii.gz", AFFINES["oblique"]))
    images.write(tmp_path / "b.mha", volume.array, volume)
    images.write(tmp_path / "c.nii", volume.array.astype(np.float32), volume)
    wanted = images.content_hash(tmp_path / "a.nii.gz")
    assert images.content_hash(tmp_path / "b.mha") == wanted
    assert images.content_hash(tmp_path / "c.nii") == wanted
    assert images.content_hash(volume._replace(array=volume.array[None])) == wanted
    other = volume.array.copy()
    other[2, 3, 4] += 1
    assert images.content_hash(volume._replace(array=other)) != wanted
    assert images.content_hash(volume._replace(array=volume.array.reshape(6, 5, 7))) != wanted


def test_broken_files_are_named_in_one_line(tmp_path: Path) -> None:
    good = nifti(
        tmp_path / "a.nii.gz",
        AFFINES["straight"],
        array=np.random.default_rng(0).integers(0, 999, (40, 40, 40)).astype(np.int16),
    )
    whole = good.read_bytes()
    cases = {
        "cut.nii.gz": whole[: len(whole) // 2],
        "crc.nii.gz": whole[:-8] + bytes(8),
        "text.nii.gz": gzip.compress(b"hello" * 100),
        "cut.nii": gzip.decompress(whole)[:-5],
        "head.nii": gzip.decompress(whole)[:200],
        "empty.nii": b"",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            UserError, match=rf"{name}: not a complete NIfTI file .*; copy or download it again"
        ) as told:
            images.read(tmp_path / name)
        assert "\n" not in str(told.value)
    (tmp_path / "cut.mha").write_bytes(b"ObjectType = Image\nNDims = 3\n")
    with pytest.raises(UserError, match=r"cut\.mha: not a complete image"):
        images.read(tmp_path / "cut.mha")
    for name in ("no.nii.gz", "no.mha", "no", "no.h5#image"):
        with pytest.raises(UserError, match=r"no such file"):
            images.read(tmp_path / name)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"unknown kind of image; expected \.nii\.gz"):
        images.read(tmp_path / "a.txt")
    nib.save(nib.Nifti1Image(voxels(np.complex64), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(UserError, match=r"complex64"):
        images.read(tmp_path / "c.nii")


def test_flat_affine_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    image.header["qform_code"] = 0
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + bytes(4) + voxels().T.tobytes())
    with pytest.raises(UserError, match=r"a\.nii: the header's orientation has no volume"):
        images.read(tmp_path / "a.nii")


def test_write_refuses_what_does_not_fit(tmp_path: Path) -> None:
    volume = images.read(nifti(tmp_path / "a.nii", AFFINES["straight"]))
    with pytest.raises(ValueError, match=r"does not fit the grid \(5, 6, 7\)"):
        images.write(tmp_path / "b.nii", volume.array[1:], volume)
    with pytest.raises(UserError, match=r"b\.png: cannot write"):
        images.write(tmp_path / "b.png", volume.array, volume)
    images.write(tmp_path / "new" / "b.nii", volume.array.astype(np.int64), volume)
    assert nib.load(tmp_path / "new" / "b.nii").get_data_dtype() == np.int32


def test_stem_and_suffix() -> None:
    assert images.stem("x/a.b.NII.GZ") == "a.b"
    assert images.suffix("a.NII.GZ") == ".NII.GZ"
    assert (images.stem("a.txt"), images.suffix("a.txt")) == ("a.txt", "")

"""Labels become codes: overlaps, ignored voxels, unions, and what is refused."""

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.data.labels import LabelMap, read_image, read_labels
from gleanseg.data.manifest import Case, Channel, Manifest
from gleanseg.errors import UserError

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (6, 5, 4)  # x, y, z


def save(path: Path, array: NDArray[Any], *, affine: NDArray[np.float64] = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path.name


def manifest(tmp_path: Path, rois: tuple[str, ...], *, channels: int = 1, **case: Any) -> Manifest:
    if not (tmp_path / "i.nii").exists():
        save(tmp_path / "i.nii", np.arange(120, dtype=np.int16).reshape(SHAPE))
    return Manifest(
        name="m",
        rois=rois,
        channels=tuple(Channel(name=f"c{i}", modality="MR") for i in range(channels)),
        cases=(Case(**{"id": "c", "images": ("i.nii",), **case}),),
        root=tmp_path,
    )


def read(m: Manifest) -> LabelMap:
    labels = read_labels(m, m.cases[0])
    assert labels is not None
    return labels


def blocks(**parts: slice) -> dict[str, NDArray[np.uint8]]:
    """Masks that are full along y and z and cover the given x."""
    made = {}
    for roi, part in parts.items():
        made[roi] = np.zeros(SHAPE, np.uint8)
        made[roi][part] = 1
    return made


def test_a_label_map_with_nested_rois(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[1:4], array[3, 2:4, 1] = 1, 2
    m = manifest(
        tmp_path,
        ("spleen", "liver", "liver_tumor"),
        labels=save(tmp_path / "l.nii", array),
        values={1: ("liver",), 2: ("liver", "liver_tumor"), 7: ("liver", "liver_tumor")},
        annotated=("liver", "liver_tumor"),
    )
    found = read(m)
    np.testing.assert_array_equal(found.table, [[0, 0, 0], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(found.codes, array.T)
    assert found.codes.dtype == np.uint8
    assert found.valid is None
    assert found.grid.shape_ZYX == (4, 5, 6)
    np.testing.assert_array_equal(found.mask(1), array.T > 0)
    np.testing.assert_array_equal(found.mask(2), array.T == 2)


def test_values_with_the_same_rois_share_a_code_and_others_are_dropped(tmp_path: Path) -> None:
    array = np.arange(120).reshape(SHAPE).astype(np.int16) % 5 * 100 - 100
    m = manifest(
        tmp_path,
        ("liver", "spleen"),
        labels=save(tmp_path / "l.nii", array),
        values={-100: (), 100: ("liver",), 200: ("spleen",), 300: ("liver",)},
        annotated=("liver",),
    )
    found = read(m)
    # The spleen is not annotated: nothing of it is told.
    np.testing.assert_array_equal(found.table, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(found.codes, np.isin(array.T, (100, 300)))


def test_values_far_apart(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.int32)
    array[0], array[1] = 2_000_000_000, -2_000_000_000
    m = manifest(
        tmp_path,
        ("liver", "spleen"),
        labels=save(tmp_path / "l.nii", array),
        values={2_000_000_000: ("liver",), -2_000_000_000: ("spleen",)},
        annotated=("liver", "spleen"),
    )
    found = read(m)
    np.testing.assert_array_equal(found.mask(0), array.T > 0)
    np.testing.assert_array_equal(found.mask(1), array.T < 0)


def test_floats_that_are_whole_are_labels(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[2:] = 1.0
    m = manifest(
        tmp_path, ("liver",), labels=save(tmp_path / "l.nii", array), values={1: ("liver",)}, annotated=("liver",)
    )
    assert read(m).mask(0).sum() == 80
    array[0, 0, 0] = 0.5
    save(tmp_path / "l.nii", array)
    with pytest.raises(UserError, match=r"case 'c': .*l\.nii: holds values that are not whole numbers"):
        read(m)


def test_ignored_voxels_are_not_valid(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[:2], array[4:] = 1, 255
    m = manifest(
        tmp_path,
        ("liver",),
        labels=save(tmp_path / "l.nii", array),
        values={1: ("liver",)},
        annotated=("liver",),
        ignore=255,
    )
    found = read(m)
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, array.T != 255)
    np.testing.assert_array_equal(found.codes, array.T == 1)
    save(tmp_path / "l.nii", array % 255)
    assert read(m).valid is None


def test_masks_may_overlap(tmp_path: Path) -> None:
    masks = blocks(liver=slice(0, 4), liver_tumor=slice(2, 3), spleen=slice(3, 5))
    masks["liver"] *= 200  # any value above 0 is foreground
    files = {roi: save(tmp_path / f"{roi}.nii", array) for roi, array in masks.items()}
    m = manifest(
        tmp_path, ("spleen", "liver_tumor", "liver"), labels=files, annotated=("liver", "liver_tumor", "spleen")
    )
    found = read(m)
    for index, roi in enumerate(m.rois):
        np.testing.assert_array_equal(found.mask(index), masks[roi].T > 0, err_msg=roi)
    sets = {tuple(np.array(m.rois)[row]) for row in found.table}
    assert sets == {(), ("liver",), ("liver_tumor", "liver"), ("spleen", "liver"), ("spleen",)}
    assert not found.table[0].any()


def test_masks_with_ignored_voxels(tmp_path: Path) -> None:
    masks = blocks(liver=slice(0, 2), spleen=slice(3, 5))
    masks["liver"][4] = 9
    files = {roi: save(tmp_path / f"{roi}.nii", array) for roi, array in masks.items()}
    found = read(manifest(tmp_path, ("liver", "spleen"), labels=files, annotated=("liver", "spleen"), ignore=9))
    assert found.valid is not None
    assert not found.valid[:, :, 4].any()
    assert found.valid.sum() == 100
    assert found.mask(0).sum() == 40
    assert found.mask(1).sum() == 20  # the plane under the ignored voxels is not told


def test_many_sets_need_16_bits(tmp_path: Path) -> None:
    """Nine masks in all combinations are 512 sets."""
    shape = (8, 8, 8)
    numbers = np.arange(512).reshape(shape)
    save(tmp_path / "i.nii", np.zeros(shape, np.int16))
    rois = ("spleen", "liver", "stomach", "aorta", "pancreas", "duodenum", "colon", "brain", "heart")
    files = {roi: save(tmp_path / f"{roi}.nii", (numbers >> bit & 1).astype(np.uint8)) for bit, roi in enumerate(rois)}
    found = read(manifest(tmp_path, rois, labels=files, annotated=rois))
    assert found.codes.dtype == np.uint16
    assert len(found.table) == 512
    for bit in range(9):
        np.testing.assert_array_equal(found.mask(bit), (numbers.T >> bit & 1) > 0)


@pytest.mark.parametrize("absent", [False, True])
def test_a_union_gets_its_members_voxels(tmp_path: Path, absent: bool) -> None:
    masks = blocks(kidney_left=slice(0, 2)) if absent else blocks(kidney_left=slice(0, 2), kidney_right=slice(4, 6))
    files = {roi: save(tmp_path / f"{roi}.nii", array) for roi, array in masks.items()}
    m = manifest(
        tmp_path,
        ("kidneys", "kidney_left", "kidney_right"),
        labels=files,
        annotated=tuple(masks),
        absent=("kidney_right",) if absent else (),
    )
    found = read(m)
    np.testing.assert_array_equal(found.mask(0), sum(masks.values()).T > 0)


def test_an_incomplete_union_is_not_told(tmp_path: Path) -> None:
    files = {"kidney_left": save(tmp_path / "l.nii", blocks(a=slice(0, 2))["a"])}
    found = read(manifest(tmp_path, ("kidneys", "kidney_left"), labels=files, annotated=("kidney_left",)))
    np.testing.assert_array_equal(found.table, [[False, False], [False, True]])


def test_no_labels(tmp_path: Path) -> None:
    m = manifest(tmp_path, ("liver",), absent=("liver",))
    assert read_labels(m, m.cases[0]) is None


def shifted(mm: float) -> NDArray[np.float64]:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("array", "affine", "said"),
    [
        (
            np.full(SHAPE, 8, np.uint8),
            AFFINE,
            r"holds undeclared label value 8 \(120 voxels\); declared are 0, 1; add it",
        ),
        (
            np.ones((6, 5, 3), np.uint8),
            AFFINE,
            r"l\.nii: shape \(6, 5, 3\) \(x, y, z\) differs from \(6, 5, 4\) of .*i\.nii",
        ),
        (np.ones(SHAPE, np.uint8), np.diag([-1.0, 1, 2, 1]), r"lies up to 10 mm \(LAS against RAS\) from .*i\.nii"),
        (np.ones(SHAPE, np.uint8), shifted(0.2), r"lies up to 0\.2 mm"),
        (np.ones((*SHAPE, 2), np.uint8), AFFINE, r"holds 2 channels, expected one label map"),
        (None, AFFINE, r"l\.nii: no such file"),
    ],
)
def test_labels_that_do_not_fit(
    tmp_path: Path, array: NDArray[Any] | None, affine: NDArray[np.float64], said: str
) -> None:
    if array is not None:
        save(tmp_path / "l.nii", array, affine=affine)
    m = manifest(tmp_path, ("liver",), labels="l.nii", values={1: ("liver",)}, annotated=("liver",))
    with pytest.raises(UserError, match=said) as told:
        read(m)
    assert str(told.value).startswith("case 'c': ")
    assert "\n" not in str(told.value)


def test_rounding_of_headers_is_forgiven(tmp_path: Path) -> None:
    save(tmp_path / "l.nii", np.ones(SHAPE, np.uint8), affine=shifted(0.05))
    m = manifest(tmp_path, ("liver",), labels="l.nii", values={1: ("liver",)}, annotated=("liver",))
    assert read(m).mask(0).all()


def test_channels_come_from_files_or_from_one_4d_file(tmp_path: Path) -> None:
    array = np.arange(240, dtype=np.int16).reshape(*SHAPE, 2)
    names = (save(tmp_path / "a.nii", array[..., 0]), save(tmp_path / "b.nii", array[..., 1]))
    apart = manifest(tmp_path, ("liver",), channels=2, images=names)
    joined = manifest(tmp_path, ("liver",), channels=2, images=(save(tmp_path / "ab.nii", array),))
    for m in (apart, joined):
        volume = read_image(m, m.cases[0])
        assert volume.array.dtype == np.float32
        assert volume.array.flags.c_contiguous
        np.testing.assert_array_equal(volume.array, array.T)
    single = manifest(tmp_path, ("liver",), images=("ab.nii",))
    with pytest.raises(UserError, match=r"case 'c': .*ab\.nii: holds 2 channels, expected 1 \(c0\)"):
        read_image(single, single.cases[0])
    save(tmp_path / "b.nii", array[..., 1], affine=shifted(3))
    with pytest.raises(UserError, match=r"case 'c': .*b\.nii: lies up to 3 mm \(RAS against RAS\) from .*a\.nii"):
        read_image(apart, apart.cases[0])


def test_h5_cases_use_the_given_spacing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["image"], file["label"] = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.uint8)
    m = manifest(
        tmp_path,
        ("left_atrium",),
        images=("c.h5#image",),
        labels="c.h5#label",
        spacing_mm=(0.5, 0.6, 0.7),
        values={1: ("left_atrium",)},
        annotated=("left_atrium",),
    )
    assert read_image(m, m.cases[0]).grid.spacing_ZYX_mm == (0.7, 0.6, 0.5)
    found = read(m)
    assert found.grid.spacing_ZYX_mm == (0.7, 0.6, 0.5)
    np.testing.assert_array_equal(found.table[found.codes[0, 0, 0]], [True])


def test_real_masks_equal_the_multi_label_file(shared_data: Path) -> None:
    folder = shared_data / "ct_example"
    rois = tuple(sorted(f.name.removesuffix(".nii.gz") for f in (folder / "s0001" / "segmentations").iterdir()))
    m = Manifest(
        name="m",
        rois=rois,
        channels=(Channel(name="ct", modality="CT"),),
        root=folder,
        cases=(
            Case(
                id="c",
                images=("s0001/ct.nii.gz",),
                annotated=rois,
                labels={r: f"s0001/segmentations/{r}.nii.gz" for r in rois},
            ),
        ),
    )
    found = read(m)
    values = np.asanyarray(nib.load(folder / "s0001_multilabel.nii.gz").dataobj).T
    for value, roi in m.ontology().scheme("totalsegmentator-v2").items():
        np.testing.assert_array_equal(found.mask(rois.index(roi)), values == value, err_msg=roi)

"""The Left Atrium benchmark."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by

from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.sources.la import Options, notes, to_manifest
from gleanseg.data.sources.published import published
from gleanseg.errors import UserError


def dataset(root: Path, *, file: str = "mri_norm2.h5") -> Path:
    for id in ("C", "A", "B", "T"):
        folder = root / "2018LA_Seg_Training Set" / id
        folder.mkdir(parents=True)
        if file.endswith(".h5"):
            with h5py.File(folder / file, "w") as made:
                made["image"], made["label"] = np.ones((4, 3, 2), np.float32), np.zeros((4, 3, 2), np.uint8)
        else:
            (folder / file).touch()
            (folder / "laendo.nrrd").touch()
    return root


def write_nrrd(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A case of the challenge: image and label (0, 255), Z Y X."""
    folder.mkdir(parents=True)
    image = np.arange(2 * 6 * 7, dtype=np.uint8).reshape(2, 6, 7)
    label = np.where((image > 30) & (image < 40), 255, 0).astype(np.uint8)
    for name, array in (("lgemri", image), ("laendo", label)):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((0.625, 0.625, 0.625))
        sitk.WriteImage(volume, str(folder / f"{name}.nrrd"))
    return image, label


def test_lists_give_order_and_split(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    (root / "train.list").write_text("C\nA\n\nB\n")
    (root / "test.list").write_text("T\n")
    manifest = to_manifest(root, Options())
    assert [(c.id, c.split) for c in manifest.cases] == [("C", "train"), ("A", "train"), ("B", "train"), ("T", "test")]
    case = manifest.cases[0]
    assert case.images == ("2018LA_Seg_Training Set/C/mri_norm2.h5#image",)
    assert case.labels == "2018LA_Seg_Training Set/C/mri_norm2.h5#label"
    assert case.values == {1: ("left_atrium",)}
    assert read_image(manifest, case).grid.spacing_ZYX_mm == (0.625, 0.625, 0.625)
    labels = read_labels(manifest, case)
    assert labels is not None
    assert labels.codes.shape == (2, 3, 4)
    # The lists are found from the folder of the cases too, and validation cases may be drawn from the training list.
    drawn = to_manifest(root / "2018LA_Seg_Training Set", Options(split="rest/1/0"))
    assert [c.split for c in drawn.cases].count("validation") == 1
    assert drawn.cases[3].split == "test"


def test_without_lists_all_train(tmp_path: Path) -> None:
    manifest = to_manifest(dataset(tmp_path), Options(spacing=(1.0, 1.0, 2.0), name="atria"))
    assert [(c.id, c.site, c.split) for c in manifest.cases][:2] == [("A", "atria", "train"), ("B", "atria", "train")]
    assert manifest.cases[0].spacing_mm == (1.0, 1.0, 2.0)


def test_the_original_nrrd_files(tmp_path: Path) -> None:
    case = to_manifest(dataset(tmp_path, file="lgemri.nrrd"), Options()).cases[0]
    assert case.images == ("2018LA_Seg_Training Set/A/lgemri.nrrd",)
    assert case.labels == "2018LA_Seg_Training Set/A/laendo.nrrd"
    assert case.values == {255: ("left_atrium",)}
    assert case.spacing_mm is None


def test_the_published_split_stands_in_for_lists(tmp_path: Path) -> None:
    ids = published("la")
    for id in (ids["test"][1], ids["train"][2], ids["train"][0], "NOT_LISTED"):
        write_nrrd(tmp_path / "Training Set" / id)
    manifest = to_manifest(tmp_path, Options())
    assert [(c.id, c.split) for c in manifest.cases] == [
        (ids["train"][0], "train"), (ids["train"][2], "train"), (ids["test"][1], "test"),
    ]  # fmt: skip
    missing, others, verdict = notes(manifest)
    assert missing.startswith(f"78 of the 80 published train cases missing: {ids['train'][1]}, ")
    assert missing.endswith(" and 68 more")
    assert others.startswith("19 of the 20 published test cases missing")
    assert "not the published benchmark" in verdict


def test_the_challenges_label_255_becomes_the_atrium(tmp_path: Path) -> None:
    image, label = write_nrrd(tmp_path / "A")
    manifest = to_manifest(tmp_path, Options())
    case = manifest.cases[0]
    np.testing.assert_array_equal(read_image(manifest, case).array[0], image)
    labels = read_labels(manifest, case)
    assert labels is not None
    np.testing.assert_array_equal(labels.mask(manifest.rois.index("left_atrium")), label == 255)
    (tmp_path / "A" / "laendo.nrrd").unlink()
    with pytest.raises(UserError, match=r"holds lgemri\.nrrd but no laendo\.nrrd"):
        to_manifest(tmp_path, Options())


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no CASE/mri_norm2\.h5"):
        to_manifest(tmp_path, Options())
    root = dataset(tmp_path)
    (root / "train.list").write_text("A\nX\n")
    with pytest.raises(UserError, match=r"train\.list: lists case 'X', which has no folder"):
        to_manifest(root, Options())
    (root / "train.list").write_text("A\nT\n")
    (root / "test.list").write_text("T\n")
    with pytest.raises(UserError, match=r"case 'T' stands in train\.list and in test\.list"):
        to_manifest(root, Options())


def test_real_files(shared_data: Path) -> None:
    manifest = to_manifest(shared_data / "LA_h5", Options())
    assert manifest.cases[0].id == "06SR5RBREL16DQ6M8LWS"
    volume, labels = read_image(manifest, manifest.cases[0]), read_labels(manifest, manifest.cases[0])
    assert labels is not None
    assert volume.array.shape[1:] == labels.codes.shape
    assert labels.codes.shape[0] == 88  # slices of the scanner: the h5 arrays are x, y, z

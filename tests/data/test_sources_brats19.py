"""BraTS 2019 in the challenge's folders and as h5 files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.sources.brats19 import Options, notes, to_manifest
from gleanseg.data.sources.published import published
from gleanseg.errors import UserError
from support.volumes import save

IDS = published("brats19")
TRAIN, VALIDATION, TEST = IDS["train"][0], IDS["validation"][0], IDS["test"][0]
SEG = np.array([0, 1, 2, 4, 0, 2], dtype=np.uint8).reshape(1, 2, 3)
MODALITIES = ("flair", "t1", "t1ce", "t2")


def dataset(root: Path) -> Path:
    for grade, id in (("LGG", TEST), ("HGG", VALIDATION), ("HGG", TRAIN)):
        folder = root / "MICCAI_BraTS_2019_Data_Training" / grade / id
        for number, name in enumerate(MODALITIES):
            save(folder / f"{id}_{name}.nii.gz", np.full(SEG.shape, number, np.int16))
        save(folder / f"{id}_seg.nii.gz", SEG)
    return root


def masks(root: Path, options: Options) -> dict[str, list[int]]:
    """ROI -> values of the segmentation that it covers."""
    manifest = to_manifest(root, options)
    labels = read_labels(manifest, manifest.cases[0])
    assert labels is not None
    return {roi: sorted(set(SEG[labels.mask(r)].tolist())) for r, roi in enumerate(manifest.rois)}


@pytest.mark.parametrize("inner", ["", "MICCAI_BraTS_2019_Data_Training"])
def test_the_literatures_default(tmp_path: Path, inner: str) -> None:
    manifest = to_manifest(dataset(tmp_path) / inner, Options())
    found = [(c.id, c.split, c.site) for c in manifest.cases]
    assert found == [
        (TRAIN, "train", "brats19"), (VALIDATION, "validation", "brats19"), (TEST, "test", "brats19"),
    ]  # fmt: skip
    assert [(c.name, c.modality) for c in manifest.channels] == [("flair", "MR")]
    assert masks(tmp_path / inner, Options()) == {"brain_tumor_whole": [1, 2, 4]}
    assert "249 of the 250 published train cases missing" in notes(manifest)[0]


def test_regions_nest_and_channels_keep_their_order(tmp_path: Path) -> None:
    options = Options(channels=("t1ce", "flair"), regions=("whole", "core", "enhancing"))
    manifest = to_manifest(dataset(tmp_path), options)
    assert read_image(manifest, manifest.cases[0]).array[:, 0, 0, 0].tolist() == [2, 0]
    assert masks(tmp_path, options) == {
        "brain_tumor_whole": [1, 2, 4], "brain_tumor_core": [1, 4], "brain_tumor_enhancing": [4],
    }  # fmt: skip
    assert masks(tmp_path, Options(regions=("core",))) == {"brain_tumor_core": [1, 4]}


def test_h5_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for id in (TEST, TRAIN):
        with h5py.File(tmp_path / "data" / f"{id}.h5", "w") as made:
            made["image"], made["label"] = np.ones((4, 3, 2), np.float32), np.ones((4, 3, 2), np.uint8)
    manifest = to_manifest(tmp_path, Options())
    assert [(c.id, c.split) for c in manifest.cases] == [(TRAIN, "train"), (TEST, "test")]
    assert manifest.cases[0].images == (f"data/{TRAIN}.h5#image",)
    assert read_labels(manifest, manifest.cases[0]) is not None
    with pytest.raises(UserError, match="hold FLAIR and the whole tumor only"):
        to_manifest(tmp_path, Options(channels=("t1",)))
    (tmp_path / "train.txt").write_text(f"{TEST}\n")
    (tmp_path / "val.txt").write_text(f"{TRAIN}\n")
    assert [(c.id, c.split) for c in to_manifest(tmp_path, Options()).cases] == [(TEST, "train"), (TRAIN, "validation")]


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no HGG/CASE or LGG/CASE folder and no data/CASE"):
        to_manifest(tmp_path, Options())
    root = dataset(tmp_path)
    with pytest.raises(UserError, match="need at least one name each"):
        to_manifest(root, Options(regions=()))
    (root / "MICCAI_BraTS_2019_Data_Training" / "HGG" / TRAIN / f"{TRAIN}_seg.nii.gz").unlink()
    with pytest.raises(UserError, match=rf"holds no {TRAIN}_seg\.nii\.gz; download it"):
        to_manifest(root, Options())

"""LiTS in the challenge's layout and under the Decathlon's names."""

from pathlib import Path

import pytest

from gleanseg.data.sources.lits import Options, to_manifest
from gleanseg.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_batches_of_the_challenge(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "Training Batch 1/volume-2.nii", "Training Batch 1/segmentation-2.nii",
        "Training Batch 2/volume-10.nii", "labels/segmentation-10.nii.gz", "Training Batch 2/._volume-10.nii",
        "Test/test-volume-0.nii", "readme.txt",
    )  # fmt: skip
    manifest = to_manifest(root, Options())
    assert manifest.rois == ("liver", "liver_tumor")
    assert [(c.name, c.modality) for c in manifest.channels] == [("ct", "CT")]
    assert [(c.id, c.site, c.split, c.images, c.labels) for c in manifest.cases] == [
        ("liver_2", "lits", "train", ("Training Batch 1/volume-2.nii",), "Training Batch 1/segmentation-2.nii"),
        ("liver_10", "lits", "train", ("Training Batch 2/volume-10.nii",), "labels/segmentation-10.nii.gz"),
        ("liver_test_0", "lits", "test", ("Test/test-volume-0.nii",), None),
    ]
    assert {v: set(r) for v, r in manifest.cases[0].values.items()} == {1: {"liver"}, 2: {"liver", "liver_tumor"}}
    assert manifest.cases[0].annotated == ("liver", "liver_tumor")
    assert len(to_manifest(root, Options(images_ts="skip")).cases) == 2


def test_names_of_the_decathlon_give_the_same_ids(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"{d}/liver_{n}.nii.gz" for d in ("imagesTr", "labelsTr") for n in (10, 2)))
    touch(tmp_path, "imagesTr/._liver_2.nii.gz", "imagesTs/liver_131.nii.gz")
    manifest = to_manifest(root, Options(split="1/1/0", images_ts="train"))
    assert [(c.id, c.labels) for c in manifest.cases] == [
        ("liver_2", "labelsTr/liver_2.nii.gz"), ("liver_10", "labelsTr/liver_10.nii.gz"), ("liver_131", None),
    ]  # fmt: skip
    assert sorted(c.split for c in manifest.cases[:2]) == ["train", "validation"]
    assert manifest.cases[2].split == "train"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a/volume-1.nii",), r"a/volume-1\.nii has no segmentation-1\.nii"),
        (("a/segmentation-1.nii",), r"a/segmentation-1\.nii has no volume-1\.nii"),
        (("a/volume-1.nii", "b/volume-1.nii.gz"), r"a/volume-1\.nii and b/volume-1\.nii\.gz are one case"),
        (("imagesTr/lung_1.nii.gz",), r"found imagesTr/lung_1\.nii\.gz, expected imagesTr/liver_N"),
        (("imagesTr/liver_1.nii.gz",), r"imagesTr/liver_1\.nii\.gz has no labelsTr/liver_1\.nii\.gz"),
        (("x.nii",), "holds no volume-N"),
    ],
)
def test_what_is_no_such_layout(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        to_manifest(touch(tmp_path, *names), Options())
    assert "\n" not in str(told.value)

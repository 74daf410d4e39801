"""Folders whose files belong together by name."""

from pathlib import Path
from typing import Any

import pytest

from gleanseg.data.sources.folder import Options, to_manifest
from gleanseg.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def imported(root: Path, **options: Any) -> Any:
    return to_manifest(root, Options(**{"modality": ("CT",)} | options))


def test_images_and_label_maps(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "My Set",
        "images/a.nii.gz",
        "images/b.mha",
        "images/._a.nii.gz",
        "images/notes.txt",
        "labels/a.nii.gz",
    )
    manifest = imported(root, labels=("1=liver", "2=liver tumor", "9="), ignore=255, absent=("spleen",))
    assert manifest.name == "my_set"
    assert manifest.rois == ("liver", "liver_tumor", "spleen")
    labelled, unlabelled = manifest.cases
    assert (labelled.id, labelled.images, labelled.labels) == ("a", ("images/a.nii.gz",), "labels/a.nii.gz")
    assert labelled.values == {1: ("liver",), 2: ("liver_tumor", "liver"), 9: ()}
    assert (labelled.ignore, labelled.absent) == (255, ("spleen",))
    assert (unlabelled.images, unlabelled.labels, unlabelled.annotated) == (("images/b.mha",), None, ())


def test_only_some_rois_are_annotated(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/a.nii", "labels/a.nii")
    manifest = imported(root, labels=("1=liver", "2=kidney_left+kidneys"), annotated=("left kidney",))
    assert manifest.cases[0].annotated == ("kidney_left",)
    assert manifest.rois == ("kidney_left",)
    assert manifest.cases[0].values == {1: (), 2: ("kidney_left",)}


def test_one_mask_per_roi(tmp_path: Path) -> None:
    root = touch(
        tmp_path, "images/a.nii", "images/b.nii", "masks/Left Kidney/a.nii", "masks/liver/a.nii", "masks/liver/b.nii"
    )
    manifest = imported(root, masks="masks")
    assert manifest.cases[0].labels == {"kidney_left": "masks/Left Kidney/a.nii", "liver": "masks/liver/a.nii"}
    assert manifest.cases[1].annotated == ("liver",)
    by_case = touch(tmp_path / "2", "a/ct.nii.gz", "a/seg/wart.nii.gz", "a/seg/liver.nii.gz", "b/ct.nii.gz")
    manifest = imported(by_case, images=("{case}/ct.nii.gz",), masks="{case}/seg/{roi}.nii.gz", own=True)
    assert manifest.cases[0].labels == {"liver": "a/seg/liver.nii.gz", "wart": "a/seg/wart.nii.gz"}
    assert "wart" in manifest.ontology()
    assert manifest.cases[1].labels is None


def test_patterns_channels_and_schemes(tmp_path: Path) -> None:
    names = [f"{c}/{c}_{f}.nii.gz" for c in ("p1", "p2") for f in ("flair", "t1ce", "seg")]
    manifest = imported(
        touch(tmp_path, *names, "p3.txt"),
        modality=("FLAIR", "T1c"),
        images=("{case}/{case}_flair.nii.gz", "{case}/{case}_t1ce.nii.gz"),
        masks="{case}/{case}_seg.nii.gz",
        labels=("brats",),
        also=("brain_tumor_whole",),
        split="rest/1/0",
    )
    assert [c.id for c in manifest.cases] == ["p1", "p2"]
    assert manifest.cases[0].images == ("p1/p1_flair.nii.gz", "p1/p1_t1ce.nii.gz")
    assert manifest.cases[0].values[2] == ("brain_tumor_edema", "brain_tumor_whole")
    assert [c.modality for c in manifest.channels] == ["MR", "MR"]
    assert sorted(c.split for c in manifest.cases) == ["train", "validation"]


def test_dicom_folders_and_h5(tmp_path: Path) -> None:
    root = touch(tmp_path, "images/p1/1.dcm", "images/p1/2.dcm", "images/.junk/1.dcm", "h5/x.h5")
    assert [(c.id, c.images) for c in imported(root, rois=("left kidney",)).cases] == [("p1", ("images/p1",))]
    manifest = imported(
        root,
        images=("h5/{case}.h5#image",),
        masks="h5/{case}.h5#label",
        labels=("1=pancreas",),
        spacing=(1.0, 1.0, 2.0),
    )
    assert manifest.cases[0].images == ("h5/x.h5#image",)
    assert manifest.cases[0].labels == "h5/x.h5#label"
    assert manifest.cases[0].spacing_mm == (1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ((), {}, "no image at 'images'"),
        (("images/a.nii",), {"images": ("images", "more"), "modality": ("CT", "MR")}, "no image at 'more'"),
        (("images/a.nii",), {"images": ("images", "images")}, "--modality names 1 channels, --images 2"),
        (
            ("images/a.nii", "t2/b.nii"),
            {"images": ("images", "t2"), "modality": ("T1", "T2")},
            "case 'a' has no file at every place",
        ),
        (("images/a.nii", "images/a.mha"), {}, "'images/a.mha' and 'images/a.nii' both belong to case 'a'"),
        (
            ("images/a.nii", "labels/b.nii"),
            {"labels": ("1=liver",)},
            "labels 'labels/b.nii' have no image of the same name",
        ),
        (("images/a.nii", "labels/a.nii"), {}, "say what the values of 'labels/a.nii' mean"),
        (("images/a.nii",), {"labels": ("1=liver",)}, "no labels at 'labels'"),
        (("images/a.nii",), {}, "no labels at 'labels'; say with --rois what the manifest is about"),
        (("images/a.nii",), {"masks": "seg"}, "seg: no such folder"),
        (
            ("images/a.nii", "labels/a.nii"),
            {"labels": ("liver=1", "2=spleen")},
            "--labels 'liver=1': expected VALUE=ROI",
        ),
        (("images/a.nii", "labels/a.nii"), {"labels": ("1=liver", "1=spleen")}, "value 1 is given twice"),
        (("images/a.nii", "labels/a.nii"), {"labels": ("1=livre",)}, "label 'livre'"),
        (
            ("images/a.nii", "labels/a.nii"),
            {"labels": ("totalsegmentor-v2",)},
            "no label scheme is called 'totalsegmentor-v2'",
        ),
        (
            ("images/a.nii", "labels/a.nii"),
            {"labels": ("1=liver",), "annotated": ("spleeen",)},
            "--annotated 'spleeen'",
        ),
    ],
)
def test_what_does_not_fit(tmp_path: Path, files: tuple[str, ...], options: dict[str, Any], said: str) -> None:
    (tmp_path / "images").mkdir()
    touch(tmp_path, *files)
    with pytest.raises(UserError) as told:
        imported(tmp_path, **options)
    assert said in str(told.value)
    assert "\n" not in str(told.value)

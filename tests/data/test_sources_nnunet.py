"""nnU-Net's raw layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from gleanseg.data.sources.nnunet import Options, to_manifest
from gleanseg.errors import UserError


def dataset(tmp_path: Path, *, ts: tuple[str, ...] = (), **change: Any) -> Path:
    root = tmp_path / "raw" / "Dataset220_KiTS"
    data = {
        "channel_names": {"0": "CT", "1": "T1 fat"},
        "labels": {"background": 0, "kidney": 1, "tumor": 2, "ignore": 3},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    } | change
    for part in ("imagesTr", "labelsTr", *(("imagesTs", "labelsTs") if ts else ())):
        (root / part).mkdir(parents=True)
    for part, ids in (("Tr", ("k_1", "k_2", "k_0000")), ("Ts", ts)):
        for id in ids:
            for channel in (0, 1):
                (root / f"images{part}" / f"{id}_{channel:04}.nii.gz").touch()
            if id != "t_1":
                (root / f"labels{part}" / f"{id}.nii.gz").touch()
    (root / "labelsTr" / "k_2.nii.gz").unlink()
    (root / "imagesTr" / "._k_1_0000.nii.gz").touch()
    (root / "dataset.json").write_text(json.dumps(data))
    return root


MAP = ("tumor=kidney_tumor",)


def test_channels_labels_and_the_ignore_value(tmp_path: Path) -> None:
    manifest = to_manifest(dataset(tmp_path, ts=("t_1", "t_2")), Options(map=MAP))
    assert manifest.name == "kits"
    assert [(c.name, c.modality) for c in manifest.channels] == [("ct", "CT"), ("t1_fat", "MR")]
    assert {c.id: (c.split, c.labels) for c in manifest.cases} == {
        "k_0000": ("train", "labelsTr/k_0000.nii.gz"),
        "k_1": ("train", "labelsTr/k_1.nii.gz"),
        "k_2": ("train", None),
        "t_1": ("test", None),
        "t_2": ("test", "labelsTs/t_2.nii.gz"),
    }
    case = manifest.case("k_1")
    assert case.images == ("imagesTr/k_1_0000.nii.gz", "imagesTr/k_1_0001.nii.gz")
    assert case.values == {1: ("kidneys",), 2: ("kidney_tumor", "kidneys")}
    assert case.ignore == 3
    assert manifest.case("k_2").ignore is None
    assert [
        c.split for c in to_manifest(tmp_path / "raw/Dataset220_KiTS", Options(map=MAP, images_ts="train")).cases
    ] == ["train"] * 5


def test_regions(tmp_path: Path) -> None:
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3], "ignore": 4}
    manifest = to_manifest(dataset(tmp_path, labels=labels, regions_class_order=[1, 2, 3]), Options())
    assert manifest.rois == ("brain_tumor_whole", "brain_tumor_core", "brain_tumor_enhancing")
    assert manifest.cases[0].values == {
        1: ("brain_tumor_whole",),
        2: ("brain_tumor_whole", "brain_tumor_core"),
        3: ("brain_tumor_whole", "brain_tumor_core", "brain_tumor_enhancing"),
    }
    assert manifest.cases[0].ignore == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"labels": {"background": 0, "liver": [1], "spleen": [1, 2]}},
            "'regions_class_order' is None, expected 2 values",
        ),
        ({"labels": {"background": 0, "liver": "1"}}, "label 'liver' is '1', expected a whole number"),
        ({"channel_names": {"0": "CT"}}, "case 'k_0000' has channels [0, 1], expected 0 to 0"),
        ({"file_ending": ".mha"}, "no case found"),
        ({"labels": {"background": 0, "tumor": 1}}, "label 'tumor'"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    root = dataset(tmp_path, **change)
    with pytest.raises(UserError) as told:
        to_manifest(root, Options(map=() if "labels" in change else MAP))
    assert said in str(told.value)


def write_splits(path: Path, folds: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(folds))
    return path


FOLDS = [{"train": ["k_1", "k_2"], "val": ["k_0000"]}, {"train": ["k_0000", "k_2"], "val": ["k_1"]}]


@pytest.mark.parametrize("place", ["raw/Dataset220_KiTS", "nnUNet_preprocessed/Dataset220_KiTS", "given", "env"])
def test_a_fold_of_splits_final(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = dataset(tmp_path)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    if place == "env":
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
        place = "pre/Dataset220_KiTS"
    path = write_splits(tmp_path / place / "splits_final.json", FOLDS)
    options = Options(map=MAP, fold=1, splits=path if place == "given" else None)
    assert {c.id: c.split for c in to_manifest(root, options).cases} == {
        "k_0000": "train",
        "k_1": "validation",
        "k_2": "train",
    }


@pytest.mark.parametrize(
    ("folds", "options", "said"),
    [
        (None, {}, "--fold needs splits_final.json, found none"),
        (FOLDS, {"fold": 2}, "holds folds 0 to 1, asked for 2"),
        (FOLDS, {"fold": -1}, "folds are counted from 0"),
        ([{"train": ["k_1"], "val": ["k_9"]}], {}, "fold 0 names case 'k_9' (validation), which has no image"),
        ([{"train": ["k_1", "k_2"], "val": ["k_1", "k_0000"]}], {}, "fold 0 has case 'k_1' in both lists"),
        ([{"train": ["k_1", "k_2"], "val": []}], {}, "fold 0 has case 'k_0000' in neither list"),
        ([{"train": ["k_1"]}], {}, "not a list of"),
        (FOLDS, {"split": "rest/1/0"}, "--fold and --split exclude each other"),
    ],
)
def test_folds_that_do_not_fit(tmp_path: Path, folds: object, options: dict[str, Any], said: str) -> None:
    root = dataset(tmp_path)
    if folds is not None:
        write_splits(root / "splits_final.json", folds)
    with pytest.raises(UserError) as told:
        to_manifest(root, Options(**{"map": MAP, "fold": 0} | options))
    assert said in str(told.value)


def test_files_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSPITAL", "/mnt/pacs")
    listed = {
        "p1": {"images": ["$HOSPITAL/p1/ct.nii.gz", "$HOSPITAL/p1/mr.nii.gz"], "label": "../labels/p1.nii.gz"},
        "p2": {"images": ["a.nii.gz", "b.nii.gz"]},
    }
    manifest = to_manifest(dataset(tmp_path, dataset=listed), Options(map=MAP))
    assert [c.id for c in manifest.cases] == ["p1", "p2"]
    assert manifest.cases[0].images == ("/mnt/pacs/p1/ct.nii.gz", "/mnt/pacs/p1/mr.nii.gz")
    assert manifest.cases[0].labels == "../labels/p1.nii.gz"
    assert manifest.cases[1].labels is None
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"'dataset' entry 'p' is not"):
        to_manifest(dataset(tmp_path / "b", dataset={"p": []}), Options(map=MAP))


def test_a_split_may_be_drawn(tmp_path: Path) -> None:
    cases = to_manifest(dataset(tmp_path), Options(map=MAP, split="1/1/1", seed=4)).cases
    assert sorted(c.split for c in cases) == ["test", "train", "validation"]

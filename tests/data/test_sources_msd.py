"""The Decathlon's layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from gleanseg.data.sources.msd import Options, to_manifest
from gleanseg.errors import UserError


def dataset(root: Path, **change: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    data = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [
            {"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"}
            for i in ("liver_1", "._liver_1", "liver_0")
        ],
        "test": ["./imagesTs/liver_9.nii.gz", {"image": "./imagesTs/._liver_9.nii.gz"}],
    } | change
    (root / "dataset.json").write_text(json.dumps(data))
    return root


def test_a_task_of_the_decathlon(tmp_path: Path) -> None:
    manifest = to_manifest(dataset(tmp_path / "Task03_Liver"), Options())
    assert manifest.name == "liver"
    assert manifest.rois == ("liver", "liver_tumor")
    assert [(c.name, c.modality) for c in manifest.channels] == [("ct", "CT")]
    assert [(c.id, c.site, c.split, c.images) for c in manifest.cases] == [
        ("liver_1", "liver", "train", ("imagesTr/liver_1.nii.gz",)),
        ("liver_0", "liver", "train", ("imagesTr/liver_0.nii.gz",)),
        ("liver_9", "liver", "test", ("imagesTs/liver_9.nii.gz",)),
    ]
    first, _, last = manifest.cases
    assert first.labels == "labelsTr/liver_1.nii.gz"
    assert first.values == {1: ("liver",), 2: ("liver_tumor", "liver")}
    assert first.annotated == ("liver", "liver_tumor")
    assert last.labels is None
    assert manifest.path(first.images[0]) == tmp_path / "Task03_Liver" / "imagesTr" / "liver_1.nii.gz"


def test_brain_tumors_have_four_channels_and_nested_regions(tmp_path: Path) -> None:
    root = dataset(
        tmp_path / "Task01_BrainTumour",
        name="BRATS",
        modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        labels={"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    )
    manifest = to_manifest(root, Options(also=("brain_tumor_whole", "brain_tumor_core"), images_ts="skip"))
    assert [c.name for c in manifest.channels] == ["flair", "t1w", "t1gd", "t2w"]
    assert {c.modality for c in manifest.channels} == {"MR"}
    assert {v: set(r) for v, r in manifest.cases[0].values.items()} == {
        1: {"brain_tumor_edema", "brain_tumor_whole"},
        2: {"brain_tumor_necrosis", "brain_tumor_core", "brain_tumor_whole"},
        3: {"brain_tumor_enhancing", "brain_tumor_core", "brain_tumor_whole"},
    }
    assert [c.split for c in manifest.cases] == ["train", "train"]


def test_other_data_sets_say_what_vague_names_mean(tmp_path: Path) -> None:
    root = dataset(tmp_path / "mine", name="mine")
    with pytest.raises(UserError, match=r"label 'cancer': .*used for several ROIs.*--map 'cancer'=ROI"):
        to_manifest(root, Options())
    manifest = to_manifest(root, Options(map=("cancer=lung_tumor",), name="My Lungs", images_ts="train"))
    assert manifest.rois == ("liver", "lung_tumor")
    assert {c.site for c in manifest.cases} == {"my_lungs"}
    assert [c.split for c in manifest.cases] == ["train"] * 3
    only = to_manifest(root, Options(map=("cancer=",), images_ts="skip"))
    assert only.rois == ("liver",)
    assert only.cases[0].values == {1: ("liver",), 2: ()}


def test_splits_are_drawn_among_labelled_cases(tmp_path: Path) -> None:
    training = [{"image": f"i/{i}.nii", "label": f"l/{i}.nii"} for i in range(10)]
    manifest = to_manifest(
        dataset(tmp_path / "Task03_Liver", training=training), Options(split="6/2/2", images_ts="train")
    )
    drawn = [c.split for c in manifest.cases[:10]]
    assert (drawn.count("train"), drawn.count("validation"), drawn.count("test")) == (6, 2, 2)
    assert manifest.cases[10].split == "train"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {"background": 0, "liver": 1}}, "which is nnU-Net's layout: use 'gleanseg import nnunet'"),
        ({"training": [3]}, "list entry 3 is neither a path nor"),
        ({"training": []}, "no case found"),
        ({"training": {}}, "'training' is a dict"),
        ({"labels": {"0": "background", "1": "livre"}}, "label 'livre': no ROI"),
    ],
)
def test_what_is_no_such_layout(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    root = dataset(tmp_path / "x", **{"test": []} | change)
    with pytest.raises(UserError) as told:
        to_manifest(root, Options())
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_a_folder_without_description(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json: no such file; the msd layout has it beside imagesTr"):
        to_manifest(tmp_path, Options())
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json: not readable as JSON"):
        to_manifest(tmp_path, Options())
    (tmp_path / "dataset.json").write_text('{"name": "x", "label": {}}')
    with pytest.raises(UserError, match=r"key 'labels' is missing; did you mean 'label'"):
        to_manifest(tmp_path, Options())


def test_real_hippocampus(shared_data: Path) -> None:
    manifest = to_manifest(shared_data / "Task04_Hippocampus", Options(split="160/20/20", also=("hippocampus",)))
    assert len(manifest.cases) == 200
    assert manifest.rois == ("hippocampus_anterior", "hippocampus_posterior", "hippocampus")
    assert manifest.cases[0].id == "hippocampus_001"
    assert all(manifest.path(c.images[0]).is_file() and manifest.path(str(c.labels)).is_file() for c in manifest.cases)
    half = to_manifest(shared_data / "LA_half", Options())
    assert half.rois == ("left_atrium",)
    assert [c.id for c in half.cases[:2]] == ["06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU"]

"""TotalSegmentator's layout."""

from pathlib import Path

import pytest

from gleanseg.data.sources.totalsegmentator import Options, to_manifest
from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin


def dataset(root: Path, **subjects: tuple[str, ...]) -> Path:
    for id, masks in subjects.items():
        (root / id / "segmentations").mkdir(parents=True)
        (root / id / "ct.nii.gz").touch()
        for mask in masks:
            (root / id / "segmentations" / f"{mask}.nii.gz").touch()
    (root / "notes").mkdir(exist_ok=True)
    return root


def test_a_missing_file_means_absent(tmp_path: Path) -> None:
    root = dataset(tmp_path, s0001=("liver", "kidney_left", "atrial_appendage_left"), s0002=())
    manifest = to_manifest(root, Options(also=("kidneys",)))
    assert len(manifest.rois) == 118  # the 117 of v2, told by the atrial appendage, and the union
    first, second = manifest.cases
    assert first.images == ("s0001/ct.nii.gz",)
    assert first.labels == {
        "atrial_appendage_left": "s0001/segmentations/atrial_appendage_left.nii.gz",
        "kidney_left": "s0001/segmentations/kidney_left.nii.gz",
        "liver": "s0001/segmentations/liver.nii.gz",
    }
    assert set(first.annotated) == {"atrial_appendage_left", "kidney_left", "liver", "kidneys"}
    states = manifest.states(first)
    assert [states[r].value for r in ("kidney_right", "kidneys", "spleen")] == ["absent", "annotated", "absent"]
    assert len(first.absent) + 3 == 117
    assert second.labels is None
    assert manifest.states(second)["kidneys"].value == "absent"


def test_versions(tmp_path: Path) -> None:
    root = dataset(tmp_path, s1=("liver", "face"), s2=("pulmonary_artery",))
    assert len(to_manifest(root, Options()).rois) == 104
    plain = dataset(tmp_path / "plain", s1=("liver",))
    with pytest.raises(UserError, match=r"structures fit v1 as well as v2; say which .* --version v1 or v2"):
        to_manifest(plain, Options())
    assert len(to_manifest(plain, Options(version="v1")).rois) == 104
    assert len(to_manifest(plain, Options(version="v2")).rois) == 117


def test_missing_may_mean_unknown_and_rois_may_be_chosen(tmp_path: Path) -> None:
    root = dataset(tmp_path, s1=("liver", "spleen"), s2=("liver",))
    manifest = to_manifest(root, Options(version="v2", missing="unknown", rois=("spleen", "liver")))
    assert manifest.rois == ("spleen", "liver")
    assert [c.annotated for c in manifest.cases] == [("spleen", "liver"), ("liver",)]
    assert [c.absent for c in manifest.cases] == [(), ()]
    with pytest.raises(UserError, match=r"--rois names 'liver_tumor', which is no structure"):
        to_manifest(root, Options(version="v2", rois=("liver_tumor",)))


def test_files_that_the_version_does_not_name(tmp_path: Path) -> None:
    root = dataset(tmp_path, s1=("liver", "liver_lesion_x"))
    with pytest.raises(UserError, match=r"label 'liver_lesion_x'"):
        to_manifest(root, Options(version="v2"))
    manifest = to_manifest(
        root, Options(version="v2", map=("liver_lesion_x=liver_tumor",), rois=("liver", "liver_tumor"))
    )
    assert manifest.cases[0].annotated == ("liver", "liver_tumor")
    left_out = to_manifest(root, Options(version="v2", map=("liver_lesion_x=",)))
    assert left_out.cases[0].annotated == ("liver",)


def test_meta_csv_gives_split_and_site(tmp_path: Path) -> None:
    root = dataset(tmp_path, s1=("face",), s2=("face",), s3=("face",))
    text = "\ufeffimage_id;age;institute;split\ns1;60;A;train\ns2;;B;val\ns3;50;;test\n"
    (root / "meta.csv").write_text(text, encoding="utf-8")
    cases = to_manifest(root, Options()).cases
    assert [(c.site, c.split) for c in cases] == [("a", "train"), ("b", "validation"), ("totalsegmentator", "test")]
    drawn = to_manifest(root, Options(split="0/0/3")).cases
    assert [c.split for c in drawn] == ["test"] * 3
    (root / "meta.csv").write_text("id,split\ns1,train\n")
    with pytest.raises(UserError, match=r"meta\.csv: has no column 'image_id'"):
        to_manifest(root, Options())


def test_a_drawn_split_replaces_the_official_one(tmp_path: Path) -> None:
    root = dataset(tmp_path, **{f"s{i:04d}": ("face",) for i in range(20)})
    rows = "".join(f"s{i:04d};test\n" for i in range(20))
    (root / "meta.csv").write_text(f"image_id;split\n{rows}", encoding="utf-8")
    drawn = [c.split for c in to_manifest(root, Options(split="90/10", seed=3)).cases]
    assert (drawn.count("train"), drawn.count("validation"), drawn.count("test")) == (18, 2, 0)
    assert drawn == [c.split for c in to_manifest(root, Options(split="90/10", seed=3)).cases]
    assert drawn != [c.split for c in to_manifest(root, Options(split="90/10", seed=4)).cases]


@pytest.mark.parametrize(("version", "num"), [("v1", 104), ("v2", 117)])
def test_all_structures_of_a_version(tmp_path: Path, version: str, num: int) -> None:
    names = tuple(builtin().scheme(f"totalsegmentator-{version}").values())
    root = dataset(tmp_path, s0000=names, s0001=names[:50])
    manifest = to_manifest(root, Options())
    assert (len(manifest.rois), set(manifest.rois)) == (num, set(names))
    whole, part = manifest.cases
    assert isinstance(whole.labels, dict)
    # A file means the ROI of its own name: the same position is another structure in the other version.
    assert {f"s0000/segmentations/{roi}.nii.gz" for roi in names} == set(whole.labels.values())
    assert all(Path(file).name == f"{roi}.nii.gz" for roi, file in whole.labels.items())
    assert (len(whole.annotated), whole.absent) == (num, ())
    states = manifest.states(part)
    assert sorted(str(states[roi]) for roi in names) == ["absent"] * (num - 50) + ["annotated"] * 50


def test_one_subject_and_no_subject(tmp_path: Path) -> None:
    root = dataset(tmp_path, s1=("face",))
    manifest = to_manifest(root / "s1", Options())
    assert manifest.cases[0].id == "s1"
    assert manifest.cases[0].images == ("ct.nii.gz",)
    with pytest.raises(UserError, match=r"holds no SUBJECT/ct\.nii\.gz"):
        to_manifest(root / "notes", Options())
    (root / "m").mkdir()
    (root / "m" / "mri.nii.gz").touch()
    with pytest.raises(UserError, match=r"with ct and with mri images"):
        to_manifest(root, Options())
    assert to_manifest(root / "m", Options(version="v2")).channels[0].modality == "MR"


def test_real_subject(shared_data: Path) -> None:
    manifest = to_manifest(shared_data / "ct_example", Options())
    assert [c.id for c in manifest.cases] == ["s0001"]
    assert len(manifest.cases[0].annotated) == 117
    assert manifest.cases[0].absent == ()

"""What importers share: modalities, names, splits, drafts."""

from pathlib import Path
from typing import Any

import pytest

from gleanseg.data.sources.common import Draft, Names, assign_splits, modality, slug, stem
from gleanseg.errors import UserError


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CT", "CT"),
        ("CBCT", "CT"),
        ("MRI", "MR"),
        ("LGE-MRI", "MR"),
        ("T1w", "MR"),
        ("t1gd", "MR"),
        ("T2", "MR"),
        ("FLAIR", "MR"),
        ("ADC", "MR"),
        ("PET", "PT"),
        ("noNorm", "NONORM"),
        ("factor", "FACTOR"),
        ("", "UNKNOWN"),
    ],
)
def test_modality(name: str, wanted: str) -> None:
    assert modality(name) == wanted


def test_file_stems() -> None:
    assert [stem(n) for n in ("a.nii.gz", "a.b.MHA", "._a.nii.gz", "a.txt")] == ["a", "a.b", None, None]
    assert slug("LGE-MRI (late)") == "lge_mri_late"


def splits(split: str | None, *, seed: int = 0, n: int = 10) -> list[str]:
    cases: list[dict[str, Any]] = [{"id": f"c{i}"} for i in range(n)]
    assign_splits(cases, split, seed=seed)
    return [c["split"] for c in cases]


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        (None, (10, 0, 0)),
        ("7/2/1", (7, 2, 1)),
        ("rest/2/1", (7, 2, 1)),
        ("7/rest/1", (7, 2, 1)),
        ("0.7/0.2/0.1", (7, 2, 1)),
        ("0.66/0.17/0.17", (6, 2, 2)),
        ("rest/0.25/0", (8, 2, 0)),
        ("80/10/10", (8, 1, 1)),  # whole numbers that add up to 100 are per cent
        ("90/10", (9, 1, 0)),
        ("0.9/0.1", (9, 1, 0)),
        ("7/3", (7, 3, 0)),
        ("rest/4", (6, 4, 0)),
    ],
)
def test_sizes_of_splits(split: str | None, counts: tuple[int, int, int]) -> None:
    drawn = splits(split)
    assert tuple(drawn.count(s) for s in ("train", "validation", "test")) == counts


def test_a_split_depends_on_ids_and_seed_only() -> None:
    first = splits("rest/3/3")
    assert first == splits("rest/3/3")
    assert first != splits("rest/3/3", seed=1)
    cases: list[dict[str, Any]] = [{"id": f"c{i}"} for i in reversed(range(10))]
    assign_splits(cases, "rest/3/3", seed=0)
    assert {c["id"]: c["split"] for c in cases} == {f"c{i}": s for i, s in enumerate(first)}
    # Splits that a data set gives stay.
    given: list[dict[str, Any]] = [{"id": "a", "split": "test"}, {"id": "b"}]
    assign_splits(given, "1/0/0", seed=0)
    assert [c["split"] for c in given] == ["test", "train"]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("7", "expected TRAIN/VALIDATION/TEST"),
        ("7/2", "asks for 9 cases, found 10"),
        ("a/b/c", "expected TRAIN/VALIDATION/TEST"),
        ("rest/rest/1", "expected TRAIN/VALIDATION/TEST"),
        ("-1/5/6", "expected TRAIN/VALIDATION/TEST"),
        ("7/2/2", "asks for 11 cases, found 10"),
        ("5/2/2", "asks for 9 cases, found 10; write 'rest'"),
        ("rest/9/9", "asks for 18 cases, found 10"),
        ("0.5/0.2/0.2", "the shares add up to 0.9, expected 1"),
    ],
)
def test_splits_that_do_not_add_up(split: str, said: str) -> None:
    with pytest.raises(UserError) as told:
        splits(split)
    assert said in str(told.value)


def test_names() -> None:
    names = Names(("mass=kidney_tumor+kidneys", "junk="), own=False, source="x")
    assert names.rois("Left Kidney") == ("kidney_left",)
    assert names.rois("mass") == ("kidney_tumor", "kidneys")
    assert names.rois("Junk") == ()
    assert names.rois("cancer", usual="liver_tumor") == ("liver_tumor",)
    with pytest.raises(
        UserError, match=r"x: label 'cancer': 'cancer' is used for several ROIs .*; say --map 'cancer'=ROI"
    ):
        names.rois("cancer")
    names.finish(["mass", "junk"])
    with pytest.raises(UserError, match=r"--map names label 'mess', which does not occur; did you mean 'mass'"):
        Names(("mess=kidney_tumor",), own=False, source="x").finish(["mass"])
    with pytest.raises(UserError, match=r"--map 'liver': expected NAME=ROI"):
        Names(("liver",), own=False, source="x")
    with pytest.raises(UserError, match=r"--map 'a=livre': no ROI .* did you mean 'liver'.*; --own declares it"):
        Names(("a=livre",), own=False, source="x")


def test_own_names_are_declared() -> None:
    names = Names(("3=third thing",), own=True, source="x")
    assert names.rois("My Stent") == ("my_stent",)
    assert names.rois("3") == ("third_thing",)
    assert names.own_rois == {"third_thing": {"name": "third thing"}, "my_stent": {"name": "My Stent"}}


def test_a_draft_adds_what_contains_a_label(tmp_path: Path) -> None:
    names = Names((), own=False, source="x")
    draft = Draft(name="d", root=tmp_path, channels=[("ct", "CT")], names=names)
    rois = ("liver", "liver_tumor")
    draft.cases = [
        {"id": "a", "images": ("a",), "labels": "l", "values": {1: ("liver",), 2: ("liver_tumor",)}, "annotated": rois},
        {"id": "b", "images": ("b",), "absent": ("spleen",)},
    ]
    manifest = draft.manifest()
    assert manifest.rois == ("liver", "liver_tumor", "spleen")
    assert manifest.cases[0].values == {1: ("liver",), 2: ("liver_tumor", "liver")}
    with pytest.raises(UserError, match=r"no case found"):
        Draft(name="d", root=tmp_path, channels=[("ct", "CT")], names=names).manifest()


def test_also_lists_unions_that_follow(tmp_path: Path) -> None:
    def draft(*also: str) -> Draft:
        both = ("kidney_left", "kidney_right")
        made = Draft(
            name="d", root=tmp_path, channels=[("ct", "CT")], names=Names((), own=False, source="x"), also=also
        )
        values = {1: ("kidney_left",), 2: ("kidney_right",)}
        made.cases = [{"id": "a", "images": ("a",), "labels": "l", "values": values, "annotated": both}]
        return made

    case = draft("kidneys").manifest().cases[0]
    assert case.values == {1: ("kidney_left", "kidneys"), 2: ("kidney_right", "kidneys")}
    assert case.annotated == ("kidney_left", "kidney_right", "kidneys")
    with pytest.raises(UserError, match=r"--also liver follows from no case"):
        draft("liver").manifest()

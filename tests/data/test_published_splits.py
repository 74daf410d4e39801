"""The published splits, and the order and splits that cases get from lists."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest

from gleanseg.data.manifest import Manifest
from gleanseg.data.sources.published import arranged, compared, lists_of, published
from gleanseg.errors import UserError

# Number of cases, the first one, and how the lists write a case.
PUBLISHED = {
    ("la", "train"): (80, "06SR5RBREL16DQ6M8LWS", "{}"),
    ("la", "test"): (20, "UPT6DX9IQY9JAZ7HJKA7", "{}"),
    ("pancreas_ct", "train"): (62, "image0057", "image{:04d}"),
    ("pancreas_ct", "test"): (20, "image0050", "image{:04d}"),
    ("brats19", "train"): (250, "BraTS19_TCIA02_370_1", "{}"),
    ("brats19", "validation"): (25, "BraTS19_CBICA_AAP_1", "{}"),
    ("brats19", "test"): (60, "BraTS19_TCIA02_309_1", "{}"),
}
LISTS = {"train": ("c", "a", "b"), "test": ("t",)}
NAMES = {"train": "train.list", "test": "test.list"}


@pytest.mark.parametrize(("name", "split"), PUBLISHED)
def test_lists_are_complete_and_in_their_order(name: str, split: str) -> None:
    number, first, form = PUBLISHED[name, split]
    ids = published(name, form)[split]
    assert (len(ids), ids[0]) == (number, first)
    said = json.loads((files("gleanseg.data.sources") / f"{name}_split.json").read_text())["sha256"][split]
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest() == said


@pytest.mark.parametrize("name", ["la", "pancreas_ct", "brats19"])
def test_no_case_stands_twice(name: str) -> None:
    ids = [id for listed in published(name).values() for id in listed]
    assert len(set(ids)) == len(ids)


def drafts(*ids: str) -> dict[str, dict[str, object]]:
    return {id: {"id": id} for id in ids}


def test_cases_come_in_the_order_of_the_lists() -> None:
    made = arranged(drafts("a", "b", "c", "t", "x"), LISTS, split=None, seed=0)
    assert [(c["id"], c["split"]) for c in made] == [("c", "train"), ("a", "train"), ("b", "train"), ("t", "test")]
    drawn = arranged(drafts("a", "b", "c", "t"), LISTS, split="rest/1/0", seed=0)
    assert sorted(str(c["split"]) for c in drawn[:3]) == ["train", "train", "validation"]
    assert drawn[3]["split"] == "test"
    assert [c["id"] for c in arranged(drafts("b", "a"), None, split=None, seed=0)] == ["a", "b"]


def test_own_lists_win_over_published_ones(tmp_path: Path) -> None:
    found = drafts("a", "b", "c", "t")

    def chosen(root: Path) -> object:
        return lists_of(root, NAMES, found, id_of=str.lower, otherwise=LISTS)

    assert chosen(tmp_path) == LISTS
    assert lists_of(tmp_path, NAMES, drafts("other"), id_of=str, otherwise=LISTS) is None
    (tmp_path / "test.list").write_text("B,0\n\nT\n")
    assert chosen(tmp_path) == {"train": ["a", "c"], "test": ["b", "t"]}
    (tmp_path / "inner").mkdir()
    assert chosen(tmp_path / "inner") == chosen(tmp_path)
    (tmp_path / "train.list").write_text("A\nA\n")
    with pytest.raises(UserError, match=r"case 'a' stands twice in train\.list"):
        chosen(tmp_path)
    (tmp_path / "train.list").write_text("A\nB\n")
    with pytest.raises(UserError, match=r"case 'b' stands in train\.list and in test\.list"):
        chosen(tmp_path)


def test_notes_say_whether_a_manifest_is_the_benchmark() -> None:
    def noted(**splits: tuple[str, ...]) -> list[str]:
        cases = [{"id": id, "split": s, "images": (f"{id}.nii",)} for s, ids in splits.items() for id in ids]
        return compared(
            Manifest(name="m", rois=("liver",), channels=[{"name": "c", "modality": "MR"}], cases=cases), LISTS
        )

    assert noted(train=("c", "a", "b"), test=("t",)) == ["the published split: 3 train, 1 test"]
    other_order = noted(train=("a", "b", "c"), test=("t",))
    assert other_order == ["the manifest is not the published benchmark: its results cannot stand in its table"]
    assert noted(train=("c", "a"), test=("t",))[0] == "1 of the 3 published train cases missing: b"

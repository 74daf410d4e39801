"""Manifests: what is refused and how it is told, the three states, saving elsewhere, merging."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gleanseg.data.manifest import Case, Channel, Manifest, State
from gleanseg.errors import UserError

CT = [{"name": "ct", "modality": "CT"}]


def example() -> dict[str, Any]:
    """The manifest of the design page."""
    return {
        "gleanseg": 1,
        "name": "two-sites",
        "rois": ["liver", "liver_tumor", "spleen"],
        "channels": CT,
        "cases": [
            {
                "id": "a_001",
                "site": "A",
                "split": "train",
                "images": ["a/001_ct.nii.gz"],
                "labels": "a/001_seg.nii.gz",
                "values": {"1": ["liver"], "2": ["liver", "liver_tumor"]},
                "annotated": ["liver", "liver_tumor"],
            },
            {
                "id": "b_001",
                "site": "B",
                "split": "train",
                "images": ["b/001.nii.gz"],
                "labels": {"spleen": "b/001/spleen.nii.gz"},
                "annotated": ["spleen"],
                "absent": ["liver_tumor"],
            },
            {"id": "u_001", "site": "C", "split": "train", "images": ["c/001.nii.gz"]},
        ],
    }


def written(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(data))
    return path


def test_the_example_of_the_design(tmp_path: Path) -> None:
    manifest = Manifest.load(written(tmp_path, example()))
    annotated, absent, unknown = State.ANNOTATED, State.ABSENT, State.UNKNOWN
    states = [manifest.states(c) for c in manifest.cases]
    assert [list(s.values()) for s in states] == [
        [annotated, annotated, unknown],
        [unknown, absent, annotated],
        [unknown, unknown, unknown],
    ]
    assert manifest.case("a_001").values == {1: ("liver",), 2: ("liver", "liver_tumor")}
    assert manifest.path("a/001_ct.nii.gz") == tmp_path / "a/001_ct.nii.gz"
    assert manifest.path("/x/y.nii") == Path("/x/y.nii")
    assert manifest.root == tmp_path
    with pytest.raises(UserError, match=r"two-sites: no case 'a_01'; did you mean 'a_001'"):
        manifest.case("a_01")


def test_states_follow_the_ontology() -> None:
    def states(rois: tuple[str, ...], **said: Any) -> list[str]:
        labels = {r: f"{r}.nii" for r in said.get("annotated", ())} or None
        case = Case(id="c", images=("i.nii",), labels=labels, **said)
        manifest = Manifest(name="m", rois=rois, channels=(Channel(name="ct", modality="CT"),), cases=(case,))
        return [s.value for s in manifest.states(manifest.cases[0]).values()]

    kidneys = ("kidneys", "kidney_left", "kidney_right", "kidney_tumor")
    assert states(kidneys, annotated=("kidney_left",)) == ["unknown", "annotated", "unknown", "unknown"]
    assert states(kidneys, annotated=("kidney_left", "kidney_right")) == [
        "annotated",
        "annotated",
        "annotated",
        "unknown",
    ]
    assert states(kidneys, annotated=("kidney_left",), absent=("kidney_right",))[:3] == [
        "annotated",
        "annotated",
        "absent",
    ]
    assert states(kidneys, absent=("kidney_left", "kidney_right")) == ["absent"] * 4
    assert states(("liver", "liver_tumor"), absent=("liver",)) == ["absent", "absent"]
    assert states(("liver", "liver_tumor"), annotated=("liver",)) == ["annotated", "unknown"]


def case(number: int, **change: Any) -> Callable[[dict[str, Any]], None]:
    def mend(data: dict[str, Any]) -> None:
        for key, value in change.items():
            if value is None:
                data["cases"][number].pop(key)
            else:
                data["cases"][number][key] = value

    return mend


def top(**change: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (top(cases=[]), "'cases' is empty; a manifest needs at least one case"),
        (top(rois=[]), "'rois' is empty; list the ids"),
        (top(channels=[]), "'channels' is empty"),
        (top(gleanseg=2), "gleanseg: input should be 1, found 2"),
        (top(rios=[]), "unknown key 'rios'; did you mean 'rois'?"),
        (
            top(rois=["liver", "liver_tumor", "spleeen"]),
            "ROI 'spleeen' in 'rois' is not in the ontology; did you mean 'spleen'",
        ),
        (top(rois=["liver", "liver_tumor", "spleen", "liver"]), "ROI 'liver' stands 2 times in 'rois'"),
        (top(channels=CT * 2), "channel 'ct' stands 2 times"),
        (top(own_rois={"wart": {"colour": "red"}}), "unknown key 'colour'"),
        (case(1, id="a_001"), "case id 'a_001' stands 2 times in 'cases'"),
        (case(1, splitt="test"), "case 'b_001': unknown key 'splitt'; did you mean 'split'"),
        (case(1, split="dev"), "case 'b_001': split: input should be 'train', 'validation' or 'test', found 'dev'"),
        (case(1, images=None), "case 'b_001': key 'images' is missing"),
        (case(1, id=None), "case number 2: key 'id' is missing"),
        (
            case(1, images=["a/001_ct.nii.gz"], split="test"),
            "case 'b_001' (test): has the image 'a/001_ct.nii.gz' of case 'a_001' (train); keep one of them",
        ),
        (case(1, id="b/001"), "'id' becomes part of file names"),
        (case(2, images=["a", "b"]), "case 'u_001': 'images' lists 2 files, expected 1"),
        (case(2, images=[""]), "a file name is empty"),
        (case(2, spacing_mm=[1, 1, 0]), "'spacing_mm' [1.0, 1.0, 0.0] must be above 0"),
        (case(2, spacing_mm=[1, 1, 1]), "'spacing_mm' is for files without geometry"),
        (case(2, annotated=["liver"]), "ROI 'liver' is annotated, but the case has no 'labels'"),
        (case(2, values={"1": ["liver"]}), "'values' and 'ignore' describe 'labels', which is missing"),
        (
            case(2, absent=["lver"]),
            "'absent' names ROI 'lver', which is not in the manifest's 'rois'; did you mean 'liver'",
        ),
        (case(0, annotated=[]), "has 'labels' but annotates nothing"),
        (case(0, annotated=["liver", "liver"]), "ROI 'liver' stands 2 times in 'annotated'"),
        (case(0, annotated=["liver", "spleen"]), "ROI 'spleen' is annotated, but no entry of 'values' gives it"),
        (case(0, values=None), "'values' is missing; say which ROIs each value of 'a/001_seg.nii.gz'"),
        (
            case(0, values={"1": ["livr"]}),
            "value 1 names ROI 'livr', which is not in the manifest's 'rois'; did you mean 'liver'",
        ),
        (case(0, values={"x": ["liver"]}), "case 'a_001': values.x"),
        (case(0, ignore=2), "value 2 is both 'ignore' and in 'values'"),
        (case(0, absent=["liver_tumor"]), "ROI 'liver_tumor' is both annotated and absent"),
        (
            case(0, annotated=["liver_tumor"], absent=["liver"]),
            "'liver_tumor' is annotated but 'liver', which contains it, is absent",
        ),
        (case(1, labels={"spleem": "x"}), "'labels' names ROI 'spleem'"),
        (case(1, labels={}), "'labels' is empty"),
        (case(1, values={"1": ["spleen"]}), "'values' belongs to one label map"),
        (case(1, annotated=["spleen", "liver"]), "ROI 'liver' is annotated, but no mask in 'labels' gives it"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    data = example()
    change(data)
    path = written(tmp_path, data)
    with pytest.raises(UserError) as told:
        Manifest.load(path)
    assert said in str(told.value)
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a JSON manifest"),
        ('{"gleanseg": 1, "name": "a", "name": "b"}', "key 'name' stands twice"),
        ("[]", "not a gleanseg manifest"),
        ('{"name": "Task03"}', "not a gleanseg manifest (no key 'gleanseg')"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(UserError) as told:
        Manifest.load(path)
    assert said in str(told.value)
    with pytest.raises(UserError, match=r"no\.json: no such manifest; make one with 'gleanseg import'"):
        Manifest.load(tmp_path / "no.json")


def test_a_union_may_come_from_its_members(tmp_path: Path) -> None:
    data = example()
    data["rois"] = ["kidneys", "kidney_left", "kidney_right"]
    data["cases"] = [
        {
            "id": "c",
            "images": ["i"],
            "labels": "l",
            "values": {"1": ["kidney_left"], "2": ["kidney_right"]},
            "annotated": ["kidneys", "kidney_left", "kidney_right"],
        }
    ]
    assert Manifest.load(written(tmp_path, data)).cases[0].annotated[0] == "kidneys"
    data["cases"][0] |= {"values": {"1": ["kidney_left"]}, "annotated": ["kidneys", "kidney_left"]}
    with pytest.raises(UserError, match=r"ROI 'kidneys' is annotated, but no entry of 'values' gives it"):
        Manifest.load(written(tmp_path, data))
    data["cases"][0]["absent"] = ["kidney_right"]
    assert Manifest.load(written(tmp_path, data)).cases[0].absent == ("kidney_right",)


def test_own_rois(tmp_path: Path) -> None:
    data = example()
    data["rois"].append("stent")
    data["own_rois"] = {"stent": {"name": "aortic stent", "found_in": ["aorta"]}}
    manifest = Manifest.load(written(tmp_path, data))
    assert manifest.ontology()["stent"].name == "aortic stent"
    manifest.save(tmp_path / "again.json")
    assert Manifest.load(tmp_path / "again.json") == manifest


def test_saving_elsewhere_keeps_files_in_reach(tmp_path: Path) -> None:
    manifest = Manifest.load(written(tmp_path, example()))
    manifest.save(tmp_path / "out" / "m2.json")
    text = (tmp_path / "out" / "m2.json").read_text()
    assert '"../a/001_ct.nii.gz"' in text
    assert len(text.splitlines()) == 9  # one case a line
    again = Manifest.load(tmp_path / "out" / "m2.json")
    assert again.path(again.cases[0].images[0]).resolve() == (tmp_path / "a/001_ct.nii.gz").resolve()
    assert again.path(again.cases[1].labels["spleen"]).resolve() == (tmp_path / "b/001/spleen.nii.gz").resolve()  # type: ignore[index]
    again.save(tmp_path / "m3.json")
    assert Manifest.load(tmp_path / "m3.json") == manifest
    # Where only / is shared, a relative path would break with the first move: it becomes absolute.
    far = Manifest(**{**example(), "root": Path("/elsewhere/data")})
    far.save(tmp_path / "far.json")
    assert Manifest.load(tmp_path / "far.json").cases[0].images == ("/elsewhere/data/a/001_ct.nii.gz",)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_digest_changes_with_any_content(tmp_path: Path) -> None:
    manifest = Manifest(**example())
    assert manifest.digest() == Manifest.load(written(tmp_path, example())).digest()
    data = example()
    data["cases"][2]["site"] = "D"
    assert Manifest(**data).digest() != manifest.digest()


def test_a_copy_with_other_cases_concludes_anew(tmp_path: Path) -> None:
    manifest = Manifest.load(written(tmp_path, example()))
    first, *others = manifest.cases
    assert (manifest.case(first.id), len(manifest.digest())) == (first, 64)
    copy = manifest.model_copy(update={"cases": tuple(others)})
    assert copy.digest() != manifest.digest()
    assert copy.root == manifest.root
    with pytest.raises(UserError, match="no case"):
        copy.case(first.id)


def test_merge(tmp_path: Path) -> None:
    one = Manifest(**example(), root=tmp_path / "one")
    other = Manifest(
        name="kid",
        rois=("kidney_left", "spleen"),
        channels=(Channel(name="portal", modality="CT"),),
        cases=(Case(id="u_001", images=("i.nii",)), Case(id="k", site="K", images=("k.nii",), split="test")),
        root=tmp_path / "two",
    )
    assert other.case("k").images == ("k.nii",)
    both = Manifest.merge([one, other], name="both")
    assert both.case("k").images == ("../two/k.nii",)
    assert both.rois == ("liver", "liver_tumor", "spleen", "kidney_left")
    assert [c.id for c in both.cases] == ["a_001", "b_001", "two-sites_u_001", "kid_u_001", "k"]
    assert [c.site for c in both.cases] == ["A", "B", "C", "kid", "K"]
    assert both.path(both.cases[3].images[0]).resolve() == tmp_path / "two" / "i.nii"
    assert both.states(both.cases[0])["kidney_left"] is State.UNKNOWN
    mr = Manifest(
        name="mr", rois=("liver",), channels=(Channel(name="t1", modality="MR"),), cases=(Case(id="m", images=("m",)),)
    )
    with pytest.raises(UserError, match=r"mr: channels t1 \(MR\) differ from two-sites's ct \(CT\)"):
        Manifest.merge([one, mr], name="x")
    with pytest.raises(UserError, match=r"nothing to merge"):
        Manifest.merge([], name="x")
    kinds = [
        Manifest(
            name=n,
            rois=("wart",),
            channels=one.channels,
            own_rois={"wart": {"name": n}},
            cases=(Case(id=n, images=("i",)),),
        )
        for n in ("big", "small")
    ]
    with pytest.raises(UserError, match=r"small: own_rois\.wart is defined differently"):
        Manifest.merge(kinds, name="x")


def test_many_cases_load_fast(tmp_path: Path) -> None:
    """No quadratic check and no look at the files: 20,000 cases take about a second, 100,000 below five."""
    data = example()
    data["cases"] = [data["cases"][0] | {"id": f"c{i}", "images": [f"i/{i}.nii.gz"]} for i in range(20_000)]
    path = written(tmp_path, data)
    start = time.process_time()
    manifest = Manifest.load(path)
    assert time.process_time() - start < 10  # with the checks of the test run, on a busy machine
    assert len(manifest.cases) == 20_000

"""``gleanseg doctor``: what it prints, what it writes, and its exit code."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tyro

from gleanseg.cli.doctor import Command, show_diagnosis
from gleanseg.data.doctor import Diagnosis, Finding, Severity
from gleanseg.data.manifest import Case, Channel, Manifest, State


def run(*arguments: str | Path) -> int:
    return tyro.cli(Command, args=[str(a) for a in arguments]).run()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(3):
        nib.save(nib.Nifti1Image(rng.normal(size=(6, 6, 6)).astype(np.float32), np.eye(4)), tmp_path / f"{i}.nii.gz")
        nib.save(nib.Nifti1Image(np.full((6, 6, 6), i + 1, np.uint8), np.eye(4)), tmp_path / f"{i}_l.nii.gz")
    cases = tuple(
        Case(id=f"c{i}", images=(f"{i}.nii.gz",), labels=f"{i}_l.nii.gz", values={1: ("liver",)}, annotated=("liver",))
        for i in range(3)
    )
    channels = (Channel(name="t1", modality="MR"),)
    Manifest(name="ward", rois=("liver", "spleen"), channels=channels, cases=cases, root=tmp_path).save(
        tmp_path / "m.json"
    )
    return tmp_path / "m.json"


def test_errors_exit_with_1_and_are_grouped(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place) == 1
    told = capsys.readouterr().out
    assert "ward: 3 cases (3 train), 6 files" in told
    assert "✗ error  undeclared-value  2 cases" in told
    assert "c1: 1_l.nii.gz: holds value 2 (216 voxels); declared are 0, 1" in told
    assert "also c2" in told
    assert "→ add it to 'values'" in told
    assert "c2: 2_l.nii.gz" not in told
    assert "no training case annotates spleen" in told
    assert "2 errors, 3 warnings" in told
    assert [len(line.split()) for line in told.splitlines() if line.strip().startswith("liver")] == [2]
    data = json.loads((place.parent / "m.diagnosis.json").read_text())
    assert data["counts"] == {"error": 2, "warning": 3, "note": 0}
    assert (place.parent / "m.hashes.json").is_file()


def test_a_second_run_reads_nothing_and_all_shows_everything(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place)
    capsys.readouterr()
    assert run(place, "--all", "--json", place.parent / "d.json") == 1
    told = capsys.readouterr().out
    assert "6 files, unchanged since the last time" in told
    assert "c2: 2_l.nii.gz: holds value 3" in told
    assert (place.parent / "d.json").is_file()
    assert run(place, "--fresh") == 1
    assert "unchanged" not in capsys.readouterr().out


def test_a_sound_manifest_exits_with_0(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(place.read_text())
    data["rois"], data["cases"] = ["liver"], data["cases"][:1]
    place.write_text(json.dumps(data))
    assert run(place) == 0
    assert "nothing to complain of" in capsys.readouterr().out


def diagnosis(states: dict[str, dict[str, State]], findings: tuple[Finding, ...] = ()) -> Diagnosis:
    return Diagnosis(
        name="d", findings=findings, states=states, splits=dict.fromkeys(states, "train"),
        sites={id: f"site {id[0]}" for id in states}, contents={}, num_files=9, num_read=0,
    )  # fmt: skip


A, N, U = State.ANNOTATED, State.ABSENT, State.UNKNOWN


def test_few_kinds_of_cases_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    states = {
        f"{s}{i}": {"liver": A if s == "a" else U, "spleen": N if s == "b" else A} for s in "ab" for i in range(100)
    }
    show_diagnosis(diagnosis(states))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ROI", "100", "cases", "100", "cases"] in lines
    assert ["liver", "●", "·"] in lines
    assert ["spleen", "●", "○"] in lines


def test_many_rois_with_the_same_states_share_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    states = {"a1": {f"roi_{i}": A if i < 90 else N for i in range(104)}}
    show_diagnosis(diagnosis(states))
    told = capsys.readouterr().out
    assert "roi_0, roi_1, roi_2, roi_3 and 86 more" in told
    assert "roi_90, roi_91, roi_92, roi_93 and 10 more" in told
    assert len(told.splitlines()) < 14


def test_many_kinds_of_cases_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    states = {f"a{i}": {f"roi_{j}": A if i >= 3 * j else U for j in range(60)} for i in range(200)}
    show_diagnosis(diagnosis(states))
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert ["roi_1", "197", "-", "3"] in lines
    assert "more ROIs, in fewer cases" in told
    assert len(told.splitlines()) < 36


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding(Severity.NOTE, "n", "a[1]", "x [bold]", "y")
    show_diagnosis(diagnosis({"a[1]": {"liver": A}}, (finding,)))
    assert "a[1]: x [bold]" in capsys.readouterr().out

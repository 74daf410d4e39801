"""The command: table, files, exit code, and one-line errors."""

import json
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import tyro

import gleanseg
from gleanseg.cli.evaluate import Command
from gleanseg.data.manifest import Case, Channel, Manifest
from gleanseg.errors import UserError
from gleanseg.evaluate.evaluation import Evaluation
from gleanseg.evaluate.evaluator import evaluate_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases; the spleen is missed in one of them."""
    array = np.zeros((12, 11, 10), dtype=np.uint8)
    array[2:8, 2:8, 2:8], array[9:, 9:, 8:] = 1, 2
    cases = []
    for i in range(3):
        predicted = np.roll(array, i, axis=0)
        if i == 2:
            predicted[predicted == 2] = 0
        for name, voxels in ((f"{i}.nii.gz", array * 100.0), (f"{i}_seg.nii.gz", array), (f"p/{i}.nii.gz", predicted)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.uint8), np.eye(4)), tmp_path / name)
        cases.append(
            Case(id=str(i), split="test", images=(f"{i}.nii.gz",), labels=f"{i}_seg.nii.gz",
                 values={1: ("liver",), 2: ("spleen",)}, annotated=("liver", "spleen"))
        )  # fmt: skip
    channels = (Channel(name="ct", modality="CT"),)
    Manifest(root=tmp_path, name="m", rois=("liver", "spleen"), channels=channels, cases=tuple(cases)).save(
        tmp_path / "m.json"
    )
    return tmp_path


def run(*words: str | Path) -> int:
    command = tyro.cli(Command, args=[str(w) for w in words])
    return command.run()


def test_folder_of_label_maps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = ("--values", "1=liver", "2=spleen")
    assert run(folder / "p", "--manifest", folder / "m.json", *values) == 0
    printed = capsys.readouterr().out
    words = [line.split() for line in printed.splitlines()]
    liver, spleen, mean = (w for w in words if w and w[0] in ("liver", "spleen", "mean"))
    assert liver[:3] == ["liver", "0.833", "0.667-1.000"]  # Dice 1, 5/6 and 4/6
    assert liver[-4:] == ["3", "0", "0", "0"]
    assert spleen[-4:] == ["3", "0", "1", "0"]
    assert mean[:3] == ["mean", "of", "2"]
    data = json.loads((folder / "p/evaluation/test.json").read_text())
    assert data["summary"]["rois"]["spleen"]["missed"] == 1
    lines = (folder / "p/evaluation/test.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("case,roi,metric,value", 1 + 3 * 2 * 8)


def test_protocol_and_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (folder / "p", "--manifest", folder / "m.json", "--values", "1=liver", "2=spleen", "-o", folder / "e")
    assert run(*words, "--protocol", "ssl3d") == 0
    assert sorted(p.name for p in (folder / "e").iterdir()) == ["test-ssl3d.csv", "test-ssl3d.json"]
    assert "distances in voxels" in capsys.readouterr().out
    assert run(*words, "--protocol", "ssl3d", "--against", folder / "e" / "test-ssl3d.json") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Dice: difference +0.0000 (95 % +0.0000 to +0.0000), Wilcoxon p = 1, 6 pairs in 3 cases" in printed


def test_mistakes(folder: Path) -> None:
    with pytest.raises(UserError, match="give --manifest"):
        run(folder / "p")
    with pytest.raises(UserError, match="no protocol 'default-2'; did you mean 'default'"):
        run(folder / "p", "--manifest", folder / "m.json", "--protocol", "default-2")
    (folder / "p" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a run.*leave --manifest out"):
        run(folder / "p", "--manifest", folder / "m.json")


def test_a_run_goes_through_the_api(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run knows its manifest and predictions; the command hands over split and protocol, and saves nothing itself."""
    asked: list[object] = []

    def evaluate(run: Path, *, split: str, protocol: str, num_workers: int | None, progress: object) -> Evaluation:
        asked.extend([run, split, protocol, num_workers])
        values = {1: ("liver",), 2: ("spleen",)}
        return evaluate_folder(Manifest.load(folder / "m.json"), folder / "p", values=values, protocol=protocol)

    api = ModuleType("gleanseg.api")
    monkeypatch.setattr(api, "evaluate", evaluate, raising=False)
    monkeypatch.setitem(sys.modules, "gleanseg.api", api)
    monkeypatch.setattr(gleanseg, "api", api, raising=False)
    (folder / "r").mkdir()
    (folder / "r" / "run.json").write_text("{}")
    assert run(folder / "r", "--protocol", "ssl3d", "--num-workers", "1") == 0
    assert asked == [folder / "r", "test", "ssl3d", 1]
    assert "test-ssl3d.json" in capsys.readouterr().out
    assert [p.name for p in (folder / "r").iterdir()] == ["run.json"]

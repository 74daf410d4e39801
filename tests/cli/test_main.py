"""The binary: help without torch, exit codes, and one line for each mistake of a user."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from gleanseg.cli.main import COMMANDS, main
from support.data import write_recipe


def edit(path: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_help_lists_every_command_and_loads_no_torch() -> None:
    code = "import sys; from gleanseg.cli.main import main; main(['--help']);"
    code += "print([name for name in ('torch', 'numpy', 'tyro') if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in COMMANDS)
    assert shown.splitlines()[-1] == "[]"


def test_the_overview_is_short_and_each_command_tells_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["-h"]) == 0
    overview = capsys.readouterr().out
    assert "Segment images with a trained run." in " ".join(overview.split())
    assert "Example:" not in overview
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Example: gleanseg predict runs/first --split test" in shown
    assert "usage: gleanseg predict" in shown


def test_the_overview_keeps_to_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    main(["--help"])
    told = capsys.readouterr().out.splitlines()[5:]
    assert max(map(len, told)) <= 70 < len(" ".join(told))


def test_words_that_are_no_command_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == main(["frobnicate"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "gleanseg: no such command: 'trian'; did you mean 'train'?",
        "gleanseg: no such command: 'frobnicate'; gleanseg --help lists them",
    ]
    assert main([]) == 2
    assert "usage: gleanseg COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 2
    assert "recipe" in capsys.readouterr().err.casefold()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gleanseg 0.")


def labels(folder: Path, name: str, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array.astype(np.uint8), np.diag([2, 2, 2.5, 1])), folder / name)


def no_file(folder: Path) -> None:
    (folder / "c00.nii.gz").unlink()


def truncated(folder: Path) -> None:
    path = folder / "c00.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


def other_shape(folder: Path) -> None:
    labels(folder, "c00_seg.nii.gz", np.zeros((24, 22, 19)))


def undeclared_value(folder: Path) -> None:
    array = np.zeros((24, 22, 20))
    array[3, 3, 3] = 9
    labels(folder, "c00_seg.nii.gz", array)


def unknown_roi(folder: Path) -> None:
    edit(folder / "manifest.json", lambda m: m.update(rois=["livr", *m["rois"][1:]]))


def empty_manifest(folder: Path) -> None:
    edit(folder / "manifest.json", lambda m: m.update(cases=[]))


def nothing_annotated(folder: Path) -> None:
    edit(
        folder / "manifest.json",
        lambda m: [c.update(annotated=[], values={}) or c.pop("labels", 0) for c in m["cases"]],
    )


def reserved_for_testing(folder: Path) -> None:
    with (folder / "recipe.toml").open("a") as file:
        file.write('[data]\nlabelled = ["c11"]\n')


def unknown_key(folder: Path) -> None:
    with (folder / "recipe.toml").open("a") as file:
        file.write("[optimizer]\nlearning_rate = 1.0\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_file, ["c00", "c00.nii.gz"]),
        (truncated, ["c00", "c00.nii.gz"]),
        (other_shape, ["c00", "c00_seg.nii.gz", "(24, 22, 19)", "(24, 22, 20)"]),
        (undeclared_value, ["c00", "c00_seg.nii.gz", "9"]),
        (unknown_roi, ["manifest.json", "livr", "did you mean", "liver"]),
        (empty_manifest, ["manifest.json", "case"]),
        (nothing_annotated, ["manifest.store", "no annotated training case", "annotate some"]),
        (reserved_for_testing, ["c11", "test split", "take it out"]),
        (unknown_key, ["recipe.toml", "learning_rate", "known keys: name, lr,"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], words: list[str]
) -> None:
    recipe = write_recipe(tmp_path)
    spoil(tmp_path)
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("gleanseg: ")
    assert "\n" not in told
    assert all(word in told for word in words), told
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_the_whole_way_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, steps=4)
    run = tmp_path / "run"
    assert main(["doctor", str(tmp_path / "manifest.json")]) == 0
    assert main(["train", str(recipe), "-o", str(run)]) == 0
    assert main(["train", str(recipe), "-o", str(run)]) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert main(["predict", str(run), "--split", "test"]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    told = capsys.readouterr().out
    assert "liver_tumor" in told
    assert "report.html" in told
    reads = [json.loads(line)["purpose"] for line in (run / "access.jsonl").read_text().splitlines()]
    assert reads == ["predict", "evaluate"]
    before = (tmp_path / "c00.nii.gz").read_bytes()
    assert main(["predict", str(run), "-i", str(tmp_path / "c00.nii.gz"), "-o", str(tmp_path / "out")]) == 0
    image, found = nibabel.load(tmp_path / "c00.nii.gz"), nibabel.load(tmp_path / "out" / "c00.nii.gz")
    assert found.shape == image.shape
    assert np.array_equal(found.affine, image.affine)
    assert (tmp_path / "c00.nii.gz").read_bytes() == before

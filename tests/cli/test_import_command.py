"""``gleanseg import``: sub-commands from the files of the sources room, their options, and merging."""

import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from gleanseg.cli.import_ import Command
from gleanseg.data.manifest import Manifest
from gleanseg.errors import UserError


def run(*arguments: str | Path) -> int:
    return tyro.cli(Command, args=[str(a) for a in arguments]).run()


def dataset(root: Path) -> Path:
    for name in ("images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_folder_becomes_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m" / "one.json"
    flags = ("--modality", "CT", "--labels", "1=liver", "2=liver_tumor", "--split", "1/0/0")
    assert run("folder", dataset(tmp_path / "one"), "-o", out, *flags) == 0
    manifest = Manifest.load(out)
    assert [(c.id, c.split) for c in manifest.cases] == [("a", "train"), ("b", "train")]
    assert manifest.cases[0].images == ("../one/images/a.nii.gz",)
    told = capsys.readouterr().out
    assert "one.json: 2 cases (2 train), 1 with labels" in told
    assert "liver 1, liver_tumor 1" in told
    assert f"next: gleanseg doctor {out}" in told


def test_merge(tmp_path: Path) -> None:
    for name, label in (("one", "1=liver"), ("two", "1=spleen")):
        run("folder", dataset(tmp_path / name), "-o", tmp_path / f"{name}.json", "--modality", "CT", "--labels", label)
    assert run("merge", tmp_path / "one.json", tmp_path / "two.json", "-o", tmp_path / "c.json") == 0
    both = Manifest.load(tmp_path / "c.json")
    assert both.name == "one+two"
    assert both.rois == ("liver", "spleen")
    assert [c.id for c in both.cases] == ["one_a", "one_b", "two_a", "two_b"]
    assert both.path(both.cases[2].images[0]) == tmp_path / "two" / "images" / "a.nii.gz"
    with pytest.raises(UserError, match="merge: found 1 manifests, expected two or more"):
        run("merge", tmp_path / "one.json", "-o", tmp_path / "c.json")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such folder; name the folder of the data set"):
        run("msd", tmp_path / "none")
    with pytest.raises(UserError, match=r"dataset\.json: no such file"):
        run("nnunet", tmp_path)


@pytest.mark.parametrize(
    "name",
    ["brats19", "folder", "kits", "la", "lits", "merge", "mots", "msd", "nnunet", "pancreas_ct", "totalsegmentator"],
)
def test_each_source_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(name, "--help")
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "-o PATH, --out PATH" in told
    assert ("--split" in told) == (name not in ("merge", "mots"))  # the benchmark has one split


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, gleanseg.cli.import_, gleanseg.cli.doctor\n"
        "print([m for m in ('torch', 'numpy', 'nibabel', 'SimpleITK', 'pydantic', 'rich.table') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['rich.table']")  # tyro draws its help with rich

"""The MOTS benchmark from its seven data sets."""

import hashlib
import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import tyro

from gleanseg.cli.import_ import Command
from gleanseg.data.labels import read_labels
from gleanseg.data.manifest import Manifest
from gleanseg.data.sources.mots import Options, notes, tasks, to_manifest
from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from support.mots import IDS, MSD, NUMBERS, save, write_mots

# Train, test, and SHA-256 of the test names as the benchmark lists them, sorted, joined by line feeds.
PUBLISHED = {
    "liver": (104, 27, "595fa17319739a209305afaaa6e6baed89cd3c2ba8820572e50b81c67d981907"),
    "kidney": (168, 42, "18f68a3d52a103e0d581bb6c6fa4aff80daf16022363203823ad7b2601ccffad"),
    "hepaticvessel": (242, 61, "3df0de946e8e93d4cbedab1e553253780cab85f7c7e66d469e78baffb3f05dc7"),
    "pancreas": (224, 57, "9d9ac83e8f99fe311b1785976fca04b3d3d9ef87069f8cfbf6c23151190859dd"),
    "colon": (100, 26, "b16462345f4b722800ea0c941b9df97109306d63cf26e820a07fec06f34e7a61"),
    "lung": (50, 13, "1e8805b2eccdba1dc5d23cc54e896f79ae4931ed6d38f28485d94016fe7d714a"),
    "spleen": (32, 9, "4952db3bf9654aece5ea5cc648e50bb315948c614cc9c4d879060980144fa806"),
}
SPLIT = json.loads((files("gleanseg.data.sources") / "mots_split.json").read_text())["tasks"]


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_split(task: str) -> None:
    item, (num_train, num_test, sha) = SPLIT[task], PUBLISHED[task]
    assert (len(item["train"]), len(item["test"])) == (num_train, num_test)
    assert not set(item["train"]) & set(item["test"])
    names = sorted(item["listed"].format(number) for number in item["test"])
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == sha == item["test_sha256"]
    # The rule that its authors followed, on the complete data set: every fifth name in the order of strings.
    everything = sorted((item["listed"].format(n) for n in (*item["train"], *item["test"])), key=str)
    assert everything[::5] == names


def test_the_split_against_the_golden_file(shared_data: Path) -> None:
    golden = json.loads((shared_data.parent / "specs" / "golden" / "mots_split.json").read_text())["tasks"]
    assert list(golden) == list(SPLIT) == [task.name for task in tasks()]
    for name, item in SPLIT.items():
        assert item["file"] == golden[name]["raw_name_pattern"]
        assert item["test"] == golden[name]["test_ids"]
        assert sorted([*item["train"], *item["test"]]) == golden[name]["all_ids"]
    assert sum(len(task.split) for task in tasks()) == 1155


def test_seven_data_sets_become_one_manifest(tmp_path: Path) -> None:
    manifest = to_manifest(write_mots(tmp_path), Options())
    assert manifest.name == "mots"
    assert list(manifest.rois) == list(builtin().scheme("mots").values())
    assert {c.id for c in manifest.cases} == IDS
    assert [c.site for c in manifest.cases[::2]] == [
        "lits", "kits19", "msd_hepaticvessel", "msd_pancreas", "msd_colon", "msd_lung", "msd_spleen",
    ]  # fmt: skip
    assert {c.id: c.split for c in manifest.cases if c.split == "test"} == dict.fromkeys(
        ("liver_0", "kidney_15", "hepaticvessel_001", "pancreas_001", "colon_001", "lung_001", "spleen_10"), "test"
    )
    annotated = {c.site: c.annotated for c in manifest.cases}
    assert annotated == {
        "lits": ("liver", "liver_tumor"),
        "kits19": ("kidneys", "kidney_tumor"),
        "msd_hepaticvessel": ("hepatic_vessels", "hepatic_vessel_tumor"),
        "msd_pancreas": ("pancreas", "pancreas_tumor"),
        "msd_colon": ("colon_cancer",),
        "msd_lung": ("lung_tumor",),
        "msd_spleen": ("spleen",),
    }
    assert not any(c.absent for c in manifest.cases)
    sets = {c.site: {v: set(r) for v, r in c.values.items()} for c in manifest.cases}
    assert sets["lits"] == {1: {"liver"}, 2: {"liver", "liver_tumor"}}
    assert sets["kits19"] == {1: {"kidneys"}, 2: {"kidneys", "kidney_tumor"}}
    assert sets["msd_pancreas"] == {1: {"pancreas"}, 2: {"pancreas", "pancreas_tumor"}}
    assert sets["msd_hepaticvessel"] == {1: {"hepatic_vessels"}, 2: {"hepatic_vessel_tumor"}}
    assert sets["msd_colon"] == {1: {"colon_cancer"}}
    assert sets["msd_lung"] == {1: {"lung_tumor"}}
    assert sets["msd_spleen"] == {1: {"spleen"}}


def test_organs_hold_their_tumors_but_vessels_do_not(tmp_path: Path) -> None:
    manifest = to_manifest(write_mots(tmp_path), Options())
    sizes = {}
    for case in manifest.cases[::2]:
        labels = read_labels(manifest, case)  # those of the Decathlon are float32
        assert labels is not None
        sizes |= {roi: int(labels.table[:, r][labels.codes].sum()) for r, roi in enumerate(manifest.rois)
                  if roi in case.annotated}  # fmt: skip
    assert sizes == {
        "liver": 3, "liver_tumor": 1, "kidneys": 3, "kidney_tumor": 1, "hepatic_vessels": 2,
        "hepatic_vessel_tumor": 1, "pancreas": 3, "pancreas_tumor": 1, "colon_cancer": 3, "lung_tumor": 3, "spleen": 3,
    }  # fmt: skip


def test_names_of_the_benchmarks_own_folders(tmp_path: Path) -> None:
    write_mots(tmp_path / "raw")
    (tmp_path / "raw" / "kits19").rename(tmp_path / "raw" / "1Kidney")
    (tmp_path / "raw" / "1Kidney" / "data").rename(tmp_path / "raw" / "1Kidney" / "origin")
    for number, (task, (folder, *_)) in enumerate(MSD.items(), start=2):
        moved = (tmp_path / "raw" / folder).rename(tmp_path / "raw" / f"{number}{folder[7:]}")
        if task in ("hepaticvessel", "spleen"):
            (moved / "dataset.json").unlink()
    manifest = to_manifest(tmp_path, Options())  # one folder deeper
    assert {c.id for c in manifest.cases} == IDS
    vessels = manifest.case("hepaticvessel_002")
    assert {v: set(r) for v, r in vessels.values.items()} == {1: {"hepatic_vessels"}, 2: {"hepatic_vessel_tumor"}}


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mots(tmp_path / "raw")
    shutil.rmtree(root / "Task06_Lung")
    (root / "Task09_Spleen" / "imagesTr" / "spleen_2.nii.gz").unlink()
    arguments = ["mots", str(root), "-o", str(tmp_path / "mots.json")]
    assert tyro.cli(Command, args=arguments).run() == 0
    told = capsys.readouterr().out
    assert f"kidney: kits19 in {root / 'kits19' / 'data'}, 1 train, 1 test" in told
    assert "lung: not found, expected a folder called Task06_Lung or 5Lung or Lung" in told
    assert "spleen: 40 of 41 published cases missing: spleen_2, spleen_3," in told
    assert "and 20 more" in told
    assert "is not the published benchmark" in told
    saved = Manifest.load(tmp_path / "mots.json")
    assert "lung_tumor" not in saved.rois
    assert saved.path(saved.case("spleen_10").images[0]).is_file()
    with pytest.raises(UserError, match=r"--require-all: liver: 129 of 131 .*; lung: not found"):
        tyro.cli(Command, args=[*arguments, "--require-all"]).run()


def test_a_complete_benchmark_is_not_complained_of(tmp_path: Path) -> None:
    for task, numbers in NUMBERS.items():
        if task in MSD:
            folder, _, pattern, _ = MSD[task]
            for n in (*SPLIT[task]["train"], *SPLIT[task]["test"]):
                for kind in ("imagesTr", "labelsTr"):
                    path = tmp_path / folder / kind / f"{pattern.format(n)}.nii.gz"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
        assert numbers[0] in SPLIT[task]["train"]
    for n in range(131):
        for kind in ("volume", "segmentation"):
            (tmp_path / "LITS").mkdir(exist_ok=True)
            (tmp_path / "LITS" / f"{kind}-{n}.nii").touch()
    for n in range(210):
        (tmp_path / "KiTS19" / f"case_{n:05d}").mkdir(parents=True)
        for kind in ("imaging", "segmentation"):
            (tmp_path / "KiTS19" / f"case_{n:05d}" / f"{kind}.nii.gz").touch()
    manifest = to_manifest(tmp_path, Options(require_all=True))
    assert sum(c.split == "train" for c in manifest.cases) == 920
    assert sum(c.split == "test" for c in manifest.cases) == 235
    told = notes(manifest)
    assert len(told) == 7
    assert told[2].endswith("242 train, 61 test")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds none of the seven data sets; expected folders such as LITS, KiTS19"):
        to_manifest(tmp_path, Options())
    root = write_mots(tmp_path / "raw")
    with pytest.raises(UserError, match=r"--folders 'kidny=x': expected TASK=FOLDER, .*did you mean 'kidney'"):
        to_manifest(root, Options(folders=("kidny=x",)))
    with pytest.raises(UserError, match="no such folder"):
        to_manifest(root, Options(folders=(f"kidney={tmp_path / 'none'}",)))
    swapped = f"lung={root / 'Task09_Spleen'}"
    with pytest.raises(UserError, match=r"'spleen'|annotates spleen, expected lung_tumor"):
        to_manifest(root, Options(folders=(swapped,)))
    shutil.copytree(root / "Task06_Lung", root / "5Lung")
    with pytest.raises(UserError, match=r"5Lung and Task06_Lung both look like the lung task; .*--folders lung=FOLDER"):
        to_manifest(root, Options())
    chosen = to_manifest(root, Options(folders=(f"lung={root / '5Lung'}",)))
    assert "5Lung" in chosen.case("lung_001").images[0]
    for kind in ("imaging", "segmentation"):
        save(root / "kits19" / "data" / "case_00300" / f"{kind}.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(UserError, match=r"case 'case_00300' is not in the published split of the kidney task"):
        to_manifest(root, Options(folders=(f"lung={root / '5Lung'}",)))
    for file in (root / "Task10_Colon" / "labelsTr").iterdir():
        file.unlink()
    shutil.rmtree(root / "kits19" / "data" / "case_00300")
    with pytest.raises(UserError, match=r"Task10_Colon: none of its 2 listed cases has its files there"):
        to_manifest(root, Options(folders=(f"lung={root / '5Lung'}",)))

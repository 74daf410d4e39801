"""A store that is still that of its manifest is told from one that is not, without parsing the manifest."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gleanseg import api
from gleanseg.config import PrepareConfig
from gleanseg.data import preprocess
from gleanseg.data.manifest import Manifest
from gleanseg.data.store import Store, folder_name
from gleanseg.data.unchanged import file_states, is_unchanged, states_digest
from gleanseg.engine.setup import set_up
from gleanseg.errors import UserError
from gleanseg.reading import file_digest
from support.data import prepared
from support.volumes import ct_case, ct_manifest, save

CONFIG = PrepareConfig(spacing=(1.0, 1.0, 1.0), window=(-100, 200), crop="none")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared manifest of three cases: a, b%c, and d without labels."""
    cases = [ct_case(tmp_path, name, seed=i, labelled=i < 2) for i, name in enumerate(("a", "b", "d"))]
    cases[1]["id"] = "b%c"
    for case in cases:
        case["images"] = [Path(case["images"][0]).name]
        case |= {"labels": Path(case["labels"]).name} if "labels" in case else {}
    (tmp_path / "m.json").write_text(ct_manifest(*cases).to_json())
    prepare(tmp_path)
    return tmp_path


def prepare(folder: Path) -> None:
    file = folder / "m.json"
    store = folder / "m.store"
    preprocess.prepare(Manifest.load(file), CONFIG, store, manifest_file=file_digest(file), num_workers=1)


def unchanged(folder: Path, **changes: object) -> bool:
    return is_unchanged(folder / "m.json", CONFIG.model_copy(update=changes), folder / "m.store")


def test_nothing_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gleanseg.data.manifest.Manifest.load", None)
    monkeypatch.setattr("gleanseg.data.store.read_case", None)
    assert unchanged(folder)


def test_it_may_lie_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = shutil.copytree(folder, tmp_path_factory.mktemp("other") / "place")  # copies times, too
    assert unchanged(moved)
    (folder / "a.nii.gz").unlink()
    assert unchanged(moved)


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: save(folder / "a.nii.gz", np.zeros((20, 24, 28), np.int16)),
    lambda folder: save(folder / "b_seg.nii.gz", np.zeros((20, 24, 28), np.uint8)),
    lambda folder: (folder / "d.nii.gz").unlink(),
    lambda folder: (folder / "d.nii.gz").touch(),
    lambda folder: (folder / "m.json").write_text((folder / "m.json").read_text().replace('"b%c"', '"e"')),
    lambda folder: (folder / "m.json").write_text(json.dumps(json.loads((folder / "m.json").read_text()))),
    lambda folder: (folder / "m.json").unlink(),
    lambda folder: (folder / "m.store" / "index.npz").unlink(),
    lambda folder: (folder / "m.store" / "index.npz").write_bytes(b"PK"),
    lambda folder: (folder / "m.store" / "store.json").unlink(),
    lambda folder: (folder / "m.store" / "store.json").write_text("{}"),
    lambda folder: shutil.rmtree(folder / "m.store" / "cases" / folder_name("b%c")),
    lambda folder: shutil.rmtree(folder / "m.store"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert not unchanged(folder)


def test_another_configuration_is_seen(folder: Path) -> None:
    assert unchanged(folder, crop="none")
    assert not unchanged(folder, crop="foreground")


def test_preparing_again_makes_it_unchanged(folder: Path) -> None:
    (folder / "a.nii.gz").touch()
    shutil.rmtree(folder / "m.store" / "cases" / folder_name("b%c"))
    assert not unchanged(folder)
    prepare(folder)
    assert unchanged(folder)


def test_a_store_of_an_earlier_version_becomes_one(folder: Path) -> None:
    head = folder / "m.store" / "store.json"
    told = json.loads(head.read_text())
    head.write_text(json.dumps({key: value for key, value in told.items() if key not in ("manifest_file", "own_rois")}))
    with np.load(folder / "m.store" / "index.npz") as index:
        columns = {name: index[name] for name in index if not name.startswith("input")}
    np.savez(folder / "m.store" / "index.npz", **columns)
    assert not unchanged(folder)
    prepare(folder)
    assert unchanged(folder)
    assert json.loads(head.read_text()) == told


def test_the_same_manifest_in_another_file_is_known_from_then_on(folder: Path) -> None:
    index = (folder / "m.store" / "index.npz").stat().st_mtime_ns
    (folder / "m.json").write_text(json.dumps(json.loads((folder / "m.json").read_text())))
    assert not unchanged(folder)
    prepare(folder)
    assert unchanged(folder)
    assert (folder / "m.store" / "index.npz").stat().st_mtime_ns == index


def test_voxels_beside_a_header_and_slices_in_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    for file in ("a.mhd", "a.raw", "series/1.dcm", "series/2.dcm", "i.h5"):
        (tmp_path / file).write_bytes(b"123")
    names = ("a.mhd", "series", "i.h5#image", "gone.nii")
    found = file_states(tmp_path, names)
    assert [state[:2] for state in found] == [
        ["a.mhd", 3], ["a.raw", 3], ["1.dcm", 3], ["2.dcm", 3], ["i.h5", 3],
    ]  # fmt: skip
    (tmp_path / "a.raw").write_bytes(b"1234")
    changed = file_states(tmp_path, names)
    assert states_digest(changed) != states_digest(found)
    (tmp_path / "series" / "3.dcm").write_bytes(b"123")
    assert states_digest(file_states(tmp_path, names)) != states_digest(changed)


def test_training_parses_the_manifest_only_when_its_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prepared(tmp_path)
    assert api.is_prepared(recipe)
    with monkeypatch.context() as patched:
        patched.setattr("gleanseg.data.manifest.Manifest.load", None)
        set_up(recipe)
    told = json.loads(recipe.manifest.read_text())
    recipe.manifest.write_text(json.dumps(told))  # the same, written in another way
    set_up(recipe)
    recipe.manifest.write_text(json.dumps(told | {"name": "renamed"}))
    with pytest.raises(UserError, match="made from another version of"):
        set_up(recipe)


def test_own_rois_of_a_store_of_an_earlier_version_are_the_manifests(tmp_path: Path) -> None:
    recipe = prepared(tmp_path)
    told = json.loads(recipe.manifest.read_text())
    recipe.manifest.write_text(json.dumps(told | {"own_rois": {"growth": {"name": "growth", "part_of": "liver"}}}))
    api.prepare(recipe)
    head = recipe.store_path / "store.json"
    told = json.loads(head.read_text())
    assert set_up(recipe).own_rois == told["own_rois"] != {}
    head.write_text(json.dumps({key: value for key, value in told.items() if key not in ("manifest_file", "own_rois")}))
    setup = set_up(recipe)
    assert setup.own_rois == told["own_rois"]
    assert setup.ontology["growth"].name == "growth"


def test_own_rois_come_with_the_store(tmp_path: Path) -> None:
    own = {"growth": {"name": "growth", "part_of": "liver"}}
    case = ct_case(tmp_path, "a", seed=0) | {"values": {1: ["liver"], 2: ["growth"], 3: ["spleen"]}}
    rois = ("liver", "growth", "spleen")
    manifest = Manifest(
        name="own", rois=rois, channels=[{"name": "ct", "modality": "CT"}], own_rois=own,
        cases=[case | {"annotated": rois}],
    )  # fmt: skip
    preprocess.prepare(manifest, CONFIG, tmp_path / "s", num_workers=1)
    assert Store.open(tmp_path / "s").own_rois == own

import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gleanseg.config import PrepareConfig
from gleanseg.data import images, preprocess, store_files
from gleanseg.data.manifest import Manifest
from gleanseg.data.preprocess import prepare
from gleanseg.data.store import Store
from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from support.volumes import ROIS, VALUES, ct_case, ct_manifest, save

CONFIG = PrepareConfig(spacing=(1.0, 1.0, 1.0), window=(-100, 200), crop="none")


@pytest.fixture
def cases(tmp_path):
    raw = tmp_path / "raw"
    return [
        ct_case(raw, "a", seed=1),
        ct_case(raw, "b", seed=2, split="validation", site="B", annotated=["spleen"]),
        ct_case(raw, "c", seed=3, labelled=False),
        ct_case(raw, "d", seed=4, split="test"),
    ]


def whole(case):
    return case.read((0, 0, 0), case.grid.shape_ZYX)


def stamps(out):
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("cases/*/case.json")}


def leftovers(out):
    return [p.name for p in out.rglob("*") if ".part" in p.name]


def test_what_is_stored(cases, tmp_path):
    seen = []
    store = prepare(ct_manifest(*cases), CONFIG, tmp_path / "s", num_workers=1, progress=lambda *p: seen.append(p))
    assert store.ids == ("a", "b", "c", "d")
    assert store.splits == ("train", "validation", "train", "test")
    assert store.rois == ROIS
    assert seen == [(0, 1, "measuring a"), (1, 4, "a"), (2, 4, "b"), (3, 4, "c"), (4, 4, "d")]
    a, b, c, _ = (store.case(id) for id in store.ids)
    assert a.grid.shape_ZYX == a.native.shape_ZYX == (20, 24, 28)
    assert a.num_voxels.tolist() == [800, 27, 180]
    assert (a.annotated.tolist(), a.known.tolist()) == ([True] * 3, [True] * 3)
    assert a.table.tolist() == [[False] * 3, [True, False, False], [True, True, False], [False, False, True]]
    image, codes = whole(a)
    scale = store.plan.intensity[0]
    assert image[0, 0, 0, 0] == np.float16((-100 - scale.mean) / scale.std)
    assert image.dtype == np.float16
    assert np.bincount(codes.ravel()).tolist() == [20 * 24 * 28 - 980, 773, 27, 180]
    assert (b.site, b.annotated.tolist(), b.known.tolist()) == ("B", [False, False, True], [False, False, True])
    assert b.num_voxels.tolist() == [0, 0, 180]
    assert not whole(c)[1].any()
    assert not c.known.any()
    assert (c.folder / "codes.b2nd").stat().st_size < 500


def test_two_workers_store_the_same_bytes(cases, tmp_path):
    for workers in (1, 2):
        prepare(ct_manifest(*cases), CONFIG, tmp_path / f"s{workers}", num_workers=workers)
    files = sorted(p.relative_to(tmp_path / "s1") for p in (tmp_path / "s1").rglob("*.*") if p.suffix != ".npz")
    assert len(files) == 17
    for file in files:
        assert (tmp_path / "s1" / file).read_bytes() == (tmp_path / "s2" / file).read_bytes()


def test_nested_rois_stay_nested_on_another_grid(cases, tmp_path):
    store = prepare(ct_manifest(*cases), PrepareConfig(spacing=(1.7, 0.6, 1.3)), tmp_path / "s")
    case = store.case("a")
    inside = case.table[whole(case)[1]]
    liver, tumor, spleen = (inside[..., r] for r in range(3))
    assert 0 < tumor.sum() < liver.sum()
    assert not (tumor & ~liver).any()
    assert not (liver & spleen).any()
    assert liver.sum() * 1.7 * 0.6 * 1.3 == pytest.approx(800, rel=0.1)
    for roi in range(3):
        z, y, x = case.foreground(roi).astype(int).T
        assert inside[z, y, x, roi].all()
        assert len(z) == case.num_voxels[roi]


def test_orientation_is_ras_and_the_way_back_is_kept(tmp_path):
    flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    one = ct_case(tmp_path / "raw", "a", seed=1, labelled=False, affine=flipped)
    image = np.asarray(whole(prepare(ct_manifest(one), CONFIG, tmp_path / "s").case("a"))[0])
    other = ct_case(tmp_path / "raw2", "a", seed=1, labelled=False)
    upright = np.asarray(whole(prepare(ct_manifest(other), CONFIG, tmp_path / "t").case("a"))[0])
    np.testing.assert_array_equal(image, upright[..., ::-1, ::-1])


def test_annotated_voxels_are_never_cropped(tmp_path):
    image = np.full((20, 40, 60), -1000, dtype=np.int16)
    image[5:15, 14:26, 4:16] = 30
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[10, 20, 10] = labels[10, 20, 55] = 3  # the second in air
    case = {"id": "a", "images": [save(tmp_path / "a.nii", image)], "labels": save(tmp_path / "l.nii", labels)}
    made = prepare(
        ct_manifest(case | {"values": VALUES, "annotated": ["spleen"]}), PrepareConfig(crop="body"), tmp_path / "s"
    )
    assert made.case("a").num_voxels.tolist() == [0, 0, 2]
    assert made.case("a").box == ((0, 20), (3, 37), (0, 56))


def test_voxels_nobody_judged_have_a_code_of_their_own(tmp_path):
    case = ct_case(tmp_path / "raw", "a", seed=1, values={1: ("liver",), 3: ("spleen",)}, ignore=2)
    case["annotated"] = ["liver", "spleen"]
    stored = prepare(ct_manifest(case), CONFIG, tmp_path / "s").case("a")
    assert stored.ignore_code == 3
    assert not stored.table[3].any()
    assert (whole(stored)[1] == 3).sum() == 27
    assert stored.num_voxels.tolist() == [773, 0, 180]


def test_an_interrupted_run_goes_on_where_it_stopped(cases, tmp_path):
    out, manifest = tmp_path / "s", ct_manifest(*cases)

    def interrupt(done, total, id):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(manifest, CONFIG, out, num_workers=1, progress=interrupt)
    before = stamps(out)
    assert sorted(before) == ["a", "b"]
    with pytest.raises(UserError, match="preparation did not finish; run 'gleanseg prepare' again"):
        Store.open(out)
    # A killed run also leaves a half-written folder.
    shutil.copytree(out / "cases" / "a", out / "cases" / ".c.123.part")
    seen = []
    store = prepare(manifest, CONFIG, out, num_workers=1, progress=lambda *p: seen.append(p))
    assert seen == [(1, 4, "a"), (2, 4, "b"), (3, 4, "c"), (4, 4, "d")]  # nothing is measured again
    assert {id: stamp for id, stamp in stamps(out).items() if id in before} == before
    assert leftovers(out) == []
    assert store.ids == ("a", "b", "c", "d")


def test_only_what_changed_is_prepared_again(cases, tmp_path):
    out = tmp_path / "s"
    prepare(ct_manifest(*cases), CONFIG, out)
    before = stamps(out)
    ct_case(tmp_path / "raw", "d", seed=9)  # another image under the same name
    (out / "cases" / "c" / "codes.b2nd").write_bytes(b"cut")
    cases[1]["absent"] = ["liver"]
    cases[1]["site"] = "elsewhere"
    cases.append(ct_case(tmp_path / "raw", "e", seed=10, split="test"))
    store = prepare(ct_manifest(*cases), CONFIG, out)
    after = stamps(out)
    assert {id for id in after if before.get(id) != after[id]} == {"b", "c", "d", "e"}
    assert store.case("b").known.tolist() == [True, True, True]
    assert store.case("b").site == "elsewhere"
    assert store.case("e").split == "test"


def test_another_split_alone_prepares_nothing(cases, tmp_path):
    out = tmp_path / "s"
    prepare(ct_manifest(*cases), CONFIG, out)
    before = stamps(out)
    cases[3]["split"] = "validation"
    assert prepare(ct_manifest(*cases), CONFIG, out).split("d") == "validation"
    assert stamps(out) == before


def test_a_store_of_another_plan_is_left_alone(cases, tmp_path):
    out = tmp_path / "s"
    prepare(ct_manifest(*cases), CONFIG, out)
    before = stamps(out)
    with pytest.raises(UserError, match=r"spacing_ZYX_mm is \(1.0, 1.0, 1.0\) there and \(2.0, 1.0, 1.0\) here.*--out"):
        prepare(ct_manifest(*cases), CONFIG.model_copy(update={"spacing": (1.0, 1.0, 2.0)}), out)
    assert stamps(out) == before
    assert Store.open(out).ids == ("a", "b", "c", "d")


@pytest.mark.parametrize("workers", [1, 2])
def test_one_image_under_two_ids_is_refused(cases, tmp_path, workers):
    cases[3]["images"] = [
        save(tmp_path / "raw" / "copy.nii", images.read(Path(cases[0]["images"][0])).array.astype(np.float32))
    ]
    with pytest.raises(UserError, match=r"cases '(a|d)' .* and '(a|d)' .* hold the same image"):
        prepare(ct_manifest(*cases), CONFIG, tmp_path / "s", num_workers=workers)
    with pytest.raises(UserError, match="did not finish"):
        Store.open(tmp_path / "s")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_leaves_nothing_half_written(cases, tmp_path, monkeypatch, workers):
    out, real = tmp_path / "s", os.fsync

    def full(descriptor):
        if "/.d." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(store_files.os, "fsync", full)
    with pytest.raises(UserError, match=r"s: disk full writing case 'd'; free space and run the same command again"):
        prepare(ct_manifest(*cases), CONFIG, out, num_workers=workers)
    assert leftovers(out) == []
    assert "d" not in stamps(out)
    assert not (out / "index.npz").exists()
    monkeypatch.undo()
    assert len(prepare(ct_manifest(*cases), CONFIG, out).ids) == 4


def test_an_index_of_an_earlier_version_is_written_anew(cases, tmp_path):
    out = tmp_path / "s"
    new = prepare(ct_manifest(*cases), CONFIG, out, num_workers=1).overlaps
    with np.load(out / "index.npz") as index:
        columns = {name: index[name] for name in index if not name.startswith(("overlapping", "input"))}
    np.savez(out / "index.npz", **columns)
    with pytest.raises(UserError, match=r"an earlier version wrote its index.*run 'gleanseg prepare' again"):
        _ = Store.open(out).overlaps
    before = stamps(out)
    again = prepare(ct_manifest(*cases), CONFIG, out, num_workers=1).overlaps
    assert stamps(out) == before
    for one, other in zip(new, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("damaged", [b"", b"PK", b"no archive"])
def test_a_damaged_index_is_written_anew(cases, tmp_path, damaged):
    out = tmp_path / "s"
    prepare(ct_manifest(*cases), CONFIG, out, num_workers=1)
    (out / "index.npz").write_bytes(damaged)
    before = stamps(out)
    assert prepare(ct_manifest(*cases), CONFIG, out, num_workers=1).ids == ("a", "b", "c", "d")
    assert stamps(out) == before


def test_a_broken_image_names_file_and_case(cases, tmp_path):
    file = Path(cases[2]["images"][0])
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match=r"case 'c': .*c\.nii\.gz"):
        prepare(ct_manifest(*cases), CONFIG, tmp_path / "s", num_workers=1)
    assert leftovers(tmp_path / "s") == []


def test_too_large_intensities_are_refused(tmp_path):
    case = {"id": "a", "images": [save(tmp_path / "a.nii", np.full((4, 4, 4), 1e5, np.float32))]}
    with pytest.raises(UserError, match=r"case 'a': intensities reach 100000, above 65504.*'zscore'"):
        prepare(ct_manifest(case), PrepareConfig(intensity="none"), tmp_path / "s")


def test_a_folder_with_other_things_is_refused(cases, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files and is not a store"):
        prepare(ct_manifest(*cases), CONFIG, tmp_path / "s")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["thesis.txt"]


def test_a_plan_that_fails_leaves_no_folder(cases, tmp_path):
    Path(cases[0]["images"][0]).unlink()
    with pytest.raises(UserError, match=r"case 'a': .*no such file"):
        prepare(ct_manifest(*cases), CONFIG, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_finished_store_is_not_written_to(cases, tmp_path):
    prepare(ct_manifest(*cases), CONFIG, tmp_path / "s")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    prepare(ct_manifest(*cases), CONFIG, tmp_path / "s")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == before


def test_a_folder_that_cannot_be_made_is_explained(cases, tmp_path):
    (tmp_path / "s").write_text("a file")
    with pytest.raises(UserError, match="s: cannot write"):
        prepare(ct_manifest(*cases), CONFIG, tmp_path / "s")


def test_running_out_of_memory_is_explained(cases, tmp_path, monkeypatch):
    def no_memory(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(preprocess, "read_image", no_memory)
    config = PrepareConfig(spacing=(1, 1, 1), intensity="none", crop="none")
    with pytest.raises(UserError, match="out of memory writing case 'a'; use fewer --workers"):
        prepare(ct_manifest(*cases), config, tmp_path / "s", num_workers=1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 0.9), (2.0, 2.0, 2.0)])
def test_the_estimate_covers_the_peak(tmp_path, spacing):
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (90, 94, 98)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[10:60, 10:60, 10:60] = 1 + np.arange(50) % 3
    case = {"id": "a", "images": [save(tmp_path / "a.nii", image)], "labels": save(tmp_path / "l.nii", labels)}
    manifest = ct_manifest(case | {"values": VALUES, "annotated": ROIS})
    config = PrepareConfig(spacing=spacing, window=(-100, 100), crop="none")
    store = prepare(manifest, config, tmp_path / "s", num_workers=1)
    (tmp_path / "s" / "cases" / "a" / "case.json").unlink()
    tracemalloc.start()
    prepare(manifest, config, tmp_path / "s", num_workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.4 < peak / preprocess._estimate(manifest, manifest.cases[0], store.plan) < 1.0


def test_case_descriptions_are_plain_json(cases, tmp_path):
    prepare(ct_manifest(*cases), CONFIG, tmp_path / "s")
    found = json.loads((tmp_path / "s" / "cases" / "a" / "case.json").read_text())
    assert found["sets"] == [[], [0], [0, 1], [2]]
    assert found["box"] == [[0, 20], [0, 24], [0, 28]]
    assert found["grid"]["affine"] == np.eye(4).tolist()


def test_real_cases_of_many_rois(shared_data, tmp_path):
    """The CT with 117 masks: nothing that was annotated is lost, and volumes stay within a few percent."""
    sizes = {"a": (3.0, 3.0, 3.0), "b": (2.0, 2.0, 2.5)}
    folder = shared_data / "ct_example"
    values = builtin().scheme("totalsegmentator-v2")
    rois = tuple(dict.fromkeys(values.values()))
    case = {
        "id": "s0001",
        "images": [str(folder / "s0001" / "ct.nii.gz")],
        "labels": str(folder / "s0001_multilabel.nii.gz"),
        "values": {value: (roi,) for value, roi in values.items()},
        "annotated": rois,
    }
    manifest = Manifest(name="ct", rois=rois, channels=[{"name": "ct", "modality": "CT"}], cases=[case])
    found = {}
    for name, spacing in sizes.items():
        config = PrepareConfig(spacing=spacing, resample="cubic")
        stored = prepare(manifest, config, tmp_path / name, num_workers=1).case("s0001")
        found[name] = stored.num_voxels * np.prod(spacing)
        assert stored.native.shape_ZYX == (30, 101, 122)
    assert (found["a"] > 0).sum() == 40
    np.testing.assert_array_equal(found["a"] > 0, found["b"] > 0)
    large = found["a"] > 27 * 200
    np.testing.assert_allclose(found["b"][large] / found["a"][large], 1, atol=0.08)

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gleanseg.data.case import Channel
from gleanseg.data.foreground import sample_foreground
from gleanseg.data.plan import Intensity, Plan
from gleanseg.data.store import Store, folder_name, read_case, write_index
from gleanseg.data.store_files import Head, compressed, grid_json, npy_bytes, write_bytes, write_case, write_head
from gleanseg.data.volume import Grid
from gleanseg.errors import UserError

SHAPE = (40, 70, 150)
TABLE = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.bool_)
PLAN = Plan(
    spacing_ZYX_mm=(2.0, 1.0, 0.5),
    intensity=(Intensity(kind="none"), Intensity(kind="none")),
    resample="linear",
    crop="none",
    rois=("liver", "liver_tumor"),
    channels=(Channel(name="a", modality="MR"), Channel(name="b", modality="MR")),
)


def arrays(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, *SHAPE)).astype(np.float16), rng.integers(0, 3, SHAPE).astype(np.uint8)


def write_store(path, ids):
    grid = Grid(SHAPE, np.diag([0.5, 1.0, 2.0, 1.0]))
    (path / "cases").mkdir(parents=True)
    write_head(path, Head(plan=PLAN, request="r", manifest_digest="digest of the manifest"))
    for seed, id in enumerate(ids):
        image, codes = arrays(seed)
        voxels, offsets = sample_foreground(codes, TABLE, id)
        description = {
            "id": id, "content": f"hash {seed}", "grid": grid_json(grid), "native": grid_json(grid),
            "box": [[0, n] for n in SHAPE], "num_channels": 2, "sets": [[], [0], [0, 1]], "ignore_code": None,
            "annotated": [True, seed == 0], "known": [True, True], "num_voxels": [seed, 5], "offsets": offsets.tolist(),
        }  # fmt: skip
        files = {"image.b2nd": compressed(image), "codes.b2nd": compressed(codes), "foreground.npy": npy_bytes(voxels)}
        write_case(path / "cases" / folder_name(id), files, description)
    splits = ("train", "test", "train")
    write_index(
        path,
        [
            read_case(path / "cases" / folder_name(id), id, site=f"site {i}", split=splits[i % 3])
            for i, id in enumerate(ids)
        ],
        input_names=[f"{id}.nii.gz" for id in ids],
        input_states="digest of their states",
    )
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "s", ("one", "two", "a/ü .."))


def test_reading_a_box_equals_slicing(path):
    image, codes = arrays(1)
    case = Store.open(path).case("two")
    rng = np.random.default_rng(5)
    for _ in range(25):
        a, b = (rng.integers(0, np.array(SHAPE) + 1) for _ in range(2))
        start, stop = np.minimum(a, b), np.minimum(np.maximum(a, b) + 1, SHAPE)
        start = np.minimum(start, stop - 1)
        box = tuple(slice(i, j) for i, j in zip(start, stop, strict=True))
        found_image, found_codes = case.read(tuple(start.tolist()), tuple(stop.tolist()))
        np.testing.assert_array_equal(found_image, image[(slice(None), *box)])
        np.testing.assert_array_equal(found_codes, codes[box])
        assert (found_image.dtype, found_codes.dtype) == (np.float16, np.uint8)


@pytest.mark.parametrize(("start", "stop"), [((-1, 0, 0), (4, 4, 4)), ((0, 0, 0), (41, 4, 4)), ((0, 5, 0), (4, 5, 4))])
def test_boxes_outside_the_volume_are_refused(path, start, stop):
    with pytest.raises(ValueError, match=r"does not lie in \(40, 70, 150\) of one"):
        Store.open(path).case("one").read(start, stop)


def test_threads_may_read_at_the_same_time(path):
    image, codes = arrays(0)
    case = Store.open(path).case("one")
    starts = np.random.default_rng(0).integers(0, np.array(SHAPE) - 30, (60, 3)).tolist()

    def same(start):
        stop = [i + 30 for i in start]
        box = tuple(slice(i, j) for i, j in zip(start, stop, strict=True))
        found = case.read(tuple(start), tuple(stop))
        return np.array_equal(found[0], image[(slice(None), *box)]) and np.array_equal(found[1], codes[box])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, starts))


def test_foreground_lies_in_the_roi(path):
    _, codes = arrays(0)
    case = Store.open(path).case("one")
    for roi in range(2):
        voxels = case.foreground(roi)
        assert voxels.shape == (20_000, 3)
        assert TABLE[codes[tuple(voxels.T.astype(int))], roi].all()
        np.testing.assert_array_equal(voxels, Store.open(path).case("one").foreground(roi))


def test_opening_reads_no_case(path, monkeypatch):
    monkeypatch.setattr("gleanseg.data.store.read_case", None)
    store = Store.open(path)
    assert store.ids == ("one", "two", "a/ü ..")
    assert store.sites == ("site 0", "site 1", "site 2")
    assert [store.split(id) for id in store.ids] == ["train", "test", "train"]
    assert store.contents == ("hash 0", "hash 1", "hash 2")
    assert store.annotated.tolist() == [[True, True], [True, False], [True, False]]
    assert store.known.all()
    assert store.num_voxels.tolist() == [[0, 5], [1, 5], [2, 5]]
    assert store.shapes_ZYX.tolist() == [list(SHAPE)] * 3
    assert (store.rois, store.manifest_digest) == (("liver", "liver_tumor"), "digest of the manifest")
    assert store.plan == PLAN


def test_a_case_is_read_once_and_holds_its_geometry(path):
    store = Store.open(path)
    case = store.case("a/ü ..")
    assert store.case("a/ü ..") is case
    assert (case.site, case.split, case.content, case.num_channels) == ("site 2", "train", "hash 2", 2)
    assert case.grid.spacing_ZYX_mm == (2.0, 1.0, 0.5)
    assert case.box == ((0, 40), (0, 70), (0, 150))
    assert case.table.tolist() == TABLE.tolist()
    assert case.folder.name == "a%2F%C3%BC .."


@pytest.mark.parametrize(("id", "name"), [("case_1.b-2", "case_1.b-2"), ("..", "%2E%2E"), ("a:b*c", "a%3Ab%2Ac")])
def test_folder_names_are_safe(id, name):
    assert folder_name(id) == name


def test_unknown_cases_offer_the_nearest(path):
    with pytest.raises(UserError, match="no case 'too'; did you mean 'two'"):
        Store.open(path).case("too")


def test_what_is_not_a_store_says_so(tmp_path):
    with pytest.raises(UserError, match=r"not a store \(no store.json\); make one with 'gleanseg prepare'"):
        Store.open(tmp_path)
    (tmp_path / "store.json").write_text(json.dumps({"gleanseg_store": 7}))
    with pytest.raises(UserError, match="a store of version 7, expected 1; prepare into a new folder"):
        Store.open(tmp_path)
    (tmp_path / "store.json").write_text('{"gleanseg_store": 1, "plan"')
    with pytest.raises(UserError, match=r"store\.json: broken"):
        Store.open(tmp_path)


def test_broken_cases_say_what_to_do(tmp_path):
    path = write_store(tmp_path / "s", ("one", "two"))
    (path / "cases" / "one" / "image.b2nd").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"image\.b2nd: missing or broken .* run 'gleanseg prepare' again"):
        Store.open(path).case("one").read((0, 0, 0), (4, 4, 4))
    (path / "cases" / "one" / "foreground.npy").unlink()
    with pytest.raises(UserError, match=r"foreground\.npy: missing or broken"):
        Store.open(path).case("one").foreground(0)
    (path / "cases" / "two" / "case.json").write_text("{")
    with pytest.raises(UserError, match=r"case 'two' cannot be read .* run 'gleanseg prepare' again"):
        Store.open(path).case("two")
    with pytest.raises(UserError, match="holds case 'one', expected 'ONE'"):
        read_case(path / "cases" / "one", "ONE", site="", split="train")


def test_empty_code_volumes_take_no_room():
    assert len(compressed(np.zeros((300, 300, 300), dtype=np.uint8))) < 500


def test_half_precision_is_finer_than_the_noise_of_ct():
    scaled = np.linspace(-2, 2, 4001)  # standard deviations of a window whose deviation is 300 HU
    assert np.abs(scaled.astype(np.float16) - scaled).max() * 300 < 0.3


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    file = tmp_path / "f"
    write_bytes(file, b"old")

    def fail(descriptor):
        raise OSError("power cut")

    monkeypatch.setattr("gleanseg.data.store_files.os.fsync", fail)
    with pytest.raises(OSError, match="power cut"):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]

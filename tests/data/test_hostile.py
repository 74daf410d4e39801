"""Hostile files: refused in one line, before memory is taken, and without a say in where anything is written."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.fuzz_readers import mutated, seeds
from gleanseg import reading
from gleanseg.data import bounded, images, nifti
from gleanseg.data.manifest import Manifest
from gleanseg.data.manifest_checks import is_file_name
from gleanseg.data.plan import Plan
from gleanseg.data.store import Store, folder_name
from gleanseg.data.store_files import Head
from gleanseg.errors import UserError
from support.dicom import series

SEEDS = seeds()
QUICK = settings(max_examples=150, deadline=None, database=None, derandomize=True)


@pytest.mark.parametrize("kind", sorted(SEEDS))
def test_mutated_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    counts = mutated(SEEDS[kind], tmp_path, examples=60, derandomize=True)
    assert counts[False] > 10


def nifti_bytes(**fields: Any) -> bytes:
    """A NIfTI file of 4 x 5 x 6 voxels, its header changed."""
    header = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.eye(4)).header
    header["vox_offset"] = 352
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + bytes(4) + bytes(240)


QFORM = {"qform_code": 1, "sform_code": 0}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": [3, 10_000, 10_000, 10_000, 1, 1, 1, 1]}, "2,000,000,000,000 bytes of voxels expected, the file can"),
        ({"dim": [7, *[32_767] * 7]}, "bytes of voxels expected, the file cannot hold"),
        ({"dim": [3, -4, 5, 6, 1, 1, 1, 1]}, "its shape is"),
        ({"datatype": 77}, "not a complete NIfTI file"),
        ({"datatype": 128}, "neither whole nor real numbers"),  # RGB
        ({"datatype": 64, "bitpix": 64}, "960 bytes of voxels expected"),  # twice four times as long as it is
        ({"vox_offset": np.inf}, "not a complete NIfTI file"),
        ({"vox_offset": np.nan}, "not a complete NIfTI file"),
        ({"vox_offset": 1e18}, "bytes of voxels expected, the file cannot hold"),
        ({"srow_x": [np.nan, 0, 0, 0], "sform_code": 1}, "orientation has no volume or is beyond measure"),
        ({"srow_x": [1e30, 0, 0, 0], "sform_code": 1}, "orientation has no volume or is beyond measure"),
        ({"srow_z": [0, 0, 1, np.inf], "sform_code": 1}, "orientation has no volume or is beyond measure"),
        ({**QFORM, "pixdim": [1, np.nan, 1, 1, 1, 1, 1, 1]}, "a.nii"),
        ({**QFORM, "quatern_b": np.nan}, "a.nii"),
        ({**QFORM, "quatern_b": 9.0}, "not a complete NIfTI file"),
        ({"scl_slope": 1.0, "scl_inter": np.inf}, "not a complete NIfTI file"),
    ],
)
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_headers_of_nifti_that_lie(tmp_path: Path, fields: dict[str, Any], said: str, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    content = nifti_bytes(**fields)
    path.write_bytes(gzip.compress(content) if ending == "nii.gz" else content)
    with pytest.raises(UserError) as told:
        images.read(path)
    # What a small archive may hold, a small file may not: only the former has to be read to find out.
    assert said in str(told.value) or (ending == "nii.gz" and "bytes of voxels expected" in str(told.value))
    assert "\n" not in str(told.value)


def test_an_archive_that_goes_on_behind_its_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_MOST_BEHIND", 1 << 16)
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(nifti_bytes() + bytes(1 << 16)))
    images.read(path)
    path.write_bytes(gzip.compress(nifti_bytes() + bytes((1 << 16) + 1)))
    with pytest.raises(UserError, match=r"bomb\.nii\.gz: not a complete NIfTI file \(more than 65,536 bytes follow"):
        images.read(path)


def meta_image(path: Path) -> None:
    path.write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 10000 10000 10000\nElementType = MET_SHORT\n"
        b"ElementSpacing = 1 1 1\nElementDataFile = LOCAL\n"
    )


def nrrd(path: Path) -> None:
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 10000 10000 10000\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nendian: little\nspace origin: (0,0,0)\n\n"
    )


def h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", shape=(10_000,) * 3, dtype="i2", chunks=(100,) * 3, compression="gzip")


@pytest.mark.parametrize(
    ("make", "name"), [(meta_image, "a.mha"), (nrrd, "a.nrrd"), (h5, "a.h5"), (None, "dicom"), (None, "a.nii")]
)
def test_no_memory_is_taken_for_more_voxels_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None] | None, name: str
) -> None:
    path = tmp_path / name
    if make is not None:
        make(path)
    elif name == "dicom":
        series(path)
    else:
        path.write_bytes(nifti_bytes())
    if make is None:  # sound, and too large for a very small machine
        monkeypatch.setattr(bounded, "available_memory", lambda: 100)
    place = tmp_path / "a.h5#image" if name == "a.h5" else path
    with pytest.raises(UserError, match=r"by its header its voxels take .* GiB of memory, and .* are available"):
        images.read(place)
    grid, _ = images.read_grid(place)
    assert make is None or grid.shape_ZYX == (10_000,) * 3


@pytest.mark.parametrize("line", [b"kinds: " + b"[" * 3000, b"x" * 3000, b"sizes: " + b"5 " * 2000])
def test_fields_of_nrrd_that_overflow(tmp_path: Path, line: bytes) -> None:
    nrrd(tmp_path / "a.nrrd")
    whole = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"encoding", line + b"\nencoding"))
    with pytest.raises(UserError, match=r"a\.nrrd: a field of its header has [34],\d\d\d bytes"):
        images.read_grid(tmp_path / "a.nrrd")
    long = b"# " + b"c" * 3000 + b"\nnote:=" + b"v" * 3000 + b"\nencoding"
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"encoding", long))
    assert images.read_grid(tmp_path / "a.nrrd")[0].shape_ZYX == (10_000,) * 3


def manifest_of(id: str, **case: Any) -> Manifest:
    listed = [{"id": id, "images": ["a.nii.gz"], **case}]
    return Manifest(name="m", rois=("liver",), channels=({"name": "ct", "modality": "CT"},), cases=listed)


NO_FILE_NAMES = [
    "", "..", ".", "../x", "a/b", "/etc/x", "a\\b", "C:x", "CON", "nul", "com1.old", "lpt9", "aux.nii", "x.", "x ",
    " x", ".x", "a\nb", "a\0b", "a\u202egnp", "a\u200bb", "x" * 151, "\u8089" * 60, "a\tb", "a*", "a|b", "<b>",
]  # fmt: skip


@pytest.mark.parametrize("id", NO_FILE_NAMES)
def test_ids_that_are_no_file_names(id: str) -> None:
    with pytest.raises(UserError) as told:
        manifest_of(id)
    assert "'id' becomes part of file names" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("id", ["console", "case 1", "a.b-c_d", "Müller", "nul_1", "com10", "肝臓", "x" * 150])
def test_ids_that_are_file_names(id: str) -> None:
    assert manifest_of(id).cases[0].id == id


@QUICK
@given(st.one_of(st.text(max_size=30), st.text("./\\:-_CONnul19 \0\n", max_size=8)))
def test_no_id_leads_out_of_its_folder(id: str) -> None:
    try:
        accepted = manifest_of(id).cases[0].id
    except UserError:
        return
    assert accepted == id
    assert is_file_name(id)
    out = Path("/out").resolve()
    for place in (
        out / folder_name(id),
        out / f"{id}.nii.gz",
        out / f"{id}_layer1.nii.gz",
        out / f"{id}_{'r' * 64}.nii.gz",
    ):
        assert place.resolve().parent == out
        assert len(place.name.encode()) <= 255


@pytest.mark.parametrize("name", ["a\0b", "a\nb", ""])
def test_file_names_that_no_system_opens(name: str) -> None:
    with pytest.raises(UserError, match="a file name"):
        manifest_of("a", images=[name])


def test_roi_ids_are_words() -> None:
    for id in ("../x", "a/b", "<script>", "a" * 65, "", "a b", "é"):
        with pytest.raises(UserError, match="an id is a letter and at most 63 letters"):
            Manifest(
                name="m",
                rois=(id,),
                own_rois={id: {}},
                channels=({"name": "ct", "modality": "CT"},),
                cases=[{"id": "a", "images": ["a.nii"]}],
            )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def made(**data: Any) -> Manifest | None:
    """The manifest, None where it is refused in one line."""
    try:
        return Manifest(**data)
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error
        return None


CASE = {"id": "a", "images": ["a"]}
WHOLE = {"name": "m", "rois": ["liver"], "channels": [{"name": "ct", "modality": "CT"}], "cases": [CASE]}
CASE_KEYS = ("id", "site", "split", "images", "labels", "values", "annotated", "absent", "ignore", "spacing_mm")


@QUICK
@given(st.sampled_from(["gleanseg", "more", "own_rois", *WHOLE]), VALUES)
def test_any_value_of_a_manifest_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    if (found := made(**{**WHOLE, key: value})) is not None:
        assert Manifest(**json.loads(found.to_json())).digest() == found.digest()


@QUICK
@given(st.sampled_from(CASE_KEYS), VALUES)
def test_any_value_of_a_case_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    if (found := made(**{**WHOLE, "cases": [{**CASE, key: value}]})) is not None:
        assert Manifest(**json.loads(found.to_json())).digest() == found.digest()


def test_json_that_is_too_deep_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"gleanseg": 1, "cases": ' + "[" * 200_000)
    with pytest.raises(UserError, match=r"m\.json: not a JSON manifest \(it is nested too deeply\)"):
        Manifest.load(path)
    monkeypatch.setattr(reading, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"not a JSON manifest \(it has 200,025 bytes, expected at most 1,000\)"):
        Manifest.load(path)


def test_a_result_takes_the_place_of_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "a.nii").write_bytes(nifti_bytes())
    volume = images.read(tmp_path / "a.nii")
    (tmp_path / "out").mkdir()
    for name in ("a.nii.gz", "a.mha", "a.nrrd"):
        (tmp_path / "out" / name).symlink_to(precious)
        images.write(tmp_path / "out" / name, volume.array, volume)
        assert not (tmp_path / "out" / name).is_symlink()
    assert precious.read_text() == "mine"


class Evil:
    """Would leave a trace if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def test_a_store_with_pickled_arrays_runs_no_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    array = np.array([Evil(trace)], dtype=object)
    np.savez(tmp_path / "index.npz", ids=array, allow_pickle=True)
    treated = {"intensity": ({"kind": "none"},), "resample": "linear", "crop": "none"}
    channels = ({"name": "ct", "modality": "CT"},)
    plan = Plan(spacing_ZYX_mm=(1, 1, 1), rois=("liver",), channels=channels, **treated)
    store = Store(tmp_path, Head(plan=plan, request="", manifest_digest=""))
    with pytest.raises(UserError, match=r"index\.npz: missing or broken .*run 'gleanseg prepare' again"):
        _ = store.ids
    assert not trace.exists()

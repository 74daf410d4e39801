"""From files on disk to numbers: whole folders, other tools' label maps, and every mistake in them."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.data.manifest import Case, Channel, Manifest
from gleanseg.errors import UserError
from gleanseg.evaluate.evaluator import evaluate_folder
from gleanseg.evaluate.predictions import parse_values
from gleanseg.rois.ontology import builtin

AFFINE = np.array([[-0.8, 0, 0, 30], [0, 0.8, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]], dtype=np.float64)
SHAPE = (10, 20, 24)  # Z Y X
LIVER = (slice(2, 8), slice(3, 13), slice(4, 16))
TUMOR = (slice(3, 5), slice(4, 8), slice(5, 10))
SPLEEN = (slice(2, 6), slice(14, 19), slice(16, 22))


def write(path: Path, array_ZYX: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array_ZYX.T), affine), path)


def painted(**boxes: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
    """liver 1, tumor 2, spleen 3."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for value, name in enumerate(("liver", "tumor", "spleen"), start=1):
        if name in boxes:
            array[boxes[name]] = value
    return array


VALUES = {1: ("liver",), 2: ("liver", "liver_tumor"), 3: ("spleen",)}
FULL = painted(liver=LIVER, tumor=TUMOR, spleen=SPLEEN)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """a knows all; b knows only the liver, and that there is no spleen; u knows nothing; t is for training."""
    for case in "abut":
        write(tmp_path / f"{case}.nii.gz", np.zeros(SHAPE, dtype=np.int16))
        write(tmp_path / f"{case}_seg.nii.gz", painted(liver=LIVER) if case == "b" else FULL)
    rois = ("liver", "liver_tumor", "spleen")

    def case(id: str, split: str = "test", **keys: object) -> Case:
        return Case(id=id, split=split, images=(f"{id}.nii.gz",), **keys)

    labels = {x: {"labels": f"{x}_seg.nii.gz", "values": VALUES} for x in "abt"}
    cases = (
        case("a", annotated=rois, **labels["a"]),
        case("b", annotated=("liver",), absent=("spleen",), **labels["b"]),
        case("u"),
        case("t", split="train", annotated=rois, **labels["t"]),
    )
    channels = (Channel(name="ct", modality="CT"),)
    return Manifest(root=tmp_path, name="three", rois=rois, channels=channels, cases=cases)


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """What gleanseg writes: organs in one layer, the tumor in another, and a flat map that nobody scores."""
    folder = tmp_path / "predictions"
    shifted = (LIVER[0], LIVER[1], slice(LIVER[2].start + 1, LIVER[2].stop + 1))
    for case in "ab":
        write(folder / "layers" / f"{case}_layer1.nii.gz", painted(liver=LIVER if case == "a" else shifted))
        write(folder / "layers" / f"{case}_layer2.nii.gz", (painted(tumor=TUMOR) > 0).astype(np.uint8) * 2)
        write(folder / f"{case}.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    labels = {
        "gleanseg": 1, "rois": ["liver", "spleen", "liver_tumor"], "flat": {},
        "layers": [{"file_suffix": "_layer1", "values": {"1": ["liver"], "3": ["spleen"]}},
                   {"file_suffix": "_layer2", "values": {"2": ["liver_tumor"]}}],
    }  # fmt: skip
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


@pytest.mark.parametrize("num_workers", [1, 3])
def test_layers_of_a_run(manifest: Manifest, predictions: Path, num_workers: int) -> None:
    seen: list[tuple[int, int, str]] = []
    result = evaluate_folder(manifest, predictions, num_workers=num_workers, progress=lambda *step: seen.append(step))
    value = {row[:3]: row.value for row in result.rows}
    assert value["a", "liver", "dice"] == 1.0
    assert value["a", "liver_tumor", "nsd"] == 1.0
    assert value["b", "liver", "dice"] == pytest.approx(11 / 12)  # 12 voxels wide, shifted by one
    assert value["b", "liver", "reference_ml"] == pytest.approx(6 * 10 * 12 * 1.6 / 1000)
    assert ("b", "liver_tumor", "dice") not in value  # nobody looked
    assert value["a", "spleen", "dice"] == 0.0
    assert value["a", "spleen", "hd95"] == pytest.approx(math.hypot(10 * 2.5, 20 * 0.8, 24 * 0.8))
    assert math.isnan(value["b", "spleen", "dice"])  # absent, and not predicted
    spleen = result.summary.rois["spleen"]
    assert (spleen.cases, spleen.both_empty, spleen.missed, spleen.false_positives) == (2, 1, 1, 0)
    assert (result.unscored, result.missing, result.not_predicted) == (("u",), (), ())
    assert (result.protocol, result.split, result.manifest) == ("default", "test", "three")
    assert result.manifest_digest == manifest.digest()
    assert seen == [(1, 2, "a"), (2, 2, "b")]


def test_other_tools_label_maps(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    for case in "ab":
        write(folder / f"{case}.nii", FULL.astype(np.float32))
    result = evaluate_folder(manifest, folder, values=VALUES, protocol="ssl3d")
    value = {row[:3]: row.value for row in result.rows}
    assert value["a", "liver", "dice"] == value["a", "liver_tumor", "dice"] == value["b", "liver", "dice"] == 1.0
    assert value["b", "spleen", "dice"] == 0.0  # invented where it is absent
    assert result.summary.rois["spleen"].false_positives == 1
    assert result.summary.rois["spleen"].false_positive_ml == pytest.approx(4 * 5 * 6 * 1.6 / 1000)
    assert result.unit == "voxel"
    skipping = evaluate_folder(manifest, folder, values=VALUES, protocol="mots-v2")
    assert skipping.skipped_absent == 1
    assert skipping.summary.rois["spleen"].cases == 1
    some = evaluate_folder(manifest, folder, values={v: ("liver",) if v < 3 else () for v in (1, 2, 3)})
    assert (some.rois, some.not_predicted) == (("liver",), ("liver_tumor", "spleen"))


def test_ignored_voxels(manifest: Manifest, tmp_path: Path) -> None:
    """Voxels that the annotator marked as not judged count neither as hit nor as error."""
    reference = FULL.copy()
    reference[LIVER[0], LIVER[1], 10:16] = 9
    write(tmp_path / "a_seg.nii.gz", reference)
    folder = tmp_path / "other"
    write(folder / "a.nii.gz", painted(liver=(LIVER[0], LIVER[1], slice(4, 12)), tumor=TUMOR, spleen=SPLEEN))
    case = manifest.case("a").model_copy(update={"ignore": 9})
    changed = manifest.model_copy(update={"cases": (case,)})
    result = evaluate_folder(changed, folder, values=VALUES)
    assert {row.roi: row.value for row in result.rows if row.metric == "dice"} == dict.fromkeys(result.rois, 1.0)


def test_missing_predictions(manifest: Manifest, predictions: Path) -> None:
    (predictions / "layers" / "a_layer2.nii.gz").unlink()
    with pytest.raises(UserError, match=r"no prediction of case 'a' \(of 2\).*--allow-missing"):
        evaluate_folder(manifest, predictions)
    result = evaluate_folder(manifest, predictions, allow_missing=True)
    assert (result.missing, result.cases) == (("a",), ("b",))
    (predictions / "layers" / "b_layer1.nii.gz").unlink()
    with pytest.raises(UserError, match=r"nothing to evaluate .* every prediction is missing"):
        evaluate_folder(manifest, predictions, allow_missing=True)


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (FULL[1:], AFFINE, r"case 'a': .*a.nii.gz has shape \(24, 20, 9\) \(x, y, z\), its image \(24, 20, 10\)"),
        (FULL, AFFINE @ np.diag([-1.0, 1, 1, 1]), r"case 'a': .*from its image \(RAS against LAS\)"),
        (FULL * 2, AFFINE, "case 'a': .*holds value 4, which stands for nothing .declared: 1, 2, 3."),
        (FULL * 0.5, AFFINE, "case 'a': .*not whole numbers"),
        (-FULL.astype(np.int16), AFFINE, "case 'a': .*holds values from -3 to 0"),
    ],
)
def test_bad_predictions(
    manifest: Manifest, tmp_path: Path, array: NDArray[np.generic], affine: NDArray[np.float64], message: str
) -> None:
    folder = tmp_path / "other"
    write(folder / "a.nii.gz", array if array.dtype != np.float64 else array.astype(np.float32), affine)
    write(folder / "b.nii.gz", FULL)
    with pytest.raises(UserError, match=message):
        evaluate_folder(manifest, folder, values=VALUES)


def test_bad_folders(manifest: Manifest, predictions: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        evaluate_folder(manifest, tmp_path / "none")
    with pytest.raises(UserError, match="leave --values out"):
        evaluate_folder(manifest, predictions, values=VALUES)
    with pytest.raises(UserError, match="no case with split = 'validation'"):
        evaluate_folder(manifest, predictions, split="validation")
    (predictions / "labels.json").write_text('{"layers": [{"values": {}}]}')
    with pytest.raises(UserError, match=r"labels.json: damaged \(KeyError: 'file_suffix'\)"):
        evaluate_folder(manifest, predictions)
    (predictions / "labels.json").unlink()
    with pytest.raises(UserError, match="--values 1=liver"):
        evaluate_folder(manifest, predictions)
    with pytest.raises(UserError, match="nothing in common"):
        evaluate_folder(manifest, predictions, values={1: ("aorta",)})


def test_nothing_known(manifest: Manifest, predictions: Path) -> None:
    only = manifest.model_copy(update={"cases": (manifest.case("u"),)})
    with pytest.raises(UserError, match="no ROI that was predicted is known"):
        evaluate_folder(only, predictions)


def test_absent_without_labels(manifest: Manifest, predictions: Path) -> None:
    """A case may have no label map and still say what it does not hold."""
    case = manifest.case("a").model_copy(update={"labels": None, "annotated": (), "values": {}, "absent": ("liver",)})
    result = evaluate_folder(manifest.model_copy(update={"cases": (case,)}), predictions)
    counts = {roi: s[2:5] for roi, s in result.summary.rois.items()}
    assert counts == {"liver": (0, 0, 1), "liver_tumor": (0, 0, 1)}  # no liver, so no tumor in it either


def test_union_of_predicted_members(tmp_path: Path) -> None:
    """Kidneys are scored from the left and the right one."""
    array = painted(liver=SPLEEN, spleen=TUMOR)
    write(tmp_path / "a.nii.gz", np.zeros(SHAPE, dtype=np.int16))
    write(tmp_path / "seg.nii.gz", (array > 0).astype(np.uint8))
    write(tmp_path / "other" / "a.nii.gz", array)
    manifest = Manifest(
        root=tmp_path, name="one", rois=("kidneys",), channels=(Channel(name="ct", modality="CT"),),
        cases=(Case(id="a", split="test", images=("a.nii.gz",), labels="seg.nii.gz", values={1: ("kidneys",)},
                    annotated=("kidneys",)),),
    )  # fmt: skip
    values = {1: ("kidney_left",), 3: ("kidney_right",)}
    result = evaluate_folder(manifest, tmp_path / "other", values=values)
    assert (result.rois, result.rows[0].value) == (("kidneys",), 1.0)


def test_values_on_the_command_line() -> None:
    ontology = builtin()
    assert parse_values(["1=Liver", "2=liver,liver_tumor"], ontology) == {1: ("liver",), 2: ("liver", "liver_tumor")}
    for words, message in (
        (["liver"], "expected VALUE=ROI"),
        (["x=liver"], "expected VALUE=ROI"),
        (["1="], "expected VALUE=ROI"),
        (["1=liver", "1=spleen"], "stands twice"),
        (["1=livr"], "did you mean 'liver'"),
    ):
        with pytest.raises(UserError, match=message):
            parse_values(words, ontology)

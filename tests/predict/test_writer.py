import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
from stand_ins import Threshold, make_plan, make_predictor

from gleanseg.config import PredictConfig
from gleanseg.data import images
from gleanseg.data.manifest import Channel, Manifest
from gleanseg.data.plan import LabelBox
from gleanseg.errors import UserError
from gleanseg.evaluate.predictions import Predictions
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.predict.writer import file_items, manifest_items, predict_manifest, write_predictions
from gleanseg.rois.ontology import builtin

ROIS = ("liver", "liver_tumor")
LPS_OBLIQUE = np.array([[-1.5, 0.0, 0.05, 40.0], [0.0, -1.5, 0.0, 30.0], [0.04, 0.0, 2.0, -12.0], [0, 0, 0, 1]])


def ball(shape_ZYX: tuple[int, int, int] = (18, 20, 24)) -> np.ndarray:
    middle = np.array(shape_ZYX)[:, None, None, None] * np.array([0.4, 0.5, 0.6])[:, None, None, None]
    distance = np.linalg.norm(np.indices(shape_ZYX) - middle, axis=0)
    return np.clip(8 - distance, 0, 6).astype(np.float32)


def save_nifti(path: Path, array_ZYX: np.ndarray, affine: np.ndarray = LPS_OBLIQUE) -> Path:
    image = nib.Nifti1Image(array_ZYX.T, affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1, strip_shears=True)
    nib.save(image, path)
    return path


def nested() -> Predictor:
    return make_predictor(Threshold(1.0, 4.0), rois=ROIS)


def test_nifti_in_nifti_out_on_the_same_grid(tmp_path: Path) -> None:
    source = save_nifti(tmp_path / "a.nii.gz", ball())
    out = tmp_path / "out"
    assert write_predictions(nested(), file_items(source), out) == ["a"]
    names = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert names == ["a.nii.gz", "labels.json", "layers/a_layer1.nii.gz", "layers/a_layer2.nii.gz", "prediction.json"]
    given, flat = nib.load(source), nib.load(out / "a.nii.gz")
    assert flat.shape == given.shape
    np.testing.assert_array_equal(flat.affine, given.affine)
    assert (flat.header["sform_code"], flat.header["qform_code"]) == (2, 1)
    assert flat.get_data_dtype() == np.uint8
    organ, lesion = (np.asarray(nib.load(out / "layers" / f"a_layer{n}.nii.gz").dataobj).T for n in (1, 2))
    found = np.asarray(flat.dataobj).T
    np.testing.assert_array_equal(found, np.where(lesion == 2, 2, organ))
    assert 2 * ((organ == 1) & (ball() > 1)).sum() / ((organ == 1).sum() + (ball() > 1).sum()) > 0.96
    assert 0 < (lesion == 2).sum() < (organ == 1).sum()


def test_what_is_written_is_what_evaluation_reads(tmp_path: Path) -> None:
    source = save_nifti(tmp_path / "a.nii.gz", ball())
    predictor = nested()
    write_predictions(predictor, file_items(source), tmp_path / "out")
    held = Predictions.open(tmp_path / "out", ontology=builtin(), wanted=ROIS)
    assert set(held.rois) == set(ROIS)
    volume = images.read(source)
    prediction = predictor.predict_volume(volume)
    read = held.read("a", volume.grid)
    for roi in ROIS:
        np.testing.assert_array_equal(read.mask(roi, np.s_[0:18, 0:20, 0:24]), prediction.mask(roi))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_come_back_in_kind(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(ball())
    image.SetSpacing((1.5, 1.5, 2.0))
    image.SetOrigin((3.0, -4.0, 5.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / f"b{suffix}"))
    out = tmp_path / "out"
    write_predictions(make_predictor(Threshold(1.0)), file_items(tmp_path / f"b{suffix}"), out)
    assert [p.name for p in out.iterdir() if p.suffix != ".json"] == [f"b{suffix}"]
    flat = sitk.ReadImage(str(out / f"b{suffix}"))
    assert flat.GetSize() == image.GetSize()
    for one, two in ((flat.GetSpacing(), image.GetSpacing()), (flat.GetOrigin(), image.GetOrigin())):
        np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(flat.GetDirection(), image.GetDirection(), atol=1e-6)
    found = sitk.GetArrayFromImage(flat)
    assert 2 * (found * (ball() > 1)).sum() / (found.sum() + (ball() > 1).sum()) > 0.96


def test_folders_hold_cases_and_channel_files_hold_one(tmp_path: Path) -> None:
    for name in ("p1_0000", "p1_0001", "p2_0000", "p2_0001"):
        save_nifti(tmp_path / f"{name}.nii.gz", ball())
    (tmp_path / "notes.txt").write_text("no image")
    items = file_items(tmp_path, num_channels=2)
    assert [item.id for item in items] == ["p1", "p2"]
    assert items[0].read().array.shape == (2, 18, 20, 24)
    with pytest.raises(UserError, match=r"case 'p1': expected 3 channel files, found p1_0000\.nii\.gz, p1_0001"):
        file_items(tmp_path, num_channels=3)
    save_nifti(tmp_path / "x.nii.gz", ball())
    assert len(file_items(tmp_path)) == 5


def test_single_channel_files_of_nnunet_lose_their_number(tmp_path: Path) -> None:
    save_nifti(tmp_path / "p1_0000.nii.gz", ball())
    assert [item.id for item in file_items(tmp_path)] == ["p1"]


def test_subfolders_are_dicom_series_written_as_nifti(tmp_path: Path) -> None:
    (tmp_path / "series1").mkdir()
    (item,) = file_items(tmp_path)
    assert (item.id, item.suffix) == ("series1", ".nii.gz")
    (alone,) = file_items(tmp_path / "series1")
    assert alone.id == "series1"
    with pytest.raises(UserError, match="series1"):
        alone.read()


def test_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "a.nii.gz", ball())
    save_nifti(tmp_path / "a.nii", ball())
    with pytest.raises(UserError, match="two inputs are called 'a'"):
        file_items(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        file_items(tmp_path / "missing.nii.gz")


def test_images_are_never_overwritten(tmp_path: Path) -> None:
    source = save_nifti(tmp_path / "a.nii.gz", ball())
    before = source.read_bytes()
    with pytest.raises(UserError, match="the label map of 'a' would overwrite its image"):
        write_predictions(nested(), file_items(tmp_path), tmp_path)
    assert source.read_bytes() == before
    with pytest.raises(UserError, match="the output is a folder"):
        write_predictions(nested(), file_items(source), tmp_path / "b.nii.gz")


def four_cases(folder: Path) -> Path:
    folder.mkdir()
    for name in "abcd":
        save_nifti(folder / f"{name}.nii.gz", ball())
    return folder


def test_parts_divide_the_cases(tmp_path: Path) -> None:
    items = file_items(four_cases(tmp_path / "in"))
    done = [write_predictions(nested(), items, tmp_path / "out", num_parts=3, part_id=part) for part in range(3)]
    assert done == [["a", "d"], ["b"], ["c"]]
    with pytest.raises(UserError, match="--part-id 3: expected 0 to 2"):
        write_predictions(nested(), items, tmp_path / "out", num_parts=3, part_id=3)


def test_resume_skips_complete_cases_only(tmp_path: Path) -> None:
    items, out = file_items(four_cases(tmp_path / "in")), tmp_path / "out"
    write_predictions(nested(), items[:2], out)
    (out / "b.nii.gz").unlink()  # stopped while b was written: its layers are there, its flat map is not
    calls: list[tuple[int, int, str]] = []
    assert write_predictions(nested(), items, out, resume=True, progress=lambda *c: calls.append(c)) == ["b", "c", "d"]
    assert calls[0] == (0, 4, "a")
    assert (1, 4, "b (window 8/8)") in calls
    assert calls[-1] == (4, 4, "d")
    assert write_predictions(nested(), items, out, resume=True) == []


def test_resume_refuses_other_settings_and_other_rois(tmp_path: Path) -> None:
    items, out = file_items(save_nifti(tmp_path / "a.nii.gz", ball())), tmp_path / "out"
    write_predictions(nested(), items, out)
    other = make_predictor(Threshold(1.0, 4.0), rois=ROIS, config=PredictConfig(overlap=0.25))
    with pytest.raises(UserError, match=r"made with overlap = 0.5, now it is 0.25; leave --resume out"):
        write_predictions(other, items, out, resume=True)
    assert write_predictions(other, items, out) == ["a"]
    assert json.loads((out / "prediction.json").read_text())["overlap"] == 0.25
    with pytest.raises(UserError, match="holds predictions of other ROIs"):
        write_predictions(make_predictor(Threshold(1.0), rois=("spleen",)), items, out)


def test_probability_maps_are_written_for_named_rois(tmp_path: Path) -> None:
    predictor = make_predictor(
        Threshold(1.0, 4.0), rois=ROIS, options=Options(probabilities=("liver_tumor",), skip_air=False)
    )
    source = save_nifti(tmp_path / "a.nii.gz", ball())
    write_predictions(predictor, file_items(source), tmp_path / "out")
    (file,) = (tmp_path / "out" / "probabilities").iterdir()
    assert file.name == "a_liver_tumor.nii.gz"
    p = np.asarray(nib.load(file).dataobj).T
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, 1 / (1 + np.exp(4 - ball())), atol=0.1)


def manifest(folder: Path, *channels: str) -> Manifest:
    cases = []
    for name, split in (("a", "train"), ("b", "test"), ("c", "test")):
        files = [str(save_nifti(folder / f"{name}_{c}.nii.gz", ball() * (i + 1))) for i, c in enumerate(channels)]
        cases.append({"id": name, "split": split, "images": files})
    return Manifest(
        name="set", rois=ROIS, channels=tuple({"name": c, "modality": "MR"} for c in channels), cases=tuple(cases)
    )


def test_a_split_of_a_manifest(tmp_path: Path) -> None:
    held = manifest(tmp_path, "mr")
    assert predict_manifest(nested(), held, tmp_path / "out", split="test") == ["b", "c"]
    assert (tmp_path / "out" / "b.nii.gz").is_file()
    with pytest.raises(UserError, match="set: no case with split = 'validation' to predict"):
        manifest_items(held, split="validation")
    assert [item.id for item in manifest_items(held)] == ["a", "b", "c"]


def test_a_crop_around_labels_reads_those_of_the_manifest_and_says_so(tmp_path: Path) -> None:
    source = save_nifti(tmp_path / "a.nii.gz", np.ones((18, 20, 24), np.float32), np.eye(4))
    marked = np.zeros((18, 20, 24), np.uint8)
    marked[8, 9:12, 10:13] = 1
    case = {"id": "a", "split": "test", "images": ("a.nii.gz",), "annotated": ("liver",), "values": {1: ("liver",)}}
    labels = save_nifti(tmp_path / "seg.nii.gz", marked, np.eye(4)).name
    channels = ({"name": "mr", "modality": "MR"},)
    held = Manifest(name="set", rois=("liver",), channels=channels, cases=(case | {"labels": labels},), root=tmp_path)
    plan = make_plan(("liver",), spacing_ZYX_mm=(1.0, 1.0, 1.0), crop=LabelBox(margin=2, least=0))
    predictor = make_predictor(Threshold(0.5), plan=plan)
    predict_manifest(predictor, held, tmp_path / "out", split="test")
    found = np.asanyarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj).T > 0
    expected = np.zeros_like(found)
    expected[:, 7:13, 8:14] = True  # all rows; the upper bound is the last voxel + the margin, as published
    np.testing.assert_array_equal(found, expected)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["reads_labels"] is True
    with pytest.raises(UserError, match=r"a\.nii\.gz: prepare\.crop = 'labels' cuts around labels"):
        write_predictions(predictor, file_items(source), tmp_path / "other")


def test_channels_are_matched_by_name(tmp_path: Path) -> None:
    held = manifest(tmp_path, "t1", "flair")
    (item, *_) = manifest_items(held, channels=["flair", "t1"])
    turned = item.read().array
    np.testing.assert_array_equal(turned[0], 2 * turned[1])
    (item, *_) = manifest_items(held, channels=["t1", "flair"])
    np.testing.assert_array_equal(item.read().array, turned[::-1])


def test_a_file_of_two_channels(tmp_path: Path) -> None:
    source = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([ball(), 0 * ball()]).T, LPS_OBLIQUE), source)
    plan = make_plan(
        ("liver",),
        channels=(Channel(name="a", modality="MR"), Channel(name="b", modality="MR")),
        intensity=make_plan(("liver",)).intensity * 2,
    )

    class First(Threshold):
        def features(self, x):  # type: ignore[no-untyped-def]
            return (x[:, :1],)

    write_predictions(make_predictor(First(1.0), plan=plan), file_items(source, num_channels=2), tmp_path / "out")
    flat = nib.load(tmp_path / "out" / "a.nii.gz")
    assert flat.shape == (24, 20, 18)
    np.testing.assert_allclose(flat.affine, LPS_OBLIQUE, atol=1e-6)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = save_nifti(tmp_path / "a.nii.gz", ball()), tmp_path / "out"

    def full(path: Path, array: np.ndarray, like: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gleanseg.predict.writer.images.write", full)
    with pytest.raises(
        UserError, match=r"case 'a': .*a_layer1.nii.gz could not be written \(No space left on device\)"
    ):
        write_predictions(nested(), file_items(source), out)
    assert not (out / "a.nii.gz").exists()

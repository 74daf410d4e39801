"""Each mistake in a data set is found, and a sound data set gives nothing to complain of."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.data.doctor import Diagnosis, Finding, Severity, examine
from gleanseg.data.manifest import Case, Channel, Manifest, State
from gleanseg.data.sources import msd

SHAPE = (10, 9, 8)
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])
ROIS = ("kidney_left", "kidney_right", "spleen")
VALUES = {1: ("kidney_left",), 2: ("kidney_right",)}


def save(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


class Hospital:
    """A sound data set of labelled cases, to be spoiled one way at a time."""

    def __init__(self, folder: Path, *, num: int = 3, modality: str = "MR"):
        self.folder, self.modality = folder, modality
        self.images = {f"c{i}": self.image(i) for i in range(num)}
        self.affines = dict.fromkeys(self.images, AFFINE)
        self.labels: dict[str, NDArray[Any] | None] = {id: self.label() for id in self.images}
        self.label_affines = dict.fromkeys(self.images, AFFINE)
        self.cases: dict[str, dict[str, Any]] = {
            id: {"labels": f"{id}_seg.nii.gz", "values": VALUES, "annotated": ROIS[:2]} for id in self.images
        }
        self.channels = 1

    @staticmethod
    def image(seed: int) -> NDArray[Any]:
        return np.random.default_rng(seed).normal(100, 30, SHAPE).astype(np.float32)

    @staticmethod
    def label() -> NDArray[Any]:
        array = np.zeros(SHAPE, np.uint8)
        array[1:3, 2:6, 2:6], array[7:9, 2:6, 2:6] = 1, 2  # x grows to the right: left comes first
        return array

    def manifest(self) -> Manifest:
        for id, array in self.images.items():
            save(self.folder / f"{id}.nii.gz", array, self.affines[id])
            label = self.labels[id]
            if label is not None:
                save(self.folder / f"{id}_seg.nii.gz", label, self.label_affines[id])
        cases = [Case(**{"id": id, "images": (f"{id}.nii.gz",)} | case) for id, case in self.cases.items()]
        return Manifest(
            name="ward",
            rois=ROIS[:2],
            channels=tuple(Channel(name=f"m{i}", modality=self.modality) for i in range(self.channels)),
            cases=tuple(cases),
            root=self.folder,
        )

    def examined(self) -> Diagnosis:
        return examine(self.manifest(), num_workers=2)


def only(diagnosis: Diagnosis, code: str) -> list[Finding]:
    """The findings of one kind, which must be the only kind."""
    assert {f.code for f in diagnosis.findings} == {code}
    return list(diagnosis.findings)


def test_a_sound_data_set(tmp_path: Path) -> None:
    diagnosis = Hospital(tmp_path).examined()
    assert diagnosis.findings == ()
    assert diagnosis.healthy
    assert diagnosis.states["c1"] == {"kidney_left": State.ANNOTATED, "kidney_right": State.ANNOTATED}
    assert len(set(diagnosis.contents.values())) == 3
    assert (diagnosis.num_files, diagnosis.num_read) == (6, 6)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    manifest = ward.manifest()
    (tmp_path / "c0.nii.gz").unlink()
    whole = (tmp_path / "c1_seg.nii.gz").read_bytes()
    (tmp_path / "c1_seg.nii.gz").write_bytes(whole[: len(whole) // 2])
    diagnosis = examine(manifest)
    assert [(f.severity.value, f.code, f.case) for f in diagnosis.findings] == [
        ("error", "missing-file", "c0"),
        ("error", "unreadable-file", "c1"),
    ]
    assert diagnosis.findings[0].message == "c0.nii.gz: there is no such image file"
    assert "c1_seg.nii.gz: not a complete NIfTI file" in diagnosis.findings[1].message
    assert diagnosis.findings[1].remedy == "copy or download it again"
    assert not diagnosis.healthy
    assert "c0" not in diagnosis.contents


def changed(affine: NDArray[np.float64], row: int, column: int, value: float) -> NDArray[np.float64]:
    made = affine.copy()
    made[row, column] = value
    return made


@pytest.mark.parametrize(
    ("affine", "severity", "code", "said"),
    [
        (changed(AFFINE, 1, 1, -1.5), "error", "label-orientation", "runs RPS, but c1.nii.gz RAS"),
        (changed(AFFINE, 0, 3, 4.0), "error", "label-position", "lies up to 4 mm from c1.nii.gz"),
        (changed(AFFINE, 0, 3, 0.1), "note", "label-position", "lies up to 0.1 mm from c1.nii.gz, as rounding"),
    ],
)
def test_labels_that_lie_elsewhere(
    tmp_path: Path, affine: NDArray[np.float64], severity: str, code: str, said: str
) -> None:
    ward = Hospital(tmp_path)
    ward.label_affines["c1"] = affine
    (found,) = only(ward.examined(), code)
    assert (found.severity.value, found.case) == (severity, "c1")
    assert said in found.message


def test_labels_of_another_shape(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.labels["c2"] = Hospital.label()[:, :, :7]
    (found,) = only(ward.examined(), "label-shape")
    assert found.message == "c2_seg.nii.gz: shape 10x9x7 differs from 10x9x8 of c2.nii.gz"


def test_values_that_are_not_declared(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    label = Hospital.label()
    label[0, 0, :5], label[0, 1, 0] = 8, 9
    ward.labels["c0"] = label
    (found,) = only(ward.examined(), "undeclared-value")
    assert found.message == "c0_seg.nii.gz: holds value 8 (5 voxels), 9 (1 voxels); declared are 0, 1, 2"
    assert found.severity is Severity.ERROR


def test_labels_that_were_interpolated(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    label = Hospital.label().astype(np.float32)
    label[0, 0, 0] = 0.4
    ward.labels["c0"] = label
    (found,) = only(ward.examined(), "label-fractions")
    assert "1 voxels are not whole numbers" in found.message


def test_annotated_rois_without_a_voxel(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    label = Hospital.label()
    label[label == 2] = 0
    ward.labels["c0"] = label
    (found,) = only(ward.examined(), "empty-annotation")
    assert (found.severity.value, found.case, found.message) == ("warning", "c0", "no voxel of kidney_right")
    ward.labels = dict.fromkeys(ward.images, label)
    diagnosis = ward.examined()
    assert [f.code for f in diagnosis.findings] == ["always-empty"] + ["empty-annotation"] * 3
    assert diagnosis.findings[0].message == "annotated, but without a voxel in any case: kidney_right"
    ward.labels["c1"] = np.zeros(SHAPE, np.uint8)
    assert "no voxel of all its annotated ROIs" in {f.message for f in ward.examined().findings}


def test_absent_rois_that_are_there(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.cases["c1"] |= {"annotated": ("kidney_left",), "absent": ("kidney_right",)}
    (found,) = only(ward.examined(), "absent-but-present")
    assert found.message == "kidney_right: stated as absent, but the labels hold 32 voxels of it"


def test_labels_that_are_not_used(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.cases["c1"]["annotated"] = ("kidney_left",)
    (found,) = only(ward.examined(), "unused-labels")
    assert found.severity is Severity.NOTE


def test_nan_and_constant_images(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.images["c0"][0, 0, :2] = np.nan, np.inf
    (found,) = only(ward.examined(), "not-finite")
    assert found.message == "c0.nii.gz: holds 2 NaN or infinite voxels"
    ward.images["c0"][:] = 7
    (found,) = only(ward.examined(), "constant-image")
    assert found.case == "c0"


def test_axes_that_are_not_at_right_angles(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.affines["c2"] = ward.label_affines["c2"] = changed(AFFINE, 0, 1, 0.15)
    (found,) = only(ward.examined(), "skewed-axes")
    assert "largest cosine between two 0.0995" in found.message


def test_4d_files(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.images["c1"] = np.stack([Hospital.image(7), Hospital.image(8)], axis=-1)
    (found,) = only(ward.examined(), "channel-count")
    assert found.message == "c1.nii.gz: is 4D with 2 channel(s), 2 in all; the manifest declares 1"
    ward.channels = 2
    assert [f.case for f in only(ward.examined(), "channel-count")] == ["c0", "c2"]
    ward.images["c1"] = Hospital.image(1)
    ward.channels, ward.labels["c1"] = 1, np.stack([Hospital.label()] * 2, axis=-1)
    (found,) = only(ward.examined(), "label-channels")


def test_channels_of_a_case_lie_on_one_grid(tmp_path: Path) -> None:
    ward = Hospital(tmp_path, num=1)
    ward.channels = 2
    ward.cases["c0"]["images"] = ("c0.nii.gz", "t2.nii.gz")
    save(tmp_path / "t2.nii.gz", Hospital.image(9)[:, :, :5])
    (found,) = only(ward.examined(), "channel-shape")
    assert found.message == "t2.nii.gz: shape 10x9x5 differs from 10x9x8 of c0.nii.gz"
    save(tmp_path / "t2.nii.gz", Hospital.image(0))
    (found,) = only(ward.examined(), "same-channels")
    assert found.severity is Severity.WARNING


def test_left_and_right(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.labels["c1"] = np.ascontiguousarray(Hospital.label()[::-1])
    (found,) = only(ward.examined(), "sides-swapped")
    assert (found.severity.value, found.case) == ("warning", "c1")
    assert found.message == "kidney_left: lies to the patient's right of its counterpart"
    # A header that runs the other way makes the same voxels right.
    ward.affines["c1"] = ward.label_affines["c1"] = np.diag([-1.5, 1.5, 3.0, 1.0])
    assert ward.examined().findings == ()


def test_the_same_image_under_two_ids(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.images["c2"] = ward.images["c0"]
    (found,) = only(ward.examined(), "duplicate-image")
    assert found.message == "c2.nii.gz: same voxels as c0.nii.gz of case c0"
    ward.cases["c2"]["split"] = "test"
    (found,) = only(ward.examined(), "duplicate-image")
    assert found.severity is Severity.ERROR
    assert found.message.endswith("; a train case leaks into test")


def test_one_file_in_two_cases(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.cases["c1"]["labels"] = "c0_seg.nii.gz"
    (found,) = only(ward.examined(), "shared-label-file")
    assert found.message == "c0_seg.nii.gz: is the label of case c0 (train) and of c1 (train)"


def test_intensity_scales(tmp_path: Path) -> None:
    """A tenth of the cases 10,000-fold brighter is told; the others, which differ up to 5-fold, are not."""
    ward = Hospital(tmp_path, num=20)
    for i, array in enumerate(ward.images.values()):
        array *= 5 ** (i / 19) * (10_000 if i in (4, 11) else 1)
    diagnosis = ward.examined()
    assert [(f.code, f.case) for f in diagnosis.findings] == [
        ("intensity-outlier", "c4"),
        ("intensity-outlier", "c11"),
        ("intensity-scales", ""),
    ]
    assert diagnosis.healthy
    assert "-fold above the median" in diagnosis.findings[0].message
    # A site of its own scale is not an outlier at home.
    for i, case in enumerate(ward.cases.values()):
        case["site"] = "new scanner" if i % 2 else "old scanner"
        ward.images[f"c{i}"] = Hospital.image(i) * (1000 if i % 2 else 1)
    assert [f.code for f in ward.examined().findings] == ["intensity-scales"]


def test_ct_that_is_not_in_hounsfield_units(tmp_path: Path) -> None:
    ward = Hospital(tmp_path, modality="CT")
    ward.images["c0"] = (Hospital.image(0) - 100) * 10
    ward.images["c1"] = np.abs(Hospital.image(1)) * 20
    diagnosis = ward.examined()
    assert [(f.code, f.case) for f in diagnosis.findings] == [("not-hounsfield", "c1")]


def test_spacings_in_another_unit(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.affines["c1"] = ward.label_affines["c1"] = np.diag([15.0, 15.0, 30.0, 1.0])
    (found,) = only(ward.examined(), "odd-spacing")
    assert found.message == "voxels of 15 x 15 x 30 mm (x, y, z), usual in the set 1.5 x 1.5 x 3 mm"


def test_what_is_never_annotated(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    for case in ward.cases.values():
        case |= {"annotated": ("kidney_left",), "values": {1: ("kidney_left",), 2: ()}}
    (found,) = only(ward.examined(), "never-annotated")
    assert found.message == "no training case annotates kidney_right"
    ward.cases = {id: {"split": "test"} for id in ward.images}
    diagnosis = ward.examined()
    assert [f.code for f in diagnosis.findings] == ["nothing-annotated", "unlabelled-evaluation"]


def test_masks_are_examined_like_label_maps(tmp_path: Path) -> None:
    ward = Hospital(tmp_path, num=1)
    for value, roi in enumerate(ROIS[:2], start=1):
        save(tmp_path / f"{roi}.nii.gz", (ward.label() == value).astype(np.int16) * (-1 if value == 2 else 1))
    ward.cases["c0"] = {"labels": {roi: f"{roi}.nii.gz" for roi in ROIS[:2]}, "annotated": ROIS[:2]}
    diagnosis = ward.examined()
    assert [(f.code, f.message.partition(":")[0]) for f in diagnosis.findings] == [
        ("empty-annotation", "no voxel of kidney_right"),
        ("negative-mask", "kidney_right.nii.gz"),
    ]


def test_a_diagnosis_is_written_for_the_report(tmp_path: Path) -> None:
    ward = Hospital(tmp_path)
    ward.images["c2"] = ward.images["c0"]
    diagnosis = ward.examined()
    diagnosis.save(tmp_path / "out" / "d.json")
    data = json.loads((tmp_path / "out" / "d.json").read_text())
    assert data["healthy"] is False
    assert data["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert data["findings"][0] == {
        "severity": "error",
        "code": "duplicate-image",
        "case": "c2",
        "message": "c2.nii.gz: same voxels as c0.nii.gz of case c0",
        "remedy": "keep one of them (merge their labels into it)",
    }
    assert data["states"]["c1"] == {"kidney_left": "annotated", "kidney_right": "annotated"}


def test_real_hippocampi_of_another_scale_are_found(shared_data: Path) -> None:
    diagnosis = examine(msd.to_manifest(shared_data / "Task04_Hippocampus", msd.Options()))
    assert diagnosis.healthy
    outliers = {f.case for f in diagnosis.findings if f.code == "intensity-outlier"}
    assert len(outliers) == 23
    assert {"hippocampus_205", "hippocampus_044"} <= outliers
    assert [f.code for f in diagnosis.findings if f.code != "intensity-outlier"] == ["intensity-scales"]

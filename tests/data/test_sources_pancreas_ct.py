"""NIH Pancreas-CT: DICOM series whose labels lie in NIfTI files, and h5 files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from gleanseg.data.doctor import examine
from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.sources.pancreas_ct import Options, notes, to_manifest
from gleanseg.errors import UserError
from support.dicom import VOXELS, series
from support.volumes import save

ORGAN = (VOXELS > 40) & (VOXELS < 60)  # 1064 to 1084 HU below what is stored, on no slice symmetric
SPACING_XYZ = np.array([0.8, 0.7, 2.5])  # of the series
FLAT, TCIA = "PANCREAS_{:04d}", "PANCREAS_{:04d}/1.2.826.1/1.2.826.2"


def write(root: Path, number: int, *, form: str = TCIA, signs: tuple[int, int, int] = (-1, -1, 1)) -> None:
    """A case whose label runs along RAS axes with these signs, from an origin that means nothing."""
    series(root / "Pancreas-CT" / form.format(number))
    # The series' columns run left, its rows to the back and its slices up: signs (-1, -1, 1) store as it does.
    along = tuple(slice(None, None, 1 if s == own else -1) for s, own in zip(signs[::-1], (1, -1, -1), strict=True))
    label = ORGAN.astype(np.uint8)[along]
    save(root / "labels" / f"label{number:04d}.nii.gz", label, np.diag([*(SPACING_XYZ * signs), 1.0]))


@pytest.mark.parametrize("form", [FLAT, TCIA])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (-1, 1, 1), (1, 1, 1), (-1, -1, -1)])
def test_labels_lie_on_the_organ_however_they_are_stored(
    tmp_path: Path, form: str, signs: tuple[int, int, int]
) -> None:
    write(tmp_path, 57, form=form, signs=signs)
    manifest = to_manifest(tmp_path, Options())
    case = manifest.cases[0]
    assert (case.id, case.split, case.site) == ("PANCREAS_0057", "train", "pancreas_ct")
    volume, labels = read_image(manifest, case), read_labels(manifest, case)
    assert labels is not None
    inside = labels.mask(manifest.rois.index("pancreas"))
    np.testing.assert_array_equal(inside, (volume.array[0] > 40 - 1024) & (volume.array[0] < 60 - 1024))
    assert labels.grid.same_as(volume.grid)
    assert not [finding for finding in examine(manifest).findings if finding.code.startswith("label")]


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 57)
    manifest = to_manifest(tmp_path, Options())
    save(tmp_path / "labels" / "label0057.nii.gz", ORGAN.astype(np.uint8), np.diag([0.9, 0.7, 2.5, 1.0]))
    with pytest.raises(UserError, match=r"case 'PANCREAS_0057': .*lies up to .* mm"):
        read_labels(manifest, manifest.cases[0])
    save(tmp_path / "labels" / "label0057.nii.gz", ORGAN[1:].astype(np.uint8), np.diag([0.8, 0.7, 2.5, 1.0]))
    with pytest.raises(UserError, match=r"shape \(6, 5, 3\) \(x, y, z\) differs from \(6, 5, 4\)"):
        read_labels(manifest, manifest.cases[0])


def test_the_published_order_and_its_leak(tmp_path: Path) -> None:
    for number in (2, 18, 25, 50, 57, 70):
        write(tmp_path, number)
    kept = to_manifest(tmp_path, Options())
    assert [(c.id[-2:], c.split) for c in kept.cases] == [
        ("57", "train"), ("18", "train"), ("70", "train"), ("02", "train"), ("50", "test"), ("25", "test"),
    ]  # fmt: skip
    leak = notes(kept)[-1]
    assert leak.startswith("PANCREAS_0025 (test), PANCREAS_0070 (train), PANCREAS_0002 (train) show one scan")
    dropped = to_manifest(tmp_path, Options(withdrawn="drop"))
    assert {c.id for c in kept.cases} - {c.id for c in dropped.cases} == {"PANCREAS_0025", "PANCREAS_0070"}
    assert not any("show one scan" in note for note in notes(dropped))


def test_h5_files_and_images_without_labels(tmp_path: Path) -> None:
    (tmp_path / "Pancreas_h5").mkdir()
    for name in ("image0057_norm", "image0050_norm"):
        with h5py.File(tmp_path / "Pancreas_h5" / f"{name}.h5", "w") as made:
            made["image"], made["label"] = np.ones((4, 3, 2), np.float32), np.ones((4, 3, 2), np.uint8)
    series(tmp_path / FLAT.format(18))
    (tmp_path / "train.list").write_text("image0018\nimage0057\n")
    (tmp_path / "test.list").write_text("image0050\n")
    manifest = to_manifest(tmp_path, Options())
    assert [(c.id[-2:], c.split, c.labels) for c in manifest.cases] == [
        ("18", "train", None),
        ("57", "train", "Pancreas_h5/image0057_norm.h5#label"),
        ("50", "test", "Pancreas_h5/image0050_norm.h5#label"),
    ]


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no PANCREAS_0001 folder"):
        to_manifest(tmp_path, Options())
    write(tmp_path, 57)
    series(tmp_path / "Pancreas-CT" / FLAT.format(57) / "other")
    with pytest.raises(UserError, match="both belong to case 'PANCREAS_0057'; remove one"):
        to_manifest(tmp_path, Options())

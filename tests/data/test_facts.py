"""What the doctor measures of a file, and when it reads a file again."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.data.facts import Facts, gather, hashes_path, known_hashes, measure_image, measure_labels
from gleanseg.data.images import content_hash, read
from gleanseg.data.manifest import Case, Channel, Manifest
from gleanseg.data.volume import Grid, Volume


def volume(array: NDArray[np.generic], affine: NDArray[np.float64] | None = None) -> Volume:
    affine = np.eye(4) if affine is None else affine
    return Volume(array, Grid((array.shape[-3], array.shape[-2], array.shape[-1]), affine), Path("x"), None)


def test_an_image_is_summed_up() -> None:
    array = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    facts = measure_image(volume(array))
    assert facts.ranges[0] == pytest.approx((0, 5, 500, 995, 1000))
    assert (facts.channels, facts.nonfinite) == (1, 0)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    both = measure_image(volume(np.stack([array, np.ones_like(array)])))
    assert both.channels == 2
    assert both.nonfinite == 3
    assert both.ranges[0][0] == 3
    assert both.ranges[1] == (1, 1, 1, 1, 1)
    assert measure_image(volume(np.full((1, 1, 1), np.nan, np.float32))).ranges == ((0, 0, 0, 0, 0),)


def test_labels_are_counted_and_placed() -> None:
    array = np.zeros((3, 4, 10), np.int16)
    array[:, :, 1], array[1, 2, 6:8] = 5, -2
    affine = np.diag([-2.0, 1.0, 1.0, 1.0])
    affine[0, 3] = 100
    facts = measure_labels(volume(array, affine))
    assert facts.counts == {0: 106, -2: 2, 5: 12}
    assert facts.right_mm == {5: 98.0, -2: 87.0}
    assert facts.fractions == 0
    full = measure_labels(volume(np.full((2, 2, 2), 1.5, np.float32)))
    assert (full.fractions, full.counts) == (8, {2: 8})
    assert measure_labels(volume(np.ones((2, 3, 4, 5), np.uint8))).channels == 2


def prepared(tmp_path: Path) -> tuple[Manifest, Path]:
    for i in range(3):
        array = np.full((4, 4, 4), i, np.int16)
        array[0] = 9
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{i}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "l.nii.gz")
    cases = tuple(Case(id=f"c{i}", images=(f"{i}.nii.gz",)) for i in range(3))
    labelled = Case(id="l", images=("gone.nii.gz",), labels="l.nii.gz", values={1: ("liver",)}, annotated=("liver",))
    manifest = Manifest(
        name="m",
        rois=("liver",),
        channels=(Channel(name="ct", modality="CT"),),
        cases=(*cases, labelled),
        root=tmp_path,
    )
    return manifest, hashes_path(tmp_path / "m.json")


def test_unchanged_files_are_read_once(tmp_path: Path) -> None:
    manifest, path = prepared(tmp_path)
    assert path == tmp_path / "m.hashes.json"
    seen: list[tuple[int, int, str]] = []
    first = gather(manifest, path=path, num_workers=2, progress=lambda *now: seen.append(now))
    assert first.num_read == 5
    assert [s[:2] for s in seen] == [(i, 5) for i in range(1, 6)]
    assert set(first.images) == {"0.nii.gz", "1.nii.gz", "2.nii.gz"}
    assert first.troubles["image", "gone.nii.gz"].missing
    again = gather(manifest, path=path)
    assert again.num_read == 1  # the missing one
    assert (again.images, again.labels) == (first.images, first.labels)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "1.nii.gz")
    changed = gather(manifest, path=path)
    assert changed.num_read == 2
    assert changed.images["1.nii.gz"].content != first.images["1.nii.gz"].content
    assert changed.images["0.nii.gz"] == first.images["0.nii.gz"]


def test_hashes_are_there_for_others_while_files_stay(tmp_path: Path) -> None:
    manifest, path = prepared(tmp_path)
    assert known_hashes(manifest, path) == {}
    gather(manifest, path=path)
    known = known_hashes(manifest, path)
    assert known == {f"{i}.nii.gz": content_hash(read(tmp_path / f"{i}.nii.gz")) for i in range(3)}
    os.utime(tmp_path / "2.nii.gz", ns=(1, 1))
    assert set(known_hashes(manifest, path)) == {"0.nii.gz", "1.nii.gz"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"gleanseg_facts": 999}', '{"gleanseg_facts": 1, "image": {"0.nii.gz": {}}}']
)
def test_a_foreign_file_is_replaced(tmp_path: Path, text: str) -> None:
    manifest, path = prepared(tmp_path)
    path.write_text(text)
    assert gather(manifest, path=path).num_read == 5
    assert json.loads(path.read_text())["gleanseg_facts"] == 1
    assert len(known_hashes(manifest, path)) == 3


def test_nothing_is_kept_without_a_place(tmp_path: Path) -> None:
    manifest, path = prepared(tmp_path)
    found = gather(manifest)
    assert isinstance(found, Facts)
    assert not path.exists()

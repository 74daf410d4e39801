"""Cropping around labels, which published benchmarks do for test cases too."""

from pathlib import Path

import numpy as np
import pytest

from gleanseg.config import PrepareConfig
from gleanseg.data.crop import annotated_box, crop_box
from gleanseg.data.labels import LabelMap
from gleanseg.data.plan import LabelBox, Plan, plan
from gleanseg.data.preprocess import prepare
from gleanseg.data.volume import Grid
from gleanseg.errors import UserError
from support.volumes import ct_case, ct_manifest

SHAPE = (10, 200, 240)


def published(first: int, last: int, size: int, *, least: int, margin: int) -> tuple[int, int]:
    """Bounds of one axis as the benchmarks' preparation computes them."""
    fill = max(least - (last - first), 0) // 2
    return max(first - fill - margin, 0), min(last + fill + margin, size)


def around(
    box: tuple[slice, slice, slice], *, spacing: float = 1.0, native: float = 1.0, margin: int, least: int
) -> tuple[slice, slice, slice]:
    made = Plan(
        spacing_ZYX_mm=(1.0, spacing, spacing),
        intensity=(),
        resample="linear",
        crop=LabelBox(margin=margin, least=least),
        rois=("liver",),
        channels=(),
    )
    grid = Grid(SHAPE, np.diag([native, native, 1.0, 1.0]))
    return crop_box(np.zeros((1, *SHAPE), np.float32), grid, made, keep=box)


@pytest.mark.parametrize(("margin", "least"), [(25, 96), (15, 112), (25, 0), (1, 0)])
@pytest.mark.parametrize(("y", "x"), [((90, 120), (100, 220)), ((3, 30), (0, 10)), ((150, 199), (230, 239))])
def test_the_box_is_the_published_one(y: tuple[int, int], x: tuple[int, int], margin: int, least: int) -> None:
    labels = (slice(4, 5), slice(y[0], y[1] + 1), slice(x[0], x[1] + 1))
    z, *found = around(labels, margin=margin, least=least)
    assert z == slice(0, 10)
    expected = [published(*ends, size, margin=margin, least=least) for ends, size in ((y, 200), (x, 240))]
    assert [(part.start, part.stop) for part in found] == expected


def test_margins_are_voxels_of_the_prepared_grid_and_labels_are_never_cut() -> None:
    labels = (slice(4, 5), slice(90, 121), slice(100, 131))
    _, y, x = around(labels, spacing=2.0, native=0.5, margin=5, least=0)
    assert (y, x) == (slice(70, 140), slice(80, 150))
    assert around(labels, margin=0, least=0)[1:] == labels[1:]


def test_annotated_voxels_make_the_box_in_ras_order() -> None:
    codes = np.zeros((4, 5, 6), np.uint8)
    codes[1, 2, 0:2] = 1
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])  # x runs from right to left
    labels = LabelMap(codes, np.array([[False], [True]]), None, Grid(codes.shape, affine))
    assert annotated_box(labels) == (slice(1, 2), slice(2, 3), slice(4, 6))
    assert annotated_box(labels._replace(codes=0 * codes)) is None
    assert annotated_box(None) is None


def test_a_store_cropped_around_labels_of_all_splits(tmp_path: Path) -> None:
    cases = [ct_case(tmp_path, name, seed=i, split=s) for i, (name, s) in enumerate([("a", "train"), ("t", "test")])]
    config = PrepareConfig(spacing=(1.0, 1.0, 1.0), intensity="none", crop="labels", label_margin=2)
    store = prepare(ct_manifest(*cases), config, tmp_path / "store")
    for id in ("a", "t"):  # annotated: y 4 to 19, x 4 to 23
        assert store.case(id).box == ((0, 20), (2, 21), (2, 25))
    assert str(store.plan.crop) == "labels (also of test cases) + 2 voxels"
    assert Plan.model_validate_json(store.plan.model_dump_json()) == store.plan


def test_without_labels_it_is_refused(tmp_path: Path) -> None:
    manifest = ct_manifest(ct_case(tmp_path, "u", seed=0, labelled=False))
    config = PrepareConfig(spacing=(1.0, 1.0, 1.0), intensity="none", crop="labels")
    assert plan(manifest, config).crop == LabelBox(margin=25, least=0)
    with pytest.raises(UserError, match=r"u\.nii\.gz: prepare\.crop = 'labels' cuts around labels, and this image has"):
        prepare(manifest, config, tmp_path / "store")

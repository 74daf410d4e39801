import numpy as np
import pytest

from gleanseg.config import PrepareConfig
from gleanseg.data.manifest import Manifest
from gleanseg.data.plan import CaseShape, Fingerprint, Intensity, make_plan, measure, plan
from gleanseg.errors import UserError
from support.volumes import ROIS, VALUES, ct_case, ct_manifest, save

NOWHERE = {"images": ("missing.nii.gz",)}


def fingerprint(*spacings_ZYX, zeros=0.0):
    cases = tuple(CaseShape(str(i), (10, 10, 10), s) for i, s in enumerate(spacings_ZYX))
    return Fingerprint(cases, (np.arange(201, dtype=np.float32),), (zeros,))


def manifest(modality="CT", channels=1):
    return Manifest(
        name="m",
        rois=("liver",),
        channels=[{"name": f"c{i}", "modality": modality} for i in range(channels)],
        cases=[{"id": "a", **NOWHERE}],
    )


def test_spacing_is_the_median_of_each_axis():
    made = make_plan(manifest(), PrepareConfig(), fingerprint((1.0, 0.7, 0.7), (2.0, 0.8, 0.8), (1.5, 0.6, 0.9)))
    assert made.spacing_ZYX_mm == (1.5, 0.7, 0.8)


def test_a_coarse_axis_takes_its_tenth_percentile():
    thick = [(5.0, 0.8, 0.8)] * 9 + [(3.0, 0.8, 0.8), (3.0, 0.8, 0.8)]
    assert make_plan(manifest(), PrepareConfig(), fingerprint(*thick)).spacing_ZYX_mm == (3.0, 0.8, 0.8)
    thin = [(5.0, 0.8, 0.8)] * 9 + [(0.5, 0.8, 0.8)] * 2  # never finer than the finest axis
    assert make_plan(manifest(), PrepareConfig(), fingerprint(*thin)).spacing_ZYX_mm == (0.8, 0.8, 0.8)


def test_a_given_spacing_is_turned_round():
    made = make_plan(manifest(), PrepareConfig(spacing=(1.0, 2.0, 3.0)), fingerprint((1.0, 1.0, 1.0)))
    assert made.spacing_ZYX_mm == (3.0, 2.0, 1.0)


def test_a_fixed_window_does_not_depend_on_the_data():
    config = PrepareConfig(intensity="window", window=(-325, 325))
    (made,) = make_plan(manifest(), config, fingerprint((1.0, 1.0, 1.0))).intensity
    assert made == Intensity(kind="ct_window", low=-325.0, high=325.0, mean=0.0, std=325.0)
    (other,) = make_plan(
        manifest(), PrepareConfig(intensity="window", window=(0, 100)), fingerprint((1.0, 1.0, 1.0))
    ).intensity
    assert (other.mean, other.std) == (50.0, 50.0)


def test_ct_is_clipped_to_percentiles_or_to_the_window_given():
    values = np.arange(201, dtype=np.float64)
    (automatic,) = make_plan(manifest(), PrepareConfig(), fingerprint((1.0, 1.0, 1.0))).intensity
    clipped = np.clip(values, 1, 199)
    assert automatic == Intensity(kind="ct_window", low=1.0, high=199.0, mean=100.0, std=round(float(clipped.std()), 4))
    (given,) = make_plan(manifest(), PrepareConfig(window=(50, 150)), fingerprint((1.0, 1.0, 1.0))).intensity
    assert (given.low, given.high, given.mean) == (50, 150, 100)
    assert given.std == pytest.approx(np.clip(values, 50, 150).std(), rel=1e-5)


@pytest.mark.parametrize(
    ("modality", "zeros", "config", "kind", "nonzero", "crop"),
    [
        ("CT", 0.0, {}, "ct_window", False, "body"),
        ("MR", 0.1, {}, "zscore", False, "none"),
        ("MR", 0.6, {}, "zscore", True, "nonzero"),
        ("MR", 0.6, {"crop": "none"}, "zscore", True, "none"),
        ("CT", 0.0, {"intensity": "zscore"}, "zscore", False, "body"),
        ("MR", 0.0, {"intensity": "ct"}, "ct_window", False, "none"),
        ("CT", 0.0, {"intensity": "none", "crop": "nonzero"}, "none", False, "nonzero"),
        ("MR", 0.6, {"intensity": "volume-zscore", "crop": "none"}, "volume_zscore", False, "none"),
        ("MR", 0.6, {"intensity": "brain-zscore", "crop": "nonzero"}, "brain_zscore", False, "nonzero"),
        ("CT", 0.0, {"intensity": "window-zscore", "window": (-125, 275)}, "window_zscore", False, "body"),
    ],
)
def test_modality_and_configuration_choose_the_treatment(modality, zeros, config, kind, nonzero, crop):
    made = make_plan(manifest(modality), PrepareConfig(**config), fingerprint((1.0, 1.0, 1.0), zeros=zeros))
    assert (made.intensity[0].kind, made.intensity[0].nonzero, made.crop) == (kind, nonzero, crop)


def test_foreground_is_what_is_annotated_in_training_cases(tmp_path):
    image = np.full((6, 7, 8), -1000, dtype=np.int16)
    image[1:3, 2:4, 2:5] = np.arange(12).reshape(2, 2, 3)
    labels = (image > -1000).astype(np.uint8)
    case = {
        "id": "a",
        "images": [save(tmp_path / "a.nii.gz", image)],
        "labels": save(tmp_path / "a_seg.nii.gz", labels),
        "values": VALUES,
        "annotated": ["liver"],
    }
    others = [{"id": split, "split": split, "images": (f"{split}.nii",)} for split in ("validation", "test")]
    found = measure(ct_manifest(case, *others))
    assert found.cases == (CaseShape("a", (6, 7, 8), (1.0, 1.0, 1.0)),)
    assert sorted(found.foreground[0].tolist()) == list(range(12))
    assert found.zeros == (pytest.approx(1 / 336),)


def test_without_annotation_the_body_stands_in(tmp_path):
    found = measure(ct_manifest(ct_case(tmp_path, "u", seed=1, labelled=False)))
    assert found.foreground[0].min() >= 0
    assert len(found.foreground[0]) == 16 * 20 * 24


def test_measuring_is_deterministic_and_bounded(tmp_path):
    image = np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32)
    case = {
        "id": "a",
        "images": [save(tmp_path / "a.nii.gz", image)],
        "labels": save(tmp_path / "a_seg.nii.gz", np.ones(image.shape, np.uint8)),
        "values": VALUES,
        "annotated": ROIS,
    }
    first, second = (measure(ct_manifest(case), num_workers=n) for n in (1, 2))
    assert len(first.foreground[0]) == 10_000
    np.testing.assert_array_equal(first.foreground[0], second.foreground[0])
    assert plan(ct_manifest(case), PrepareConfig()).digest() == plan(ct_manifest(case), PrepareConfig()).digest()


def test_spacing_is_measured_in_ras_order(tmp_path):
    sagittal = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]])  # x -> P, y -> I, z -> R
    found = measure(ct_manifest(ct_case(tmp_path, "s", seed=0, labelled=False, affine=sagittal)), voxels=False)
    assert found.cases[0] == CaseShape("s", (24, 28, 20), (2.0, 1.0, 3.0))
    assert found.foreground == ()


def test_no_training_case_is_an_error(tmp_path):
    with pytest.raises(UserError, match="two-sites: no case has split 'train'; preparation is planned from training"):
        plan(ct_manifest(ct_case(tmp_path, "t", seed=0, split="test")), PrepareConfig())


def test_a_missing_training_file_names_the_case():
    with pytest.raises(UserError, match=r"case 'a': .*missing\.nii\.gz"):
        plan(ct_manifest({"id": "a", **NOWHERE}), PrepareConfig())


def test_digests_tell_plans_apart():
    one = make_plan(manifest(), PrepareConfig(), fingerprint((1.0, 1.0, 1.0)))
    other = one.model_copy(update={"spacing_ZYX_mm": (2.0, 1.0, 1.0)})
    assert one.digest() != other.digest()
    assert one.difference(other) == "spacing_ZYX_mm is (1.0, 1.0, 1.0) there and (2.0, 1.0, 1.0) here"
    assert one.difference(one) == ""

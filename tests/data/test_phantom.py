from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, center_of_mass
from scipy.ndimage import label as components

from gleanseg.data.manifest import State
from gleanseg.data.phantom import ROIS, Phantom, make_phantom, phantom_manifest, phantom_truth
from gleanseg.data.phantom.anatomy import HEIGHT_MM
from gleanseg.data.phantom.layouts import Geometry, write_nifti
from gleanseg.data.phantom.shapes import Cut, Ellipsoid, Shape, Trunk, Tube, Union, rotation
from gleanseg.errors import UserError

SMALL = {"num_cases": 14, "seed": 3, "shape_xyz": (42, 38, 36)}
SITE_ROIS = {
    "site_a": {"liver", "liver_tumor", "spleen", "stomach"},
    "site_b": {"kidney_left", "kidney_right", "kidney_tumor", "urinary_bladder"},
    "site_c": {"aorta", "lung_left", "lung_right", "spleen", "stomach", "urinary_bladder"},
    "unlabelled": set(),
    "held_out": set(ROIS),
}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    return make_phantom(tmp_path_factory.mktemp("phantom") / "data", **SMALL)


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def world_center(path: Path) -> np.ndarray:
    mask, affine = load(path)
    return nib.affines.apply_affine(affine, center_of_mass(mask))


def truth(phantom: Phantom, id: str) -> dict[str, np.ndarray]:
    return {roi: load(path)[0].astype(bool) for roi, path in phantom_truth(phantom.root, id).items()}


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# shapes


def at(shape: Shape, *points: tuple[float, float, float]) -> list[float]:
    return shape.distance(np.array(points, np.float32).T).tolist()


@pytest.mark.parametrize(
    ("shape", "point", "distance"),
    [
        (Ellipsoid(center=(1, 0, 0), radii=(5, 5, 5)), (9, 0, 0), 3.0),
        (Ellipsoid(center=(0, 0, 0), radii=(2, 4, 8)), (0, 0, 6), -2.0),
        (Ellipsoid(center=(0, 0, 0), radii=(2, 4, 8)), (0, 0, 0), -2.0),
        (Ellipsoid(center=(0, 0, 0), radii=(2, 4, 8), turn_deg=(90, 0, 0)), (0, 9, 0), 1.0),
        (Ellipsoid(center=(0, 0, 0), radii=(1, 1, 1), power=4), (1, 1, 0), np.sqrt(2) * (1 - 2**-0.25)),
        (Tube(((0, 0, 0, 2), (10, 0, 0, 4))), (5, 7, 0), 4.0),
        (Tube(((0, 0, 0, 2), (10, 0, 0, 4))), (15, 0, 0), 1.0),
        (
            Union((Ellipsoid(center=(0, 0, 0), radii=(2,) * 3), Ellipsoid(center=(20, 0, 0), radii=(2,) * 3))),
            (6, 0, 0),
            4.0,
        ),
        (
            Union((Ellipsoid(center=(0, 0, 0), radii=(2,) * 3), Ellipsoid(center=(4, 0, 0), radii=(2,) * 3)), 6),
            (2, 0, 0),
            -1.5,
        ),
        (
            Cut(Ellipsoid(center=(0, 0, 0), radii=(5,) * 3), holes=(Ellipsoid(center=(5, 0, 0), radii=(3,) * 3),)),
            (4, 0, 0),
            2.0,
        ),
        (
            Cut(
                Ellipsoid(center=(0, 0, 0), radii=(9,) * 3), within=(Trunk(half_width_mm=5, half_depth_mm=5, waist=0),)
            ),
            (6, 0, 0),
            1.0,
        ),
    ],
)
def test_distance_to_a_shape_is_the_analytic_one(shape: Shape, point: tuple[float, float, float], distance: float):
    assert at(shape, point) == pytest.approx([distance], abs=1e-4)


def test_a_shape_lies_in_its_bounds():
    shape = Ellipsoid(center=(3, -2, 5), radii=(4, 9, 2), turn_deg=(20, 40, -70))
    low, high = shape.bounds()
    points = np.random.default_rng(0).uniform(low - 5, high + 5, (20000, 3)).astype(np.float32)
    inside = points[shape.distance(points.T.copy()) < 0]
    assert (inside > low).all()
    assert (inside < high).all()
    assert np.abs(inside.max(axis=0) - high).max() < 1  # and fills them


def test_rotation_turns_counterclockwise():
    np.testing.assert_allclose(rotation((0, 0, 90)) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(rotation((90, 0, 0)) @ (0, 1, 0), (0, 0, 1), atol=1e-12)


# files


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SLA"])
def test_every_orientation_keeps_world_positions(tmp_path: Path, code: str):
    array = np.zeros((4, 5, 6), np.int16)
    array[1, 2, 5] = 7
    write_nifti(tmp_path / "a.nii.gz", array, Geometry((2.0, 3.0, 4.0), (10.0, 20.0, 30.0), code))
    data, affine = load(tmp_path / "a.nii.gz")
    assert "".join(nib.aff2axcodes(affine)) == code
    assert sorted(data.shape) == [4, 5, 6]
    assert data.dtype == np.int16
    voxel = np.argwhere(data == 7)[0]
    np.testing.assert_allclose(nib.affines.apply_affine(affine, voxel), (12, 26, 50))


def test_same_seed_same_bytes_other_seed_other_bytes(phantom: Phantom, tmp_path: Path):
    again = make_phantom(tmp_path / "again", **SMALL)
    assert again.cases == phantom.cases
    assert files(again.root) == files(phantom.root)
    other = make_phantom(tmp_path / "other", num_cases=6, seed=4, shape_xyz=(20, 18, 16))
    third = make_phantom(tmp_path / "third", num_cases=6, seed=5, shape_xyz=(20, 18, 16))
    assert (other.root / other.cases[0].image).read_bytes() != (third.root / third.cases[0].image).read_bytes()


def test_a_complete_phantom_is_kept_and_other_files_are_never_touched(phantom: Phantom, tmp_path: Path):
    before = {p: p.stat().st_mtime_ns for p in phantom.root.rglob("*")}
    assert make_phantom(phantom.root, **SMALL) == phantom
    assert {p: p.stat().st_mtime_ns for p in phantom.root.rglob("*")} == before
    with pytest.raises(UserError, match="expected a new folder"):
        make_phantom(phantom.root, **SMALL | {"seed": 9})
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="expected a new folder"):
        make_phantom(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_phantom_leaves_no_folder_and_does_not_hinder_the_next(tmp_path: Path):
    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 2:
            raise KeyboardInterrupt

    root = tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        make_phantom(root, num_cases=6, shape_xyz=(20, 18, 16), on_case=stop)
    assert not root.exists()
    assert len(make_phantom(root, num_cases=6, shape_xyz=(20, 18, 16)).cases) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p"]


def test_mistakes_of_the_caller(phantom: Phantom, tmp_path: Path):
    with pytest.raises(UserError, match="ask for 6 or more"):
        make_phantom(tmp_path / "p", num_cases=5)
    with pytest.raises(UserError, match=r"no truth for case 'a_0001'; did you mean 'a_001'"):
        phantom_truth(phantom.root, "a_0001")
    with pytest.raises(UserError, match="no phantom here"):
        Phantom.load(tmp_path)


def test_default_plan_has_eight_complete_test_cases():
    from gleanseg.data.phantom.make import _plan

    counts = Counter(spec.group for spec in _plan(36))
    assert counts == {"site_a": 6, "site_b": 6, "site_c": 8, "unlabelled": 5, "validation": 3, "test": 8}
    for num in range(6, 60):
        specs = _plan(num)
        assert len(specs) == num
        assert len({spec.id for spec in specs}) == num
        assert len({spec.group for spec in specs}) == 6


def test_files_have_the_declared_orientation_spacing_and_type(phantom: Phantom):
    assert {case.orientation for case in phantom.cases} == {"LPS", "RAS", "PIR", "LAS"}
    for case in phantom.cases:
        image = nib.load(phantom.root / case.image)
        assert "".join(nib.aff2axcodes(image.affine)) == case.orientation
        assert image.get_data_dtype() == np.int16
        canonical = nib.as_closest_canonical(image)
        np.testing.assert_allclose(canonical.header.get_zooms(), case.spacing_mm, atol=1e-5)
        for path in phantom_truth(phantom.root, case.id).values():
            np.testing.assert_array_equal(nib.load(path).affine, image.affine)
            assert nib.load(path).shape == image.shape


# anatomy


def test_fields_of_view_hide_what_lies_outside(phantom: Phantom):
    lacking = {"full": set(), "upper": {"urinary_bladder"}, "lower": {"lung_left", "lung_right"}}
    optional = {"liver_tumor", "kidney_tumor"}
    for case in phantom.cases:
        assert set(ROIS) - set(case.rois) - optional == lacking[case.field], case
        assert tuple(phantom_truth(phantom.root, case.id)) == case.rois
        shape = nib.as_closest_canonical(nib.load(phantom.root / case.image)).shape
        height = shape[2] * case.spacing_mm[2]
        assert (height > 250) == (case.field == "full")
    assert {case.field for case in phantom.cases} == set(lacking)
    assert HEIGHT_MM == (-130, 130)


def test_tumors_lie_in_their_organs_and_only_some_cases_have_them(phantom: Phantom):
    for roi, organs in (
        ("liver_tumor", ("liver",)),
        ("kidney_tumor", ("kidney_left", "kidney_right")),
    ):
        having = [case for case in phantom.cases if roi in case.rois]
        assert len(phantom.cases) / 4 < len(having) < len(phantom.cases)
        for case in having:
            masks = truth(phantom, case.id)
            parents = np.any([masks[organ] for organ in organs], axis=0)
            assert not (masks[roi] & ~parents).any()
            assert masks[roi].sum() < 0.6 * parents.sum()


def test_organs_do_not_overlap_and_are_in_one_piece(phantom: Phantom):
    organs = [roi for roi in ROIS if not roi.endswith("tumor")]
    for case in phantom.cases:
        masks = truth(phantom, case.id)
        assert np.sum([masks[roi] for roi in organs if roi in masks], axis=0).max() == 1
        for roi in {"liver", "stomach", "urinary_bladder", "lung_right"} & set(masks):
            pieces, num = components(masks[roi], structure=np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel())[1:]
            assert num == 1 or sizes.max() > 0.85 * sizes.sum(), (case.id, roi, sizes)


def test_left_and_right_are_the_patients(phantom: Phantom):
    """RAS: x grows towards the patient's right, where the liver is; z towards the head."""
    for case in phantom.cases:
        where = {roi: world_center(path) for roi, path in phantom_truth(phantom.root, case.id).items()}
        assert where["liver"][0] > where["aorta"][0] > where["spleen"][0]
        assert where["kidney_right"][0] > where["aorta"][0] + 25
        assert where["kidney_left"][0] < where["aorta"][0] - 25
        assert where["stomach"][1] > where["kidney_left"][1] + 20  # the stomach is in front
        if case.field != "lower":
            assert where["lung_right"][0] > where["lung_left"][0] + 50
            assert where["lung_right"][2] > where["liver"][2] > where["kidney_right"][2]
        if case.field != "upper":
            assert where["urinary_bladder"][2] < where["kidney_right"][2] - 40


def test_organ_volumes_are_plausible(phantom: Phantom):
    """Milliliters, in full fields of view; the phantom is a small person."""
    limits = {
        "liver": (250, 1000),
        "spleen": (20, 150),
        "kidney_left": (35, 140),
        "kidney_right": (35, 140),
        "aorta": (30, 110),
        "stomach": (80, 350),
        "urinary_bladder": (50, 250),
        "lung_left": (150, 600),
        "lung_right": (150, 600),
        "liver_tumor": (0.5, 90),
        "kidney_tumor": (1.5, 50),
    }
    for case in (c for c in phantom.cases if c.field == "full"):
        for roi, mask in truth(phantom, case.id).items():
            milliliters = mask.sum() * np.prod(case.spacing_mm) / 1000
            assert limits[roi][0] < milliliters < limits[roi][1], (case.id, roi, milliliters)


def test_patients_differ(phantom: Phantom):
    volumes = [
        load(phantom_truth(phantom.root, case.id)["liver"])[0].sum() * np.prod(case.spacing_mm)
        for case in phantom.cases
        if case.field == "full"
    ]
    assert np.std(volumes) > 0.05 * np.mean(volumes)


def test_hounsfield_units(phantom: Phantom):
    ranges = {
        "lung_left": (-900, -700),
        "liver": (60, 140),
        "spleen": (90, 150),
        "kidney_right": (95, 220),
        "aorta": (130, 330),
        "urinary_bladder": (-15, 45),
        "liver_tumor": (15, 80),
        "kidney_tumor": (40, 115),
    }
    for case in phantom.cases:
        image, _ = load(phantom.root / case.image)
        masks = truth(phantom, case.id)
        for roi in ranges.keys() & masks.keys():
            low, high = ranges[roi]
            assert low < np.median(image[masks[roi]]) < high, (case.id, roi)
        assert image.min() >= -1024
        assert image.max() <= 1800
        assert np.quantile(image, 0.999) > 250  # bone
        assert -1010 < np.median(image[image < -900]) < -980  # air
        if "liver_tumor" in masks:  # darker than its surroundings
            rim = binary_dilation(masks["liver_tumor"], iterations=2) & masks["liver"] & ~masks["liver_tumor"]
            assert np.median(image[masks["liver_tumor"]]) < np.median(image[rim]) - 15
        noise = image[masks["liver"]].std()
        assert 6 < noise < 40


# import


def test_manifest_says_what_each_site_annotates(phantom: Phantom):
    manifest = phantom_manifest(phantom.root)
    assert set(manifest.rois) == set(ROIS)
    assert {case.id for case in manifest.cases} == {case.id for case in phantom.cases}
    for case in phantom.cases:
        entry = manifest.case(case.id)
        assert (entry.site, entry.split) == (case.site, case.split)
        assert manifest.path(entry.images[0]).resolve() == (phantom.root / case.image).resolve()
        for roi, state in manifest.states(entry).items():
            outside = case.site in ("site_c", "held_out") and roi not in case.rois
            wanted = State.UNKNOWN if roi not in SITE_ROIS[case.site] else State.ABSENT if outside else State.ANNOTATED
            assert state is wanted, (case.id, roi)


def test_no_manifest_names_the_truth(phantom: Phantom):
    text = phantom_manifest(phantom.root).to_json()
    assert "truth" not in text
    assert "site_a" in text


def test_labels_in_each_layout_equal_the_truth(phantom: Phantom):
    manifest = phantom_manifest(phantom.root)
    for case in manifest.cases:
        masks = truth(phantom, case.id)
        for roi in case.annotated:
            if isinstance(case.labels, dict):
                found = load(manifest.path(case.labels[roi]))[0] > 0
            else:
                values = [value for value, rois in case.values.items() if roi in rois]
                found = np.isin(load(manifest.path(str(case.labels)))[0], values)
            assert np.array_equal(found, masks.get(roi, np.zeros_like(found))), (case.id, roi)
    assert manifest.case("b_001").values[3] == ("kidney_right", "kidney_tumor")
    assert set(manifest.case("a_001").values[2]) == {"liver", "liver_tumor"}


def test_manifest_of_half_a_phantom(tmp_path: Path):
    with pytest.raises(UserError, match=r"dataset\.json"):
        phantom_manifest(tmp_path)

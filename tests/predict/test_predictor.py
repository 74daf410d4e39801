"""Axes: C image channels, R ROIs, Z Y X voxels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import Threshold, make_plan, make_predictor
from torch import Tensor, nn

from gleanseg.config import PredictConfig
from gleanseg.data.plan import Intensity
from gleanseg.data.volume import Grid, Volume
from gleanseg.errors import UserError
from gleanseg.predict.passes import air_test, all_flips, side_swap, trained_flips
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.rois.ontology import builtin

CENTER_MM, RADIUS_MM = np.array([12.0, -9.0, 25.0]), 13.0


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    a, b, c = np.deg2rad(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def sphere_volume(axes: str, spacing_xyz_mm: tuple[float, float, float], degrees: tuple[float, float, float]) -> Volume:
    """A ball of intensity 1 with soft edge, off the middle of a box of 60 x 70 x 80 mm (right, anterior, superior)."""
    extent_ras = np.array([60.0, 70.0, 80.0])
    directions = np.zeros((3, 3))
    for voxel_axis, letter in enumerate(axes):
        ras, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[letter]
        directions[ras, voxel_axis] = sign
    shape_xyz = [round(extent_ras[np.abs(directions[:, v]).argmax()] / spacing_xyz_mm[v]) for v in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ directions @ np.diag(spacing_xyz_mm)
    middle = (np.array(shape_xyz) - 1) / 2
    affine[:3, 3] = CENTER_MM - np.array([4.0, -6.0, 8.0]) - affine[:3, :3] @ middle
    k, j, i = np.indices(shape_xyz[::-1])
    points = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(points - CENTER_MM, axis=-1)
    array = np.clip((RADIUS_MM - distance) / 4 + 0.5, 0, 1).astype(np.float32)
    return Volume(array, Grid((shape_xyz[2], shape_xyz[1], shape_xyz[0]), affine), Path("ball.nii.gz"))


@pytest.mark.parametrize(
    ("axes", "spacing", "degrees"),
    [
        ("RAS", (1.5, 1.5, 1.5), (0, 0, 0)),
        ("LPS", (1.0, 1.0, 2.5), (0, 0, 0)),
        ("SAR", (0.9, 1.3, 2.0), (0, 0, 0)),
        ("PIR", (2.0, 1.2, 1.7), (0, 0, 0)),
        ("LAI", (3.0, 3.0, 3.0), (0, 0, 0)),
        ("RPI", (1.2, 2.5, 1.0), (11, -7, 5)),
    ],
)
def test_ball_is_found_where_it_lies(axes: str, spacing: tuple, degrees: tuple) -> None:
    volume = sphere_volume(axes, spacing, degrees)
    found = make_predictor(Threshold(0.5)).predict_volume(volume).layers[0]
    wanted = volume.array > 0.5
    assert found.shape == volume.array.shape
    assert found.flags.c_contiguous
    assert found.dtype == np.uint8
    assert 2 * (found.astype(bool) & wanted).sum() / (found.sum() + wanted.sum()) > 0.96
    k, j, i = (index.mean() for index in np.nonzero(found))
    center = volume.grid.affine[:3, :3] @ [i, j, k] + volume.grid.affine[:3, 3]
    assert np.linalg.norm(center - CENTER_MM) < 0.1 * max(spacing)


def test_same_grid_is_exact() -> None:
    volume = sphere_volume("LPS", (1.5, 1.5, 1.5), (0, 0, 0))
    found = make_predictor(Threshold(0.5)).predict_volume(volume).layers[0]
    np.testing.assert_array_equal(found, volume.array > 0.5)


def test_outside_the_crop_is_background() -> None:
    volume = sphere_volume("LPS", (1.0, 1.0, 2.5), (0, 0, 0))
    plan = make_plan(("liver",), crop="nonzero")
    found = make_predictor(Threshold(-1.0), plan=plan).predict_volume(volume).layers[0]  # all of the crop
    inside = np.nonzero(volume.array)
    box = tuple(slice(index.min(), index.max() + 1) for index in inside)
    wanted = np.zeros_like(found)
    wanted[box] = 1
    np.testing.assert_array_equal(found, wanted)
    assert 0 < wanted.sum() < wanted.size / 2


def test_nested_rois_lie_in_their_layers() -> None:
    volume = sphere_volume("RAS", (1.5, 1.5, 1.5), (0, 0, 0))
    rois = ("liver_tumor", "liver")
    found = make_predictor(Threshold(0.8, 0.2), rois=rois).predict_volume(volume)
    assert len(found.layers) == 2
    np.testing.assert_array_equal(found.mask("liver"), volume.array > 0.2)
    np.testing.assert_array_equal(found.mask("liver_tumor"), volume.array > 0.8)
    np.testing.assert_array_equal(found.flat(), np.where(volume.array > 0.8, 1, np.where(volume.array > 0.2, 2, 0)))


def test_a_stride_says_where_windows_lie_and_must_not_leave_gaps() -> None:
    strided = make_predictor(Threshold(0.5), config=PredictConfig(stride=(4, 8, 16), average="probabilities"))
    assert strided.sliding.step_ZYX == (16, 8, 4)
    assert strided.sliding.average == "probabilities"
    with pytest.raises(UserError, match=r"predict\.stride = \[4, 17, 4\]: expected at most the patch \[16, 16, 16\]"):
        make_predictor(Threshold(0.5), config=PredictConfig(stride=(4, 17, 4)))


def test_networks_are_averaged_as_probabilities() -> None:
    volume = sphere_volume("RAS", (1.5, 1.5, 1.5), (0, 0, 0))
    predictor = make_predictor(
        Threshold(0.2), Threshold(0.7), options=Options(probabilities=("liver",), skip_air=False)
    )
    found = predictor.predict_volume(volume)
    x = volume.array.astype(np.float64)
    mean = (1 / (1 + np.exp(0.2 - x)) + 1 / (1 + np.exp(0.7 - x))) / 2
    np.testing.assert_allclose(found.probabilities["liver"], mean, atol=5e-4)
    clear = np.abs(mean - 0.5) > 1e-6
    np.testing.assert_array_equal(found.mask("liver")[clear], (mean > 0.5)[clear])


def test_probabilities_lie_on_the_native_grid() -> None:
    volume = sphere_volume("SAR", (0.9, 1.3, 2.0), (0, 0, 0))
    rois = ("liver", "spleen")
    options = Options(probabilities=("spleen",), skip_air=False)
    p = make_predictor(Threshold(0.5, 5.0), rois=rois, options=options).predict_volume(volume).probabilities
    assert list(p) == ["spleen"]
    assert p["spleen"].shape == volume.array.shape
    assert p["spleen"].dtype == np.float16
    np.testing.assert_allclose(p["spleen"], 1 / (1 + np.exp(5 - volume.array)), atol=4e-3)


def test_prepared_images_are_segmented_on_their_own_grid() -> None:
    image = np.random.default_rng(0).normal(size=(1, 20, 18, 25)).astype(np.float32)
    polled: list[int] = []
    net = Threshold(0.5).train()
    predictor = make_predictor(net, config=PredictConfig(overlap=0.0))
    found = predictor.segment_prepared(image, poll=lambda: polled.append(1))
    np.testing.assert_array_equal(found.mask("liver"), image[0] > 0.5)
    assert len(polled) == net.calls == 8
    assert net.training  # a network in training stays so


def test_read_only_images_are_taken() -> None:
    image = np.zeros((1, 16, 16, 16), dtype=np.float32)
    image[0, 3] = 1
    image.setflags(write=False)
    found = make_predictor(Threshold(0.5)).segment_prepared(image)
    assert found.mask("liver").sum() == 256


def test_poll_may_stop_a_prediction_and_modes_come_back() -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    net = Threshold(0.5).train()
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 32)).astype(np.float32)
    with pytest.raises(StopError):
        make_predictor(net).segment_prepared(image, poll=stop)
    assert net.calls == 1
    assert net.training


def test_postprocessing_follows_the_recipe() -> None:
    image = np.zeros((1, 16, 16, 30), dtype=np.float32)
    image[0, 2:6, 2:6, 2:6] = 1
    image[0, 8:10, 8:10, 20:22] = 1
    both = make_predictor(Threshold(0.5)).segment_prepared(image)
    one = make_predictor(Threshold(0.5), config=PredictConfig(keep_largest=("liver",))).segment_prepared(image)
    assert (both.mask("liver").sum(), one.mask("liver").sum()) == (72, 64)


def test_components_below_a_volume_are_dropped() -> None:
    image = np.zeros((1, 16, 16, 30), dtype=np.float32)
    image[0, 2:6, 2:6, 2:6] = 1
    image[0, 8:10, 8:10, 20:22] = 1
    voxel_mm3 = float(np.prod(make_predictor(Threshold(0.5)).plan.spacing_ZYX_mm))
    for voxels, kept in ((8, 72), (9, 64), (65, 0)):
        config = PredictConfig(min_component_mm3=voxels * voxel_mm3)
        assert make_predictor(Threshold(0.5), config=config).segment_prepared(image).mask("liver").sum() == kept


def test_hierarchy_repair_follows_the_recipe_or_the_option() -> None:
    image = np.full((1, 16, 16, 30), 0.3, dtype=np.float32)
    image[0, 2:6, 2:6, 2:6] = 1
    image[0, 0, 0, ::8] = 0.31  # no window is constant
    nets, rois = Threshold(0.5, 0.2), ("liver", "liver_tumor")
    plain = make_predictor(nets, rois=rois).segment_prepared(image)
    assert (plain.mask("liver").sum(), plain.mask("liver_tumor").sum()) == (64, image.size)
    removed = make_predictor(nets, rois=rois, config=PredictConfig(repair_hierarchy=True)).segment_prepared(image)
    assert (removed.mask("liver").sum(), removed.mask("liver_tumor").sum()) == (64, 64)
    extended = make_predictor(nets, rois=rois, options=Options(repair="extend")).segment_prepared(image)
    assert (extended.mask("liver").sum(), extended.mask("liver_tumor").sum()) == (image.size, image.size)


class LeftIsDark(nn.Module):
    """ROI 0 is the dark half of the patient, ROI 1 the bright half, told by where they lie: not by their side."""

    linear_head = True

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        position = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
        return (torch.cat([x, position], dim=1),)

    def score(self, features: tuple[Tensor, ...], rois: slice | None = None) -> Tensor:
        x, position = features[0][:, :1], features[0][:, 1:]
        return torch.cat([x - 0.5 - position, x - 0.5 + position], dim=1)[:, rois or slice(None)]


def test_mirroring_along_x_swaps_sides() -> None:
    rois = ("kidney_left", "kidney_right")
    image = np.random.default_rng(1).normal(size=(1, 16, 16, 16)).astype(np.float32)
    kwargs = {"plan": make_plan(rois), "rois": rois, "ontology": builtin(), "patch_ZYX": (16, 16, 16)}
    plain = Predictor([LeftIsDark()], **kwargs).segment_prepared(image)
    mirrored = Predictor(
        [LeftIsDark()],
        config=PredictConfig(mirror=True),
        options=Options(mirror_ZYX=(True, False, True)),
        **kwargs,
    ).segment_prepared(image)
    # A flipped image shows the other kidney at the mirrored place, so this symmetric network says the same twice.
    assert (plain.layers[0] > 0).any()
    np.testing.assert_array_equal(mirrored.layers[0], plain.layers[0])


def test_mirroring_along_x_needs_both_sides() -> None:
    with pytest.raises(
        UserError, match="'kidney_left' lies on one side and needs 'kidney_right', which is not predicted"
    ):
        side_swap(("liver", "kidney_left"), builtin())
    with pytest.raises(UserError, match="'lung_middle_lobe_right' lies on one side and has no counterpart"):
        side_swap(("lung_middle_lobe_right",), builtin())
    assert side_swap(("liver", "spleen"), builtin()) is None
    assert side_swap(("kidney_left", "liver", "kidney_right"), builtin()) == (2, 1, 0)


def test_flips() -> None:
    assert all_flips((False, False, False)) == ((),)
    assert all_flips((True, False, True)) == ((), (-3,), (-1,), (-3, -1))
    assert len(all_flips((True, True, True))) == 8
    assert trained_flips("auto", ("liver",), builtin()) == (True, True, True)
    assert trained_flips("auto", ("liver", "kidney_left"), builtin()) == (True, True, False)
    assert trained_flips(("y",), ("liver",), builtin()) == (False, True, False)


def test_air_of_ct_and_of_other_channels() -> None:
    ct = Intensity(kind="ct_window", low=-1000, high=1000, mean=100, std=200)
    is_air = air_test([ct])
    hounsfield = torch.full((1, 4, 4, 4), -990.0)
    assert is_air((hounsfield - 100) / 200)
    hounsfield[0, 1, 1, 1] = -700.0  # the wall of an airway
    assert not is_air((hounsfield - 100) / 200)
    narrow = air_test([Intensity(kind="ct_window", low=-160, high=240, mean=100, std=200)])
    assert narrow(torch.full((1, 2, 2, 2), -260 / 200))
    assert not narrow(torch.full((1, 2, 2, 2), 0.5))  # constant, but not air
    other = air_test([Intensity(kind="zscore"), ct])
    assert other(torch.stack([torch.full((2, 2, 2), 3.0), torch.full((2, 2, 2), -5.5)]))
    assert not other(torch.stack([torch.arange(8.0).reshape(2, 2, 2), torch.full((2, 2, 2), -5.5)]))


def test_skipping_air_changes_no_label() -> None:
    image = np.full((1, 40, 24, 24), -2.0, dtype=np.float32)
    image[0, 18:30, 5:15, 5:15] = np.random.default_rng(0).normal(size=(12, 10, 10))
    fast, slow = Threshold(0.5), Threshold(0.5)
    one = make_predictor(fast).segment_prepared(image)
    two = make_predictor(slow, options=Options(skip_air=False)).segment_prepared(image)
    np.testing.assert_array_equal(one.layers[0], two.layers[0])
    assert fast.calls < slow.calls


def test_unknown_rois_of_options_are_refused() -> None:
    with pytest.raises(UserError, match="probabilities: 'livre' is not predicted by this run; did you mean 'liver'"):
        make_predictor(Threshold(0.5), options=Options(probabilities=("livre",)))
    with pytest.raises(UserError, match="keep_largest: 'spleen'"):
        make_predictor(Threshold(0.5), config=PredictConfig(keep_largest=("spleen",)))


def test_wrong_number_of_channels_is_a_user_error() -> None:
    volume = sphere_volume("RAS", (3.0, 3.0, 3.0), (0, 0, 0))
    two = volume._replace(array=np.stack([volume.array, volume.array]))
    with pytest.raises(UserError, match="expected 1 channels"):
        make_predictor(Threshold(0.5)).predict_volume(two)

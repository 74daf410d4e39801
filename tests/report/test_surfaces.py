"""Surfaces in three dimensions: size, light, sides, what hides what."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.report.surfaces import Camera, Frame, frame_of, render

FRONT, BACK = Camera(0, 0), Camera(180, 0)
RED, BLUE = (230, 30, 30), (40, 60, 240)
SPACING = (3.0, 1.0, 1.5)
SHAPE = (24, 64, 48)  # 72 x 64 x 72 mm
MIDDLE = Frame((34.5, 31.5, 35.25), (80.0, 80.0))


def ball(center_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    places = np.indices(SHAPE) * np.array(SPACING).reshape(3, 1, 1, 1)
    return sum((p - c) ** 2 for p, c in zip(places, center_mm, strict=True)) <= radius_mm**2


def seen(masks: dict[str, NDArray[np.bool_]], camera: Camera = FRONT, glass: tuple[str, ...] = ()) -> NDArray[np.uint8]:
    colors = {roi: RED if roi == "red" else BLUE for roi in masks}
    return render(
        masks, colors=colors, spacing_ZYX_mm=SPACING, frame=MIDDLE, size_px=(80, 80), camera=camera, glass=glass
    )  # one pixel is one square millimeter


def center_of(picture: NDArray[np.uint8]) -> tuple[float, float]:
    rows, columns = np.nonzero(picture[..., 3] > 127)
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize("camera", [FRONT, Camera(90, 0), Camera(0, 90), Camera(35, 25)])
def test_a_ball_is_round_and_of_its_size_from_every_side(camera: Camera) -> None:
    picture = seen({"red": ball((34.5, 31.5, 35.25), 20)}, camera)
    assert (picture[..., 3] / 255).sum() == pytest.approx(math.pi * 20**2, rel=0.05)
    rows, columns = np.nonzero(picture[..., 3] > 127)
    distance = np.hypot(rows - 39.5, columns - 39.5)
    assert distance.max() < 21.5
    outside = np.hypot(*(np.indices((80, 80)) - 39.5)) > 22
    assert not picture[outside].any()
    assert (picture[np.hypot(*(np.indices((80, 80)) - 39.5)) < 18][:, 3] == 255).all()


def test_a_ball_is_lit_from_the_upper_left() -> None:
    light = seen({"red": ball((34.5, 31.5, 35.25), 20)})[..., :3].astype(float).sum(axis=2)
    upper_left, lower_right, middle = light[30, 32], light[50, 50], light[40, 40]
    assert upper_left > middle > lower_right > 30
    brightest = np.unravel_index(light.argmax(), light.shape)
    assert brightest[0] < 40
    assert brightest[1] < 40
    # Light changes gently over a smooth surface, also across slices of 3 mm.
    across = light[28:52, 28:52]
    assert np.abs(np.diff(across, axis=0)).max() < 0.1 * across.max()


def test_the_silhouette_of_a_box_has_its_area_in_millimeters() -> None:
    box = np.zeros(SHAPE, dtype=np.bool_)
    box[6:16, 16:46, 14:34] = True  # 30 x 30 x 30 mm
    for camera in (FRONT, Camera(90, 0), Camera(0, 90)):
        area = (seen({"red": box}, camera)[..., 3] / 255).sum()
        assert area == pytest.approx(900, rel=0.05)
    frame = frame_of(box, spacing_ZYX_mm=SPACING, camera=FRONT, margin=0.0)
    assert frame.size_mm == pytest.approx((30, 30))
    assert frame.center_ZYX_mm == pytest.approx((31.5, 30.5, 35.25))
    assert frame_of(box, spacing_ZYX_mm=SPACING, camera=Camera(45, 0), margin=0.1).size_mm[0] == pytest.approx(
        30 * math.sqrt(2) * 1.2, rel=0.02
    )


def test_sides_are_not_mirrored() -> None:
    right, head = ball((34.5, 31.5, 58), 7), ball((60, 31.5, 35.25), 7)
    front = ball((34.5, 54, 35.25), 7)
    assert center_of(seen({"red": right})) == pytest.approx((17, 40), abs=1.5)  # seen from the front: at the left
    assert center_of(seen({"red": right}, BACK)) == pytest.approx((62, 40), abs=1.5)
    assert center_of(seen({"red": head})) == pytest.approx((40, 14), abs=1.5)
    from_left, from_head = seen({"red": front}, Camera(90, 0)), seen({"red": front}, Camera(0, 90))
    assert center_of(from_left) == pytest.approx((17, 40), abs=1.5)  # looking from the left, the face is at the left
    assert center_of(from_head) == pytest.approx((40, 62), abs=1.5)
    for camera in (FRONT, Camera(35, 25)):
        assert np.linalg.det(camera.axes) == pytest.approx(-1)  # (Z, Y, X) is (X, Y, Z) mirrored
        assert camera.axes @ camera.axes.T == pytest.approx(np.eye(3))


def test_the_nearer_one_hides_the_farther_one() -> None:
    masks = {"blue": ball((34.5, 14, 35.25), 12), "red": ball((34.5, 50, 35.25), 10)}
    middle, edge = (40, 40), (40, 29)
    assert seen(masks)[middle][0] > 2 * seen(masks)[middle][2]
    assert seen(masks)[edge][2] > 2 * seen(masks)[edge][0]  # the farther one is wider
    assert seen(masks, BACK)[middle][2] > 2 * seen(masks, BACK)[middle][0]
    assert (seen(dict(reversed(masks.items()))) == seen(masks)).all()


def test_glass_lets_what_is_inside_be_seen() -> None:
    masks = {"blue": ball((34.5, 31.5, 35.25), 20), "red": ball((34.5, 31.5, 35.25), 6)}
    opaque, clear = seen(masks), seen(masks, glass=("blue",))
    assert opaque[40, 40][2] > 2 * opaque[40, 40][0]
    assert clear[40, 40][0] > clear[40, 40][2]
    assert clear[40, 40][3] == 255
    assert 60 < clear[40, 50][3] < 200


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (1, 9, 9)])
def test_thin_structures_do_not_vanish(shape: tuple[int, int, int]) -> None:
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[tuple(slice(11, 11 + size) for size in shape)] = True
    frame = frame_of(mask, spacing_ZYX_mm=SPACING, camera=FRONT)
    picture = render({"red": mask}, colors={"red": RED}, spacing_ZYX_mm=SPACING, frame=frame, size_px=(20, 20))
    assert (picture[..., 3] > 127).mean() > 0.1


def test_nothing_is_transparent() -> None:
    assert not seen({}).any()
    assert not seen({"red": np.zeros(SHAPE, dtype=np.bool_)}).any()

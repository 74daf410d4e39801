"""Orientation, aspect, outlines and gray values of overlay pictures."""

import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gleanseg.report.figures import (
    Panel,
    largest_slices,
    outlines,
    overlay,
    pale,
    panel_svg,
    panels,
    scale_bar_mm,
    view,
    visible,
    webp,
    window,
)  # fmt: skip

SPACING_ZYX_MM = (5.0, 2.0, 1.0)


def marked(zyx: tuple[int, int, int]) -> NDArray[np.float32]:
    """A dark RAS volume with one bright voxel."""
    volume = np.zeros((8, 10, 12), dtype=np.float32)
    volume[zyx] = 1.0
    return volume


def planes_through(zyx: tuple[int, int, int]) -> dict[str, Panel]:
    made = panels(
        marked(zyx), reference={}, prediction={}, colors={}, spacing_ZYX_mm=SPACING_ZYX_MM, gray_range=(0.0, 1.0),
        slices_ZYX=zyx,
    )  # fmt: skip
    return {panel.plane: panel for panel in made}


def bright(panel: Panel) -> tuple[int, int]:
    """Row and column of the marker."""
    (row,), (column,) = np.nonzero(panel.gray == 255)
    return int(row), int(column)


def test_pictures_are_radiological():
    """A marker at the patient's left, in front and low: right, top and bottom of the pictures."""
    z, y, x = 1, 8, 2  # RAS: small x is left, large y is anterior, small z is inferior
    planes = planes_through((z, y, x))
    assert bright(planes["axial"]) == (10 - 1 - y, 12 - 1 - x)
    assert bright(planes["coronal"]) == (8 - 1 - z, 12 - 1 - x)
    assert bright(planes["sagittal"]) == (8 - 1 - z, 10 - 1 - y)
    assert bright(planes["axial"])[1] > 12 / 2
    assert [planes[p].letters for p in ("axial", "coronal", "sagittal")] == ["RLAP", "RLSI", "APSI"]


def test_sizes_follow_the_spacing():
    planes = planes_through((1, 8, 2))
    assert planes["axial"].size_mm == (12.0, 20.0)
    assert planes["coronal"].size_mm == (12.0, 40.0)
    assert planes["sagittal"].size_mm == (20.0, 40.0)
    assert [(p.slice_index, p.num_slices) for p in planes.values()] == [(1, 8), (8, 10), (2, 12)]


def test_outline_of_a_voxel_and_of_a_bar():
    one = np.zeros((5, 5), dtype=np.bool_)
    one[2, 3] = True
    (line,) = outlines(one)
    assert {tuple(point) for point in line} == {(3.0, 2.5), (4.0, 2.5), (3.5, 2.0), (3.5, 3.0)}
    bar = np.zeros((5, 9), dtype=np.bool_)
    bar[2, 1:8] = True
    (line,) = outlines(bar)
    assert {tuple(p) for p in line} == {(1.0, 2.5), (1.5, 2.0), (7.5, 2.0), (8.0, 2.5), (7.5, 3.0), (1.5, 3.0)}
    assert outlines(np.zeros((4, 4), dtype=np.bool_)) == ()


def test_outline_at_the_border_is_closed_and_a_hole_is_a_second_line():
    full = np.ones((4, 6), dtype=np.bool_)
    (line,) = outlines(full)
    assert line[:, 0].min() == 0.0
    assert line[:, 0].max() == 6.0
    full[2, 3] = False
    assert len(outlines(full)) == 2


def test_contours_lie_on_the_mask_in_the_picture():
    mask = np.zeros((8, 10, 12), dtype=np.bool_)
    mask[1:3, 7:9, 1:4] = True
    axial, *_ = panels(
        marked((0, 0, 0)), reference={"liver": mask}, prediction={}, colors={"liver": (200, 0, 0)},
        spacing_ZYX_mm=SPACING_ZYX_MM, gray_range=(0.0, 1.0), slices_ZYX=(1, 7, 2),
    )  # fmt: skip
    (contour,) = axial.contours
    (line,) = contour.lines
    assert (line[:, 0].min(), line[:, 0].max()) == (12 - 4, 12 - 1)  # columns run against x
    assert (line[:, 1].min(), line[:, 1].max()) == (10 - 9, 10 - 7)
    picture = panel_svg(axial, label="a <b>")
    assert 'viewBox="0 0 12 20"' in picture
    assert "scale(0.5 1)" in picture
    assert 'aria-label="a &lt;b&gt;"' in picture


def test_focus_is_drawn_last():
    mask = np.ones((8, 10, 12), dtype=np.bool_)
    axial, *_ = panels(
        marked((0, 0, 0)),
        reference={"b": mask, "a": mask},
        prediction={"b": mask},
        colors=dict.fromkeys("ab", (9, 9, 9)),
        spacing_ZYX_mm=SPACING_ZYX_MM,
        gray_range=(0.0, 1.0),
        slices_ZYX=(1, 7, 2),
        focus="b",
    )
    assert [(c.roi, c.kind, c.focus) for c in axial.contours] == [
        ("a", "reference", False), ("b", "prediction", True), ("b", "reference", True),
    ]  # fmt: skip


def test_largest_slices_and_view():
    mask = np.zeros((20, 100, 100), dtype=np.bool_)
    mask[3:5, 10:30, 40:60] = True
    mask[4, 10:30, 60:70] = True
    assert largest_slices(mask) == (4, 10, 40)
    assert largest_slices(np.zeros((4, 6, 8), dtype=np.bool_)) == (2, 3, 4)
    box = (slice(3, 5), slice(10, 30), slice(40, 70))
    spacing = (5.0, 1.0, 1.0)
    wide = view(box, shape_ZYX=(20, 400, 400), spacing_ZYX_mm=spacing)
    assert wide == (slice(0, 14), slice(0, 70), slice(5, 105))  # 100 mm each, cut off at the volume's border
    assert view(box, shape_ZYX=(20, 100, 100), spacing_ZYX_mm=spacing)[1:] == (slice(0, 70), slice(0, 100))


def test_gray_values():
    ct = np.full((4, 4, 4), -1000.0, dtype=np.float32)
    assert window(ct, modality="CT") == (-160.0, 240.0)
    assert window(ct, modality="CT", focus=np.array([-800.0], dtype=np.float32)) == (-1350.0, 150.0)
    assert window(ct, modality="ct", focus=np.array([500.0], dtype=np.float32)) == (-450.0, 1050.0)
    mr = np.arange(1001, dtype=np.float32).reshape(1, 7, 143)
    assert window(mr, modality="MR") == pytest.approx((5.995, 995.005))
    assert window(np.zeros((2, 2, 2), dtype=np.float32), modality="MR") == (0.0, 1.0)
    hole = np.full((2, 2, 2), np.nan, dtype=np.float32)
    (axial, *_) = panels(
        hole, reference={}, prediction={}, colors={}, spacing_ZYX_mm=SPACING_ZYX_MM, gray_range=(0.0, 1.0),
        slices_ZYX=(0, 0, 0),
    )  # fmt: skip
    assert axial.gray.max() == 0


def test_webp_is_scaled_down_but_not_up():
    large = Image.open(io.BytesIO(base64.b64decode(webp(np.zeros((600, 300), dtype=np.uint8)).split(",")[1])))
    assert large.size == (192, 384)
    small = Image.open(io.BytesIO(base64.b64decode(webp(np.zeros((30, 20), dtype=np.uint8)).split(",")[1])))
    assert small.size == (20, 30)


def test_colors_on_dark():
    assert visible((255, 255, 0)) == (255, 255, 0)
    assert visible((0, 0, 0)) == (107, 107, 107)
    assert visible((160, 100, 80)) == (216, 135, 108)
    assert visible((0, 0, 255)) == (96, 96, 255)  # luminance 0.0722, so 37.5 % white
    assert pale((255, 255, 255)) == (255, 255, 255)
    assert [scale_bar_mm(width) for width in (400.0, 100.0, 2.0)] == [100, 20, 1]


def test_overlay_is_a_radiological_png():
    """The README's picture: a bright block at the patient's left is in the right half of the axial panel."""
    image = np.full((20, 40, 40), -100.0, dtype=np.float32)
    mask = np.zeros(image.shape, dtype=np.bool_)
    mask[8:12, 18:22, 4:10] = True
    image[mask] = 240.0
    data = overlay(
        image, reference={"spleen": mask}, prediction={"spleen": np.roll(mask, 2, axis=1)},
        colors={"spleen": (157, 108, 162)}, spacing_ZYX_mm=(2.0, 1.0, 1.0), modality="MR", gray_range=(-100.0, 240.0),
        height_px=200,
    )  # fmt: skip
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int64)
    assert picture.shape[1] == 3 * 200 + 2 * 10
    axial = picture[:200, :200]
    rows, columns = np.nonzero(axial.min(axis=2) > 235)
    inside = (rows > 60) & (rows < 140) & (columns > 120) & (columns < 190)
    assert inside.sum() > 100
    colored = (axial[..., 0] - axial[..., 1] > 25).sum()
    assert colored > 20


def test_overlay_crops_to_the_focus():
    image = np.zeros((200, 10, 400), dtype=np.float32)
    mask = np.zeros(image.shape, dtype=np.bool_)
    mask[100:110, 4:6, 100:110] = True
    data = overlay(
        image, reference={"a": mask}, prediction={}, colors={"a": (255, 0, 0)}, spacing_ZYX_mm=(1.0, 10.0, 1.0),
        focus="a", crop=True, height_px=100, names={"a": "thing"},
    )  # fmt: skip
    assert Image.open(io.BytesIO(data)).width == 320  # three square views of 100 mm

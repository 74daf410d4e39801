"""Overlay pictures: three planes through a structure with the contours of reference and prediction.

Volumes come in canonical RAS voxel order, as (Z, Y, X) with X running to the patient's right, Y to anterior and Z to
superior. Pictures are radiological: the patient's right is at the left of axial and coronal pictures, anterior is at
the top of axial and at the left of sagittal pictures, superior at the top of coronal and sagittal ones.
"""

import base64
import io
from collections.abc import Mapping
from typing import Literal, NamedTuple

import contourpy
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from PIL import Image

from gleanseg.evaluate.surface import Box, bounding_box
from gleanseg.report.markup import Html, compact, rgb, tag

Color = tuple[int, int, int]
Kind = Literal["reference", "prediction"]
PLANES = ("axial", "coronal", "sagittal")
_NORMAL_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}
_LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom of the picture
_LONGEST_PX = 384
_SMALLEST_VIEW_MM = 100.0
_CONTEXT = 0.5  # margin around a structure, as a share of its size


class Contour(NamedTuple):
    """Closed outlines of one mask in one plane.

    Attributes:
        roi: ROI id.
        kind: reference or prediction.
        color: of the ontology.
        lines: corner points (column, row) of each outline, in voxels of the picture; (0, 0) is its upper left corner.
        focus: drawn stronger than its surroundings.
    """

    roi: str
    kind: Kind
    color: Color
    lines: tuple[NDArray[np.float64], ...]
    focus: bool = True


class Panel(NamedTuple):
    """One plane, oriented for display.

    Attributes:
        plane: axial, coronal or sagittal.
        slice_index: along the plane's normal, from 0 at inferior, posterior or left.
        num_slices: of the volume.
        gray: picture of the image, windowed to 0-255; of a tinted one red, green and blue.
        size_mm: width and height.
        contours: outlines to draw.
        letters: patient directions at the left, right, top and bottom edge.
    """

    plane: str
    slice_index: int
    num_slices: int
    gray: UInt8[np.ndarray, "H W *rgb"]
    size_mm: tuple[float, float]
    contours: tuple[Contour, ...]
    letters: str


def display(slice_2d: NDArray[np.generic]) -> NDArray[np.generic]:
    """Turn an (R-L or P-A columns, I-S or P-A rows) slice as stored into one as shown: both axes are reversed."""
    return slice_2d[::-1, ::-1]


def outlines(mask_2d: Bool[np.ndarray, "H W"]) -> tuple[NDArray[np.float64], ...]:
    """Outlines of a mask through the middles between in and out voxels; straight runs keep only their ends."""
    if not mask_2d.any():
        return ()
    generator = contourpy.contour_generator(z=np.pad(mask_2d, 1).astype(np.float64))
    found = []
    for line in generator.lines(0.5):
        points = np.asarray(line, dtype=np.float64) - 0.5  # padding is 1, centers of voxels are at 0.5
        ring = points[:-1]
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        corner = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
        found.append(ring[corner])
    return tuple(found)


def window(
    image_ZYX: Float[np.ndarray, "Z Y X"], *, modality: str, focus: Float[np.ndarray, " N"] | None = None
) -> tuple[float, float]:
    """Values shown as black and white.

    CT in Hounsfield units gets the soft-tissue window, or that of lung or bone when the focus has such densities;
    anything else the 0.5 and 99.5 percentiles of what is not zero.

    Args:
        image_ZYX: any unit.
        modality: of the image's channel.
        focus: values of the voxels that matter.
    """
    values = image_ZYX.reshape(-1)[:: max(1, image_ZYX.size // 500_000)]
    values = values[np.isfinite(values)]
    if modality.upper() == "CT" and values.size and float(values.min()) < -200:
        middle = float(np.nanmedian(focus)) if focus is not None and focus.size else 0.0
        if middle < -300:
            return (-1350.0, 150.0)
        return (-450.0, 1050.0) if middle > 250 else (-160.0, 240.0)
    values = values[values != 0]
    if not values.size:
        return (0.0, 1.0)
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def largest_slices(mask_ZYX: Bool[np.ndarray, "Z Y X"]) -> tuple[int, int, int]:
    """For each axis the slice with the most voxels of the mask; the middle of an empty mask."""
    if not mask_ZYX.any():
        return (mask_ZYX.shape[0] // 2, mask_ZYX.shape[1] // 2, mask_ZYX.shape[2] // 2)
    counts = [mask_ZYX.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    return (int(counts[0].argmax()), int(counts[1].argmax()), int(counts[2].argmax()))


def view(box: Box, *, shape_ZYX: tuple[int, int, int], spacing_ZYX_mm: tuple[float, float, float]) -> Box:
    """Box around a structure's box with its surroundings, at least 100 mm wide; nearly all of an axis becomes all."""
    wide = []
    for inside, num, spacing_mm in zip(box, shape_ZYX, spacing_ZYX_mm, strict=True):
        size = inside.stop - inside.start
        margin = round(max(size * _CONTEXT, (_SMALLEST_VIEW_MM / spacing_mm - size) / 2))
        start, stop = max(0, inside.start - margin), min(num, inside.stop + margin)
        wide.append(slice(0, num) if stop - start > 0.75 * num else slice(start, stop))
    return (wide[0], wide[1], wide[2])


def panels(
    image_ZYX: Float[np.ndarray, "Z Y X"],
    *,
    reference: Mapping[str, Bool[np.ndarray, "Z Y X"]],
    prediction: Mapping[str, Bool[np.ndarray, "Z Y X"]],
    colors: Mapping[str, Color],
    spacing_ZYX_mm: tuple[float, float, float],
    gray_range: tuple[float, float],
    slices_ZYX: tuple[int, int, int],
    focus: str | None = None,
    offset_ZYX: tuple[int, int, int] = (0, 0, 0),
    full_shape_ZYX: tuple[int, int, int] | None = None,
) -> tuple[Panel, ...]:
    """Axial, coronal and sagittal plane with all outlines.

    Args:
        image_ZYX: in RAS order, any unit; the part of a volume that is shown.
        reference: mask of each ROI that the reference has, same shape.
        prediction: the same of the prediction.
        colors: of each ROI.
        spacing_ZYX_mm: voxel size.
        gray_range: values shown as black and white.
        slices_ZYX: where the three planes cut, in voxels of ``image_ZYX``.
        focus: ROI that is drawn stronger than others; default all alike.
        offset_ZYX: first voxel of the part in the volume.
        full_shape_ZYX: of the volume; default that of ``image_ZYX``.
    """
    full_shape_ZYX = full_shape_ZYX or _shape(image_ZYX)
    made = []
    for plane in PLANES:
        normal = _NORMAL_AXIS[plane]
        where = tuple(slices_ZYX[a] if a == normal else slice(None) for a in range(3))
        low, high = gray_range
        values = np.nan_to_num(display(image_ZYX[where]), nan=low, posinf=high, neginf=low)
        gray = (np.clip((values - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
        contours = [
            *_contours(prediction, "prediction", where, colors, focus),
            *_contours(reference, "reference", where, colors, focus),
        ]
        contours.sort(key=lambda contour: contour.focus)
        row_mm, column_mm = (spacing_ZYX_mm[a] for a in range(3) if a != normal)
        made.append(
            Panel(
                plane=plane,
                slice_index=slices_ZYX[normal] + offset_ZYX[normal],
                num_slices=full_shape_ZYX[normal],
                gray=gray,
                size_mm=(gray.shape[1] * column_mm, gray.shape[0] * row_mm),
                contours=tuple(contours),
                letters=_LETTERS[plane],
            )
        )
    return tuple(made)


def _contours(
    masks: Mapping[str, NDArray[np.bool_]],
    kind: Kind,
    where: tuple[int | slice, ...],
    colors: Mapping[str, Color],
    focus: str | None,
) -> list[Contour]:
    found = ((roi, outlines(display(mask[where]))) for roi, mask in masks.items())
    return [Contour(roi, kind, colors[roi], lines, focus in (None, roi)) for roi, lines in found if lines]


def _shape(array: NDArray[np.generic]) -> tuple[int, int, int]:
    return (array.shape[0], array.shape[1], array.shape[2])


def visible(color: Color, *, floor: float = 0.42) -> Color:
    """The color made brighter, and mixed with white if that is still too dark to be seen on a dark picture."""
    factor = min(1.35, 255 / max(1, *color))  # not all the way, or dark and bright shades of a hue become one color
    r, g, b = (round(c * factor) for c in color)
    luminance = (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255
    return _mixed((r, g, b), max(0.0, (floor - luminance) / (1 - luminance)) if luminance < floor else 0.0)


def pale(color: Color) -> Color:
    """Tint of the reference's outline, to be told from the prediction's where both run together."""
    return _mixed(visible(color), 0.5)


def _mixed(color: Color, white: float) -> Color:
    r, g, b = (round(c + (255 - c) * white) for c in color)
    return (r, g, b)


def webp(gray: UInt8[np.ndarray, "H W *rgb"], *, longest_px: int = _LONGEST_PX) -> str:
    """Data URI of a gray or colored picture, scaled down to at most ``longest_px`` on its longer side."""
    picture = Image.fromarray(gray)
    scale = longest_px / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def panel_svg(panel: Panel, *, label: str) -> Html:
    """One panel as SVG: a small picture below, outlines as paths, so that they stay sharp at any size."""
    width, height = panel.size_mm
    rows, columns = panel.gray.shape[:2]
    scale = f"scale({compact(width / columns / 2, 5)} {compact(height / rows / 2, 5)})"
    picture = tag(
        "image",
        href=webp(panel.gray),
        width=width,
        height=height,
        preserveAspectRatio="none",
    )
    paths = []
    for contour in panel.contours:
        color = visible(contour.color) if contour.kind == "prediction" else pale(contour.color)
        drawn, title = _path(contour), tag("title", f"{contour.roi}, {contour.kind}")
        if contour.focus:
            paths.append(tag("path", d=drawn, class_=f"casing {contour.kind}"))
        strength = "" if contour.focus else " context"
        paths.append(tag("path", title, d=drawn, stroke=rgb(color), class_=contour.kind + strength))
    return tag(
        "svg",
        picture,
        tag("g", paths, transform=scale, class_="outlines"),
        viewBox=f"0 0 {compact(width)} {compact(height)}",
        role="img",
        aria_label=label,
    )


def _path(contour: Contour) -> str:
    """Relative moves in half voxels, in which outlines of binary masks are whole numbers."""
    parts = []
    for line in contour.lines:
        points = np.rint(line * 2).astype(int)
        steps = np.diff(points, axis=0)
        moves = " ".join(f"{dx} {dy}" for dx, dy in steps)
        parts.append(f"M{points[0, 0]} {points[0, 1]}l{moves}z".replace(" -", "-"))
    return "".join(parts)


def scale_bar_mm(width_mm: float) -> int:
    """Round length that takes about a quarter of the picture."""
    return max((length for length in (1, 2, 5, 10, 20, 50, 100) if length <= width_mm * 0.3), default=1)


def overlay(
    image_ZYX: Float[np.ndarray, "Z Y X"],
    *,
    reference: Mapping[str, Bool[np.ndarray, "Z Y X"]],
    prediction: Mapping[str, Bool[np.ndarray, "Z Y X"]],
    colors: Mapping[str, Color],
    spacing_ZYX_mm: tuple[float, float, float],
    names: Mapping[str, str] | None = None,
    focus: str | None = None,
    modality: str = "CT",
    gray_range: tuple[float, float] | None = None,
    crop: bool = False,
    height_px: int = 480,
) -> bytes:
    """PNG picture of the three planes, with directions, a scale bar and a legend.

    Args:
        image_ZYX: in RAS order (see the head of this file).
        reference: mask of each ROI that the reference has; may be empty.
        prediction: the same of the prediction; may be empty.
        colors: of each ROI.
        spacing_ZYX_mm: voxel size.
        names: display names for the legend; default the ids.
        focus: ROI through whose largest slices the planes go; default all ROIs together.
        modality: decides the gray values when ``gray_range`` is not given.
        gray_range: values shown as black and white.
        crop: show the surroundings of the ROIs instead of the whole volume.
        height_px: of the panels.

    Returns:
        The bytes of a PNG file.
    """
    from gleanseg.report.raster import draw

    shape = _shape(image_ZYX)
    whole: Box = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    groups = (reference, prediction)
    target = np.zeros(shape, dtype=np.bool_)
    for roi, mask in ((roi, mask) for group in groups for roi, mask in group.items()):
        if focus in (None, roi):
            target |= mask
    box = bounding_box(target) if crop else None
    box = view(box, shape_ZYX=shape, spacing_ZYX_mm=spacing_ZYX_mm) if box else whole
    first = target
    if focus is not None:
        first = next((group[focus] for group in groups if focus in group and group[focus].any()), target)
    made = panels(
        image_ZYX[box],
        reference={roi: mask[box] for roi, mask in reference.items()},
        prediction={roi: mask[box] for roi, mask in prediction.items()},
        colors=colors,
        spacing_ZYX_mm=spacing_ZYX_mm,
        gray_range=gray_range or window(image_ZYX, modality=modality, focus=image_ZYX[target] if focus else None),
        slices_ZYX=largest_slices(first[box]),
        focus=focus,
    )
    return draw(made, names=names or {}, height_px=height_px)

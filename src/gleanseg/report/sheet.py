"""Cases as strips of slices and surfaces, one below the other, as one PNG picture."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gleanseg.report.figures import Color, Panel
from gleanseg.report.raster import BACKGROUND, DPI, INK, draw_panel, legend_entries

_GAP, _SIDE, _HEAD, _SCORE, _APART, _LEGEND, _ENTRY = 8, 28, 34, 24, 14, 24, 150  # px
_TALLEST = 1.0  # height of a picture, as a share of the column's width
_QUIET = "#9aa0a6"


class Column(NamedTuple):
    """One column of a case.

    Attributes:
        panel: the slice.
        surface: red, green, blue and opacity.
        score: below it; empty for the reference.
    """

    panel: Panel
    surface: UInt8[np.ndarray, "H W 4"]
    score: str


class Strip(NamedTuple):
    """One case.

    Attributes:
        case: id.
        columns: the reference first, then each run.
        colors: of the ROIs that are there.
    """

    case: str
    columns: tuple[Column, ...]
    colors: Mapping[str, Color]


def size_px(size_mm: tuple[float, float], width_px: int) -> tuple[int, int]:
    """Pixels of a picture of that size in a column: as wide as the column, if it does not get too tall then."""
    width, height = size_mm
    scale = min(width_px / width, _TALLEST * width_px / height)
    return max(1, round(scale * width)), max(1, round(scale * height))


def draw_sheet(strips: Sequence[Strip], heads: Sequence[str], *, names: Mapping[str, str], width_px: int) -> bytes:
    """PNG bytes of all strips.

    Args:
        strips: with one column for each head.
        heads: of the columns.
        names: of the ROIs, for the legend.
        width_px: of a column.
    """
    rows = [_row_heights(strip, width_px) for strip in strips]
    width = _SIDE + len(heads) * (width_px + _GAP)
    colors = {roi: color for strip in strips for roi, color in strip.colors.items()}
    entries = legend_entries(colors, ("reference", "prediction"), names)
    legend_rows = -(-len(entries) * _ENTRY // width)
    height = _HEAD + sum(sum(pair) + _SCORE + _GAP + _APART for pair in rows) + _LEGEND * legend_rows
    sheet = _Sheet(width, height)
    centers = [_SIDE + position * (width_px + _GAP) + width_px / 2 for position in range(len(heads))]
    for head, center in zip(heads, centers, strict=True):
        sheet.write(head, center, _HEAD / 2, fontsize=11, weight="bold", color=INK)
    top = float(_HEAD)
    for strip, (of_slice, of_surface) in zip(strips, rows, strict=True):
        below = top + of_slice + _GAP
        sheet.write(strip.case, _SIDE / 2, (top + below + of_surface) / 2, fontsize=10, rotation=90, color=_QUIET)
        for column, center in zip(strip.columns, centers, strict=True):
            wide, tall = size_px(column.panel.size_mm, width_px)
            axes = sheet.axes(center, top + of_slice / 2, wide, tall)
            draw_panel(axes, column.panel, width_px=float(wide), height_px=float(tall))
            tall, wide = column.surface.shape[:2]
            axes = sheet.axes(center, below + of_surface / 2, wide, tall)
            axes.imshow(column.surface, aspect="auto", interpolation="none")
            axes.set_axis_off()
            sheet.write(column.score, center, below + of_surface + _SCORE / 2, fontsize=9.5, color=_QUIET)
        top = below + of_surface + _SCORE + _APART
    return sheet.png(entries, columns=-(-len(entries) // legend_rows))


def _row_heights(strip: Strip, width_px: int) -> tuple[int, int]:
    """Of the slices and of the surfaces."""
    slices = [size_px(column.panel.size_mm, width_px)[1] for column in strip.columns]
    return max(slices), max(column.surface.shape[0] for column in strip.columns)


class _Sheet:
    """A figure in pixels, from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, wide: int, tall: int) -> Axes:
        """Axes around a point."""
        left, bottom = x - wide / 2, self.height - y - tall / 2
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, wide / self.width, tall / self.height)
        )  # fmt: skip

    def write(self, text: str, x: float, y: float, **style: Any) -> None:
        """Text around a point."""
        self.figure.text(x / self.width, 1 - y / self.height, text, ha="center", va="center", **style)

    def png(self, entries: Sequence[Line2D], *, columns: int) -> bytes:
        """The picture, with a legend at its lower edge."""
        legend = self.figure.legend(
            handles=entries, loc="lower center", ncols=columns, frameon=False, labelcolor=INK, fontsize=10
        )
        legend.set_in_layout(False)
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", facecolor=BACKGROUND)
        return buffer.getvalue()

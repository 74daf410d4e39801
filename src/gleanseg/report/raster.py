"""Panels as one PNG picture, for places that cannot show the report's SVG (a README, a slide)."""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gleanseg.report.figures import Color, Kind, Panel, pale, scale_bar_mm, visible
from gleanseg.report.markup import rgb

DPI = 100
_GAP_PX = 10
_LEGEND_PX = 34
BACKGROUND = "#0d1014"
INK = "#e8eaed"


def draw(panels: Sequence[Panel], *, names: Mapping[str, str], height_px: int) -> bytes:
    """PNG bytes of the panels side by side at one scale, with a legend below."""
    tallest = max(panel.size_mm[1] for panel in panels)
    scale = height_px / tallest
    widths = [panel.size_mm[0] * scale for panel in panels]
    total = sum(widths) + _GAP_PX * (len(panels) - 1)
    contours = [contour for panel in panels for contour in panel.contours]
    entries = legend_entries({c.roi: c.color for c in contours}, {c.kind for c in contours}, names)
    rows = -(-len(entries) * 170 // max(170, round(total)))
    height = height_px + _LEGEND_PX * rows
    figure = Figure(figsize=(total / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    left = 0.0
    for panel, width in zip(panels, widths, strict=True):
        tall = panel.size_mm[1] * scale
        bottom = height - height_px + (height_px - tall) / 2
        axes = figure.add_axes((left / total, bottom / height, width / total, tall / height))
        draw_panel(axes, panel, width_px=width, height_px=tall)
        left += width + _GAP_PX
    if entries:
        columns = -(-len(entries) // rows)
        legend = figure.legend(
            handles=entries, loc="lower center", ncols=columns, frameon=False, labelcolor=INK, fontsize=10
        )
        legend.set_in_layout(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=BACKGROUND)
    return buffer.getvalue()


def draw_panel(axes: Axes, panel: Panel, *, width_px: float, height_px: float) -> None:
    """Draw one panel into axes of that size: gray picture, outlines, directions and a scale bar."""
    rows, columns = panel.gray.shape[:2]
    axes.imshow(
        panel.gray, cmap="gray", vmin=0, vmax=255, aspect="auto", extent=(0, columns, rows, 0), interpolation="bilinear"
    )
    for contour in panel.contours:
        reference = contour.kind == "reference"
        color = rgb(pale(contour.color) if reference else visible(contour.color))
        closed = [[*line.tolist(), line[0].tolist()] for line in contour.lines]
        style = (0, (4, 2.5)) if reference else "solid"
        if contour.focus:
            axes.add_collection(LineCollection(closed, colors="#00000090", linewidths=3.4))
        width = 1.7 if contour.focus else 1.0
        axes.add_collection(LineCollection(closed, colors=color, linewidths=width, linestyles=[style]))
    inside: dict[str, Any] = {"transform": axes.transAxes, "color": INK}
    x, y = 12 / width_px, 12 / height_px
    for text, column, row in zip(panel.letters, (x, 1 - x, 0.5, 0.5), (0.5, 0.5, 1 - y, y), strict=True):
        axes.text(column, row, text, fontsize=11, weight="bold", ha="center", va="center", **inside)
    length_mm = scale_bar_mm(panel.size_mm[0])
    start, above = 10 / width_px, 9 / height_px
    axes.plot([start, start + length_mm / panel.size_mm[0]], [above, above], linewidth=2.5, **inside)
    axes.text(start, 14 / height_px, f"{length_mm} mm", fontsize=9, va="bottom", **inside)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()


def legend_entries(colors: Mapping[str, Color], kinds: Collection[Kind], names: Mapping[str, str]) -> list[Line2D]:
    """Entries of a legend: each ROI's color, and how reference and prediction are drawn."""
    entries = [
        Line2D([], [], color=rgb(visible(color)), linewidth=3, label=names.get(roi, roi))
        for roi, color in colors.items()
    ]
    if "reference" in kinds:
        entries.append(Line2D([], [], color=INK, linewidth=1.6, linestyle=(0, (4, 2.5)), label="reference"))
    if "prediction" in kinds:
        entries.append(Line2D([], [], color=INK, linewidth=1.6, label="prediction"))
    return entries

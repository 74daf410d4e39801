"""Small crisp charts as inline SVG: text stays text, colors come from the page's style sheet."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gleanseg.report.markup import Html, compact, html, tag

Number = int | float
NUM_COLORS = 8
_MAX_POINTS = 360
_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 12, 28


class Series(NamedTuple):
    """One line: ``color`` indexes the page's palette, ``weight`` is ``main``, ``normal`` or ``faint``."""

    name: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    color: int = 0
    weight: str = "normal"


class Axis(NamedTuple):
    """Maps values to pixels between ``start`` and ``stop``."""

    low: Number
    high: Number
    start: Number
    stop: Number
    log: bool = False

    def __call__(self, value: Number) -> float:
        """Pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log10(max(v, 1e-12)) for v in (value, low, high))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def ticks(low: Number, high: Number, target: int = 5) -> list[float]:
    """Round values (1, 2, 2.5, 5 times a power of ten) inside [low, high], about ``target`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / target
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: Number, high: Number) -> list[float]:
    """Powers of ten inside [low, high]; with fewer than two of them, also 2 and 5 times a power."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(found) >= 3:
            break
    every = math.ceil(len(found) / 6)
    return found[::every]


def smooth(ys: Sequence[Number], span: int) -> list[float]:
    """Centered moving mean over ``span`` points, narrower at the ends; NaN and infinity are left out."""
    half = span // 2
    smoothed = []
    for i in range(len(ys)):
        window = [y for y in ys[max(0, i - half) : i + half + 1] if math.isfinite(y)]
        smoothed.append(sum(window) / len(window) if window else math.nan)
    return smoothed


def thin(xs: Sequence[Number], ys: Sequence[Number]) -> list[tuple[float, float]]:
    """At most about 360 points that keep the extremes of each bucket; non-finite values are dropped."""
    points = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    if len(points) <= _MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / _MAX_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        extremes = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        kept.extend(sorted(extremes))
    return kept


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    unit: str = "",
    log: bool = False,
    y_range: tuple[Number, Number] | None = None,
    stages: Sequence[tuple[Number, str]] = (),
    digits: int = 4,
) -> Html:
    """Lines over the training step, with a legend below unless there is nothing but the main one.

    Args:
        series: lines; those without a finite value are left out.
        label: what a screen reader says of the picture.
        unit: written at the top left of the plot.
        log: logarithmic values; values that are not positive are dropped.
        y_range: fixed range of values; by default that of the data.
        stages: (step, name) at which a new stage begins.
        digits: most decimals of a label on the value axis.
    """
    lines = [(s, thin(s.xs, [y if y > 0 or not log else math.nan for y in s.ys])) for s in series]
    lines = [(s, points) for s, points in lines if points]
    if not lines:
        return tag("p", "Nothing was logged here.", class_="empty")
    x_axis, y_axis = _axes([p for _, points in lines for p in points], log=log, y_range=y_range)
    drawn = [*_frame(x_axis, y_axis, digits), *_stage_marks(stages, x_axis)]
    for s, points in sorted(lines, key=lambda line: ("faint", "normal", "main").index(line[0].weight)):
        drawn.append(_line(s, points, x_axis, y_axis))
    if unit:
        drawn.append(tag("text", unit, x=_LEFT + 6, y=_TOP + 13, class_="unit"))
    picture = tag("svg", drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label, class_="chart")
    return html((picture, _legend([s for s, _ in lines if s.name])))


def _axes(
    points: Sequence[tuple[float, float]], *, log: bool, y_range: tuple[Number, Number] | None
) -> tuple[Axis, Axis]:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = y_range or (min(ys), max(ys))
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1)
    elif y_range is None:
        margin = (high / low) ** 0.04 if log else (high - low) * 0.05
        low, high = (low / margin, high * margin) if log else (low - margin * (low != 0), high + margin)
    x_low, x_high = min(0.0, *xs), max(xs)
    x_axis = Axis(x_low, x_high if x_high > x_low else x_low + 1, _LEFT, _WIDTH - _RIGHT)
    return x_axis, Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)


def _frame(x_axis: Axis, y_axis: Axis, digits: int) -> list[Html]:
    drawn = []
    values = (log_ticks if y_axis.log else ticks)(y_axis.low, y_axis.high)
    for value, text in zip(values, _labels(values, digits), strict=True):
        y = y_axis(value)
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        drawn.append(tag("text", text, x=_LEFT - 7, y=y + 4, class_="tick end"))
    drawn.append(tag("text", "step", x=_LEFT - 12, y=_HEIGHT - _BOTTOM + 18, class_="tick end"))
    for value in (v for v in ticks(x_axis.low, x_axis.high, 4) if v == round(v)):
        text = f"{value:,.0f}" if value < 100_000 else f"{value / 1000:,.0f}k"
        side = "end" if x_axis(value) > _WIDTH - _RIGHT - 18 else "middle"
        drawn.append(tag("text", text, x=x_axis(value), y=_HEIGHT - _BOTTOM + 18, class_=f"tick {side}"))
    base = _HEIGHT - _BOTTOM
    return [*drawn, tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, class_="axis")]


def _labels(values: Sequence[Number], digits: int) -> list[str]:
    """Decimals, or powers of ten for all when one of them would be long."""
    texts = [compact(value, digits) for value in values]
    if all(len(text) <= 6 and float(text) == value for text, value in zip(texts, values, strict=True)):
        return texts
    return [_scientific(value) if value else "0" for value in values]


def _scientific(value: Number) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _stage_marks(stages: Sequence[tuple[Number, str]], x_axis: Axis) -> list[Html]:
    drawn = []
    for step, name in stages:
        x = x_axis(step)
        drawn.append(tag("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="stage"))
        drawn.append(tag("text", name, x=x + 5, y=_HEIGHT - _BOTTOM - 6, class_="stage-name"))
    return drawn


def _line(s: Series, points: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> Html:
    style = f"line c{s.color % NUM_COLORS} {s.weight}"
    if len(points) == 1:
        return tag("circle", cx=x_axis(points[0][0]), cy=y_axis(points[0][1]), r=4, class_=f"dot {style}")
    low, high = min(y_axis.start, y_axis.stop), max(y_axis.start, y_axis.stop)
    path = " ".join(f"{compact(x_axis(x), 1)},{compact(min(max(y_axis(y), low), high), 1)}" for x, y in points)
    return tag("polyline", tag("title", s.name) if s.name else None, points=path, class_=style)


def _legend(series: Sequence[Series]) -> Html:
    if not series or (len(series) == 1 and series[0].weight == "main"):
        return Html("")
    entries = [tag("li", tag("span", class_=f"key c{s.color % NUM_COLORS} {s.weight}"), s.name) for s in series]
    return tag("ul", entries, class_="legend")


def interval_axis(axis: Axis, *, width: int, height: int = 26) -> Html:
    """Tick labels of a column of interval plots, for the table's head."""
    drawn = [
        tag("text", compact(v), x=min(max(axis(v), 10), width - 10), y=height - 6, class_="tick middle")
        for v in ticks(axis.low, axis.high, 4)
    ]
    return tag("svg", drawn, viewBox=f"0 0 {width} {height}", width=width, height=height, aria_hidden="true")


def interval_plot(
    axis: Axis, values: Sequence[Number], *, mean: Number, low: Number, high: Number, label: str, width: int
) -> Html:
    """Cases as faint dots (spread so that equal ones stay visible), the mean as a dot on its interval.

    Args:
        axis: shared by all rows of the column.
        values: one per case; NaN is left out.
        mean: center of the mark.
        low: lower end of the interval.
        high: upper end of the interval.
        label: what a screen reader says.
        width: pixels.
    """
    height, middle = 30, 15
    drawn = [tag("line", x1=axis(v), x2=axis(v), y1=0, y2=height, class_="grid") for v in ticks(axis.low, axis.high, 4)]
    for i, value in enumerate(sorted(v for v in values if math.isfinite(v))):
        x = axis(min(max(value, axis.low), axis.high))
        drawn.append(tag("circle", cx=x, cy=float(middle + (i * 7 % 5 - 2) * 4), r=2, class_="case-dot"))
    if math.isfinite(mean):
        ends = [axis(min(max(v if math.isfinite(v) else mean, axis.low), axis.high)) for v in (low, high)]
        drawn.append(tag("line", x1=ends[0], x2=ends[1], y1=middle, y2=middle, class_="interval"))
        drawn.append(tag("circle", cx=axis(min(max(mean, axis.low), axis.high)), cy=middle, r=4.5, class_="mean-dot"))
    box = f"0 0 {width} {height}"
    return tag("svg", drawn, viewBox=box, width=width, height=height, role="img", aria_label=label, class_="dots")

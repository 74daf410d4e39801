"""Scales, thinning and the drawn coordinates."""

import math
import re

import pytest

from gleanseg.report.charts import Axis, Series, interval_plot, line_chart, log_ticks, smooth, thin, ticks


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0.0, 3000.0, 4) == [0.0, 1000.0, 2000.0, 3000.0]
    assert ticks(0.13, 0.87) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(2.0, 2.0) == [2.0]


def test_log_ticks_get_finer_in_a_short_range():
    assert log_ticks(0.001, 1.0) == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert log_ticks(0.1, 0.9) == pytest.approx([0.1, 0.2, 0.5])


def test_axis_maps_ends_and_middle():
    assert [Axis(0.0, 10.0, 100, 200)(v) for v in (0.0, 5.0, 10.0)] == [100, 150, 200]
    assert Axis(0.01, 1.0, 0, 100, log=True)(0.1) == pytest.approx(50)


def test_smooth_leaves_nan_out():
    assert smooth([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]


def test_thin_keeps_the_extremes():
    ys = [0.0] * 5000
    ys[1234], ys[4321] = 9.0, -9.0
    points = thin(range(5000), ys)
    assert len(points) < 400
    assert (1234.0, 9.0) in points
    assert (4321.0, -9.0) in points


def test_line_runs_through_the_corners_of_the_plot():
    chart = line_chart([Series("a", [0, 10], [0.0, 1.0])], label="x", y_range=(0.0, 1.0))
    assert re.search(r'points="54,242 468,12"', chart)


def test_value_labels_stay_short_and_steps_are_whole():
    chart = line_chart([Series("a", [0, 10], [0.00079, 0.001])], label="x", digits=6)
    labels = re.findall(r'class="tick end">([^<]*)<', chart)
    assert labels[:2] == ["8e-4", "8.5e-4"]
    assert re.findall(r'class="tick middle">([^<]*)<', chart) == ["0", "5"]


def test_stages_empty_charts_and_single_points():
    assert "Nothing was logged" in line_chart([Series("a", [1], [math.nan])], label="x")
    assert "Nothing was logged" in line_chart([Series("a", [1], [-1.0])], label="x", log=True)
    assert "<circle" in line_chart([Series("a", [1], [2.0])], label="x")
    marked = line_chart([Series("a", [0, 10], [0.0, 1.0])], label="x", stages=[(5.0, "self<training")])
    assert "self&lt;training" in marked


def test_legend_names_only_named_lines():
    both = line_chart([Series("a", [0, 1], [0.0, 1.0]), Series("b", [0, 1], [1.0, 0.0], 1)], label="x")
    assert both.count("<li>") == 2
    main = Series("b", [0, 1], [1.0, 0.0], 0, "main")
    assert "<li>" not in line_chart([Series("", [0, 1], [0.0, 1.0]), main], label="x")
    assert "<li>" in line_chart([Series("only some", [0, 1], [0.0, 1.0])], label="x"), "the title does not say which"


def test_interval_plot_places_mean_and_interval():
    axis = Axis(0.0, 1.0, 10, 110)
    plot = interval_plot(axis, [0.5, math.nan, 0.7], mean=0.6, low=0.55, high=0.65, label="x", width=120)
    assert plot.count('class="case-dot"') == 2
    assert 'x1="65" x2="75"' in plot
    assert 'cx="70" cy="15" r="4.5" class="mean-dot"' in plot
    undefined = interval_plot(axis, [], mean=math.nan, low=math.nan, high=math.nan, label="x", width=120)
    assert "mean-dot" not in undefined

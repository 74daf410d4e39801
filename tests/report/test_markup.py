"""Escaping and number formats."""

import math

import pytest

from gleanseg.report.markup import Html, compact, duration, html, number, plural, tag, when


def test_children_and_attributes_are_escaped_once():
    inner = tag("b", "<script>&")
    assert inner == "<b>&lt;script&gt;&amp;</b>"
    assert tag("p", inner, title='a"b<') == '<p title="a&quot;b&lt;"><b>&lt;script&gt;&amp;</b></p>'
    assert html(["<", Html("<br>"), None, 3]) == "&lt;<br>3"


def test_attribute_names_and_values():
    assert tag("input", type="checkbox", checked=True, disabled=False, data_x=None) == (
        '<input type="checkbox" checked>'
    )
    assert tag("line", x1=1.005, class_="a", stroke_width=2) == '<line x1="1" class="a" stroke-width="2"></line>'


@pytest.mark.parametrize(
    ("value", "text"), [(3.10, "3.1"), (-0.001, "0"), (100.0, "100"), (0.126, "0.13"), (-2.5, "-2.5")]
)
def test_compact(value: float, text: str):
    assert compact(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-1.0, "\u22121.000"), (math.nan, "\u2013"), (None, "\u2013"), (math.inf, "\u221e")],
)
def test_number(value: float | None, text: str):
    assert number(value) == text


def test_words():
    assert [plural(1, "case"), plural(1200, "case"), plural(2, "box", "boxes")] == ["1 case", "1,200 cases", "2 boxes"]
    assert [duration(45), duration(600), duration(12_000)] == ["45 s", "10 min", "3 h 20 min"]
    assert when("2025-03-01T10:20:31+00:00") == "2025-03-01 10:20 UTC"
    assert when("yesterday") == "yesterday"

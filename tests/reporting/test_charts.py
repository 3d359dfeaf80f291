"""Charts alone: what they say, the page's colours in them, and what of a long curve is kept."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from report_cases import Page, make_examples, make_result, render

from seqrec_jax.errors import ConfigError
from seqrec_jax.reporting.charts import Interval, grouped_chart, interval_chart
from seqrec_jax.reporting.curves import line_chart, training_curve
from seqrec_jax.reporting.wording import format_figure, format_interval


def test_strange_names_reach_the_charts_unharmed():
    rows = [Interval(name, 0.1, 0.05, 0.2) for name in ("$x^2$ & <b>", "日本語", "a\x00b\nc", 'id="x" #fe0001')]
    svg = interval_chart(rows, name="chart", title="t\x01", label="$\\frac$")
    texts = [node.text for node in ElementTree.fromstring(svg).iter("text")]
    assert {"$x^2$ & <b>", "日本語", "a b c", 'id="x" #fe0001', "$\\frac$"} <= set(texts)
    render(make_result(), examples=[make_examples()[0] | {"user": "\ud800"}]).encode("utf-8")


def test_charts_have_a_zero_and_colours_of_the_page():
    row = Interval("a", 0.5, 0.4, 0.6, series=0)
    svg = interval_chart([row], name="chart", title="t", label="x")
    assert {"0.0", "0.5000"} <= {node.text for node in ElementTree.fromstring(svg).iter("text")}
    assert "var(--series-0)" in svg and "currentColor" in svg and "#fe00" not in svg and "DejaVu" not in svg
    assert not re.search(r"(fill|stroke):\s*#[0-9a-f]", svg)
    below = interval_chart([Interval("a", -0.5, -0.6, -0.4)], name="chart", title="t", label="x")
    assert {"0.0", "−0.5000"} <= {node.text for node in ElementTree.fromstring(below).iter("text")}


def test_last_row_of_a_step_counts_and_gaps_stay_gaps():
    log = [{"kind": "train", "step": step, "loss": loss} for step, loss in ((1, 9.0), (2, 7.0), (1, 8.0))]
    assert "2 points; first 8.0000, last 7.0000" in Page(render(log=log)).text
    curve = training_curve({1: 0.2, 2: math.nan, 3: 0.1}, name="m", best="lowest")
    assert curve.best == 2 and math.isnan(curve.values[1])
    assert line_chart(curve, name="c").count("<svg") == 1
    assert training_curve({1: math.inf}, name="m") is None


def test_long_curves_are_averaged_and_lose_nothing():
    points = {step: float(step % 7) for step in range(1, 1001)}
    curve = training_curve(points, name="m", best="highest")
    assert (curve.averaged, len(curve.values), curve.steps[-1], curve.best) == (4, 250, 1000, None)
    assert 4 * sum(curve.values) == pytest.approx(sum(points.values()))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05172, "0.0517"), (-0.5, "−0.5000"), (12.34, "12.3"), (1234.5, "1,234"), (math.inf, "–"), ("3", "–")],
)
def test_figures_as_text(value, text):
    assert format_figure(value) == text


def test_intervals_as_text():
    assert format_interval({"low": -0.1, "high": 0.2}, signed=True) == "[−0.1000, +0.2000]"
    assert format_interval({"low": math.nan, "high": 0.2}) == format_interval(None) == ""


def test_empty_charts_are_refused():
    for chart in (interval_chart, grouped_chart):
        with pytest.raises(ConfigError, match=r"at least one (row|group), got none"):
            chart([], name="c", title="t", label="x")

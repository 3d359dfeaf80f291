"""Blocks as charts and tables: nothing is lost unsaid, every chart has its numbers, and places mean what they say."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.reporting.blocks import MAX_COLUMNS, MAX_ROWS, Cell, draw_block, spread, tabulate
from seqrec_jax.reporting.curves import Line, curve_chart, points_chart
from seqrec_jax.reporting.sections import bars, curve, points, table
from seqrec_jax.reporting.svg import SERIES_SIGNS


def line(name: str, x: list, y: list, **more) -> dict:
    return {"name": name, "x": x, "y": y, **more}


def a_curve(*series: dict, **changes) -> dict:
    return curve("Accuracy", **{"x_label": "age, days", "y_label": "ndcg@10", "series": series, **changes})


def a_cloud(*groups: dict) -> dict:
    return points("Map", x_label="cost", y_label="quality", groups=groups)


def texts_of(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter("text")]


def signs_of(svg: str) -> list[tuple[float, float]]:
    """Places of the signs that are drawn at data points."""
    drawing = ElementTree.fromstring(svg)
    return [(float(use.attrib["x"]), float(use.attrib["y"])) for use in drawing.iter("use") if "x" in use.attrib]


def drawn_signs(svg: str, count: int) -> list[tuple[float, float]]:
    """The last `count` of them; before them come the ticks of the axes, if any."""
    return signs_of(svg)[-count:]


def test_cells_of_a_table():
    figures = {"mean": 0.5, "low": 0.4, "high": None}
    rows = [["anna", 12345, 0.25, None, True], [figures, 1e-7, {"mean": 0.5, "low": 0.4, "high": 0.6}, -3, "x" * 500]]
    numbers = draw_block(table("t", list("abcde"), rows), name="n").numbers
    assert numbers.rows[0] == [Cell("anna"), Cell("12,345"), Cell("0.2500"), Cell("–"), Cell("yes")]
    assert numbers.rows[1][:4] == [Cell("0.5000"), Cell("1.0e−07"), Cell("0.5000", "[0.4000, 0.6000]"), Cell("−3")]
    assert numbers.right == [False, True, True, True, False] and len(numbers.rows[1][4].text) == 160
    assert numbers.cut == ""


def test_long_tables_are_cut_and_say_so():
    rows = [list(range(place, place + 20)) for place in range(1000)]
    first = tabulate([str(column) for column in range(20)], rows)
    assert len(first.rows) == MAX_ROWS and {len(row) for row in first.rows} == {MAX_COLUMNS} == {len(first.columns)}
    assert first.rows[-1][0].text == "29"
    assert first.cut.startswith("30 of 1,000 rows, the first.") and "16 of 20 columns" in first.cut
    evenly = tabulate([str(column) for column in range(20)], rows, evenly=True)
    assert (evenly.rows[0][0].text, evenly.rows[-1][0].text) == ("0", "999")


@pytest.mark.parametrize(("count", "most"), [(0, 3), (1, 3), (3, 3), (4, 3), (1000, 30), (31, 30), (5, 1)])
def test_spread_keeps_order_and_ends(count, most):
    chosen = spread(count, most)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(count, most)
    assert count == 0 or chosen[0] == 0
    assert most == 1 or count == 0 or chosen[-1] == count - 1


def test_curve_has_band_legend_numbers_and_words():
    first = line("gru", [1, 2, 4], [0.5, 0.4, 0.1], low=[0.4, 0.3, 0.05], high=[0.6, 0.5, 0.2])
    drawing = draw_block(a_curve(first, line("bert", [1, 2, 4], [0.2, None, 0.1]), note="A note."), name="n")
    assert drawing.numbers.columns == ["age, days", "gru", "bert"]
    assert drawing.numbers.rows[1] == [Cell("2"), Cell("0.4000", "[0.3000, 0.5000]"), Cell("–")]
    assert drawing.legend == [(0, "●", "gru"), (1, "■", "bert")]
    assert drawing.note == "A note." and "Bands: 95 % intervals." in drawing.caption
    assert "opacity: 0.18" in drawing.svg.replace("opacity:0.18", "opacity: 0.18")
    words = ElementTree.fromstring(drawing.svg).findtext("desc")
    assert "gru: 3 points from 0.5000 to 0.1000, lowest 0.1000, highest 0.5000" in words
    assert "bert: 2 points" in words
    assert {"age, days", "ndcg@10"} <= set(texts_of(drawing.svg))


def test_points_stand_where_their_numbers_are():
    svg = draw_block(a_cloud(line("g", [0, 1, 3], [10.0, 20.0, 15.0])), name="n").svg
    (x0, y0), (x1, y1), (x2, y2) = drawn_signs(svg, 3)
    assert (x2 - x0) / (x1 - x0) == pytest.approx(3.0, abs=0.01)
    assert (y2 - y0) / (y1 - y0) == pytest.approx(0.5, abs=0.01)
    assert x1 > x0 and y1 < y0  # higher values stand higher


def test_logarithmic_axis_spaces_factors_evenly_and_bears_zero():
    svg = draw_block(a_curve(line("g", [1, 10, 100], [1.0, 2.0, 3.0]), log_x=True), name="n").svg
    (x0, _), (x1, _), (x2, _) = drawn_signs(svg, 3)
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.05)
    assert {"1", "10", "100"} <= set(texts_of(svg))
    uneven = draw_block(a_curve(line("g", [12.9565, 37.2, 1617.7], [1.0, 2.0, 3.0]), log_x=True), name="n").svg
    assert {"30", "100", "300", "1,000"} <= set(texts_of(uneven)) and "12.9565" not in texts_of(uneven)
    with_zero = draw_block(a_curve(line("g", [0, 1, 10], [1.0, 2.0, 3.0]), log_x=True), name="n").svg
    assert {"0", "1", "10"} <= set(texts_of(with_zero))


def test_dates_are_places_in_their_order():
    days = ["2024-01-01", "2024-02-01", "2024-03-01"]
    drawing = draw_block(a_curve(line("a", days, [0.1, 0.2, 0.3]), line("b", days[1:], [0.2, 0.1])), name="n")
    assert set(days) <= set(texts_of(drawing.svg))
    assert drawing.numbers.columns == ["line", "age, days", "ndcg@10"] and len(drawing.numbers.rows) == 5


def test_axis_says_whether_it_starts_at_zero():
    near = draw_block(a_curve(line("a", [1, 2], [0.90, 0.95])), name="n")
    far = draw_block(a_curve(line("a", [1, 2], [0.1, 0.95])), name="n")
    assert "does not start at zero" in near.caption and "0" not in texts_of(near.svg)
    assert "does not start at zero" not in far.caption and "0" in texts_of(far.svg)


def test_bars_have_figures_and_whiskers():
    rows = [{"name": "city", "mean": 0.6, "low": 0.5, "high": 0.7}, {"name": "age", "mean": None}]
    drawing = draw_block(bars("Probes", "accuracy", rows), name="n")
    assert {"city", "age", "0.6000", "undefined", "accuracy"} <= set(texts_of(drawing.svg))
    assert drawing.caption == "Whiskers: 95 % intervals."
    assert drawing.numbers.rows == [[Cell("city"), Cell("0.6000", "[0.5000, 0.7000]")], [Cell("age"), Cell("–")]]


def test_few_points_carry_their_names():
    names = ["popular", "sasrec", "ease"]
    drawing = draw_block(a_cloud(line("systems", [1, 2, 2], [0.1, 0.5, 0.5], labels=names)), name="n")
    assert set(names) <= set(texts_of(drawing.svg))
    assert drawing.numbers.columns == ["group", "point", "cost", "quality"]
    assert drawing.numbers.rows[1] == [Cell("systems"), Cell("sasrec"), Cell("2"), Cell("0.5000")]
    assert "sasrec: 2.0000 and 0.5000" in ElementTree.fromstring(drawing.svg).findtext("desc")


def test_large_blocks_are_thinned_stay_small_and_say_so():
    many = [math.sin(place) for place in range(5000)]
    wide = {"low": [value - 1 for value in many], "high": [value + 1 for value in many]}
    lines = draw_block(a_curve(*(line(f"l{n}", list(range(5000)), many, **wide) for n in range(9))), name="n")
    cloud = draw_block(a_cloud(*(line(f"g{n}", many, many[::-1]) for n in range(9))), name="n")
    short = draw_block(bars("b", "x", [{"name": f"row {n}", "mean": n / 7} for n in range(200)]), name="n")
    for drawing in (lines, cloud, short):
        assert len(drawing.svg.encode()) < 60_000 and len(drawing.numbers.rows) <= MAX_ROWS
    assert "120 of 5,000 points of a line" in lines.caption and "The first 6 of 9 lines." in lines.caption
    assert cloud.legend[-1] == (5, "✚", "4 more groups")
    shown = int(re.match(r"(\d+) of 45,000 points", cloud.caption)[1])
    assert 490 <= shown <= 500 and len(signs_of(cloud.svg)) == shown
    assert short.caption == "The first 30 of 200 bars." and "30 of 200 rows" in short.numbers.cut


def test_what_is_undefined_is_not_drawn_but_said():
    nothing = [
        bars("b", "x", [{"name": "a", "mean": None}]),
        bars("b", "x", []),
        a_curve(line("a", [1, 2], [None, None])),
        a_curve(),
        a_cloud(line("a", [None], [1.0])),
        a_cloud(),
    ]
    for block in nothing:
        drawing = draw_block(block, name="n")
        assert drawing.svg == "" and drawing.caption == "Nothing is drawn, since no figure is defined."


values = st.lists(
    st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-5, 5), st.sampled_from([math.nan, math.inf, 1e-300])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=12, deadline=None)
@given(y=values, x=values, log_x=st.booleans())
def test_whatever_comes_is_drawn_the_same_twice(y, x, log_x):
    count = min(len(x), len(y))
    x, y = x[:count], y[:count]
    for block in (a_curve(line("a", x, y, low=y, high=y), log_x=log_x), a_cloud(line("a", x, y))):
        drawing = draw_block(block, name="n")
        assert len(drawing.numbers.rows) == count
        assert drawing == draw_block(block, name="n")
        for markup in [drawing.svg] * bool(drawing.svg):
            found = ElementTree.fromstring(markup)
            assert found.attrib["role"] == "img" and found.findtext("title") and found.findtext("desc")
            assert "nan" not in markup


def test_names_are_escaped_in_drawings():
    drawing = draw_block(a_cloud(line("<b>", [1], [2], labels=["<script>"])), name="n")
    assert "<script>" not in drawing.svg and "<script>" in texts_of(drawing.svg)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"kind": "pie"}, "kind is one of .* found 'pie'"),
        ("text", "found None"),
        ({"kind": "curve", "title": "t"}, r"misses \['x_label', 'y_label', 'series'\]"),
    ],
)
def test_what_is_no_block_is_refused(block, message):
    with pytest.raises(DataError, match=message):
        draw_block(block, name="n")


def test_charts_without_points_or_with_too_many_lines_are_refused():
    for chart in (curve_chart, points_chart):
        for lines in ([], [Line("a", [1.0], [math.nan])], [Line("a", [1.0], [1.0])] * (len(SERIES_SIGNS) + 1)):
            with pytest.raises(ConfigError, match=r"expected 1 to 6 lines|no point of it is finite"):
                chart(lines, name="c", title="t", x_label="x", y_label="y")

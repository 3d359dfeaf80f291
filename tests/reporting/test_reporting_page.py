"""A page and the terminal's text made of sections alone: whole, safe, and about nothing but what the sections say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from report_cases import EVIL, Page

from seqrec_jax.errors import DataError
from seqrec_jax.reporting.blocks import MAX_ROWS
from seqrec_jax.reporting.page import render_page
from seqrec_jax.reporting.sections import bars, curve, section, table
from seqrec_jax.reporting.terminal import WIDTH, figure_text, frame_table, interval_text, labelled, section_table


def made_up(rows: int = 2) -> list[dict]:
    drift = [{"name": "age", "mean": 0.21, "low": 0.1, "high": 0.3}, {"name": "price", "mean": 0.02}]
    load = [{"name": "service", "x": [1, 2, 3], "y": [0.1, 0.2, 0.4]}]
    return [
        section("drift", "Drift", "Age drifts, price does not.", [bars("Divergence", "bits", drift)]),
        section(
            "load",
            "Load",
            "Latency grows with the load.",
            [
                curve("Latency", x_label="requests a second", y_label="ms", series=load),
                table("Hosts", ["host", "ms"], [[f"host {row}", 3.5 + row] for row in range(rows)]),
            ],
        ),
    ]


def test_a_page_comes_from_two_sections_alone():
    html = render_page("shop", made_up(), kind="Monitoring", details="March", warnings=["One host is silent."])
    page = Page(html)
    assert html.startswith("<!doctype html>") and page.count("svg") == 2 and page.count("h1") == 1
    assert page.count("section") == 3  # the warnings and the two sections
    assert {"#section-drift", "#section-load"} <= set(page.attributes("href"))
    for part in ("Monitoring", "shop", "March", "1 warning", "One host is silent.", "Age drifts, price does not.",
                 "[0.1000, 0.3000]", "host 1", "4.5000"):  # fmt: skip
        assert part in page.text, part
    for word in ("verdict", "metrics.json", "baseline", "evaluation"):
        assert word not in html.lower(), word
    ids = Counter(page.attributes("id"))
    assert max(ids.values()) == 1
    assert {href[1:] for href in page.attributes("href")} <= set(ids)
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in page.elements}
    assert html == render_page("shop", made_up(), kind="Monitoring", details="March", warnings=["One host is silent."])


def test_texts_of_a_page_are_escaped():
    sections = [section("a", EVIL, EVIL, [table(EVIL, [EVIL], [[EVIL]], note=EVIL)])]
    page = Page(render_page(EVIL, sections, kind=EVIL, details=EVIL, warnings=[EVIL], data_file=EVIL))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}


def test_what_is_cut_is_in_the_file_beside_the_page_where_there_is_one():
    many = made_up(rows=MAX_ROWS + 3)
    assert (
        f"{MAX_ROWS} of {MAX_ROWS + 3} rows, the first. All are in load.json."
        in Page(render_page("shop", many, data_file="load.json")).text
    )
    assert "All are in" not in Page(render_page("shop", many)).text


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([{"key": "a"}], r"sections\[0\] needs key, title, summary and blocks"),
        ([made_up()[0], made_up()[0]], r"sections\[1\]: the key 'drift' must be unique"),
        ([section("a b", "t", "s", [])], r"sections\[0\]: the key 'a b' must be unique, of letters"),
        ([section("a", "t", "s", [{"kind": "pie"}])], r"sections\[0\]: a block's kind is one of"),
    ],
)
def test_what_is_no_section_is_refused(sections, message):
    with pytest.raises(DataError, match=message):
        render_page("shop", sections)


def test_the_room_can_be_imported_without_the_rooms_above():
    code = (
        "import json, sys, seqrec_jax.reporting.page, seqrec_jax.reporting.terminal; "
        "print(json.dumps([name for name in sys.modules if name.startswith('seqrec_jax.')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in json.loads(done.stdout)}
    assert rooms <= {"reporting", "errors", "settings", "types"}


def test_sections_as_text_for_the_terminal():
    text = section_table(made_up()[1])
    assert text.splitlines()[:2] == ["Hosts", "  host     ms"] and "host 1 4.5000" in text and "Latency" not in text
    lines = labelled("load", "many words " * 30)
    assert len(lines) > 1 and max(map(len, lines)) <= WIDTH and lines[1].startswith(" " * 11 + "m")
    assert interval_text({"mean": None, "low": None, "high": None}) == figure_text(None) == "undefined"


def test_a_frame_as_text_keeps_numbers_and_cuts_long_cells():
    frame = pd.DataFrame({"item": ["x" * 100, "b"], "rank": [1, 2], "score": [0.5, 1 / 3]})
    lines = frame_table(frame, numbers=("rank", "score")).splitlines()
    assert lines[1].split() == ["x" * 59 + "…", "1", "0.5000"] and lines[2].split() == ["b", "2", "0.3333"]

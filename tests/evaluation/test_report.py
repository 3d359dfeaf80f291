"""The report as a colleague gets it: what it claims, and that it is whole, safe, small and reproducible."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter

import pytest
from report_cases import (
    EVIL,
    Page,
    comparison,
    figure,
    make_comparison,
    make_examples,
    make_result,
    make_sections,
    render,
    system,
)

from seqrec_jax.errors import DataError, MissingExtraError
from seqrec_jax.evaluation.report.verdict import verdict
from seqrec_jax.reporting.sections import section


def test_page_is_whole_and_loads_nothing():
    html = render()
    page = Page(html)
    assert html.startswith("<!doctype html>")
    for name in ("src", "srcset", "poster", "data", "action", "xlink:href", "background"):
        assert page.attributes(name) == []
    assert all(href.startswith("#") for href in page.attributes("href"))
    assert not {"script", "link", "iframe", "object", "img", "base"} & {tag for tag, _ in page.elements}
    assert "http://" not in html and "https://" not in html and "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    policy = next(
        attributes["content"] for tag, attributes in page.elements if "Security" in attributes.get("http-equiv", "")
    )
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in html and "@media print" in html and "width=device-width" in html


def test_ids_are_unique_and_every_reference_is_met():
    html = render()
    page = Page(html)
    ids = Counter(page.attributes("id"))
    assert max(ids.values()) == 1
    references = {href[1:] for href in page.attributes("href")} | set(re.findall(r"url\(#([^)]*)\)", html))
    references |= set(page.attributes("aria-labelledby")) | set(page.attributes("aria-describedby"))
    assert references <= set(ids)
    assert any(name.startswith("chart-primary-") for name in references)


def test_figures_and_tables_are_accessible():
    html = render()
    page = Page(html)
    assert page.count("svg") == 6  # by system, gains, two slices, two curves
    for tag, attributes in page.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            described = re.search(f'<desc id="{attributes["aria-describedby"]}">([^<]+)</desc>', html)
            assert described and len(described[1]) > 20
        if tag == "th":
            assert attributes.get("scope") in ("row", "col")
    assert page.count("caption") == page.count("table") > 3
    assert page.count("h1") == 1
    assert "sasrec: 0.0500, interval 0.0480 to 0.0520; item-to-item: 0.0380" in html


def test_page_says_what_it_was_given():
    text = Page(render()).text
    for part in (
        "sasrec beats both baselines on ndcg@10.",
        "Smallest gain: +0.0120 [+0.0100, +0.0140] against item-to-item.",
        "ab12cd34",
        "all 12,101 items",
        "22,363, of which 12 could not be ranked and count as misses",
        "0.0500 best [0.0480, 0.0520]",
        "100 rows read, 90 kept (90 %): 11 users, 12 items",
        "missing user_id 7 7.0 % row= 17 , item_id= A9",
        "best 0.0375 at step 150 (ring)",
        "Mascara A3 (rank 2); A4 (could not be ranked)",
        "parameters 1,234,567 size 4.9 MB training time 2 min 51 s",
        "training.optimizer.name adamw",
        "one random order of the catalogue.",
    ):
        assert part in text, part
    assert "do not add up" not in text and "unparsable time" not in text


def test_everything_is_escaped():
    result = make_result()
    result["run"] = result["protocol"]["dataset"] = result["protocol"]["tie_rule"] = EVIL
    result["systems"][0]["name"] = result["systems"][0]["kind"] = "model"
    result["systems"][1]["name"] = result["comparisons"][0]["baseline"] = EVIL
    result["slices"]["history_length"][0]["label"] = EVIL
    result["slices"]["history_length"][0]["systems"][EVIL] = figure(0.1)
    result["slices"][EVIL] = result["slices"].pop("target_popularity")
    result["systems"][0]["metrics"][EVIL] = figure(0.1)
    result["cleaning"]["dropped"] = {EVIL: 10}
    result["cleaning"]["examples"] = {EVIL: [{EVIL: EVIL}]}
    result["cleaning"]["first_time"] = EVIL
    result["model"][EVIL] = EVIL
    result["config"][EVIL] = {EVIL: EVIL}
    result["warnings"] = [EVIL]
    examples = make_examples()
    examples[0]["user"] = examples[0]["history"][0]["behavior"] = EVIL
    examples[0]["history"][0]["title"] = examples[0]["recommended"][0]["item"] = examples[0]["targets"][0]["title"] = (
        EVIL
    )
    html = render(result, examples=examples)
    page = Page(html)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert '<script>alert("x")' in page.text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_missing_parts_are_said_to_be_missing():
    nothing = {"mean": math.nan, "low": None, "high": None}
    smallest = {
        "schema_version": 2,
        "run": "x",
        "primary_metric": "ndcg@10",
        "systems": [{"name": "gru", "kind": "model", "metrics": {"ndcg@10": nothing}}],
        "cleaning": None,
    }
    text = Page(render(smallest, log=[], examples=[])).text
    for part in (
        "gru was not compared with any baseline on ndcg@10.",
        "There is no training log beside this evaluation. Cleaning of the data No cleaning report",
        "No example users",
        "The protocol was not recorded",
        "Undefined: ndcg@10 of gru",
    ):
        assert part in text, part
    assert not re.search(r"\b(nan|None)\b", text)


def test_parts_that_are_empty_or_undefined_do_not_break_the_page():
    result = make_result()
    result["systems"][1]["metrics"]["ndcg@10"] = None
    result["systems"][2]["metrics"] = {}
    result["systems"][2]["ties"] = None
    result["slices"]["history_length"] = []
    result["slices"]["target_popularity"][0]["systems"]["sasrec"] = {"mean": None, "low": None, "high": None}
    result["comparisons"][0] |= {"difference": None, "low": None, "high": None, "p_holm": None}
    result["cleaning"] = {"rows_read": 10, "rows_kept": 9, "dropped": {}}
    log = [{"kind": "train", "step": 1, "loss": math.nan}, {"kind": "validation", "step": 1, "ndcg@10": None}]
    examples = [{"user": "u", "history": [], "targets": [], "recommended": [], "target_ranks": []}]
    text = Page(render(result, log=log, examples=examples)).text
    assert "do not add up to the rows read" in text and "no events" in text and "no list" in text
    assert "There is no training log" in text


def test_warnings_come_from_the_figures_too():
    result = make_result() | {"stage": "validation", "warnings": []}
    result["protocol"]["unreachable_targets"] = 4473
    result["systems"][0]["ties"]["tied_targets"] = 1000
    text = Page(render(result)).text
    assert "3 warnings These are validation figures" in text
    assert "20 % of the targets could not be ranked" in text
    assert "1,000 targets of the model are tied" in text
    assert "warning" not in Page(render(make_result() | {"warnings": []})).text


def test_long_input_stays_small_and_says_that_it_was_cut():
    result = make_result()
    long = "x" * 5000
    result["systems"] += [system(f"{number} {long}", "baseline", 0.01) for number in range(60)]
    result["systems"][0]["metrics"] |= {f"metric@{k}": figure(k / 1000) for k in range(200)}
    result["comparisons"] += [comparison(f"{number} {long}", 0.02) for number in range(60)]
    result["slices"]["history_length"] *= 100
    result["warnings"] = [long] * 200
    result["config"] = {f"key{number}": long for number in range(1000)}
    result["cleaning"]["dropped"] = {f"reason {number} {long}": 1 for number in range(100)}
    log = [{"kind": "train", "step": step, "loss": 1.0 / step} for step in range(1, 20001)]
    event = {"item": long, "title": long, "behavior": long, "time": None}
    example = make_examples()[0] | {"history": [event] * 1000, "targets": [event] * 100}
    html = render(result, log=log, examples=[example] * 50)
    text = Page(html).text
    assert len(html.encode()) < 900_000
    for part in ("33 more systems", "32 more comparisons", "70 more reasons", "170 more warnings"):
        assert part in text, part
    assert "Each point of the line averages 67 rows of the log." in text


def test_usual_report_is_small_and_the_same_every_time():
    first = render()
    assert first == render(make_result()) and len(first.encode()) < 150_000


def test_charts_ignore_the_users_own_matplotlib_settings():
    import matplotlib

    before = render()
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.fonttype": "path"}):
        assert render(make_result()) == before
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "schema_version is 1, this library reads 2"),
        ({"run": None}, "key 'run' is missing"),
        ({"systems": []}, "key 'systems' is missing or empty"),
        ({"primary_metric": "ndgc@10"}, "no system has the primary metric 'ndgc@10'; known are"),
        ({"systems": [{"name": "a"}]}, r"systems\[0\] needs name and metrics"),
        ({"comparisons": [{"metric": "m"}]}, r"comparisons\[0\] needs baseline, metric"),
    ],
)
def test_bad_results_are_refused_at_the_door(change, message):
    with pytest.raises(DataError, match=message):
        render(make_result() | change)


@pytest.mark.parametrize("absent", ["jinja2", "matplotlib"])
def test_missing_extra_is_named(monkeypatch, absent):
    for name in list(sys.modules):
        if name.partition(".")[0] == absent:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtraError, match=rf'needs {absent}.*pip install "seqrec_jax\[report\]"'):
        render(make_result())


def test_importing_the_report_loads_no_extra():
    code = (
        "import sys, seqrec_jax.evaluation.report.page; "
        "sys.exit(bool({'jinja2', 'matplotlib'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cleaning_report_as_the_dataset_stores_it():
    result = make_result()
    report = {key: value for key, value in result["cleaning"].items() if not key.endswith("_time")}
    seconds = {"first_timestamp": 0, "last_timestamp": 86400 * 365, "unreadable": {"price": 4}}
    result["cleaning"] = report | seconds | {"time_kind": "seconds"}
    text = Page(render(result)).text
    assert "from 1970-01-01 to 1971-01-01" in text
    assert "4 values of price are no number" in text
    result["cleaning"]["time_kind"] = "order"
    assert "1970" not in render(result)


def test_first_screen_shows_verdict_protocol_and_audit_before_all_figures():
    result = make_result()
    result["protocol"] |= {
        "protocol_fingerprint": "0123456789ab",
        "card": {"cut_time": "2024-03-05", "list length": 20},
    }
    result["audit"] = [
        {"key": "ties", "severity": "info", "title": "Few ties", "text": "Fine.", "count": 3, "effect": None},
        {
            "key": "leak",
            "severity": "error",
            "title": "Leak",
            "text": "Later.",
            "count": 1234,
            "effect": "at most a fifth",
        },
        {"key": "odd", "severity": "warning", "title": "Odd", "text": "Hm.", "count": None}
        | {"effect": {"ndcg@10": -0.0123, "mrr": 0.2}},
    ]
    text = Page(render(result)).text
    parts = [
        "sasrec beats both",
        "✖ error Leak count 1,234 · can move a figure by: at most a fifth",
        "⚠ warning Odd can move a figure by: −0.0123 on ndcg@10, +0.2000 on mrr",
        "○ remark Few ties",
        "Protocol fingerprint 0123456789ab",
        "cut time 2024-03-05 list length 20",
    ]
    places = [text.index(part) for part in [*parts, "Contents", "Results Mean over users"]]
    assert text.index("protocol 0123456789ab") < places[0]
    assert places == sorted(places)
    assert "This evaluation was not audited." in Page(render()).text
    assert "Nothing: no leak" in Page(render(make_result() | {"audit": []})).text


def test_sections_are_shown_in_order_with_anchors_charts_and_numbers():
    result = make_result() | {"sections": make_sections(2)}
    html = render(result)
    page = Page(html)
    assert page.count("svg") == 6 + 2 * 3
    assert {"#section-part_0", "#section-part_1"} <= set(page.attributes("href"))
    assert page.text.index("Part 0 What it shows.") < page.text.index("Part 1 What it shows.")
    assert "category 0.6000 [0.5980, 0.6020]" in page.text
    assert "new users 120 −0.0200 [−0.0220, −0.0180]" in page.text and "Corrected." in page.text
    assert "The horizontal axis is logarithmic." in page.text
    ids = Counter(page.attributes("id"))
    assert max(ids.values()) == 1
    assert set(re.findall(r"url\(#([^)]*)\)", html)) | {href[1:] for href in page.attributes("href")} <= set(ids)
    # every chart has its numbers or a table beside it
    assert page.count("caption") == page.count("table") >= page.count("svg")


def test_a_report_of_twelve_large_sections_stays_under_three_megabytes():
    blocks = make_sections(1, length=2000)[0]["blocks"][:3]
    blocks[2]["rows"] = blocks[2]["rows"] * 100
    sections = [section(f"part_{number}", "Part", "Much.", blocks) for number in range(2)]
    one, two = (render(make_result() | {"sections": sections[:count]}) for count in (1, 2))
    assert len(one.encode()) + 11 * (len(two.encode()) - len(one.encode())) < 2_000_000
    drawings = re.findall(r"<svg.*?</svg>", two, flags=re.DOTALL)
    assert len(drawings) == 6 + 2 * 3 and max(len(svg.encode()) for svg in drawings) < 60_000


def test_comparisons_say_what_could_have_been_seen():
    result = make_result()
    result["comparisons"][0] |= {"minimal_detectable": 0.00312, "users_needed": 5000.0, "p_t": 0.0002}
    result["comparisons"][0] |= {"p_wilcoxon": 0.04, "equivalence": "Not equivalent within 2 %."}
    text = Page(render(result)).text
    assert "0.0031 5,000 ▲ better" in text and "t < 0.001 Wilcoxon 0.040" in text
    assert "item-to-item: Not equivalent within 2 %." in text
    both = [row | {"equivalence": "refused"} for row in result["comparisons"]]
    assert "item-to-item and most popular: Refused." in Page(render(result | {"comparisons": both})).text
    assert "Smallest detectable" in text and "– – ▲ better" in text
    result["comparisons"][0] |= comparison("item-to-item", 0.001)
    details = verdict(result).details
    assert "A true difference below about 0.0031 would probably not be detected with these users." in details
    assert "To detect a difference of the size found, about 5,000 users would be needed." in details


def test_other_systems_are_rivals():
    result = make_result()
    result["systems"].append(system("the old engine", "other", 0.02))
    assert verdict(result).details[-1] == "Not compared with the old engine."
    result["comparisons"].append(comparison("the old engine", 0.03))
    assert verdict(result).headline == "sasrec beats all 3 rivals on ndcg@10."
    named = [row | {"system": "sasrec"} for row in result["comparisons"]]  # about the model all the same
    assert verdict(result | {"comparisons": named}) == verdict(result)
    assert "Square: another system." in Page(render(result)).text


def test_comparison_says_how_large_how_sure_and_what_the_shop_would_see():
    assert verdict(make_comparison(0.012, p_holm=0.0004)).details == [
        "B minus A: +0.0120 [+0.0100, +0.0140], which is +24 % of A's figure; p < 0.001 after Holm's correction.",
        "B would show in the shop.",
    ]
    assert verdict(make_comparison(0.001)).details[1:] == [
        "A true difference below about 0.0031 would probably not be detected with these users.",
        "To detect a difference of the size found, about 41,234 users would be needed.",
        "B is not shown to be equivalent.",
        "B would show in the shop.",
    ]
    text = Page(render(make_comparison(0.012), log=[], examples=[])).text
    assert text.startswith("A and B: evaluation report Comparison report A and B")
    for absent in ("Cleaning of the data", "no training log", "No example users", "baseline"):
        assert absent not in text, absent
    assert "B against A" in text and "+24 %" in text


def test_different_protocols_are_told_above_all_and_leave_the_verdict_open():
    result = make_comparison(0.012, fingerprints_differ=True, fingerprints={"A": "aaaaaaaaaaaa", "B": "bbbbbbbbbbbb"})
    found = verdict(result)
    assert found.level == "open" and found.headline.startswith("Not comparable")
    assert found.details[-1] == "Taken at face value: B is better than A on ndcg@10."
    html = render(result)
    main = Page(html[html.index("<main>") : html.index("</main>") + len("</main>")]).text
    assert main.startswith("⚠ Not measured under one protocol") and "B bbbbbbbbbbbb" in main
    assert "Not measured under one protocol" not in render(make_comparison(0.012))


def test_example_users_show_two_lists_side_by_side():
    other = {"name": "the old engine", "recommended": [{"rank": 1, "item": "A9", "title": "Soap", "score": 1.0}]}
    examples = [make_examples()[0] | {"other": other | {"target_ranks": [77, None]}}]
    text = Page(render(examples=examples)).text
    assert "Recommended by sasrec" in text and "Recommended by the old engine 1 Soap A9" in text
    assert "Mascara A3 (rank 2; the old engine: rank 77)" in text


def test_model_card_comes_at_the_end():
    card = {
        "limits": ["Few users.", "One shop."],
        "data": "A log of a shop.",
        "owner": "the shop's team",
        "training": "",
    }
    text = Page(render(make_result() | {"model_card": card})).text
    assert "Model card Data A log of a shop. Limits Few users. One shop. Owner the shop's team How to read" in text


def test_new_parts_are_escaped():
    evil = EVIL.replace('"', "'")
    result = make_result() | {"sections": make_sections()}
    result["sections"][0]["title"] = result["sections"][0]["summary"] = evil
    for block in result["sections"][0]["blocks"]:
        block["title"] = block["note"] = evil
    result["sections"][0]["blocks"][3]["rows"][0][0] = result["sections"][0]["blocks"][3]["columns"][0] = evil
    result["sections"][0]["blocks"][0]["series"][0]["name"] = evil
    result["audit"] = [{"key": "x", "severity": evil, "title": evil, "text": evil, "count": 1, "effect": evil}]
    result["protocol"] |= {"protocol_fingerprint": evil, "card": {evil: evil}}
    result["model_card"] = {evil: [evil, evil]}
    result["comparisons"][0] |= {"shop": evil, "equivalence": evil}
    page = Page(render(result, examples=[make_examples()[0] | {"other": {"name": evil, "recommended": []}}]))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert page.text.count("<script>") > 12


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([{"key": "a"}], r"sections\[0\] needs key, title, summary and blocks"),
        (make_sections() * 2, r"sections\[1\]: the key 'part_0' must be unique"),
        ([section("a b", "t", "s", [])], r"key 'a b' must be unique, of letters"),
        ([section("a", "t", "s", [{"kind": "pie"}])], r"kind is one of .*'points'\], found 'pie'"),
        ([section("a", "t", "s", [{"kind": "bars", "title": "t"}])], r"kind bars misses \['label', 'rows'\]"),
    ],
)
def test_bad_sections_are_refused_at_the_door(sections, message):
    with pytest.raises(DataError, match=message):
        render(make_result() | {"sections": sections})

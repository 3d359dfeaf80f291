"""The report as a colleague gets it: what it claims, and that it is whole, safe, small and reproducible."""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser

import pytest

from seqrec_jax.errors import ConfigError, DataError, MissingExtraError
from seqrec_jax.evaluation.charts import (
    Interval,
    format_figure,
    grouped_chart,
    interval_chart,
    line_chart,
    training_curve,
)
from seqrec_jax.evaluation.report import format_interval, render_report, verdict

EVIL = '</td><script>alert("x")</script><img src=https://evil.example/x.png onerror=alert(1)>'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements, text and open tags of a page; complains about tags that do not match."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), f"<{tag}> names an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.elements)


def figure(mean: float, *, width: float = 0.002) -> dict:
    return {"mean": mean, "low": mean - width, "high": mean + width, "reachable_mean": mean}


def system(name: str, kind: str, mean: float) -> dict:
    metrics = {
        "ndcg@10": figure(mean),
        "hit_rate@10": figure(1.7 * mean),
        "mean_rank": figure(900.0, width=30),
    }
    ties = {"tied_targets": 3, "best": mean + 0.0001, "worst": mean - 0.0001}
    return {"name": name, "kind": kind, "metrics": metrics, "ties": ties, "users_per_second": 5321.0}


def comparison(baseline: str, difference: float, *, width: float = 0.002, p_holm: float = 0.001) -> dict:
    interval = {"low": difference - width, "high": difference + width}
    tests = {"p_value": p_holm / 2, "p_holm": p_holm, "effect_size": 0.1}
    return {"baseline": baseline, "metric": "ndcg@10", "difference": difference} | interval | tests


def make_result() -> dict:
    systems = [
        system("sasrec", "model", 0.05),
        system("item-to-item", "baseline", 0.038),
        system("most popular", "baseline", 0.01),
    ]
    bins = [
        {"label": label, "users": users, "systems": {entry["name"]: figure(0.04) for entry in systems}}
        for label, users in (("1–4", 1200), ("5+", 321))
    ]
    return {
        "schema_version": 1,
        "run": "beauty",
        "created": "2026-11-24",
        "stage": "test",
        "primary_metric": "ndcg@10",
        "protocol": {
            "dataset": "amazon_beauty",
            "fingerprint": "ab12cd34",
            "split": "leave_one_out: the last",
        }
        | {"candidates": "all 12,101 items", "seen_items": "kept", "users": 22363, "targets": 22363}
        | {"unreachable_targets": 12, "tie_rule": "one random order of the catalogue"},
        "systems": systems,
        "comparisons": [comparison("item-to-item", 0.012), comparison("most popular", 0.04)],
        "slices": {"history_length": bins, "target_popularity": copy.deepcopy(bins)},
        "cleaning": {"rows_read": 100, "rows_kept": 90, "tied_timestamps": 5, "users": 11, "items": 12}
        | {"dropped": {"missing user_id": 7, "exact duplicate": 3, "unparsable time": 0}}
        | {"examples": {"missing user_id": [{"row": 17, "item_id": "A9"}]}}
        | {"first_time": "2024-01-01", "last_time": "2024-02-01"},
        "model": {"parameters": 1234567, "bytes": 4938268, "training_seconds": 171.3, "encoder": "sasrec"},
        "config": {"training": {"learning_rate": 0.001, "optimizer": {"name": "adamw"}}},
        "warnings": ["The log has no timestamps."],
    }


def make_log() -> list[dict]:
    train = [{"kind": "train", "step": step, "loss": 9.0 - step / 100} for step in range(10, 200, 10)]
    return train + [{"kind": "validation", "step": step, "ndcg@10": step / 4000} for step in (50, 100, 150)]


def make_examples() -> list[dict]:
    history = [{"item": "A1", "title": "Lip balm", "behavior": "view", "time": "2024-01-03 10:00"}]
    recommended = [
        {"rank": 1, "item": "A2", "title": None, "score": 3.5, "hit": False},
        {"rank": 2, "item": "A3", "title": "Mascara", "score": 2.5, "hit": True},
    ]
    targets = [{"item": "A3", "title": "Mascara"}, {"item": "A4", "title": None}]
    user = {"user": "u1", "history": history, "targets": targets}
    return [user | {"recommended": recommended, "target_ranks": [2, None]}]


def render(result: dict | None = None, *, log: list | None = None, examples: list | None = None) -> str:
    return render_report(
        make_result() if result is None else result,
        log=make_log() if log is None else log,
        examples=make_examples() if examples is None else examples,
    )


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


def test_strange_names_reach_the_charts_unharmed():
    rows = [Interval(name, 0.1, 0.05, 0.2) for name in ("$x^2$ & <b>", "日本語", "a\x00b\nc", 'id="x" #fe0001')]
    svg = interval_chart(rows, name="chart", title="t\x01", label="$\\frac$")
    texts = [node.text for node in ElementTree.fromstring(svg).iter("text")]
    assert {"$x^2$ & <b>", "日本語", "a b c", 'id="x" #fe0001', "$\\frac$"} <= set(texts)
    render(make_result(), examples=[make_examples()[0] | {"user": "\ud800"}]).encode("utf-8")


@pytest.mark.parametrize(
    ("differences", "p_holm", "level", "headline"),
    [
        ((0.012, 0.04), 0.001, "better", "sasrec beats both baselines on ndcg@10."),
        ((0.001, 0.04), 0.001, "unclear", "sasrec is not distinguishable from item-to-item on ndcg@10."),
        ((0.001, -0.001), 0.001, "unclear", "sasrec is not distinguishable from either baseline on ndcg@10."),
        ((0.012, 0.04), 0.2, "unclear", "sasrec is not distinguishable from either baseline on ndcg@10."),
        (
            (0.012, 0.04),
            math.nan,
            "unclear",
            "sasrec is not distinguishable from either baseline on ndcg@10.",
        ),
        ((0.012, 0.04), None, "unclear", "sasrec is not distinguishable from either baseline on ndcg@10."),
        ((-0.012, 0.04), 0.001, "worse", "sasrec is worse than item-to-item on ndcg@10."),
        ((-0.012, -0.04), 0.001, "worse", "sasrec is worse than both baselines on ndcg@10."),
        ((-0.012, 0.001), 0.001, "worse", "sasrec is worse than item-to-item on ndcg@10."),
        ((math.nan, 0.04), 0.001, "unclear", "sasrec is not distinguishable from item-to-item on ndcg@10."),
    ],
)
def test_verdict_follows_interval_and_corrected_p(differences, p_holm, level, headline):
    result = make_result()
    rows = [comparison(name, gain) for name, gain in zip(("item-to-item", "most popular"), differences, strict=True)]
    result["comparisons"] = [row | {"p_holm": p_holm} for row in rows]
    found = verdict(result)
    assert (found.level, found.headline) == (level, headline)


def test_verdict_details_name_the_hardest_baseline_and_the_rest():
    result = make_result()
    result["systems"].append(system("last item", "baseline", 0.05))
    result["systems"].append(system("exact Bayes filter", "ceiling", 0.08))
    gains = {"item-to-item": 0.001, "most popular": 0.04, "last item": -0.01, "exact Bayes filter": -0.03}
    result["comparisons"] = [comparison(name, gain) for name, gain in gains.items()]
    result["comparisons"].append(comparison("most popular", -0.5) | {"metric": "hit_rate@10"})
    assert verdict(result).details == [
        "Largest shortfall: −0.0100 [−0.0120, −0.0080] against last item.",
        "Not distinguishable from item-to-item.",
        "Difference: +0.0010 [−0.0010, +0.0030] against item-to-item. "
        "This does not show that they are equal, only that these users do not tell them apart.",
        "It does beat most popular.",
        "It reaches 62 % of exact Bayes filter, a ceiling that uses the known truth.",
    ]


def test_verdict_does_not_claim_what_was_not_compared():
    result = make_result()
    result["comparisons"] = [comparison("item-to-item", 0.012)]
    found = verdict(result)
    assert found.headline == "sasrec beats item-to-item, the only baseline it was compared with, on ndcg@10."
    assert found.details[-1] == "Not compared with most popular."
    result["comparisons"] = []
    assert verdict(result).level == "open"
    del result["systems"][0]
    assert verdict(result).headline == "No trained model is part of this evaluation."


def test_verdict_turns_round_where_lower_is_better():
    result = make_result() | {"primary_metric": "mean_rank"}
    rows = [comparison("item-to-item", -50.0, width=10), comparison("most popular", -200.0, width=10)]
    result["comparisons"] = [row | {"metric": "mean_rank"} for row in rows]
    found = verdict(result)
    assert found.headline == "sasrec beats both baselines on mean_rank."
    assert found.details == ["Smallest gain: −50.0 [−60.0, −40.0] against item-to-item."]
    assert "▼ worse" not in Page(render(result)).text


def test_missing_parts_are_said_to_be_missing():
    nothing = {"mean": math.nan, "low": None, "high": None}
    smallest = {
        "schema_version": 1,
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
    assert first == render() and len(first.encode()) < 150_000


def test_charts_have_a_zero_and_colours_of_the_page():
    row = Interval("a", 0.5, 0.4, 0.6, series=0)
    svg = interval_chart([row], name="chart", title="t", label="x")
    assert {"0.0", "0.5000"} <= {node.text for node in ElementTree.fromstring(svg).iter("text")}
    assert "var(--series-0)" in svg and "currentColor" in svg and "#fe00" not in svg and "DejaVu" not in svg
    assert not re.search(r"(fill|stroke):\s*#[0-9a-f]", svg)
    below = interval_chart([Interval("a", -0.5, -0.6, -0.4)], name="chart", title="t", label="x")
    assert {"0.0", "−0.5000"} <= {node.text for node in ElementTree.fromstring(below).iter("text")}


def test_charts_ignore_the_users_own_matplotlib_settings():
    import matplotlib

    before = render()
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "svg.fonttype": "path"}):
        assert render() == before
        assert matplotlib.rcParams["font.size"] == 30


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2, this library reads 1"),
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


def test_empty_charts_are_refused():
    for chart in (interval_chart, grouped_chart):
        with pytest.raises(ConfigError, match=r"at least one (row|group), got none"):
            chart([], name="c", title="t", label="x")


@pytest.mark.parametrize("absent", ["jinja2", "matplotlib"])
def test_missing_extra_is_named(monkeypatch, absent):
    for name in list(sys.modules):
        if name.partition(".")[0] == absent:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtraError, match=rf'needs {absent}.*pip install "seqrec_jax\[report\]"'):
        render()


def test_importing_the_report_loads_no_extra():
    code = (
        "import sys, seqrec_jax.evaluation.report; "
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

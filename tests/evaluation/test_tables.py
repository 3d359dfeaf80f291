"""The terminal's tables: nothing wraps, nothing is shown twice, and every number is the result's."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from seqrec_jax.evaluation.report.terminal import evaluation_table, recommendation_table
from seqrec_jax.reporting.terminal import WIDTH


def figure(mean, *, half=0.0123):
    low, high = (None, None) if mean is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "reachable_mean": None if mean is None else mean + 0.001}


def system(name, kind, *, ndcg=0.05, hit_rate=0.1, recall=0.1, mrr=0.03, ties=(3, 0.05, 0.05)):
    metrics = {"ndcg@10": figure(ndcg), "hit_rate@10": figure(hit_rate), "recall@10": figure(recall)}
    metrics |= {"mrr@10": figure(mrr), "auc": figure(0.7), "accuracy@1": figure(0.02), "mean_rank": figure(250.0)}
    tied, worst, best = ties
    return {
        "name": name,
        "kind": kind,
        "metrics": metrics,
        "ties": {"tied_targets": tied, "best": best, "worst": worst},
        "users_per_second": 12345.6,
    }


def comparison(baseline, difference, p_holm):
    row = {"baseline": baseline, "metric": "ndcg@10", "difference": difference, "p_holm": p_holm}
    row["minimal_detectable"] = None if difference is None else 0.00421
    return row | {"low": None if difference is None else difference - 0.01, "high": difference and difference + 0.01}


def result(**changes):
    long_name = "popular in each user's last 5 events"
    return {
        "stage": "test",
        "primary_metric": "ndcg@10",
        "protocol": {
            "dataset": "beauty",
            "fingerprint": "0123456789abcdef",
            "protocol_fingerprint": "abcdef",
            "split": "global_timeline: train before 2024-03-05T15:27:46, validate until 2024-03-17T21:08:03, test "
            "after; targets are events of view or click or cart or purchase",
            "users": 22363,
            "targets": 22400,
            "targets_per_user": "all that followed the history",
            "candidates": "12,101 of 12,101 items: all that could be recommended at the time",
            "seen_items": "excluded",
            "unreachable_targets": 1234,
            "tie_rule": "one random order of the catalogue, the same in ranks and lists",
            "intervals": "95 %, 2000 resamples of users",
        },
        "systems": [
            system("sasrec", "model", ndcg=0.0517, hit_rate=0.0901, recall=0.0901),
            system(long_name, "baseline", ndcg=-1e-18, recall=0.05, ties=(11200, 0.01, 0.2)),
            system("optimum", "ceiling", ndcg=None),
        ],
        "comparisons": [comparison(long_name, 0.0123, 0.0004), comparison("last", None, None)],
        "warnings": ["The split is random: the model was trained on events that happened after the tested ones. " * 2],
        **changes,
    }


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_no_line_is_wider_than_a_terminal():
    lines = evaluation_table(result()).splitlines()
    assert max(map(len, lines)) <= WIDTH == 120
    assert all(line == line.rstrip() for line in lines)
    many = result(primary_metric="mean_rank", systems=[system("x" * 200, "model"), system("y" * 200, "baseline")])
    many["comparisons"] = [comparison("y" * 200, -250.0, 0.5)]
    lines = evaluation_table(many).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert "x" * 39 + "…" in row("\n".join(lines), "x")


def test_the_columns_stand_under_their_names_and_hold_mean_and_interval():
    text = evaluation_table(result())
    lines = text.splitlines()
    header = next(index for index, line in enumerate(lines) if line.split()[:1] == ["ndcg@10"])
    # recall equals the hit rate only for the model here, so it says something new and stands before mrr
    assert lines[header].split() == ["ndcg@10", "hit_rate@10", "recall@10"]
    assert re.split(r"\s{2,}", lines[header + 1]) == [
        "sasrec",
        "0.0517 [0.0394, 0.0640]",
        "0.0901 [0.0778, 0.1024]",
        "0.0901 [0.0778, 0.1024]",
    ]
    assert re.split(r"\s{2,}", lines[header + 2])[1] == "0.0000 [-0.0123, 0.0123]"  # and not -0.0000
    assert re.split(r"\s{2,}", lines[header + 3])[1] == "undefined"
    ends = [match.end() for match in re.finditer(r"\S+@10", lines[header])]
    assert [match.end() for match in re.finditer(r"\]", lines[header + 1])] == ends


def test_a_column_that_repeats_another_is_left_out():
    same = [system("gru", "model", hit_rate=0.2, recall=0.2), system("last", "baseline", hit_rate=0.1, recall=0.1)]
    text = evaluation_table(result(systems=same, comparisons=[]))
    assert row(text, " " * 20).split() == ["ndcg@10", "hit_rate@10", "mrr@10"]


@pytest.mark.parametrize(
    ("primary", "columns"),
    [
        ("mrr@10", ["mrr@10", "ndcg@10", "hit_rate@10"]),
        ("accuracy@1", ["accuracy@1", "ndcg@10", "hit_rate@10"]),
        ("auc", ["auc", "ndcg@10", "hit_rate@10"]),
    ],
)
def test_the_deciding_metric_comes_first(primary, columns):
    text = evaluation_table(result(primary_metric=primary, comparisons=[]))
    assert row(text, " " * 30).split() == columns


def test_the_protocol_is_stated():
    text = evaluation_table(result())
    flat = " ".join(text.split())
    assert row(text, "dataset") == "dataset    beauty (0123456789abcdef), test stage"
    assert row(text, "protocol").startswith("protocol   fingerprint abcdef; ")
    assert row(text, "users") == "users      22,363 with 22,400 targets (all that followed the history)"
    assert "candidates 12,101 of 12,101 items: all that could be recommended at the time; seen items excluded" in flat
    assert (
        "misses 1,234 of these targets cannot be in a list of sasrec and count as misses; ndcg@10 over the users "
        "without such targets: 0.0527" in flat
    )
    assert row(text, "figures") == "figures    mean over users [95 %, 2000 resamples of users]"
    assert row(text, "speed") == "speed      sasrec ranked all candidates for 12,346 users a second"
    everything = result()
    everything["protocol"]["unreachable_targets"] = 0
    assert "misses" not in evaluation_table(everything)


def test_ties_are_told_where_their_order_decides():
    lines = [line for line in evaluation_table(result()).splitlines() if line.startswith("ties")]
    assert lines == [
        "ties       popular in each user's last 5 events: 50% of the targets tie, ndcg@10 0.0100 if all were lost, "
        "0.2000 if won"
    ]


def test_comparisons_show_sign_interval_and_corrected_p_value():
    text = evaluation_table(result())
    start = "sasrec minus each other system, ndcg@10, paired by user, p after Holm's correction; "
    after = text[text.index(start) :].splitlines()
    first = next(place for place, line in enumerate(after) if line.startswith("popular in each user's last 5 events"))
    assert re.split(r"\s{2,}", after[first])[1:] == ["+0.0123 [+0.0023, +0.0223]", "p < 0.001", "0.0042"]
    assert re.split(r"\s{2,}", after[first + 1]) == ["last", "undefined", "undefined", "undefined"]
    assert after[first + 2] == "" and after[first + 3].startswith("WARNING    The split is random")
    small = result(comparisons=[comparison("last", -0.5, 0.0423)])
    assert "-0.5000 [-0.5100, -0.4900]   p = 0.042" in evaluation_table(small)


def test_rows_of_runs_name_the_run_and_what_runs_today():
    rows = [
        {"system": "new", **comparison("sasrec", 0.0123, 0.0004)},
        {"system": "newer", **comparison("sasrec", 0, 1)},
    ]
    systems = [system(name, "model") for name in ("sasrec", "new", "newer")]
    lines = evaluation_table(result(kind="comparison", systems=systems, comparisons=rows)).splitlines()
    assert any(line.startswith("minus sasrec, ndcg@10, paired by user, ") for line in lines)
    after = lines[next(place for place, line in enumerate(lines) if line.startswith("minus sasrec, ")) :]
    assert [line.split()[0] for line in after if "  p " in line] == ["new", "newer"]
    assert "verdict    new is better than sasrec; newer is not distinguishable from sasrec on ndcg@10." in "\n".join(
        lines
    )


def test_warnings_and_what_the_audit_found_are_told_before_the_verdict():
    audit = [
        {"severity": "error", "text": "The future leaked."},
        {"severity": "warning", "text": "Many ties."},
        {"severity": "info", "text": "Nothing to see."},
    ]
    lines = evaluation_table(result(audit=audit, warnings=["ANOTHER PREPARATION"])).splitlines()
    start = lines.index("WARNING    ANOTHER PREPARATION")
    assert lines[start + 1 : start + 3] == ["error      The future leaked.", "warning    Many ties."]
    assert lines[start + 3].startswith("verdict    sasrec ")
    assert "Nothing to see" not in "\n".join(lines)


def make_lists(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"user_id": "007", "rank": range(1, count + 1), "item_id": [f"0{n}" for n in range(count)], "score": 1 / 3}
    )


def test_lists_show_titles_and_keep_ids_as_they_are():
    items = pd.DataFrame({"item_id": ["00", "01"], "title": ["Tee, grün", None]})
    lines = recommendation_table(make_lists(2), items).splitlines()
    assert [line.split() for line in lines] == [
        ["user_id", "rank", "item_id", "score", "title"],
        ["007", "1", "00", "0.3333", "Tee,", "grün"],
        ["007", "2", "01", "0.3333"],
    ]
    wide = pd.DataFrame({"item_id": ["00"], "title": ["long " * 50]})
    assert max(map(len, recommendation_table(make_lists(1), wide).splitlines())) <= WIDTH


def test_long_lists_are_cut_with_a_word_and_empty_ones_say_so():
    items = pd.DataFrame({"item_id": ["00"]})
    lines = recommendation_table(make_lists(250), items, max_rows=200).splitlines()
    assert len(lines) == 202 and lines[-1] == "… 50 more rows; --output writes them all"
    assert "…" not in recommendation_table(make_lists(200), items)
    assert recommendation_table(make_lists(0), items) == "nothing is left to recommend"

"""Results, logs, examples and sections that the tests of reports share, and a page read back as elements and text."""

from __future__ import annotations

import copy
from functools import cache
from html.parser import HTMLParser

from seqrec_jax.evaluation.report.page import render_report
from seqrec_jax.reporting.sections import bars, curve, points, section, table

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
        "schema_version": 2,
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


@cache
def usual_page() -> str:
    return render_report(make_result(), log=make_log(), examples=make_examples())


def render(result: dict | None = None, *, log: list | None = None, examples: list | None = None) -> str:
    if result is log is examples is None:
        return usual_page()
    return render_report(
        make_result() if result is None else result,
        log=make_log() if log is None else log,
        examples=make_examples() if examples is None else examples,
    )


def make_sections(count: int = 1, *, length: int = 12) -> list[dict]:
    """Sections with a block of every kind."""
    places = list(range(1, length + 1))
    lines = [
        {"name": name, "x": places, "y": [step / (5 + x) for x in places]}
        | {"low": [step / (6 + x) for x in places], "high": [step / (4 + x) for x in places]}
        for step, name in ((1, "sasrec"), (2, "item-to-item"))
    ]
    cloud = [{"name": "items", "x": [x * 7 % 11 for x in places], "y": places}]
    blocks = [
        curve("NDCG by history", x_label="events in the history", y_label="ndcg@10", series=lines, log_x=True),
        points("Map of the users", x_label="first axis", y_label="second axis", groups=cloud),
        bars("Probes", "accuracy", [{"name": "category", **figure(0.6)}, {"name": "permuted", **figure(0.1)}]),
        table("Worst segments", ["segment", "users", "gap"], [["new users", 120, figure(-0.02)]], note="Corrected."),
    ]
    return [section(f"part_{number}", f"Part {number}", "What it shows.", blocks) for number in range(count)]


def make_comparison(*differences: float, p_holm: float = 0.001, **changes) -> dict:
    """Runs A, B, … with the differences of B, C, … to A."""
    names = "ABCDEFG"[: len(differences) + 1]
    rows = [
        comparison("A", difference, p_holm=p_holm)
        | {"system": name, "relative": difference / 0.05, "minimal_detectable": 0.0031, "users_needed": 41234.4}
        | {"shop": f"{name} would show in the shop.", "equivalence": f"{name} is not shown to be equivalent."}
        for name, difference in zip(names[1:], differences, strict=True)
    ]
    systems = [system(name, "model", 0.05) for name in names]
    result = {key: make_result()[key] for key in ("schema_version", "primary_metric", "protocol", "stage")}
    return result | {"kind": "comparison", "systems": systems, "comparisons": rows, "warnings": []} | changes

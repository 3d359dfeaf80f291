"""A model's card: every figure is the run's or the dataset's own, and the limits follow from what is known."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.dataset import prepare_dataset, read_dataset
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.evaluation.report.model_card import model_card

SETTINGS = {
    "model": {"encoder": {"kind": "gru", "width": 64, "max_length": 50}},
    "training": {"loss": {"kind": "softmax"}, "seed": 3},
}
FACTS = {"parameters": 12345, "bytes": 49380, "epochs": 7, "training_seconds": 61.4}
RESULT = {
    "primary_metric": "ndcg@10",
    "protocol": {
        "split": "leave_one_out: each user's last target is the test",
        "users": 1200,
        "targets": 1300,
        "candidates": "4 of 4 items: all that could be recommended at the time",
        "protocol_fingerprint": "abcdef",
    },
    "systems": [{"metrics": {"ndcg@10": {"mean": 0.1234, "low": 0.11, "high": 0.13}}}],
    "audit": [
        {"severity": "error", "text": "The future leaked."},
        {"severity": "info", "text": "Nothing to see."},
        {"severity": "warning", "text": "Many ties."},
    ],
}


def make_dataset(*, items: int = 4, time_kind: str = "seconds"):
    """Three users who had the items 1, 2, 3 and again 1 on successive days from 1970-01-01; others have no event."""
    users = np.repeat(["a", "b", "c"], 4)
    log = pd.DataFrame(
        {
            "user_id": users,
            "item_id": ["i1", "i2", "i3", "i1"] * 3,
            "timestamp": np.tile(np.arange(4) * 86_400, 3),
            "behavior": ["view", "view", "purchase", "purchase"] * 3,
        }
    )
    table = pd.DataFrame({"item_id": [f"i{item}" for item in range(1, items + 1)]})
    split = SplitConfig(rule="leave_one_out")
    return prepare_dataset(
        log, name="log", split=split, items=table, behaviors=["view", "purchase"], time_kind=time_kind
    )


def card(dataset=None, **changes):
    given = {"settings": SETTINGS, "facts": FACTS, "result": RESULT} | changes
    return model_card(make_dataset() if dataset is None else dataset, **given)


def test_the_card_says_what_a_colleague_must_know():
    dataset = make_dataset()
    made = card(dataset)
    assert list(made) == ["data", "training", "evaluation", "intended_use", "limits"]
    assert made["data"] == (
        "log: 3 users, 4 items, 12 events from 1970-01-01 to 1970-01-04, behaviours view, purchase; fingerprint "
        f"{dataset.fingerprint}. Split: leave_one_out: each user's last target is the test."
    )
    assert made["training"] == "gru of width 64, softmax loss, 12,345 parameters, 7 epochs in 61 s, seed 3."
    assert made["evaluation"] == (
        "ndcg@10 0.1234 [0.1100, 0.1300] over 1,200 users with 1,300 targets, all 4 of 4 items: all that could be "
        "recommended at the time ranked; protocol abcdef."
    )
    assert made["intended_use"].startswith("To order this catalogue for this shop's users by what comes next (event of")
    assert "the last 50 events of each. Not for other catalogues" in made["intended_use"]
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_limits_come_from_data_and_audit():
    limits = card()["limits"]
    assert any(text.startswith("The log shows what people did with what they were shown.") for text in limits)
    assert any(text.startswith("Intervals are over users.") for text in limits)
    assert any(text.startswith("Under leave_one_out the model has seen other users' events") for text in limits)
    # item 4 has no event at all, and item 3 is held out for everybody
    assert "2 of 4 items have no training event." in limits
    assert limits[-2:] == ["The future leaked.", "Many ties."]


def test_a_timeline_over_known_items_has_fewer_limits():
    dataset = make_dataset(items=3)
    timeline = replace(dataset.split, config=replace(dataset.split.config, rule="global_timeline"))
    parts = np.zeros_like(dataset.split.parts)
    clean = replace(dataset, split=replace(timeline, parts=parts))
    limits = card(clean, result={**RESULT, "audit": []})["limits"]
    assert len(limits) == 2 and not any("training event" in text for text in limits)


def test_a_log_without_times_has_no_period_and_says_so():
    made = card(make_dataset(time_kind="order"))
    assert "12 events, behaviours view, purchase" in made["data"]
    assert any(text.startswith("The log has no times: seasons, gaps") for text in made["limits"])


def test_what_is_predicted_is_named():
    dataset = make_dataset()
    config = replace(dataset.split.config, target_behaviors=("purchase", "view"))
    made = card(replace(dataset, split=replace(dataset.split, config=config)))
    assert "what comes next (purchase or view), from" in made["intended_use"]


@pytest.mark.parametrize("facts", [{}, dict.fromkeys(FACTS)])
def test_a_run_whose_log_is_lost_has_unknown_facts(facts):
    assert card(facts=facts)["training"] == (
        "gru of width 64, softmax loss, an unknown number of parameters, an unknown number of epochs in an unknown "
        "number of s, seed 3."
    )


def test_a_figure_that_nobody_has_and_an_evaluation_without_audit():
    result = copy.deepcopy(RESULT)
    result["systems"][0]["metrics"]["ndcg@10"] = {"mean": None, "low": None, "high": None}
    del result["audit"]
    made = card(result=result)
    assert made["evaluation"].startswith("ndcg@10 undefined over 1,200 users")
    assert "The future leaked." not in made["limits"]


def test_the_card_of_a_run_is_in_its_result(tiny_run):
    result = json.loads((tiny_run.run / "metrics.json").read_text(encoding="utf-8"))
    dataset = read_dataset(tiny_run.dataset)
    again = model_card(dataset, settings=result["config"], facts=result["model"], result=result)
    assert result["model_card"] == again
    assert f"{result['model']['parameters']:,} parameters, 2 epochs in " in again["training"]
    assert dataset.fingerprint in again["data"] and result["protocol"]["protocol_fingerprint"] in again["evaluation"]
    warned = [finding["text"] for finding in result["audit"] if finding["severity"] != "info"]
    assert [text for text in again["limits"] if text in warned] == warned

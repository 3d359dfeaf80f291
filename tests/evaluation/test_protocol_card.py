"""The card changes with everything that changes a figure and with nothing else, and says what changed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.protocol_card import (
    PROTOCOL_SCHEMA_VERSION,
    protocol_card,
    protocol_differences,
    protocol_fingerprint,
    protocol_warning,
)

CONFIG = EvaluationConfig()
LAST_OUT = SplitConfig(rule="leave_one_out")


def make_log(num_users=12, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": np.repeat([f"u{user:02}" for user in range(num_users)], 6),
            "item_id": [f"i{item}" for item in rng.integers(1, 9, 6 * num_users)],
            "timestamp": 1_000_000 + rng.permutation(6 * num_users) * 3600,
        }
    )


def card_of(config=CONFIG, *, log=None, split=LAST_OUT, name="shop", further=None, **options):
    dataset = prepare_dataset(make_log() if log is None else log, name=name, split=split, **options)
    cases = evaluation_cases(
        dataset.sequences,
        dataset.split,
        stage=config.stage,
        num_items=dataset.num_items,
        targets=config.targets,
        min_history=config.min_history,
    )
    return protocol_card(dataset, cases, config, further=further)


@pytest.fixture(scope="module")
def card():
    return card_of()


def test_the_card_is_readable_and_survives_json(card):
    assert card["protocol schema"] == PROTOCOL_SCHEMA_VERSION
    expected = {"data": "shop", "split": "leave_one_out", "targets": "all", "users": 12, "targets in all": 12}
    expected |= {"seen items": "kept", "cutoffs": [5, 10, 20], "tie order seed": 0, "candidates": 8, "stage": "test"}
    expected |= {"candidate rule": "all items of the vocabulary, also those that appear later", "users left out": 0}
    assert {name: card[name] for name in expected} == expected
    assert not {"metric", "num resamples", "score bytes"} & set(card)
    assert re.fullmatch("[0-9a-f]{12}", protocol_fingerprint(card))
    again = json.loads(json.dumps(card))
    assert protocol_fingerprint(again) == protocol_fingerprint(card) and protocol_differences(card, again) == []
    assert protocol_warning({"a": card, "b": again}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"config": replace(CONFIG, metric="mrr@5")},
        {"config": replace(CONFIG, num_resamples=500)},
        {"config": replace(CONFIG, score_bytes=1)},
        {"config": replace(CONFIG, cutoffs=(20, 5, 10))},
        {"name": "another name"},
    ],
)
def test_what_changes_no_figure_changes_no_fingerprint(card, change):
    other = card_of(**change)
    assert protocol_fingerprint(other) == protocol_fingerprint(card) and protocol_differences(card, other) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": replace(CONFIG, stage="validation")}, "stage: test against validation"),
        ({"config": replace(CONFIG, cutoffs=(10,))}, "cutoffs: 5, 10, 20 against 10"),
        ({"config": replace(CONFIG, seen_items="excluded")}, "seen items: kept against excluded"),
        ({"config": replace(CONFIG, min_history=2)}, "min history: 1 against 2"),
        ({"config": replace(CONFIG, targets="next")}, "targets: all against next"),
        ({"config": replace(CONFIG, gains={"event": 3.0})}, "gains: none against event 3.0"),
        ({"config": replace(CONFIG, seed=1)}, "tie order seed: 0 against 1"),
        ({"split": SplitConfig(rule="global_timeline")}, "split: leave_one_out against global_timeline"),
        ({"split": SplitConfig(rule="leave_one_out", validation_users=0.5)}, "validation users: nothing against 0.5"),
        ({"log": make_log(num_users=11)}, "users: 12 against 11"),
        ({"cleaning": {"dropped": {"below_k_core": 7, "none": 0}}}, "rows dropped: below k core: nothing against 7"),
        ({"further": {"sampled negatives": 100}}, "sampled negatives: nothing against 100"),
    ],
)
def test_what_changes_a_figure_changes_the_fingerprint_and_is_said(card, change, sentence):
    other = card_of(**change)
    assert protocol_fingerprint(other) != protocol_fingerprint(card)
    said = protocol_differences(card, other)
    assert sentence in said
    hashes = [line.startswith("hash of ") for line in said]
    assert hashes == sorted(hashes)  # consequences come last


def test_the_same_counts_of_other_users_targets_and_candidates_are_seen(card):
    other = card_of(log=make_log(seed=1))
    said = protocol_differences(card, other)
    for part in ("data fingerprint", "hash of histories", "hash of targets"):
        assert any(line.startswith(f"{part}: ") for line in said)
    dataset = prepare_dataset(make_log(), name="shop", split=SplitConfig(rule="leave_one_out"))
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)
    candidates = np.roll(cases.candidates, 0)
    candidates[3] = False
    fewer = protocol_card(dataset, replace(cases, candidates=candidates), CONFIG)
    assert {line.split(":")[0] for line in protocol_differences(card, fewer)} == {"candidates", "hash of candidates"}
    gained = protocol_card(dataset, replace(cases, target_gains=np.ones(12, dtype=np.float32)), CONFIG)
    assert [line.split(":")[0] for line in protocol_differences(card, gained)] == ["hash of targets"]


def test_a_timeline_names_its_cuts_and_what_was_available():
    card = card_of(split=SplitConfig(rule="global_timeline"))
    assert card["candidate rule"] == f"items that were available before {card['test start']}"
    assert card["validation start"] < card["test start"] and card["test start"].startswith("1970-01-")
    validation = card_of(replace(CONFIG, stage="validation"), split=SplitConfig(rule="global_timeline"))
    assert validation["candidate rule"] == f"items that were available before {card['validation start']}"


def test_a_comparison_across_protocols_is_refused_loudly(card):
    other = card_of(replace(CONFIG, seen_items="excluded"))
    text = protocol_warning({"sasrec": card, "gru": card, "ease": other})
    assert text == (
        f"THESE FIGURES CANNOT BE COMPARED: ease (protocol {protocol_fingerprint(other)}) differs from sasrec "
        f"(protocol {protocol_fingerprint(card)}) in seen items: kept against excluded."
    )


VALUES = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["1", "next", "all", "None"])
NAMES = st.sampled_from(["data", "split", "users", "hash of users", "gains"])
CARDS = st.dictionaries(NAMES, VALUES | st.lists(VALUES))


@settings(max_examples=200, deadline=None)
@given(CARDS, CARDS)
def test_two_cards_differ_exactly_where_their_fingerprints_do(a, b):
    assert (protocol_fingerprint(a) == protocol_fingerprint(b)) == (protocol_differences(a, b) == [])
    assert len(protocol_differences(a, b)) == len(protocol_differences(b, a))

"""The five split rules and the cases they give, against plain loops; no leak from the future, bad input is named."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import (
    HISTORY,
    TEST,
    TRAIN,
    VALIDATION,
    EvaluationCases,
    Split,
    SplitConfig,
    evaluation_cases,
    split_events,
)
from seqrec_jax.errors import ConfigError, DataError

BEHAVIORS = ("view", "cart", "purchase")
RULES = ("leave_one_out", "global_timeline", "user_holdout", "item_holdout", "random_ratio")
NUM_ITEMS = 9
STAGES = {"validation": VALIDATION, "test": TEST}

Event = tuple[int, int, str]  # item id, time, behaviour


def make_sequences(users: list[list[Event]]) -> Sequences:
    events = [event for user in users for event in user]
    return Sequences(
        user_ids=np.array([f"u{user}" for user in range(len(users))], dtype=object),
        offsets=np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64),
        item_ids=np.array([item for item, _, _ in events], dtype=np.int32),
        timestamps=np.array([time for _, time, _ in events], dtype=np.int64),
        behaviors=np.array([BEHAVIORS.index(behavior) for _, _, behavior in events], dtype=np.int8),
        values=np.full(len(events), np.nan, dtype=np.float32),
    )


def items_only(*users: list[int]) -> Sequences:
    """Users who view the given items, an event a second."""
    return make_sequences([[(item, time, "view") for time, item in enumerate(items)] for items in users])


def split_quietly(sequences: Sequences, config: SplitConfig) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random_ratio warns, a test of its own looks at it
        return split_events(sequences, config, behaviors=BEHAVIORS)


@st.composite
def logs(draw) -> Sequences:
    """Users with ties in time, events without item and few distinct items, so that targets repeat."""
    event = st.tuples(st.integers(0, 7), st.integers(0, 40), st.sampled_from(BEHAVIORS))
    users = draw(st.lists(st.lists(event, max_size=12), min_size=3, max_size=9))
    return make_sequences([sorted(user, key=lambda event: event[1]) for user in users])


@st.composite
def splits(draw, rules=RULES) -> tuple[Sequences, Split]:
    sequences = draw(logs())
    options = {
        "rule": draw(st.sampled_from(rules)),
        "validation_fraction": draw(st.sampled_from([0.1, 0.2, 0.35])),
        "test_fraction": draw(st.sampled_from([0.1, 0.25])),
        "target_behaviors": draw(st.sampled_from([(), (), ("purchase",), ("view", "cart")])),
        "seed": draw(st.integers(0, 5)),
    }
    if options["rule"] == "global_timeline" and draw(st.booleans()):
        options |= {"validation_start": "1970-01-01T00:00:15", "test_start": "1970-01-01 00:00:25"}
    assume(len(sequences.item_ids) > 5)
    state = random.getstate()  # the check of annotations looks at random entries, which a strategy may not
    try:
        return sequences, split_quietly(sequences, SplitConfig(**options))
    except DataError:  # too few events for a part of each kind; what is said then has tests of its own
        assume(False)
        raise
    finally:
        random.setstate(state)


def leave_last_two_by_loop(sequences: Sequences, targets: np.ndarray) -> list[int]:
    parts = []
    for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        places = [place for place in range(start, stop) if targets[place]]
        for place in range(start, stop):
            if len(places) < 3 or place < places[-2]:
                parts.append(TRAIN)
            elif place == places[-2]:
                parts.append(VALIDATION)
            elif place == places[-1]:
                parts.append(TEST)
            else:
                parts.append(HISTORY)
    return parts


def cases_by_loop(sequences: Sequences, split: Split, stage: str, *, first_only: bool, min_history: int):
    """(users, histories, targets, how many were left out), an event at a time."""
    part = STAGES[stage]
    users, histories, targets, left_out = [], [], [], 0
    for user in range(sequences.num_users):
        places = range(sequences.offsets[user], sequences.offsets[user + 1])
        held_out = [place for place in places if split.parts[place] == part and split.targets[place]]
        if not held_out:
            continue
        allowed = {TRAIN, HISTORY} | (
            {VALIDATION} if stage == "test" and split.config.rule != "item_holdout" else set()
        )
        history = [place for place in places if place < held_out[0] and split.parts[place] in allowed]
        if len(history) < min_history:
            left_out += 1
            continue
        users.append(user)
        histories.append(history)
        items = [int(sequences.item_ids[place]) for place in (held_out[:1] if first_only else held_out)]
        targets.append(list(dict.fromkeys(items)))
    return users, histories, targets, left_out


def case_targets(cases: EvaluationCases) -> list[list[int]]:
    return [
        cases.target_items[start:stop].tolist()
        for start, stop in zip(cases.target_offsets[:-1], cases.target_offsets[1:], strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(splits())
def test_a_split_is_a_partition_with_something_to_train_on_and_to_predict(drawn):
    sequences, split = drawn
    wanted = split.config.target_behaviors or BEHAVIORS
    expected = [
        item > 0 and BEHAVIORS[code] in wanted
        for item, code in zip(sequences.item_ids, sequences.behaviors, strict=True)
    ]
    assert split.targets.tolist() == expected
    assert split.parts.dtype == np.int8
    assert split.parts.shape == sequences.item_ids.shape  # one part an event: none is in two
    assert set(split.parts) <= {TRAIN, VALIDATION, TEST, HISTORY}
    assert (split.parts == TRAIN).any()
    for part in (VALIDATION, TEST):
        assert (split.targets & (split.parts == part)).any()
    again = split_quietly(sequences, split.config)
    np.testing.assert_array_equal(again.parts, split.parts)


@settings(max_examples=150, deadline=None)
@given(splits(["leave_one_out"]))
def test_leave_one_out_equals_a_loop(drawn):
    sequences, split = drawn
    assert split.parts.tolist() == leave_last_two_by_loop(sequences, split.targets)
    assert split.cuts == {}


def test_of_users_who_do_not_validate_all_but_the_last_target_is_trained_on():
    sequences = items_only(*[[1, 2, 3, 4]] * 10)
    everyone = SplitConfig(rule="leave_one_out")
    some = SplitConfig(rule="leave_one_out", validation_users=0.3)
    whole, part = (split_events(sequences, config, behaviors=BEHAVIORS) for config in (everyone, some))
    by_user = part.parts.reshape(10, 4).tolist()
    assert sorted(map(tuple, by_user)) == [(TRAIN, TRAIN, TRAIN, TEST)] * 7 + [(TRAIN, TRAIN, VALIDATION, TEST)] * 3
    assert part.parts.tolist() == split_events(sequences, some, behaviors=BEHAVIORS).parts.tolist()
    cases = [evaluation_cases(sequences, split, stage="test", num_items=4) for split in (whole, part)]
    assert cases[0].target_items.tolist() == cases[1].target_items.tolist()
    assert cases[0].histories.item_ids.tolist() == cases[1].histories.item_ids.tolist()
    assert "validation_users" not in whole.to_dict() and part.to_dict()["validation_users"] == 0.3
    assert "the one before of 30% of them the validation" in part.describe()
    for wrong, message in (
        ({"validation_users": 0.0}, "split.validation_users must be greater than 0 and at most 1, got 0.0"),
        ({"rule": "global_timeline"}, "split.validation_users belongs to the rule leave_one_out, got global_timeline"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(some, **wrong)


def test_leave_one_out_by_hand():
    sequences = make_sequences(
        [
            # three purchases among other events; the last view comes after the last target
            [
                (1, 0, "purchase"),
                (2, 1, "view"),
                (2, 2, "purchase"),
                (3, 3, "view"),
                (3, 4, "purchase"),
                (4, 5, "view"),
            ],
            # two purchases only: everything trains
            [(1, 0, "view"), (5, 1, "purchase"), (6, 2, "purchase")],
            [],
        ]
    )
    config = SplitConfig(rule="leave_one_out", target_behaviors=("purchase",))
    split = split_events(sequences, config, behaviors=BEHAVIORS)
    assert split.parts.tolist() == [TRAIN, TRAIN, VALIDATION, HISTORY, TEST, HISTORY, TRAIN, TRAIN, TRAIN]
    validation = evaluation_cases(sequences, split, stage="validation", num_items=6)
    assert validation.histories.item_ids.tolist() == [1, 2]
    assert case_targets(validation) == [[2]]
    test = evaluation_cases(sequences, split, stage="test", num_items=6)
    assert test.users.tolist() == [0]
    assert test.histories.item_ids.tolist() == [1, 2, 2, 3]
    assert test.histories.user_ids.tolist() == ["u0"]
    assert case_targets(test) == [[3]]
    assert test.candidates.tolist() == [False] + 6 * [True]


def test_events_without_item_are_history_but_no_target():
    split = split_events(items_only([1, 2, 0, 3, 0, 4, 0]), SplitConfig(rule="leave_one_out"), behaviors=BEHAVIORS)
    assert split.parts.tolist() == [TRAIN, TRAIN, TRAIN, VALIDATION, HISTORY, TEST, HISTORY]


@settings(max_examples=150, deadline=None)
@given(splits(["global_timeline"]))
def test_no_training_event_lies_after_a_cut_of_the_timeline(drawn):
    sequences, split = drawn
    t1, t2 = split.cuts["validation_start"], split.cuts["test_start"]
    assert t1 < t2
    times = sequences.timestamps
    assert times[split.parts == TRAIN].max() < t1
    np.testing.assert_array_equal(split.parts == VALIDATION, (times >= t1) & (times < t2))
    np.testing.assert_array_equal(split.parts == TEST, times >= t2)
    if split.config.validation_start:
        assert (t1, t2) == (15, 25)


def test_timeline_fractions_are_shares_of_events():
    sequences = items_only(*([1 + item % 5 for item in range(100)] for _ in range(3)))
    config = SplitConfig(validation_fraction=0.2, test_fraction=0.1)
    split = split_events(sequences, config, behaviors=BEHAVIORS)
    assert split.cuts == {"validation_start": 70, "test_start": 90}
    assert np.bincount(split.parts).tolist() == [210, 60, 30]


def test_timeline_times_are_utc_unless_they_name_a_zone_and_round_up():
    sequences = items_only([1] * 7300)
    for start in ("1970-01-01T02:00:10+02:00", "1970-01-01T00:00:10", "1970-01-01 00:00:09.5"):
        config = SplitConfig(validation_start=start, test_start="1970-01-01T01:00")
        split = split_events(sequences, config, behaviors=BEHAVIORS)
        assert split.cuts == {"validation_start": 10, "test_start": 3600}


@settings(max_examples=100, deadline=None)
@given(splits(["user_holdout"]))
def test_held_out_users_have_no_training_event_and_their_last_target_is_predicted(drawn):
    sequences, split = drawn
    roles = []
    for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        parts = split.parts[start:stop]
        places = np.flatnonzero(split.targets[start:stop])
        if not len(parts):
            continue
        if (parts == TRAIN).any():
            assert (parts == TRAIN).all()
        else:
            held_out = np.flatnonzero(parts != HISTORY)
            assert held_out.tolist() == places[-1:].tolist()
            roles.extend(parts[held_out].tolist())
    for part, fraction in (
        (VALIDATION, split.config.validation_fraction),
        (TEST, split.config.test_fraction),
    ):
        assert 1 <= roles.count(part) <= max(1, round(fraction * sequences.num_users))


@settings(max_examples=100, deadline=None)
@given(splits(["item_holdout"]))
def test_held_out_items_have_no_training_event(drawn):
    sequences, split = drawn
    items = {part: set(sequences.item_ids[split.parts == part].tolist()) for part in (TRAIN, VALIDATION, TEST)}
    assert not items[TRAIN] & items[VALIDATION]
    assert not items[TRAIN] & items[TEST]
    assert not items[VALIDATION] & items[TEST]
    assert 0 not in items[VALIDATION] | items[TEST]  # events without item are nobody's
    candidates = len(np.unique(sequences.item_ids[split.targets]))
    assert len(items[VALIDATION]) == max(1, round(split.config.validation_fraction * candidates))
    assert len(items[TEST]) == max(1, round(split.config.test_fraction * candidates))


def test_items_that_are_never_a_target_are_not_held_out():
    views = [[(item, 0, "view") for item in range(3, 9)] for _ in range(3)]
    buys = [[(1, 1, "purchase"), (2, 2, "purchase"), (9, 3, "purchase")] for _ in range(3)]
    sequences = make_sequences([a + b for a, b in zip(views, buys, strict=True)])
    for seed in range(10):
        config = SplitConfig(rule="item_holdout", target_behaviors=("purchase",), seed=seed)
        split = split_events(sequences, config, behaviors=BEHAVIORS)
        assert (split.parts[~split.targets] == TRAIN).all()
        assert np.bincount(split.parts[split.targets]).tolist() == [3, 3, 3]


@settings(max_examples=60, deadline=None)
@given(splits(["random_ratio"]))
def test_random_ratio_has_exact_shares(drawn):
    sequences, split = drawn
    count = len(sequences.item_ids)
    assert (split.parts == VALIDATION).sum() == max(1, round(split.config.validation_fraction * count))
    assert (split.parts == TEST).sum() == max(1, round(split.config.test_fraction * count))
    assert not (split.parts == HISTORY).any()


def test_random_ratio_warns_and_the_seed_decides():
    sequences = items_only(list(range(1, 60)))
    parts = []
    for seed in (0, 1):
        config = SplitConfig(rule="random_ratio", seed=seed)
        with pytest.warns(UserWarning, match="random_ratio trains on events that happen after the ones it tests"):
            parts.append(split_events(sequences, config, behaviors=BEHAVIORS).parts)
    assert not np.array_equal(*parts)


@settings(max_examples=150, deadline=None)
@given(splits(), st.sampled_from(sorted(STAGES)), st.booleans(), st.integers(0, 4))
def test_cases_equal_a_loop_and_histories_never_hold_the_future(drawn, stage, first_only, min_history):
    sequences, split = drawn
    options = {"targets": "next" if first_only else "all", "min_history": min_history}
    loop = {"first_only": first_only, "min_history": min_history}
    users, histories, targets, left_out = cases_by_loop(sequences, split, stage, **loop)
    if not users:
        with pytest.raises(DataError, match=f"no user has a {stage} target and a history of at least {min_history}"):
            evaluation_cases(sequences, split, stage=stage, num_items=NUM_ITEMS, **options)
        return
    parts, held_out_targets = split.parts.copy(), split.targets.copy()
    cases = evaluation_cases(sequences, split, stage=stage, num_items=NUM_ITEMS, **options)
    assert cases.users.tolist() == users
    assert cases.users_without_history == left_out
    assert case_targets(cases) == targets
    assert cases.num_targets.tolist() == [len(items) for items in targets]
    assert cases.target_items.dtype == np.int32
    flat = np.array([place for history in histories for place in history], dtype=np.int64)
    assert cases.histories.lengths.tolist() == [len(history) for history in histories]
    assert cases.histories.user_ids.tolist() == [f"u{user}" for user in users]
    for name in ("item_ids", "timestamps", "behaviors", "values"):
        np.testing.assert_array_equal(getattr(cases.histories, name), getattr(sequences, name)[flat])
    np.testing.assert_array_equal(split.parts, parts)  # the split is only looked at
    np.testing.assert_array_equal(split.targets, held_out_targets)
    # what the loop shares with the code is checked apart: time, order and held-out parts
    for user, history in zip(users, histories, strict=True):
        start, stop = sequences.offsets[user], sequences.offsets[user + 1]
        asked = start + np.flatnonzero((split.parts == STAGES[stage])[start:stop] & split.targets[start:stop])
        assert all(
            place < asked[0] and sequences.timestamps[place] <= sequences.timestamps[asked[0]] for place in history
        )
        assert TEST not in split.parts[history]
        if stage == "validation":
            assert VALIDATION not in split.parts[history]
        if split.config.rule == "global_timeline":
            cut = split.cuts[f"{stage}_start"]
            assert all(sequences.timestamps[place] < cut for place in history)
    if split.config.rule == "item_holdout":
        held_out = set(sequences.item_ids[np.isin(split.parts, (VALIDATION, TEST))].tolist())
        assert not held_out & set(cases.histories.item_ids.tolist())


@settings(max_examples=100, deadline=None)
@given(splits(), st.sampled_from(sorted(STAGES)), st.booleans())
def test_candidates_are_what_could_be_recommended_at_that_time(drawn, stage, given_times):
    sequences, split = drawn
    times = np.concatenate([[0], np.arange(NUM_ITEMS) * 7]) if given_times else None
    try:
        cases = evaluation_cases(
            sequences, split, stage=stage, num_items=NUM_ITEMS, available_from=times, min_history=0
        )
    except DataError:
        assume(False)
    expected = [False]
    for item in range(1, NUM_ITEMS + 1):
        if split.config.rule != "global_timeline":
            expected.append(True)
            continue
        cut = split.cuts[f"{stage}_start"]
        if times is None:
            seen = sequences.timestamps[sequences.item_ids == item]
            expected.append(bool((seen < cut).any()))
        else:
            expected.append(bool(times[item] < cut))
    assert cases.candidates.tolist() == expected


def test_timeline_cases_by_hand():
    sequences = make_sequences(
        [
            [(1, 0, "view"), (2, 12, "view"), (3, 21, "view"), (1, 22, "view"), (3, 23, "view"), (4, 24, "view")],
            [(2, 1, "view"), (0, 21, "view"), (2, 22, "cart")],  # a search in the test period is no history
            [(5, 25, "view")],  # new in the test period
        ]
    )
    config = SplitConfig(validation_start="1970-01-01T00:00:10", test_start="1970-01-01T00:00:20")
    split = split_events(sequences, config, behaviors=BEHAVIORS)
    cases = evaluation_cases(sequences, split, stage="test", num_items=6)
    assert cases.users.tolist() == [0, 1]
    assert cases.users_without_history == 1
    assert cases.histories.item_ids.tolist() == [1, 2, 2]
    assert case_targets(cases) == [[3, 1, 4], [2]]  # the second 3 is no second target
    assert cases.candidates.tolist() == [False, True, True, False, False, False, False]
    assert cases.padded(cases.target_items, np.array([0, 1])).tolist() == [[3, 1, 4], [2, 0, 0]]
    assert cases.padded(cases.target_items, np.array([1, 0, 1])).tolist() == [[2, 0, 0], [3, 1, 4], [2, 0, 0]]
    assert cases.padded(cases.target_items, np.array([], dtype=int)).shape == (0, 3)
    assert cases.padded(cases.target_items, np.array([0])).dtype == np.int32
    assert cases.padded(cases.target_items, np.array([1, 0]), width=2).tolist() == [[2, 0], [3, 1]]
    assert cases.padded(cases.target_items, np.array([1]), width=5).tolist() == [[2, 0, 0, 0, 0]]
    assert cases.targets_of(np.array([1, 0, 1])).tolist() == [3, 0, 1, 2, 3]
    assert cases.targets_of(np.array([], dtype=int)).tolist() == []
    assert sequences.item_ids[cases.target_events].tolist() == cases.target_items.tolist()
    assert cases.target_events.tolist() == [2, 3, 5, 8]
    assert cases.target_gains is None
    graded = evaluation_cases(sequences, split, stage="test", num_items=6, gains=np.array([0.5, 3.0, 5.0]))
    assert graded.target_gains.tolist() == [0.5, 0.5, 0.5, 3.0]
    with pytest.raises(ConfigError, match="gains has 1 entries, the log has behaviour 1"):
        evaluation_cases(sequences, split, stage="test", num_items=6, gains=np.array([1.0]))
    everyone = evaluation_cases(sequences, split, stage="test", num_items=6, min_history=0)
    assert case_targets(everyone) == [[3, 1, 4], [2], [5]]
    first = evaluation_cases(sequences, split, stage="test", num_items=6, targets="next")
    assert case_targets(first) == [[3], [2]]
    two = evaluation_cases(sequences, split, stage="test", num_items=6, targets="next 2")
    assert case_targets(two) == [[3, 1], [2]]
    three = evaluation_cases(sequences, split, stage="test", num_items=6, targets="next 3")
    assert case_targets(three) == [[3, 1], [2]]  # the third event repeats the first's item
    shifted = replace(sequences, timestamps=np.array([1, 12, 21, 21, 21, 24, 1, 21, 21, 25]))
    basket = evaluation_cases(shifted, split, stage="test", num_items=6, targets="basket")
    assert case_targets(basket) == [[3, 1], [2]]  # what was bought at one time
    longer = evaluation_cases(sequences, split, stage="test", num_items=6, min_history=2)
    assert (longer.users.tolist(), longer.users_without_history) == ([0], 2)
    soon = np.array([0, 50, 0, 19, 20, 0, 0])
    available = evaluation_cases(sequences, split, stage="test", num_items=6, available_from=soon)
    assert available.candidates.tolist() == [False, False, True, True, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": "timeline"},
            "split.rule must be one of leave_one_out, global_timeline, user_holdout, item_holdout, random_ratio, "
            "got 'timeline'",
        ),
        ({"validation_fraction": 0.0}, "split.validation_fraction must be greater than 0 and less than 1, got 0.0"),
        ({"test_fraction": 1.0}, "split.test_fraction must be greater than 0 and less than 1, got 1.0"),
        ({"test_fraction": -0.1}, "split.test_fraction must be greater than 0 and less than 1, got -0.1"),
        ({"test_fraction": float("nan")}, "split.test_fraction must be greater than 0 and less than 1, got nan"),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            r"split.validation_fraction \+ split.test_fraction must leave events to train on, got 0.5 \+ 0.5",
        ),
        (
            {"validation_start": "2024-01-01"},
            "split.validation_start and split.test_start must be given together",
        ),
        ({"test_start": "2024-01-01"}, "split.validation_start and split.test_start must be given together"),
        (
            {"validation_start": "January", "test_start": "2024-01-01"},
            "split.validation_start must be an ISO time such as 2024-03-01, got 'January'",
        ),
        (
            {"validation_start": "2024-01-01", "test_start": "now"},
            "split.test_start must be an ISO time such as 2024-03-01, got 'now'",
        ),
        (
            {"validation_start": "2024-01-01", "test_start": 1_700_000_000},
            "split.test_start must be an ISO time such as 2024-03-01, got 1700000000",
        ),
        (
            {"rule": "user_holdout", "validation_start": "2024-01-01", "test_start": "2024-02-01"},
            "split.validation_start belongs to the rule global_timeline, got user_holdout",
        ),
        (
            {"target_behaviors": "purchase"},
            "split.target_behaviors must be a list of names, got the text 'purchase'",
        ),
        ({"seed": -1}, "split.seed must be at least 0, got -1"),
    ],
)
def test_configurations_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SplitConfig(**options)


LONG = [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("users", "options", "message"),
    [
        (
            [[1, 2], [2, 1]],
            {"rule": "leave_one_out"},
            "the leave_one_out split leaves no validation events of any behaviour with an item among 4 events of 2 "
            "users; it takes a user with at least three of them; choose another split.rule, or bring a longer log",
        ),
        (
            [LONG],
            {"rule": "random_ratio", "target_behaviors": ("purchase",)},
            "the random_ratio split leaves no validation events of purchase with an item among 8 events of 1 users; "
            "change split.validation_fraction or split.test_fraction, or bring a longer log",
        ),
        (
            [LONG],
            {"rule": "user_holdout"},
            "the user_holdout split leaves no training events among 8 events of 1 users; change "
            "split.validation_fraction or split.test_fraction, or bring a longer log",
        ),
        (
            [[1, 1, 1, 1], [1, 1]],
            {"rule": "item_holdout"},
            "the item_holdout split leaves no training events among 6 events of 2 users",
        ),
        (
            [[1, 2, 1, 2], [2]],
            {"rule": "item_holdout"},
            "the item_holdout split leaves no training events among 5 events of 2 users",
        ),
        (
            [[*LONG[:4], 0, 0, 0]],
            {"validation_fraction": 0.3, "test_fraction": 0.3},
            "the global_timeline split leaves no test events of any behaviour with an item among 7 events of 1 users; "
            "move split.validation_start and test_start, or change the fractions, or bring a longer log",
        ),
        (
            [LONG],
            {"rule": "leave_one_out", "target_behaviors": ("cart", "purchase")},
            "the leave_one_out split leaves no validation events of cart or purchase with an item among 8 events",
        ),
        (
            [LONG],
            {"target_behaviors": ("buy", "view")},
            r"split.target_behaviors names \['buy'\], the log has the behaviours \['cart', 'purchase', 'view'\]",
        ),
        (
            [LONG],
            {"validation_start": "1970-01-01T00:00:03", "test_start": "1971-01-01"},
            "the timeline's cuts must lie in order within the log: validation_start 1970-01-01T00:00:03, test_start "
            "1971-01-01T00:00:00, log from 1970-01-01T00:00:00 to 1970-01-01T00:00:07; set split.validation_start and "
            "split.test_start to times within it, or change the fractions",
        ),
        (
            [LONG],
            {"validation_start": "1970-01-01T00:00:05", "test_start": "1970-01-01T00:00:03"},
            "the timeline's cuts must lie in order within the log: validation_start 1970-01-01T00:00:05",
        ),
        (
            [LONG],
            {"validation_start": "1970-01-01", "test_start": "1970-01-01T00:00:03"},
            "the timeline's cuts must lie in order within the log: validation_start 1970-01-01T00:00:00",
        ),
        (
            [[1], [1], [2]],  # all at one moment
            {},
            "the timeline's cuts must lie in order within the log: validation_start 1970-01-01T00:00:00",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:random_ratio")
def test_splits_that_leave_nothing_are_refused(users, options, message):
    with pytest.raises(DataError, match=message):
        split_events(items_only(*users), SplitConfig(**options), behaviors=BEHAVIORS)


def test_a_timeline_needs_times():
    message = "global_timeline needs timestamps, this log has only an order; use leave_one_out"
    with pytest.raises(DataError, match=message):
        split_events(items_only(LONG), SplitConfig(), behaviors=BEHAVIORS, time_kind="order")
    config = SplitConfig(rule="leave_one_out")
    assert split_events(items_only(LONG), config, behaviors=BEHAVIORS, time_kind="order").parts[-1] == TEST


def test_a_single_user_can_be_split_in_time_or_by_leaving_one_out():
    for config in (SplitConfig(rule="leave_one_out"), SplitConfig()):
        sequences = items_only(LONG)
        split = split_events(sequences, config, behaviors=BEHAVIORS)
        for stage in STAGES:
            assert evaluation_cases(sequences, split, stage=stage, num_items=8).users.tolist() == [0]


def test_evaluating_nobody_or_at_an_unknown_stage_is_refused():
    sequences = items_only([1, 2, 3], [4, 5, 6])
    split = split_events(sequences, SplitConfig(rule="leave_one_out"), behaviors=BEHAVIORS)
    message = (
        r"no user has a test target and a history of at least 3 events \(2 have a target\); lower min_history or "
        "choose another split"
    )
    with pytest.raises(DataError, match=message):
        evaluation_cases(sequences, split, stage="test", num_items=6, min_history=3)
    with pytest.raises(ConfigError, match="stage must be one of validation, test, got 'train'"):
        evaluation_cases(sequences, split, stage="train", num_items=6)


def test_times_of_availability_must_be_one_an_item():
    sequences = items_only(LONG)
    split = split_events(sequences, SplitConfig(), behaviors=BEHAVIORS)
    with pytest.raises(DataError, match=r"available_from must be \[V\+1\] = \(9,\), got \(8,\)"):
        evaluation_cases(sequences, split, stage="test", num_items=8, available_from=np.zeros(8, dtype=np.int64))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"rule": "leave_one_out", "target_behaviors": ("view", "cart")},
            "leave_one_out: each user's last target is the test, the one before the validation; targets are events of "
            "view or cart",
        ),
        (
            {"rule": "user_holdout", "validation_fraction": 0.07, "test_fraction": 0.125},
            "user_holdout: whole users held out (7% validation, 12.5% test); their last target is predicted; targets "
            "are events of any behaviour",
        ),
        (
            {"rule": "item_holdout", "validation_fraction": 0.005},
            "item_holdout: whole items held out (0.5% validation, 10% test); targets are events of any behaviour",
        ),
        (
            {"rule": "random_ratio"},
            "random_ratio: events at random (10% validation, 10% test); leaks the future into training; targets are "
            "events of any behaviour",
        ),
    ],
)
def test_a_split_describes_itself(options, text):
    nothing = np.zeros(0, dtype=bool)
    assert Split(nothing.astype(np.int8), nothing, SplitConfig(**options), {}).describe() == text


def test_a_timeline_names_its_cuts():
    split = split_events(items_only(*10 * [LONG]), SplitConfig(), behaviors=BEHAVIORS)
    assert split.describe() == (
        "global_timeline: train before 1970-01-01T00:00:06, validate until 1970-01-01T00:00:07, test after; targets "
        "are events of any behaviour"
    )
    assert split.to_dict() == {
        "rule": "global_timeline",
        "validation_fraction": 0.1,
        "test_fraction": 0.1,
        "validation_start": None,
        "test_start": None,
        "target_behaviors": (),
        "seed": 0,
        "cuts": {"validation_start": 6, "test_start": 7},
    }

"""What a changed history must keep whatever the rate, and small cases worked by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.robustness import perturbations as changes

NUM_ITEMS = 9
POPULARITY = np.array([7, 5, 0, 1, 0, 0, 2, 0, 0, 4])
CHANGES = {
    "noise": changes.inject_noise,
    "popular noise": partial(changes.inject_noise, item_weights=POPULARITY),
    "bot": changes.inject_bot,
    "crawler": partial(changes.inject_bot, kind="crawl", item_weights=POPULARITY),
    "item": partial(changes.inject_item, items=4),
    "item anywhere": partial(changes.inject_item, items=4, place="random"),
    "dropped": changes.drop_events,
    "behaviour": partial(changes.drop_behavior, behavior=1),
    "truncated": changes.truncate,
    "swapped": changes.swap_adjacent,
    "shuffled": changes.shuffle_order,
    "shifted": partial(changes.shift_time, kind="shift"),
    "stretched": changes.shift_time,
}
INJECTING = ["noise", "popular noise", "bot", "crawler", "item", "item anywhere"]
DROPPING = ["dropped", "behaviour", "truncated"]
MOVING = ["swapped", "shuffled"]
FIELDS = ("user_ids", "offsets", "item_ids", "timestamps", "behaviors", "values")


def random_histories(seed: int, *, num_users: int = 8, longest: int = 9) -> Sequences:
    """Users of all lengths, some without events, some events without item and some at the same time."""
    rng = np.random.default_rng(seed)
    lists = [list(rng.integers(0, NUM_ITEMS + 1, rng.integers(0, longest + 1))) for _ in range(num_users)]
    gaps = [rng.integers(0, 4, len(items)) for items in lists]
    times = np.concatenate([1_000 + np.cumsum(gap) for gap in gaps])
    events = sum(map(len, lists))
    histories = make_sequences(lists, timestamps=times, behaviors=rng.integers(0, 3, events))
    histories.values[:] = np.where(rng.random(events) < 0.5, np.nan, np.arange(events))
    return histories


def of_user(histories: Sequences, user: int, name: str) -> list:
    return getattr(histories, name)[histories.offsets[user] : histories.offsets[user + 1]].tolist()


def contents(histories: Sequences, user: int) -> list[tuple]:
    """Item, behaviour and value of each event; nan as None, so that equal ones compare equal."""
    values = [None if np.isnan(value) else value for value in of_user(histories, user, "values")]
    return list(zip(of_user(histories, user, "item_ids"), of_user(histories, user, "behaviors"), values, strict=True))


def is_subsequence(short: list, long: list) -> bool:
    rest = iter(long)
    return all(entry in rest for entry in short)


rates = st.one_of(st.just(0.0), st.floats(0.01, 0.9))


@pytest.mark.parametrize("name", CHANGES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rate=rates)
def test_whatever_the_rate_the_histories_stay_valid(name, seed, rate):
    histories = random_histories(seed)
    before = {field: getattr(histories, field).copy() for field in FIELDS}
    changed, again = (
        CHANGES[name](histories, rate=rate, num_items=NUM_ITEMS, rng=np.random.default_rng(seed)) for _ in range(2)
    )
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(histories, field), before[field])  # nothing changes in place
        np.testing.assert_array_equal(getattr(changed, field), getattr(again, field))
        assert getattr(changed, field).dtype == before[field].dtype
        if rate == 0:
            np.testing.assert_array_equal(getattr(changed, field), before[field])
    assert changed.user_ids.tolist() == histories.user_ids.tolist()
    assert changed.offsets[0] == 0
    assert {len(getattr(changed, field)) for field in FIELDS[2:]} == {changed.offsets[-1]}
    assert ((changed.lengths > 0) == (histories.lengths > 0)).all()
    assert not len(changed.item_ids) or (changed.item_ids.min() >= 0 and changed.item_ids.max() <= NUM_ITEMS)
    for user in range(histories.num_users):
        old, new = contents(histories, user), contents(changed, user)
        times = of_user(changed, user, "timestamps")
        assert times == sorted(times)
        if name in INJECTING:
            assert is_subsequence(old, new)
            assert is_subsequence(of_user(histories, user, "timestamps"), times)
        elif name in DROPPING:
            assert is_subsequence(new, old)
            assert is_subsequence(times, of_user(histories, user, "timestamps"))
        else:
            assert sorted(map(str, new)) == sorted(map(str, old))
            if name in MOVING:
                assert times == of_user(histories, user, "timestamps")
            else:
                assert new == old


@pytest.mark.parametrize("name", ["noise", "bot", "crawler", "dropped", "truncated"])
@pytest.mark.parametrize("length", [1, 3, 40])
def test_the_share_that_changes_is_the_rate_on_average(name, length):
    histories = make_sequences([list(np.arange(length) % NUM_ITEMS + 1)] * 6_000)
    rate = 0.2
    changed = CHANGES[name](histories, rate=rate, num_items=NUM_ITEMS, rng=np.random.default_rng(0))
    if name in DROPPING:
        if length > 1:  # nobody loses the only event
            kept_of_all = 0.2**3 / 3 if (name, length) == ("dropped", 3) else 0
            assert len(changed.item_ids) / len(histories.item_ids) == pytest.approx(1 - rate + kept_of_all, abs=0.01)
        else:
            assert len(changed.item_ids) == 6_000
    else:
        noise = len(changed.item_ids) - len(histories.item_ids)
        assert noise / len(changed.item_ids) == pytest.approx(rate, abs=0.01)


def test_swapping_and_shuffling_move_the_share_that_was_asked_for():
    histories = make_sequences([list(range(1, 101))] * 200)
    options = {"rate": 0.3, "num_items": 100, "rng": np.random.default_rng(0)}
    moved = changes.swap_adjacent(histories, **options).item_ids != histories.item_ids
    assert moved.mean() == pytest.approx(0.3, abs=0.02)
    moved = changes.shuffle_order(histories, **options).item_ids != histories.item_ids
    assert moved.mean() == pytest.approx(0.3, abs=0.02)


def test_swapped_events_trade_places_with_a_neighbour():
    histories = make_sequences([[1, 2, 3, 4]] * 400)
    swapped = changes.swap_adjacent(histories, rate=1.0, num_items=9, rng=np.random.default_rng(0))
    found = {tuple(of_user(swapped, user, "item_ids")) for user in range(400)}
    assert found == {(2, 1, 4, 3), (1, 3, 2, 4)}


def test_noise_goes_everywhere_with_times_between_its_neighbours():
    histories = make_sequences([[1, 1, 1, 1]] * 500, timestamps=[100, 200, 200, 300] * 500)
    weights = np.zeros(NUM_ITEMS + 1)
    weights[[0, 8]] = 1  # the padding is never drawn
    noisy = changes.inject_noise(
        histories, rate=0.2, num_items=NUM_ITEMS, rng=np.random.default_rng(0), item_weights=weights
    )
    assert (noisy.lengths == 5).all()
    places = np.flatnonzero(noisy.item_ids == 8) % 5
    assert np.bincount(places).min() > 60
    times = noisy.timestamps[noisy.item_ids == 8]
    assert (times[places == 0] == 100).all()
    assert (times[places == 2] == 200).all()
    assert (times[places == 4] == 300).all()
    assert np.ptp(times[places == 1]) > 80
    assert np.isnan(noisy.values[noisy.item_ids == 8]).all()


def test_a_bot_repeats_one_item_or_crawls_from_the_most_popular_one_after_the_last_event():
    histories = make_sequences([[1, 2], [], [3, 4, 5, 6]], timestamps=[10, 20, 30, 40, 50, 60], behaviors=[2] * 6)
    options = {"rate": 0.5, "num_items": NUM_ITEMS}
    bot = changes.inject_bot(histories, **options, rng=np.random.default_rng(0), gap_seconds=3)
    assert bot.lengths.tolist() == [4, 0, 8]
    assert bot.timestamps[[2, 3]].tolist() == [23, 26]
    assert len(set(bot.item_ids[8:].tolist())) == 1
    assert (bot.behaviors == 2).all()
    crawler = changes.inject_bot(
        histories, **options, rng=np.random.default_rng(0), kind="crawl", item_weights=POPULARITY
    )
    assert crawler.item_ids.tolist() == [1, 2, 1, 9, 3, 4, 5, 6, 1, 9, 6, 3]


def test_one_item_goes_to_a_share_of_the_users_behind_everything():
    histories = random_histories(3, num_users=50)
    items = np.arange(50) % NUM_ITEMS + 1
    injected = changes.inject_item(histories, rate=0.5, num_items=NUM_ITEMS, rng=np.random.default_rng(1), items=items)
    got = np.flatnonzero(injected.lengths > histories.lengths)
    assert len(got) == round(0.5 * (histories.lengths > 0).sum())
    assert injected.item_ids[injected.offsets[1:][got] - 1].tolist() == items[got].tolist()
    assert (
        injected.timestamps[injected.offsets[1:][got] - 1] == histories.timestamps[histories.offsets[1:][got] - 1]
    ).all()


def test_a_missing_behaviour_leaves_the_others_and_truncation_the_last():
    histories = make_sequences([[1, 2, 3, 4], [5, 6]], behaviors=[0, 1, 0, 1, 1, 1])
    options = {"num_items": NUM_ITEMS, "rng": np.random.default_rng(0)}
    missing = changes.drop_behavior(histories, rate=1.0, behavior=1, **options)
    assert missing.item_ids.tolist() == [1, 3, 6]  # the second user keeps the last event
    assert changes.truncate(histories, rate=0.5, **options).item_ids.tolist() == [3, 4, 6]
    assert changes.truncate(histories, keep_last=3, **options).item_ids.tolist() == [2, 3, 4, 5, 6]
    assert changes.truncate(histories, rate=1.0, **options).item_ids.tolist() == [4, 6]


def test_shifted_and_stretched_times():
    histories = make_sequences([[], [1, 2, 3], [4], []], timestamps=[100, 110, 140, 7])
    options = {"num_items": NUM_ITEMS, "rng": np.random.default_rng(0), "rate": 0.5}
    shifted = changes.shift_time(histories, kind="shift", span_seconds=60, **options)
    assert shifted.timestamps.tolist() == [130, 140, 170, 37]
    assert changes.shift_time(histories, **options).timestamps.tolist() == [100, 115, 160, 7]


def test_appended_events_keep_their_gaps_and_come_after():
    histories = make_sequences([[1, 2], [], [3]], timestamps=[10, 20, 30])
    events = make_sequences([[7, 8], [9], []], timestamps=[500, 504, 900], behaviors=[1, 2, 1])
    longer = changes.append_events(histories, events)
    assert longer.item_ids.tolist() == [1, 2, 7, 8, 9, 3]
    assert longer.timestamps.tolist() == [10, 20, 20, 24, 900, 30]
    assert longer.behaviors.tolist() == [0, 0, 1, 2, 1, 0]
    assert longer.offsets.tolist() == [0, 4, 5, 6]
    alone = changes.append_events(histories.select_events(np.zeros(3, dtype=bool)), events)
    assert alone.item_ids.tolist() == [7, 8, 9]
    with pytest.raises(DataError, match="events are of 2 users, histories of 3"):
        changes.append_events(histories, events.select_users(np.array([0, 1])))


@pytest.mark.parametrize("name", CHANGES)
def test_nobody_has_events_and_nothing_happens(name):
    histories = make_sequences([[], []])
    changed = CHANGES[name](histories, rate=0.4, num_items=NUM_ITEMS, rng=np.random.default_rng(0))
    assert changed.lengths.tolist() == [0, 0]


@pytest.mark.parametrize("name", CHANGES)
def test_a_rate_that_is_no_share_is_refused(name):
    wrong = [-0.1, float("nan"), *([] if name in ("shifted", "stretched") else [1.5])]
    wrong += [1.0] if name in ("noise", "popular noise", "bot", "crawler") else []
    for rate in wrong:
        with pytest.raises(ConfigError, match=r"rate must be (from 0 to 1|at least 0)"):
            CHANGES[name](random_histories(0), rate=rate, num_items=NUM_ITEMS, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("inject_noise", {"item_weights": np.ones(3)}, r"item_weights must be \[V\+1\] = \(10,\)"),
        ("inject_noise", {"item_weights": -np.ones(10)}, "item_weights must be"),
        ("inject_noise", {"item_weights": np.eye(10)[0]}, "item_weights are all 0"),
        ("inject_bot", {"kind": "x"}, "kind must be one of repeat, crawl, got 'x'"),
        ("inject_bot", {"gap_seconds": -1}, "gap_seconds must be at least 0, got -1"),
        ("inject_item", {"items": 10}, "items must be 1 to num_items = 9, got 10 to 10"),
        ("inject_item", {"items": np.ones(3, dtype=int)}, r"items must be one item or \[U\] = \(8,\)"),
        ("inject_item", {"items": 1, "place": "first"}, "place must be one of last, random, got 'first'"),
        ("truncate", {"keep_last": 0}, "keep_last must be at least 1, got 0"),
        ("shift_time", {"kind": "x"}, "kind must be one of shift, stretch, got 'x'"),
    ],
)
def test_wrong_options_are_refused(change, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        getattr(changes, change)(
            random_histories(0), rate=0.5, num_items=NUM_ITEMS, rng=np.random.default_rng(0), **options
        )

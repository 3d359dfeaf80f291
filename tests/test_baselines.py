"""Baselines against brute force, cases worked by hand, and MovieLens-100K."""

import math

import numpy as np
import pandas as pd
import pytest
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.baselines import (
    MAX_EASE_ITEMS,
    baseline_rankers,
    ease,
    item_to_item,
    last_item,
    most_popular,
    recently_popular,
)
from seqrec_jax.errors import ConfigError, DataError

DAY = 86_400


logs = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=6)


def brute_force_item_to_item(lists, histories, *, num_items, window, normalization, num_recent, decay):
    """Scores by loops over users, positions and items, straight from the definition."""
    counts = np.zeros((num_items + 1, num_items + 1))
    sizes = np.zeros(num_items + 1)
    popularity = np.zeros(num_items + 1)
    for items in lists:
        items = [item for item in items if item]
        for item in items:
            popularity[item] += 1
        if window is None:
            for one in set(items):
                sizes[one] += 1
                for other in set(items) - {one}:
                    counts[one, other] += 1
            continue
        for place, one in enumerate(items):
            sizes[one] += 1
            for distance, other in enumerate(items[place + 1 : place + 1 + window], start=1):
                assert distance <= window
                if one != other:
                    counts[one, other] += 1
                    counts[other, one] += 1
    scores = np.zeros((len(histories), num_items + 1))
    for user, history in enumerate(histories):
        recent = [item for item in history if item][::-1][:num_recent]
        for candidate in range(num_items + 1):
            for age, item in enumerate(recent):
                if counts[item, candidate]:
                    norm = math.sqrt(sizes[item] * sizes[candidate]) if normalization == "cosine" else sizes[item]
                    scores[user, candidate] += decay**age * counts[item, candidate] / norm
            if scores[user, candidate] == 0:
                scores[user, candidate] = popularity[candidate] / (popularity.max() + 1) - 1
    return scores


def test_popularity_counts_events_and_ignores_those_without_item():
    train = make_sequences([[1, 2, 0, 2], [2, 0, 0, 4]])
    scores = most_popular(train, num_items=5).scores(make_sequences([[1], []]))
    np.testing.assert_array_equal(scores, [[0, 1, 3, 0, 1, 0]] * 2)
    assert scores.dtype == np.float32
    scores[0, 2] = -np.inf  # the caller owns the table
    assert most_popular(train, num_items=5).scores(make_sequences([[1]]))[0, 2] == 3


def test_popularity_weighs_behaviors():
    train = make_sequences([[1, 1, 2], [0, 2]], behaviors=[0, 0, 1, 1, 0])
    scores = most_popular(train, num_items=2, behavior_weights=np.array([1.0, 5.0])).scores(train)
    np.testing.assert_array_equal(scores[0], [0, 2, 6])
    with pytest.raises(ConfigError, match=r"behavior_weights has 1 entries.*code 1"):
        most_popular(train, num_items=2, behavior_weights=np.array([1.0]))


def test_recent_popularity_looks_at_the_last_days_only():
    train = make_sequences([[1, 2, 3], [3, 4]], timestamps=[0, 3 * DAY, 10 * DAY, 4 * DAY, 4 * DAY + 1])
    week = recently_popular(train, num_items=4).scores(train)[0]
    np.testing.assert_array_equal(week, [0, 0, 0, 2, 1])  # after day 3 exclusive, day 10 included
    early = recently_popular(train, num_items=4, days=2, until=4 * DAY).scores(train)[0]
    np.testing.assert_array_equal(early, [0, 0, 1, 1, 0])
    ranker = recently_popular(train, num_items=4, num_events=1)
    np.testing.assert_array_equal(ranker.scores(train)[0], [0, 0, 0, 1, 1])
    assert "last 1 events" in ranker.name


def test_last_item_orders_the_history_by_recency():
    scores = last_item(num_items=5).scores(make_sequences([[3, 1, 0, 3, 2], [], [0]]))
    np.testing.assert_allclose(scores[0], [0, 1 / 4, 1, 1 / 2, 0, 0])
    np.testing.assert_array_equal(scores[1:], 0)


def test_item_to_item_by_hand():
    # pairs one event apart: 1-2 twice (once over the event without item), 2-3 once; n = 2, 2, 1, 0
    train = make_sequences([[1, 0, 2], [1, 2, 3]])
    scores = item_to_item(train, num_items=4, window=1, normalization="cosine", decay=0.5).scores(
        make_sequences([[2, 1], []])
    )
    assert scores[0, 2] == pytest.approx(2 / 2)
    assert scores[0, 1] == pytest.approx(0.5 * 2 / 2)
    assert scores[0, 3] == pytest.approx(0.5 * 1 / math.sqrt(2))
    np.testing.assert_allclose(scores[1], [-1, 2 / 3 - 1, 2 / 3 - 1, 1 / 3 - 1, -1], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    train=logs,
    histories=logs,
    window=st.sampled_from([1, 2, 5, None]),
    normalization=st.sampled_from(["cosine", "conditional"]),
    num_recent=st.sampled_from([1, 3, 10]),
)
def test_item_to_item_equals_brute_force(train, histories, window, normalization, num_recent):
    settings_ = {"num_items": 6, "window": window, "normalization": normalization, "num_recent": num_recent}
    got = item_to_item(make_sequences(train), decay=0.7, **settings_).scores(make_sequences(histories))
    expected = brute_force_item_to_item(train, histories, decay=0.7, **settings_)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.dtype == np.float32


def brute_force_ease(lists, histories, *, num_items, regularization):
    """Scores by NumPy's inverse in float64, straight from the definition, and B."""

    def binary(users):
        table = np.zeros((len(users), num_items + 1))
        for user, items in enumerate(users):
            table[user, [item for item in items if item]] = 1
        return table[:, 1:]

    has = binary(lists)
    inverse = np.linalg.inv(has.T @ has + regularization * np.eye(num_items))
    weights = np.eye(num_items) - inverse / np.diag(inverse)
    scores = np.pad(binary(histories) @ weights, ((0, 0), (1, 0)))
    popularity = np.bincount([item for items in lists for item in items if item], minlength=num_items + 1)
    for user, items in enumerate(histories):
        if not any(item and popularity[item] for item in items):
            scores[user] = popularity / (popularity.max() + 1)
    return scores, weights


@settings(max_examples=60, deadline=None)
@given(train=logs, histories=logs, regularization=st.sampled_from([0.5, 3.0, 100.0]))
def test_ease_equals_brute_force(train, histories, regularization):
    got = ease(make_sequences(train), num_items=6, regularization=regularization).scores(make_sequences(histories))
    expected, _ = brute_force_ease(train, histories, num_items=6, regularization=regularization)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_ease_is_the_best_rebuilding_without_an_item_itself():
    # more items than one block of the table
    rng = np.random.default_rng(0)
    num_items, regularization = 1500, 20.0
    lists = [rng.choice(num_items, size=30, replace=False) + 1 for _ in range(400)]
    each = make_sequences([[item] for item in range(1, num_items + 1)])
    ranker = ease(make_sequences([items.tolist() for items in lists]), num_items=num_items, regularization=20.0)
    has = np.zeros((len(lists), num_items))
    for user, items in enumerate(lists):
        has[user, items - 1] = 1
    trained = has.any(axis=0)
    weights = np.where(trained[:, None], ranker.scores(each)[:, 1:].astype(np.float64), 0)  # row i is B_i of trained i
    assert (np.diag(weights) == 0).all()
    # where the squared error plus λ|B|² is smallest, its slope is 0 everywhere but on the diagonal, held at 0
    slope = has.T @ (has @ weights - has) + regularization * weights
    np.fill_diagonal(slope, 0)
    assert np.abs(slope).max() < 1e-3 < np.abs(has.T @ has).max()


def test_ease_by_hand():
    # XᵀX + I = [[2, 1], [1, 2]] for one user with both items: P = [[2, -1], [-1, 2]] / 3, so B_12 = 1/2
    scores = ease(make_sequences([[2, 0, 1, 1]]), num_items=3, regularization=1).scores(
        make_sequences([[1], [1, 2, 2], [3], []])
    )
    np.testing.assert_allclose(
        scores, [[0, 0, 1 / 2, 0], [0, 1 / 2, 1 / 2, 0], [0, 2 / 3, 1 / 3, 0], [0, 2 / 3, 1 / 3, 0]], rtol=1e-6
    )


def test_ease_takes_no_catalogue_that_its_memory_is_too_small_for():
    train = make_sequences([[1, 2]])
    with pytest.raises(ConfigError, match=r"num_items = 50,000 needs a dense float32 table of 10\.0 GB.*max_items"):
        ease(train, num_items=50_000)
    with pytest.raises(ConfigError, match="regularization must be greater than 0"):
        ease(train, num_items=2, regularization=0)
    names = [ranker.name for ranker in baseline_rankers(train, num_items=MAX_EASE_ITEMS + 1, time_kind="order")]
    assert len(names) == 4 and "EASE" not in names


@settings(max_examples=40, deadline=None)
@given(train=logs, histories=logs)
def test_every_baseline_has_the_shape_of_a_model_and_scores_users_independently(train, histories):
    histories = make_sequences(histories)
    users = np.arange(histories.num_users)[::-1]
    for time_kind in ("seconds", "order"):
        rankers = baseline_rankers(make_sequences(train), num_items=6, time_kind=time_kind)
        assert len({ranker.name for ranker in rankers}) == 5
        for ranker in rankers:
            scores = ranker.scores(histories)
            assert scores.shape == (histories.num_users, 7)
            assert scores.dtype == np.float32
            assert np.isfinite(scores).all()
            np.testing.assert_allclose(ranker.scores(histories.select_users(users)), scores[users], rtol=1e-6)


def test_bad_input_is_refused():
    train = make_sequences([[1, 7]])
    for make in (most_popular, recently_popular, item_to_item, ease):
        with pytest.raises(DataError, match="item ids of train run from 1 to 7, expected 0 to num_items = 6"):
            make(train, num_items=6)
        with pytest.raises(ConfigError, match="num_items must be at least 1"):
            make(train, num_items=0)
    fitted = [make(make_sequences([[1, 2]]), num_items=6) for make in (item_to_item, ease)] + [last_item(num_items=6)]
    for ranker in fitted:
        with pytest.raises(DataError, match="histories"):
            ranker.scores(train)
    with pytest.raises(ConfigError, match="decay"):
        item_to_item(train, num_items=7, decay=1.5)
    with pytest.raises(ConfigError, match="window"):
        item_to_item(train, num_items=7, window=0)
    with pytest.raises(ConfigError, match="normalization"):
        item_to_item(train, num_items=7, normalization="jaccard")
    with pytest.raises(ConfigError, match="days"):
        recently_popular(train, num_items=7, days=0)
    with pytest.raises(ConfigError, match="time_kind"):
        baseline_rankers(train, num_items=7, time_kind="days")


def test_leave_one_out_on_movielens_is_sane(shared_data):
    path = shared_data / "movielens_100k" / "ml-100k.inter"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    log = pd.read_csv(path, sep="\t", names=["user", "item", "rating", "time"], skiprows=1)
    log = log.sort_values(["user", "time"], kind="stable")
    lists = [items.tolist() for _, items in log.groupby("user")["item"]]
    train = make_sequences([items[:-1] for items in lists])
    targets = np.array([items[-1] for items in lists])
    rates = {}
    for ranker in baseline_rankers(train, num_items=1682, time_kind="order"):
        scores = ranker.scores(train)
        scores[train.users_of_events, train.item_ids] = -np.inf
        of_target = np.take_along_axis(scores, targets[:, None], axis=1)
        places = 1 + np.sum(scores[:, 1:] > of_target, axis=1) + (np.sum(scores[:, 1:] == of_target, axis=1) - 1) / 2
        rates[ranker.name] = np.mean(places <= 10)
    # chance is 10 of about 1,580 unseen films, 0.6 %; nobody rates a film twice, so a seen film never hits
    assert 0.06 < rates["most popular"] < 0.11
    assert rates["last item again"] < 0.02
    assert rates["item to item"] > 2 * rates["most popular"]
    assert rates["EASE"] > 1.3 * rates["most popular"]

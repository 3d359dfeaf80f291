"""The simulated shop: what its log must obey, and that its ceilings are what they claim."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from work import count_calls

from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.bayes_filter import BayesFilter, Oracle, tastes_at, visit_probabilities, world_items
from seqrec_jax.data.shop.searches import ambiguous_words
from seqrec_jax.data.shop.simulator import (
    BEHAVIORS,
    Exposures,
    ShopConfig,
    World,
    init_shop,
    logging_policy,
    run_shop,
    shop_tables,
    simulate,
    step,
    user_histories,
    users_due,
    users_on_page,
)
from seqrec_jax.data.shop.world import DAY_SECONDS, START, cumulative_rows, draw_rows
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import ConfigError, DataError

SMALL = ShopConfig(num_users=600, num_items=120, num_tastes=8, num_categories=8, num_days=40)
TINY = ShopConfig(
    num_users=60, num_items=9, num_tastes=3, num_categories=3, num_days=6, drop_days=2, num_slots=2,
    session_end=0.4, repeat=0.3, memory_size=3, return_per_day=0.6,
    continuation=((0.2, 0.9), (0.2, 0.9), (0.2, 0.9)),
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """World, final state and tables of the default shop."""
    world, state = init_shop(ShopConfig(), 3)
    state = run_shop(world, state, logging_policy, np.random.default_rng([3, 2]))
    return world, state, shop_tables(world, state)


def split_last(sequences: Sequences) -> tuple[Sequences, np.ndarray, np.ndarray, np.ndarray]:
    """Users with two events or more without their last, and its item, time and behaviour."""
    sequences = sequences.select_users(np.flatnonzero(sequences.lengths >= 2))
    last = sequences.offsets[1:] - 1
    keep = np.ones(len(sequences.item_ids), dtype=bool)
    keep[last] = False
    targets = sequences.item_ids[last], sequences.timestamps[last], sequences.behaviors[last]
    return sequences.select_events(keep), *targets


def hits_and_ndcg(scores: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    own = scores[np.arange(len(targets)), targets][:, None]
    ranks = 1 + np.sum(scores[:, 1:] > own, axis=1)
    return float(np.mean(ranks <= 10)), float(np.mean(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)))


def test_same_seed_same_bytes_other_seed_another_shop():
    first, second, other = (simulate(SMALL, seed) for seed in (7, 7, 8))
    for name in ("events", "items", "impressions", "truth"):
        assert getattr(first, name).to_csv().encode() == getattr(second, name).to_csv().encode()
        assert not getattr(first, name).equals(getattr(other, name))


def test_ratings_tell_the_quality_and_change_nothing_else():
    plain, rated = simulate(SMALL, 7), simulate(dataclasses.replace(SMALL, ratings=True), 7)
    for name in ("events", "impressions", "truth"):
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(rated, name))
    pd.testing.assert_frame_equal(plain.items, rated.items.drop(columns="rating"))
    assert rated.items["rating"].between(1, 5).all()
    np.testing.assert_allclose((rated.items["rating"] - 1) / 4, rated.world.quality)


def test_no_step_loops_over_users_or_events():
    few, many = (ShopConfig(num_users=num_users, num_items=200) for num_users in (500, 4_000))
    assert len(simulate(many, 0).events) > 7 * len(simulate(few, 0).events) > 90_000
    # the steps are those of the busiest user, about 50,000 and 68,000 calls
    assert count_calls(lambda: simulate(many, 0)) < 2 * count_calls(lambda: simulate(few, 0))


def test_tables_keep_the_contract(run):
    world, _, shop = run
    events, items = shop.events, shop.items
    assert list(events) == ["user_id", "item_id", "timestamp", "behavior", "session_id", "value"]
    assert 100_000 < len(events) < 150_000
    assert events["timestamp"].is_monotonic_increasing
    assert events["timestamp"].between(START, world.end - 1).all()
    by_user = events.sort_values(["user_id", "timestamp"], kind="stable")
    gaps = by_user.groupby("user_id")["timestamp"].diff()
    assert (gaps.dropna() > 0).all()
    new = by_user["session_id"] != by_user.groupby("user_id")["session_id"].shift()
    assert ((gaps.isna() | (gaps > 1800)) == new).all()
    prices = events.merge(items, on="item_id", how="left")["price"]
    bought = events["behavior"] == "purchase"
    np.testing.assert_array_equal(events["value"][bought], prices[bought])
    assert events["value"][~bought].isna().all()
    assert items["item_id"].is_unique and items["item_id"].is_monotonic_increasing
    assert shop.truth["user_id"].equals(events["user_id"])
    assert shop.truth["timestamp"].equals(events["timestamp"])
    # tastes are constant within a session and drift between sessions
    tastes = shop.truth.groupby(events["session_id"])["taste"]
    assert (tastes.nunique() == 1).all()
    assert shop.truth.groupby("user_id")["taste"].nunique().max() > 2


def test_funnel_order(run):
    _, _, shop = run
    events = shop.events.sort_values(["user_id", "timestamp"], kind="stable")
    code = events["behavior"].map({name: index for index, name in enumerate(BEHAVIORS)})
    later = (code > 0).to_numpy()
    for column in ("user_id", "item_id", "session_id"):
        assert (events[column].shift()[later] == events[column][later]).all()
    assert (code.shift()[later] == code[later] - 1).all()
    counts = code.value_counts()
    assert counts[0] > counts[1] > counts[2] > counts[3] > 1_000
    repeats = shop.events[shop.events["behavior"] == "purchase"].duplicated(["user_id", "item_id"])
    assert repeats.mean() > 0.03


def test_items_and_users_arrive_over_time(run):
    world, _, shop = run
    available = shop.items.set_index("item_id")["available_from"]
    for table in (shop.events, shop.impressions):
        assert (available.loc[table["item_id"]].to_numpy() <= table["timestamp"]).all()
    assert (available > START).mean() == pytest.approx(world.config.new_item_share)
    late = shop.events["item_id"].map(available) > START
    assert 0.05 < late.mean() < 0.4
    first_days = (shop.events.groupby("user_id")["timestamp"].min() - START) // DAY_SECONDS
    assert np.bincount(first_days, minlength=90).min() > 0


def test_propensities_are_exposure_frequencies():
    world, state = init_shop(ShopConfig(num_users=60_000, num_items=30, num_days=14, page=1.0), 1)
    users = users_on_page(state)
    first_epoch = world.epochs(state.next_times[users]) == 0
    exposures = logging_policy(world, state, np.random.default_rng(0))
    items, propensities = exposures.items[first_epoch], exposures.propensities[first_epoch]
    pages = len(items)
    assert all(len(set(page)) == world.config.num_slots for page in items.tolist())
    for slot in range(world.config.num_slots):
        stated = np.zeros(30)
        stated[items[:, slot]] = propensities[:, slot]
        expected = stated * pages
        counts = np.bincount(items[:, slot], minlength=30)
        assert stated.sum() == pytest.approx(1.0)
        chi_square = np.sum((counts - expected)[expected > 0] ** 2 / expected[expected > 0])
        freedom = np.sum(expected > 0) - 1
        assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_responses_follow_examination_and_attraction(run):
    world, state, shop = run
    logged = shop.impressions
    view_rate = logged.groupby("position")["response"].mean().to_numpy()
    assert (np.diff(view_rate) < 0).all()
    viewed, expected, variance = 0.0, 0.0, 0.0
    for responses in state.log:
        due = np.searchsorted(responses.users, responses.page_users)
        chance = world.examination * world.attraction[responses.tastes[due][:, None], responses.page_items]
        viewed += responses.page_views.sum()
        expected += chance.sum()
        variance += np.sum(chance.sum(1) * (1 - chance.sum(1)))
    assert viewed == logged["response"].sum() == (shop.truth["source"] == "page").sum()
    assert abs(viewed - expected) < 4 * np.sqrt(variance)
    # a view on the page is an event of the log
    views = logged[logged["response"] == 1].merge(shop.events, on=["user_id", "timestamp", "item_id"])
    assert len(views) == viewed and (views["behavior"] == "view").all()


def test_inverse_propensity_estimate_agrees_with_a_run_of_the_other_policy():
    config = ShopConfig(
        num_users=20_000, num_items=24, num_tastes=4, num_categories=4, num_days=5, page=1.0, num_slots=3
    )
    world, state = init_shop(config, 2)

    def uniform_policy(world, state, rng):
        users = users_on_page(state)
        noise = rng.random((len(users), len(world.item_ids)))
        noise[world.item_epochs > world.epochs(state.next_times[users])[:, None]] = 2.0
        return Exposures(users, np.argsort(noise, axis=1)[:, :3], np.full((len(users), 3), 1 / 24))

    _, logged = step(world, state, logging_policy(world, state, np.random.default_rng(1)), np.random.default_rng(2))
    _, truth = step(world, state, uniform_policy(world, state, np.random.default_rng(3)), np.random.default_rng(4))
    weighted = logged.page_views * (1 / 24) / logged.page_propensities
    estimate, error = weighted.sum(1).mean(), weighted.sum(1).std() / np.sqrt(len(weighted))
    actual = truth.page_views.sum(1)
    assert abs(estimate - actual.mean()) < 4 * np.hypot(error, actual.std() / np.sqrt(len(actual)))
    assert abs(logged.page_views.sum(1).mean() - actual.mean()) > 0.005


def test_a_policy_that_knows_the_taste_gets_more_views_and_purchases():
    def oracle_policy(world, state, rng):
        users = users_on_page(state)
        fit = world.attraction[state.tastes[users]].copy()
        fit[world.item_epochs > world.epochs(state.next_times[users])[:, None]] = -1.0
        items = np.argsort(-fit, axis=1)[:, : world.config.num_slots]
        return Exposures(users, items, np.ones(items.shape))

    plain, informed = simulate(SMALL, 4), simulate(SMALL, 4, policy=oracle_policy)
    assert informed.impressions["response"].mean() > 1.5 * plain.impressions["response"].mean()
    share = [(shop.events["behavior"] == "purchase").mean() for shop in (plain, informed)]
    assert share[1] > 1.1 * share[0]


def test_stepping_leaves_the_old_state_alone_and_stops_at_until():
    world, state = init_shop(SMALL, 0)
    before = [np.array(part) for part in state[:-2]]
    early = state._replace(until=START + 10 * DAY_SECONDS)
    rng = np.random.default_rng(0)
    early = run_shop(world, early, logging_policy, rng)
    for old, part in zip(before, state[:-2], strict=True):
        np.testing.assert_array_equal(old, part)
    assert shop_tables(world, early).events["timestamp"].max() < START + 10 * DAY_SECONDS
    assert len(users_due(early)) == 0
    whole = run_shop(world, early._replace(until=world.end), logging_policy, rng)
    assert len(user_histories(world, whole).item_ids) > 2 * len(user_histories(world, early).item_ids)


def test_exposures_are_checked():
    world, state = init_shop(SMALL, 0)
    rng = np.random.default_rng(0)
    good = logging_policy(world, state, rng)
    late = int(np.argmax(world.item_epochs))
    bad = (
        (good._replace(users=good.users[1:]), "exactly users_on_page"),
        (good._replace(items=good.items[:, 1:]), "of shape"),
        (good._replace(items=good.items.astype(float)), "integer"),
        (good._replace(items=np.full_like(good.items, 120)), "world item 120"),
        (good._replace(items=np.full_like(good.items, late)), "before it arrives"),
    )
    for exposures, message in bad:
        with pytest.raises(DataError, match=message):
            step(world, state, exposures, rng)


@pytest.mark.parametrize(
    "change",
    [
        {"num_users": 0}, {"num_items": 2.5}, {"churn": 1.5}, {"session_end": 0.0},
        {"taste_noise": float("nan")}, {"num_categories": 17}, {"num_items": 6},
        {"continuation": ((0.1, 0.2),)}, {"attraction": (0.1, 1.2)},
        {"gap_seconds": 0.5}, {"memory_decay": 1.0},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(change):
    with pytest.raises(ConfigError, match=f"data.shop.*{next(iter(change))}|slots on the first day"):
        dataclasses.replace(ShopConfig(), **change)


def test_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed"):
        init_shop(SMALL, -1)


def test_draw_rows_follows_the_table():
    table = np.array([[0.5, 0.0, 0.5, 0.0], [0.0, 0.1, 0.2, 0.7]])
    rows = np.repeat([0, 1], 40_000)
    draws = draw_rows(cumulative_rows(table), rows, np.random.default_rng(0))
    for row in (0, 1):
        shares = np.bincount(draws[rows == row], minlength=4) / 40_000
        np.testing.assert_allclose(shares, table[row], atol=0.012)
        assert (shares[table[row] == 0] == 0).all()


def enumerated_visit(
    world: World, taste: int, epoch: int, memory: list[int], item: int, query: str | None = None
) -> float:
    """P(item, search | new visit) by enumerating rotations, slots and the items on each shelf.

    A query of None is not looked for, "" is none before the visit.
    """
    config, organic = world.config, world.organic[epoch, taste]
    slots = config.num_slots
    by_themselves, repeated = 1.0, 1.0
    if query is not None:
        by_themselves = config.search * asked(world, item, query) if query else 1.0 - config.search
        repeated = 0.0 if query else 1.0
    page = 0.0
    for rotation, slot in itertools.product(range(slots), range(slots)):
        shelf = (slot + rotation) % slots
        for shown in np.flatnonzero(world.shelves == shelf):
            chance = world.examination[slot] / slots * world.shelf_probabilities[epoch, shown]
            attraction = world.attraction[taste, shown]
            tempted = attraction * (shown == item) * repeated
            page += chance * (tempted + (1 - attraction) * organic[item] * by_themselves)
    page += (1 - world.examination.sum()) * organic[item] * by_themselves
    fresh = config.page * page + (1 - config.page) * organic[item] * by_themselves
    if not memory:
        return fresh
    weights = [config.memory_decay**age for age in range(len(memory))]
    back = sum(w for w, known in zip(weights, memory, strict=True) if known == item) / sum(weights)
    return config.repeat * back * repeated + (1 - config.repeat) * fresh


def asked(world: World, item: int, query: str) -> float:
    """P(query | search for the item) of a shop whose categories all share a word with another."""
    category, color = world.categories[item], world.titles[item].split()[-1]
    plain = {category: 0.5, f"{color} {category}": 0.5}
    places = sorted(set(world.categories))
    shared = ambiguous_words(len(places))[places.index(category)]
    return (1 - world.config.ambiguous) * plain.get(query, 0.0) + world.config.ambiguous * (query == shared)


def enumerated_evidence(
    world: World, items: list[int], codes: list[int], times: list[int], queries: list[str] | None = None
) -> float:
    """P(items, behaviours and searches | times), summed over every path of tastes over the sessions."""
    sessions = np.concatenate([[0], np.cumsum(np.diff(times) > 1800)])
    total = 0.0
    for path in itertools.product(range(world.config.num_tastes), repeat=int(sessions[-1]) + 1):
        chance = world.initial_tastes[path[0]]
        for before, after in itertools.pairwise(path):
            chance *= world.transitions[before, after]
        memory: list[int] = []
        for n, (item, code) in enumerate(zip(items, codes, strict=True)):
            taste, stay = path[sessions[n]], 0.0
            if n and sessions[n] == sessions[n - 1] and codes[n - 1] < 3:
                stay = world.continuation[codes[n - 1], taste, items[n - 1]]
            epoch = int((times[n] - START) // (world.config.drop_days * DAY_SECONDS))
            query = None if queries is None else queries[n]
            visit = 0.0 if code else enumerated_visit(world, taste, epoch, memory, item, query)
            chance *= stay * (not query) if code else (1 - stay) * visit
            if code == 1:
                memory = [item, *memory][: world.config.memory_size]
        total += chance
    return total


def test_filter_equals_enumeration_of_hidden_paths():
    world, state = init_shop(TINY, 11)
    state = run_shop(world, state, logging_policy, np.random.default_rng(0))
    every = user_histories(world, state)
    sessions = np.array(
        [np.sum(np.diff(every.timestamps[a:b]) > 1800) for a, b in itertools.pairwise(every.offsets.tolist())]
    )
    every = every.select_users(np.flatnonzero((every.lengths >= 4) & (sessions >= 1) & (sessions <= 3))[:12])
    histories, *_ = split_last(every)
    flt = BayesFilter(world)
    belief = flt.beliefs(histories, behaviors=BEHAVIORS)
    probabilities = flt.scores(histories, behaviors=BEHAVIORS)
    assert len(every.user_ids) == 12 and (histories.behaviors == 1).sum() > 5
    for user in range(every.num_users):
        span = slice(*histories.offsets[user : user + 2])
        items = (histories.item_ids[span] - 1).tolist()
        codes, past = histories.behaviors[span].tolist(), histories.timestamps[span].tolist()
        evidence = enumerated_evidence(world, items, codes, past)
        assert belief.log_likelihoods[user] == pytest.approx(np.log(evidence))
        # the next event: every second of the same session, every later day of a new one
        weights: dict[tuple[bool, int], float] = {}
        last, gap = past[-1], TINY.gap_seconds
        for wait in range(1, 1801):
            chance = (np.exp(-(wait - 1) / gap) - np.exp(-wait / gap)) / (1 - np.exp(-1800 / gap))
            if last + wait < world.end:
                key = False, int((last + wait - START) // (2 * DAY_SECONDS))
                weights[key] = weights.get(key, 0.0) + chance * (1 - TINY.session_end)
        day = (last - START) // DAY_SECONDS
        for later in range(int(day) + 1, TINY.num_days):
            chance = TINY.return_per_day * (1 - TINY.return_per_day) ** (later - day - 1)
            key = True, later // 2
            weights[key] = weights.get(key, 0.0) + chance * TINY.session_end * (1 - TINY.churn)
        expected = np.zeros(TINY.num_items + 1)
        for (new, epoch), weight in weights.items():
            begin = START + epoch * 2 * DAY_SECONDS
            when = max(begin, last + 1801) if new else max(begin, last + 1)
            for item in range(TINY.num_items):
                options = [0] if new or codes[-1] == 3 or item != items[-1] else [0, codes[-1] + 1]
                for code in options:
                    joint = enumerated_evidence(world, [*items, item], [*codes, code], [*past, when])
                    expected[item + 1] += weight / sum(weights.values()) * joint / evidence
        assert expected.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(probabilities[user], expected, rtol=1e-5, atol=1e-7)


def test_filter_with_searches_equals_enumeration_of_hidden_paths():
    """Half of the histories end with a search, whose visit is the next event; the others with any event."""
    config = dataclasses.replace(TINY, search=0.6, ambiguous=0.4, num_categories=4)
    shop = simulate(config, 4)
    split, vocabulary = SplitConfig(rule="leave_one_out"), list(shop.world.item_ids)
    dataset = prepare_dataset(shop.events, name="searches", split=split, vocabulary=vocabulary)
    every, world = dataset.sequences, shop.world
    flt, done = BayesFilter(world, list(dataset.items["item_id"])), {True: 0, False: 0}
    for user in range(every.num_users):
        one = every.select_users(np.array([user]))
        last = int(np.flatnonzero(one.item_ids > 0)[-1])
        ends_with_search = bool(last and one.query_ids[last - 1])
        sessions = np.sum(np.diff(one.timestamps[one.item_ids > 0]) > 1800)
        if not 3 <= last <= 12 or sessions > 3 or done[ends_with_search] == 5:
            continue
        done[ends_with_search] += 1
        history = one.select_events(np.arange(len(one.item_ids)) < last)
        visits = np.flatnonzero(history.item_ids > 0)
        items = (history.item_ids[visits] - 1).tolist()
        codes = [BEHAVIORS.index(dataset.behaviors[code]) for code in history.behaviors[visits]]
        past = history.timestamps[visits].tolist()
        before = [str(every.queries[history.query_ids[n - 1]]) if n else "" for n in visits]
        evidence = enumerated_evidence(world, items, codes, past, before)
        assert flt.beliefs(history, behaviors=dataset.behaviors).log_likelihoods[0] == pytest.approx(np.log(evidence))
        scores = flt.scores(history, behaviors=dataset.behaviors)[0]
        assert scores.sum() == pytest.approx(1.0, abs=1e-5)
        if ends_with_search:
            query, when = str(every.queries[one.query_ids[last - 1]]), int(one.timestamps[last])
            ways = [
                enumerated_evidence(world, [*items, item], [*codes, 0], [*past, when], [*before, query])
                for item in range(config.num_items)
            ]
            np.testing.assert_allclose(scores[1:], np.array(ways) / sum(ways), rtol=1e-4, atol=1e-7)
    assert done == {True: 5, False: 5}


def test_first_event_is_predicted_from_the_arrivals():
    world, state = init_shop(dataclasses.replace(SMALL, num_users=40_000, num_items=40), 5)
    nothing = user_histories(world, state)
    scores = BayesFilter(world).scores(nothing.select_users(np.array([0, 1])), behaviors=BEHAVIORS)
    np.testing.assert_array_equal(scores[0], scores[1])
    _, responses = step(world, state, logging_policy(world, state, np.random.default_rng(0)), np.random.default_rng(1))
    shares = np.bincount(responses.items, minlength=40) / 40_000
    np.testing.assert_allclose(shares, scores[0, 1:], atol=4 * np.sqrt(0.25 / 40_000))


def test_probabilities_are_calibrated_at_every_position():
    config = dataclasses.replace(SMALL, num_users=2_500)
    world, state = init_shop(config, 6)
    sequences = user_histories(world, run_shop(world, state, logging_policy, np.random.default_rng(1)))
    places = np.arange(len(sequences.item_ids)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    flt = BayesFilter(world)
    edges = np.array([0.003, 0.01, 0.03, 0.1, 0.3])
    expected, found, variance = np.zeros((3, len(edges) + 1))
    for length in range(0, 30, 3):
        longer = sequences.lengths > length
        some = sequences.select_users(np.flatnonzero(longer))
        histories = some.select_events(places[np.repeat(longer, sequences.lengths)] < length)
        scores = flt.scores(histories, behaviors=BEHAVIORS).astype(np.float64)
        bins = np.digitize(scores, edges)
        bins[:, 0] = 0
        targets = some.item_ids[some.offsets[:-1] + length]
        expected += np.bincount(bins.ravel(), scores.ravel(), len(edges) + 1)
        variance += np.bincount(bins.ravel(), (scores * (1 - scores)).ravel(), len(edges) + 1)
        found += np.bincount(bins[np.arange(len(targets)), targets], minlength=len(edges) + 1)
    assert (np.abs(found - expected) < 4 * np.sqrt(variance)).all()
    assert found.min() > 500


def test_oracle_beats_filter_beats_what_forgets(run):
    world, state, shop = run
    histories, targets, times, _ = split_last(user_histories(world, state))
    users = np.arange(len(targets))
    bayes = BayesFilter(world).scores(histories, behaviors=BEHAVIORS)
    oracle = Oracle(world, shop.truth).scores(histories, behaviors=BEHAVIORS, times=times)
    popularity = np.bincount(histories.item_ids, minlength=len(bayes.T)).astype(np.float64)
    popular = np.tile(popularity / popularity.sum(), (len(targets), 1))
    last_again = popular / 1e3
    last_again[users, histories.item_ids[histories.offsets[1:] - 1]] += 1.0
    np.testing.assert_allclose(bayes.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(oracle.sum(axis=1), 1.0, rtol=1e-5)

    likelihoods = [np.log(scores[users, targets]) for scores in (oracle, bayes)]
    for better, worse in (likelihoods, (likelihoods[1], np.log(popular[users, targets] + 1e-9))):
        gain = better - worse
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))
    hits, ndcg = zip(*(hits_and_ndcg(s, targets) for s in (oracle, bayes, last_again, popular)), strict=True)
    assert hits[0] > hits[1] > 1.3 * hits[2] > 1.3 * hits[3]
    assert ndcg[0] > ndcg[1] > 1.2 * ndcg[2] > 1.2 * ndcg[3]
    assert 0.4 < hits[1] < 0.6 and 0.06 < hits[3] < 0.16

    # history matters: the same filter with the last session only knows less
    new = np.diff(histories.timestamps, prepend=0) > 1800
    new[histories.offsets[:-1]] = True
    starts = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))[histories.offsets[1:] - 1]
    recent = np.arange(len(new)) >= np.repeat(starts, histories.lengths)
    short = BayesFilter(world).scores(histories.select_events(recent), behaviors=BEHAVIORS)
    gain = likelihoods[1] - np.log(short[users, targets])
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_a_dataset_vocabulary_in_another_order_gives_the_same_probabilities():
    world, state = init_shop(SMALL, 9)
    histories = user_histories(world, run_shop(world, state, logging_policy, np.random.default_rng(0)))
    histories = histories.select_users(np.arange(50))
    seen = np.random.default_rng(0).permutation(np.unique(histories.item_ids))
    renamed = np.zeros(121, dtype=np.int32)
    renamed[seen] = np.arange(1, len(seen) + 1)
    other = dataclasses.replace(
        histories, item_ids=renamed[histories.item_ids], behaviors=(3 - histories.behaviors).astype(np.int8)
    )
    vocabulary = [str(world.item_ids[item - 1]) for item in seen]
    mine = BayesFilter(world).scores(histories, behaviors=BEHAVIORS)
    theirs = BayesFilter(world, vocabulary).scores(other, behaviors=BEHAVIORS[::-1])
    assert theirs.shape == (50, len(seen) + 1) and theirs.dtype == np.float32
    np.testing.assert_allclose(theirs[:, 1:], mine[:, seen], rtol=1e-6)


def test_exposure_of_another_policy():
    world, _ = init_shop(SMALL, 0)
    shown = world.shelf_probabilities * world.examination.sum() / world.config.num_slots
    np.testing.assert_array_equal(visit_probabilities(world, exposure=shown), visit_probabilities(world))
    none = visit_probabilities(world, exposure=np.zeros_like(shown))
    np.testing.assert_allclose(none, world.organic)
    with pytest.raises(DataError, match="exposure must have shape"):
        BayesFilter(world, exposure=shown[:, 1:])


def test_histories_that_cannot_be_are_refused():
    world, state = init_shop(SMALL, 9)
    state = run_shop(world, state, logging_policy, np.random.default_rng(0))
    histories = user_histories(world, state)
    flt = BayesFilter(world)
    with pytest.raises(DataError, match="whole histories"):
        flt.scores(histories.select_events(histories.behaviors != 0), behaviors=BEHAVIORS)
    with pytest.raises(DataError, match="behaviour 'share'"):
        flt.scores(histories, behaviors=("view", "click", "cart", "share"))
    empty = dataclasses.replace(histories, item_ids=np.zeros_like(histories.item_ids))
    with pytest.raises(DataError, match="item of every event"):
        flt.scores(empty, behaviors=BEHAVIORS)
    with pytest.raises(DataError, match="'sku-x' is not among"):
        world_items(world, ["sku-00001", "sku-x"])
    truth = pd.DataFrame({"user_id": ["a", "a"], "timestamp": [1, 2], "taste": [4, 5]})
    assert tastes_at(truth, np.array(["a"], dtype=object), np.array([2])).tolist() == [5]
    with pytest.raises(DataError, match="no event at 3"):
        tastes_at(truth, np.array(["a"], dtype=object), np.array([3]))

"""Searches in the simulated shop: the visits stay as they are, and queries mean what they say."""

import numpy as np
import pytest

from seqrec_jax.data.shop.searches import ambiguous_words
from seqrec_jax.data.shop.simulator import ShopConfig, simulate
from seqrec_jax.errors import ConfigError

SMALL = {"num_users": 200, "num_items": 60, "num_categories": 5, "num_days": 20}


@pytest.fixture(scope="module")
def shops():
    return simulate(ShopConfig(**SMALL), 0), simulate(ShopConfig(**SMALL, search=0.6, ambiguous=0.4), 0)


def test_searches_change_no_visit(shops):
    without, shop = shops
    visits = (shop.events["behavior"] != "search").to_numpy()
    assert "query" not in without.events and "intent" not in without.truth
    kept = shop.events[visits].drop(columns="query").reset_index(drop=True)
    assert kept.equals(without.events)
    assert shop.truth[visits][list(without.truth)].reset_index(drop=True).equals(without.truth)
    assert shop.impressions.equals(without.impressions)


def test_a_search_comes_just_before_the_visit_that_it_means(shops):
    events, truth = shops[1].events, shops[1].truth
    assert events["timestamp"].is_monotonic_increasing
    assert (truth["timestamp"] == events["timestamp"]).all()
    order = events.assign(place=np.arange(len(events))).sort_values(["user_id", "timestamp", "place"])["place"]
    category = events["item_id"].map(shops[1].items.set_index("item_id")["category"])
    ordered, intents, category = events.iloc[order], truth.iloc[order], category.iloc[order].to_numpy()
    searches = np.flatnonzero(ordered["behavior"] == "search")
    users, times = ordered["user_id"].to_numpy(), ordered["timestamp"].to_numpy()
    assert (users[searches] == users[searches + 1]).all()
    assert (times[searches + 1] - times[searches] <= 20).all()
    assert (category[searches + 1] == intents["intent"].to_numpy()[searches]).all()
    assert (intents["taste"].to_numpy()[searches] == intents["taste"].to_numpy()[searches + 1]).all()
    organic = (truth["source"] == "organic") & (events["behavior"] == "view")
    assert 0.55 < len(searches) / organic.sum() < 0.65


def test_a_shared_word_means_either_category_and_others_name_theirs(shops):
    events, truth = shops[1].events, shops[1].truth
    searches = (events["behavior"] == "search").to_numpy()
    queries, intents = events["query"][searches], truth["intent"][searches]
    ambiguous = truth["ambiguous"][searches].to_numpy(dtype=bool)
    assert 0.25 < ambiguous.mean() < 0.45  # two fifths of those of four categories in five
    assert [intent in query for query, intent in zip(queries[~ambiguous], intents[~ambiguous], strict=True)]
    assert (intents[ambiguous].groupby(queries[ambiguous]).nunique() == 2).all()
    assert set(queries[ambiguous]) == {"gift", "refill"}
    assert ambiguous_words(1) == [None]


def test_shares_are_shares():
    with pytest.raises(ConfigError, match=r"data\.shop\.search must be from 0 to 1"):
        ShopConfig(search=1.5)

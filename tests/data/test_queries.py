"""Query texts: words, keys and a split that no near-identical queries straddle."""

import numpy as np
import pytest

from seqrec_jax.data.queries import query_key, query_parts, query_sequences, words_of
from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION
from seqrec_jax.errors import ConfigError


def test_words_are_letters_and_digits_of_any_script():
    assert words_of("3/4-in. Rouleau_à peinture 漆") == ["3", "4", "in", "rouleau", "à", "peinture", "漆"]
    assert words_of("") == words_of("—!") == []


@pytest.mark.parametrize("same", ["Angle brackets", "bracket  angle", "angle, angle bracket"])
def test_queries_that_ask_the_same_share_a_key(same):
    assert query_key(same) == query_key("angle bracket")
    assert query_key(same) != query_key("angle")


def test_the_split_is_by_key_and_knows_no_other_queries():
    queries = [f"query {number}" for number in range(2000)]
    parts = query_parts(queries, validation_fraction=0.1, test_fraction=0.3, seed=1)
    shares = [float((parts == part).mean()) for part in (TRAIN, VALIDATION, TEST)]
    assert np.allclose(shares, [0.6, 0.1, 0.3], atol=0.04)
    assert (query_parts(queries[5:9], test_fraction=0.3, seed=1) == parts[5:9]).all()
    assert (query_parts([f"{text}, {text}" for text in queries], test_fraction=0.3, seed=1) == parts).all()
    assert (query_parts(queries, test_fraction=0.3, seed=2) != parts).any()
    with pytest.raises(ConfigError, match="leave queries to train on"):
        query_parts(queries, validation_fraction=0.5, test_fraction=0.5)


def test_a_query_alone_is_a_history_of_one_event():
    histories = query_sequences(["red shoe", "hat"])
    assert histories.lengths.tolist() == [1, 1]
    assert histories.item_ids.tolist() == [0, 0]
    assert histories.last_queries.tolist() == ["red shoe", "hat"]
    assert histories.select_users(np.array([1, 0, 1])).last_queries.tolist() == ["hat", "red shoe", "hat"]
    assert histories.select_events(np.array([False, True])).last_queries.tolist() == ["", "hat"]

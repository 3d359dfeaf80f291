"""BM25 against scores worked by hand, and what it does with queries that nothing answers."""

import math
import sys

import numpy as np
import pytest

from seqrec_jax.data.queries import query_sequences
from seqrec_jax.errors import ConfigError, DataError, MissingExtraError
from seqrec_jax.search import bm25

TITLES = ["", "Red shoe", "blue shoe, blue lace", "Red hat"]


def test_scores_are_those_worked_by_hand():
    # lengths 2, 4, 2 with mean 8/3; "red" is in two texts, "blue" in one, there twice
    k1, b = 1.2, 0.5
    idf = {1: math.log(1 + 2.5 / 1.5), 2: math.log(1 + 1.5 / 2.5)}
    short, long = (k1 * (1 - b + b * length / (8 / 3)) for length in (2, 4))
    red, blue, shoe = idf[2] / (1 + short), idf[1] * 2 / (2 + long), idf[2]
    expected = [
        [0, red + shoe / (1 + short), shoe / (1 + long), red],
        [0, 0, blue, 0],
        [0, 2 * red, 0, 2 * red],  # a word asked twice counts twice
    ]
    found = bm25(TITLES, k1=k1, b=b).scores(query_sequences(["RED shoe", "blue unheard-of", "red, red"]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_query_without_known_words_scores_nothing():
    ranker = bm25(TITLES)
    assert not ranker.scores(query_sequences(["green", "", "?!"])).any()
    histories = query_sequences(["red"]).select_events(np.array([False]))
    assert not ranker.scores(histories).any()


def test_what_is_wrong_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="b must be from 0 to 1"):
        bm25(TITLES, b=2)
    with pytest.raises(DataError, match="none of the 2 texts has a word"):
        bm25(["", "", "–"])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingExtraError, match=r"seqrec_jax\[search\]"):
        bm25(TITLES)

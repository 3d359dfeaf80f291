"""Cases of searches, by hand."""

import numpy as np
import pytest

from seqrec_jax.data.queries import query_sequences
from seqrec_jax.data.query_cases import query_cases, without_history
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError

ITEMS = [5, 0, 1, 0, 2, 0, 0, 3, 0]  # a: view, search, view, search, view, search | b: search, view, search
QUERIES = [0, 1, 0, 2, 0, 1, 2, 0, 1]
LOG = Sequences(
    user_ids=np.array(["a", "b"], dtype=object),
    offsets=np.array([0, 6, 9]),
    item_ids=np.array(ITEMS, dtype=np.int32),
    timestamps=np.arange(9),
    behaviors=np.zeros(9, dtype=np.int8),
    values=np.full(9, np.nan, dtype=np.float32),
    query_ids=np.array(QUERIES, dtype=np.int32),
    queries=np.array(["", "hat", "shoe"], dtype=object),
)


def test_the_last_held_out_search_that_led_to_an_item():
    candidates = np.arange(6) > 0
    cases = query_cases(LOG, held_out=np.ones(9, dtype=bool), candidates=candidates)
    assert cases.users.tolist() == [0, 1]
    assert cases.target_items.tolist() == [2, 3]
    assert cases.histories.item_ids.tolist() == [5, 0, 1, 0, 0]
    assert cases.histories.last_queries.tolist() == ["shoe", "shoe"]
    alone = without_history(cases)
    assert alone.histories.lengths.tolist() == [1, 1]
    assert alone.histories.last_queries.tolist() == ["shoe", "shoe"]
    assert alone.target_items is cases.target_items
    early = query_cases(LOG, held_out=np.arange(9) < 3, candidates=candidates)
    assert early.users.tolist() == [0] and early.target_items.tolist() == [1]
    assert early.histories.item_ids.tolist() == [5, 0]


def test_logs_without_such_searches_are_refused():
    with pytest.raises(DataError, match="no user has a held-out search"):
        query_cases(LOG, held_out=np.zeros(9, dtype=bool), candidates=np.arange(6) > 0)
    plain = query_sequences(["hat"])
    with pytest.raises(DataError, match="has no queries"):
        query_cases(
            Sequences(plain.user_ids, plain.offsets, plain.item_ids, plain.timestamps, plain.behaviors, plain.values),
            held_out=np.ones(1, dtype=bool),
            candidates=np.arange(2) > 0,
        )

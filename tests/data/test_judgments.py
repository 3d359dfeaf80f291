"""Judged pairs as arrays, and what does not fit."""

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.judgments import encode_judgments
from seqrec_jax.errors import DataError

PAIRS = pd.DataFrame(
    [("tea", "b", 3.0), ("cup", "a", 1.0), ("tea", "a", 2.0), ("tea", "b", 2.0), ("cup", "gone", 3.0)],
    columns=["query", "item_id", "relevance"],
)
NUMBERS = pd.Series([1, 2], index=["a", "b"])


def test_pairs_are_laid_end_to_end():
    judgments, unknown = encode_judgments(PAIRS, item_numbers=NUMBERS, least=1.0)
    assert unknown == 1
    assert judgments.queries.tolist() == ["tea", "cup"]
    assert judgments.offsets.tolist() == [0, 2, 3]
    assert judgments.item_ids.tolist() == [1, 2, 1]
    assert judgments.gains.tolist() == [1.0, 1.5, 0.0]  # judged twice: the mean
    assert judgments.padded(judgments.item_ids).tolist() == [[1, 2], [1, 0]]
    assert judgments.queries_of_pairs.tolist() == [0, 0, 1]
    assert judgments.select(np.array([1, 0])).item_ids.tolist() == [1, 1, 2]


def test_what_does_not_fit_is_named():
    with pytest.raises(DataError, match=r"'cup' and item 'a' is 1\.0, expected a number of at least 2"):
        encode_judgments(PAIRS, item_numbers=NUMBERS, least=2.0)
    with pytest.raises(DataError, match="no column relevance"):
        encode_judgments(PAIRS[["query", "item_id"]], item_numbers=NUMBERS)
    with pytest.raises(DataError, match="none of the 5 judged pairs"):
        encode_judgments(PAIRS, item_numbers=pd.Series([1], index=["z"]))

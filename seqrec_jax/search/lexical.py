"""BM25: items by the words that they share with the query, each worth more the rarer it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.queries import words_of
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError, MissingExtraError
from seqrec_jax.settings import check_value


def bm25(texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> FunctionRanker:
    """Items by BM25 of the last event's query and each item's text.

    `Σ idf(w) · tf / (tf + k1 · (1 - b + b · length / mean length))` over the query's words w, each as often
    as it occurs, where tf counts w in the text and `idf(w) = ln(1 + (V - n + 0.5) / (n + 0.5))` for a word of n texts.
    Words are unbroken letters and digits in lower case, without stemming.

    Args:
      texts: V+1 texts, one an item; the text at place 0 is ignored.
      k1: not negative; the larger, the more a repeated word adds.
      b: from 0 to 1; the larger, the more a long text is discounted.

    Returns:
      The ranker "BM25". A history whose last event has no query scores 0 throughout.

    Raises:
      MissingExtraError: bm25s is not installed.
      ConfigError: k1 negative or b outside 0…1.
      DataError: texts without any word.

    Source:
      Robertson and Zaragoza (2009), The Probabilistic Relevance Framework; in Lucene's form, by Lù (2024), BM25S.

    >>> from seqrec_jax.data.queries import query_sequences
    >>> ranker = bm25(["", "red shoe", "blue shoe", "red hat"])
    >>> ranker.scores(query_sequences(["red shoe"])).argsort().tolist()
    [[0, 2, 3, 1]]
    """
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("BM25 needs bm25s; install it with: pip install 'seqrec_jax[search]'") from error
    check_value("k1", k1, "[0, inf)")
    check_value("b", b, "[0, 1]")
    words = [words_of(text) for text in texts[1:]]
    if not any(words):
        raise DataError(f"none of the {len(words):,} texts has a word; give the texts of items 1…V after a first one")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG when imported
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index(words, show_progress=False, create_empty_token=False)
    known = index.vocab_dict

    def scores(histories: Sequences) -> Float[np.ndarray, "U V1"]:
        table = np.zeros((histories.num_users, len(texts)), dtype=np.float32)
        for row, query in zip(table, histories.last_queries, strict=True):
            found = [known[word] for word in words_of(query) if word in known]
            if found:
                row[1:] = index.get_scores_from_ids(found)
        return table

    return FunctionRanker("BM25", scores)

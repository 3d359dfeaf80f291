"""Query texts: their words, what makes two of them the same, which are held out, and queries that stand alone."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION
from seqrec_jax.errors import ConfigError

MAX_QUERY_WORDS = 8
"""Words of a query that a model sees; what follows them is cut off."""
_WORD = re.compile(r"[^\W_]+")
_REMEMBERED = 2**16  # queries whose words' numbers are kept


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: unbroken letters and digits of any script.

    >>> words_of("BEHR 1-gal. Façade, 3/4 in.")
    ['behr', '1', 'gal', 'façade', '3', '4', 'in']
    """
    return _WORD.findall(text.lower())


def query_key(text: str) -> str:
    """What two queries share that ask the same: their words in any order, without a plural's s and without repeats.

    It is only to keep near-identical queries on one side of a split, so it may join too many, not too few. Misspelt
    words stay different.

    >>> query_key("Angle brackets") == query_key("bracket, angle")
    True
    """
    words = words_of(text)
    stems = {word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word for word in words}
    return " ".join(sorted(stems))


def query_parts(
    queries: Sequence[str], *, validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0
) -> Int[np.ndarray, " Q"]:
    """A part for each query, so that queries of one key are all in the same, whatever other queries there are.

    Args:
      queries: Q texts.
      validation_fraction: share of the keys that validate, in expectation.
      test_fraction: the same for test.
      seed: another one gives another split.

    Returns:
      `[Q]` int8 `TRAIN`, `VALIDATION` or `TEST`.

    Raises:
      ConfigError: fractions that are not shares, or that leave nothing to train on.

    >>> parts = query_parts(["angle bracket", "brackets angle", "rain shower head"])
    >>> bool(parts[0] == parts[1])
    True
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ConfigError(
            "validation_fraction and test_fraction must not be negative and must leave queries to train on, got "
            f"{validation_fraction} + {test_fraction}"
        )
    places = np.array([_place(f"{seed} {query_key(query)}") for query in queries])
    parts = np.full(len(places), TRAIN, dtype=np.int8)
    parts[places < test_fraction + validation_fraction] = VALIDATION
    parts[places < test_fraction] = TEST
    return parts


def query_words(queries: Iterable[str]) -> Int[np.ndarray, "Q W"]:
    """The words of queries as numbers that need no vocabulary: a hash of each word, the same everywhere.

    Returns:
      `[Q, W]` int32 for W = `MAX_QUERY_WORDS`, in 1…2³¹-1, 0 = no word; a query without words has none.

    >>> found = query_words(["red shoe", "shoe", ""])
    >>> bool(found[0, 1] == found[1, 0]), (found > 0).sum(axis=1).tolist()
    (True, [2, 1, 0])
    """
    rows = [_word_numbers(query) for query in queries]
    return np.array(rows, dtype=np.int32).reshape(len(rows), MAX_QUERY_WORDS)


def query_sequences(queries: Sequence[str], *, behavior: int = 0, timestamp: int = 0) -> Sequences:
    """A user for each query whose only event is the search for it.

    Args:
      queries: Q texts.
      behavior: code of a search among the dataset's behaviours.
      timestamp: of all searches, seconds UTC.

    Returns:
      Q users of one event each.

    >>> query_sequences(["angle bracket", "deck over"]).last_queries.tolist()
    ['angle bracket', 'deck over']
    """
    size = len(queries)
    texts = np.array(["", *queries], dtype=object)
    return Sequences(
        user_ids=texts[1:],
        offsets=np.arange(size + 1, dtype=np.int64),
        item_ids=np.zeros(size, dtype=np.int32),
        timestamps=np.full(size, timestamp, dtype=np.int64),
        behaviors=np.full(size, behavior, dtype=np.int8),
        values=np.full(size, np.nan, dtype=np.float32),
        query_ids=np.arange(1, size + 1, dtype=np.int32),
        queries=texts,
    )


def ask(histories: Sequences, query: str, *, behavior: int, first_timestamp: int) -> Sequences:
    """The same users, each with a search for the query as one more event, at the time of the last one.

    Args:
      histories: U users.
      query: what all of them ask.
      behavior: code of a search.
      first_timestamp: seconds UTC of the search of a user without events.

    >>> histories = query_sequences(["hat", "shoe"])
    >>> asked = ask(histories, "red hat", behavior=0, first_timestamp=0)
    >>> asked.last_queries.tolist(), asked.lengths.tolist()
    (['red hat', 'red hat'], [2, 2])
    """
    ends, size = histories.offsets[1:], histories.num_users
    times = np.full(size, first_timestamp, dtype=np.int64)
    filled = histories.lengths > 0
    times[filled] = histories.timestamps[ends[filled] - 1]
    queries = np.array([""], dtype=object) if histories.queries is None else histories.queries
    longer = histories.insert_events(
        ends, np.arange(size), timestamps=times, behaviors=behavior, query_ids=len(queries)
    )
    return replace(longer, texts={**longer.texts, "queries": np.append(queries, query)})


@functools.lru_cache(_REMEMBERED)
def _word_numbers(query: str) -> tuple[int, ...]:
    numbers = [_hash(word) % (2**31 - 1) + 1 for word in words_of(query)[:MAX_QUERY_WORDS]]
    return (*numbers, *[0] * (MAX_QUERY_WORDS - len(numbers)))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _place(text: str) -> float:
    """A number in [0, 1) that looks drawn at random and is always the same for a text."""
    return _hash(text) / 2**64

"""Query texts: their words and keys, their split, and their place in sequences of events."""

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
from seqrec_jax.settings import check_value

MAX_QUERY_WORDS = 8
"""Number of words of a query that a model reads; the words after them are cut off."""
_WORD = re.compile(r"[^\W_]+")
_REMEMBERED = 2**16  # queries whose numbers of words are cached


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and digits of any script.

    >>> words_of("BEHR 1-gal. Façade, 3/4 in.")
    ['behr', '1', 'gal', 'façade', '3', '4', 'in']
    """
    return _WORD.findall(text.lower())


def query_key(text: str) -> str:
    """A key that queries of the same meaning share: their distinct words without a plural's s, in string order.

    The key keeps near-identical queries on one side of a split, so it may join too many of them rather than too few.
    Misspelt words stay different.

    >>> query_key("Angle brackets") == query_key("bracket, angle")
    True
    """
    words = words_of(text)
    stems = {word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word for word in words}
    return " ".join(sorted(stems))


def query_parts(
    queries: Sequence[str], *, validation_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0
) -> Int[np.ndarray, " Q"]:
    """A part for each query by a hash of its key: queries of one key share a part, whatever other queries there are.

    Args:
      queries: Q texts.
      validation_fraction: expected share of the keys in the validation.
      test_fraction: expected share of the keys in the test.
      seed: part of what is hashed; another seed gives another split.

    Returns:
      `[Q]` int8 `TRAIN`, `VALIDATION` or `TEST`.

    Raises:
      ConfigError: fractions outside [0, 1), or that leave nothing to train on.

    >>> parts = query_parts(["angle bracket", "brackets angle", "rain shower head"])
    >>> bool(parts[0] == parts[1])
    True
    """
    check_value("validation_fraction", validation_fraction, "[0, 1)")
    check_value("test_fraction", test_fraction, "[0, 1)")
    if validation_fraction + test_fraction >= 1:
        raise ConfigError(
            "validation_fraction + test_fraction must leave queries to train on, got "
            f"{validation_fraction} + {test_fraction}"
        )
    places = np.array([_place(f"{seed} {query_key(query)}") for query in queries])
    parts = np.full(len(places), TRAIN, dtype=np.int8)
    parts[places < test_fraction + validation_fraction] = VALIDATION
    parts[places < test_fraction] = TEST
    return parts


def query_words(queries: Iterable[str]) -> Int[np.ndarray, "Q W"]:
    """The words of queries as numbers without a vocabulary: a hash of each word, the same on every machine.

    Args:
      queries: Q texts.

    Returns:
      `[Q, W]` int32 for W = `MAX_QUERY_WORDS`, in 1…2³¹-1, 0 = no word.

    >>> found = query_words(["red shoe", "shoe", ""])
    >>> bool(found[0, 1] == found[1, 0]), (found > 0).sum(axis=1).tolist()
    (True, [2, 1, 0])
    """
    rows = [_word_numbers(query) for query in queries]
    return np.array(rows, dtype=np.int32).reshape(len(rows), MAX_QUERY_WORDS)


def query_sequences(queries: Sequence[str], *, behavior: int = 0, timestamp: int = 0) -> Sequences:
    """Sequences with one user for each query, whose only event is the search for it.

    Args:
      queries: Q texts.
      behavior: code of a search among the dataset's behaviours.
      timestamp: time of all searches, seconds UTC.

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


def append_query(histories: Sequences, query: str, *, behavior: int, first_timestamp: int) -> Sequences:
    """The same users, each with a search for the query as a further event, at the time of the user's last event.

    Args:
      histories: U users.
      query: the text of the search, the same for all users.
      behavior: code of a search among the dataset's behaviours.
      first_timestamp: time of the search of a user without events, seconds UTC.

    >>> histories = query_sequences(["hat", "shoe"])
    >>> longer = append_query(histories, "red hat", behavior=0, first_timestamp=0)
    >>> longer.last_queries.tolist(), longer.lengths.tolist()
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
    """A number in [0, 1) for a text, uniform over texts and the same on every machine."""
    return _hash(text) / 2**64

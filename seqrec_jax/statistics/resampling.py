"""Resamples of units: the means of drawn units minus the means of all.

Drawing takes most of the time, so the draws are whole blocks of random bits turned into counts, and the means are
one matrix product of counts and values. Small tables are resampled exactly: as many units as there are,
with replacement. Above `MOST_EXACT` units each is drawn a Poisson(1) number of times instead, and the mean is
taken over those drawn. Their total is then not fixed, but the mean does not depend on the total to the order
that matters: the two agree up to terms of 1 / U. It makes units independent, so that they are handled in
tiles, in memory that does not grow with their number.

Independent units with equal rows are drawn together: n of them a Poisson(n) number of times, which is the sum
of Poisson(2^b) over the powers of two in n. Most units may have equal rows, such as users without a hit, so that
few rows are left. These are sorted, so that the order of the units does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import pdtr

MOST_EXACT = 1024
"""Number of units up to which resamples are exact. The draws of a seed depend on it, and on `TILE`."""

TILE = 4096
"""Rows whose counts come from one stream of random bits; results depend on it."""

_BLOCK_ELEMENTS = 2**18
"""Counts that are held at once; the draws do not depend on it."""

_ROWS, _UNITS, _COLUMNS = 16, 256, 32
"""Size of one small matrix product: BLAS computes it on the calling thread, which is faster than waking its own."""


def resampled_deviations(
    table: np.ndarray, means: np.ndarray, *, num_resamples: int, seed: int, poisson: bool | None = None
) -> np.ndarray:
    """Means of resampled units minus the means of all: the bootstrap's error, `[R, M]`.

    Units for which nothing is defined are left out. A resample may draw no unit for which a metric is defined: its
    mean is then nan.

    Args:
      table: `[U, M]` float64, nan = undefined.
      means: `[M]` float64 mean of each column over the units for which it is defined.
      num_resamples: R.
      seed: seed of the draws.
      poisson: draw Poisson counts; None = above `MOST_EXACT` units.

    Returns:
      `[R, M]` float64; above `MOST_EXACT` units their last digits are those of float32.

    Source:
      Hanley and MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson frequencies;
      Chamandy, Muralidharan, Najmi and Naidu (2012), Estimating uncertainty for massive data streams.
    """
    defined = ~np.isnan(table)
    some = defined.any(axis=1)
    if not some.all():
        table, defined = table[some], defined[some]
    poisson = len(table) > MOST_EXACT if poisson is None else poisson
    if not len(table):
        return np.full((num_resamples, table.shape[1]), np.nan)
    if poisson:
        rows, copies = _distinct_rows(table)
        table, defined = table[rows], defined[rows]
        tiles = [
            (power, part, members[part * TILE : (part + 1) * TILE])
            for power, members in _powers_of_two(copies)
            for part in range(-(-len(members) // TILE))
        ]
    else:
        tiles = [(0, 0, np.arange(len(table)))]
    columns = table.shape[1]
    patterns, pattern = _patterns(defined)
    precision = np.float32 if poisson else np.float64

    def sums_of_tile(index: int) -> np.ndarray:
        power, part, members = tiles[index]
        inside = defined[members]
        values = np.concatenate([np.where(inside, table[members] - means, 0.0), patterns[members]], axis=1)
        values = values.astype(precision)
        bits = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(power, part) if poisson else (0,)))
        draws = (
            _poisson_counts(bits, len(members), num_resamples, power)
            if poisson
            else _multinomial_counts(bits, len(members), num_resamples)
        )
        sums = np.empty((num_resamples, values.shape[1]))
        start = 0
        for counts in draws:
            sums[start : start + len(counts)] = _product(counts, values)
            start += len(counts)
        return sums

    total = _sum_in_order(sums_of_tile, len(tiles))
    drawn = total[:, columns:][:, pattern]
    means_of_drawn: np.ndarray = np.divide(total[:, :columns], drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    return means_of_drawn


def _distinct_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A unit of each distinct row, and the number of units that have it; in an order that depends on the rows alone."""
    keys = pd.util.hash_pandas_object(pd.DataFrame(table), index=False).to_numpy()
    _, first, same, copies = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    stand_in = first[same]
    if len(first) == len(table) or all(np.array_equal(column[stand_in], column, equal_nan=True) for column in table.T):
        return first, copies
    return np.arange(len(table)), np.ones(len(table), dtype=np.int64)  # two rows with one key, which is most unlikely


def _powers_of_two(copies: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each power b, and the rows whose number of copies contains 2^b."""
    for power in range(int(copies.max()).bit_length()):
        members = np.flatnonzero(copies >> power & 1)
        if len(members):
            yield power, members


def _patterns(defined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct columns of `defined`, and which of them each column is: equal ones share their count of drawn units."""
    if defined.all():
        return np.ones((len(defined), 1), dtype=bool), np.zeros(defined.shape[1], dtype=np.intp)
    patterns, pattern = np.unique(defined, axis=1, return_inverse=True)
    return patterns, pattern.reshape(-1)


def _product(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """counts `[R, U]` @ values `[U, M]` in float64, as many small products."""
    whole = len(counts) // _ROWS * _ROWS
    product = np.zeros((len(counts), values.shape[1]))
    for rows, together in ((slice(0, whole), _ROWS), (slice(whole, None), 1)):
        stacked = counts[rows].reshape(-1, together, len(values))
        for units in range(0, len(values), _UNITS):
            part = stacked[:, :, units : units + _UNITS]
            for column in range(0, values.shape[1], _COLUMNS):
                small = part @ values[units : units + _UNITS, column : column + _COLUMNS]
                product[rows, column : column + _COLUMNS] += small.reshape(-1, small.shape[2])
    return product


def _sum_in_order(part: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Σ part(i), in the order of i whatever the number of threads, so that the sum does not depend on it."""
    total = part(0)
    if count == 1:
        return total
    threads = min(os.cpu_count() or 1, 8, count)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(1, count, threads):
            for sums in pool.map(part, range(start, min(start + threads, count))):
                total += sums
    return total


def _multinomial_counts(bits: np.random.SFC64, units: int, resamples: int) -> Iterator[np.ndarray]:
    """Blocks `[R, U]` float64 number of times each unit is among U drawn, R in all = `resamples`."""
    rows = max(1, _BLOCK_ELEMENTS // units)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        words = bits.random_raw((size, -(-units // 2))).view(np.uint32)[:, :units]
        # the high half of a 32-bit number times U: uniform up to U / 2^32
        drawn = (words.astype(np.int64) * units) >> 32
        drawn += np.arange(size)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=size * units)
        yield counts.reshape(size, units).astype(np.float64)


def _poisson_counts(bits: np.random.SFC64, units: int, resamples: int, power: int) -> Iterator[np.ndarray]:
    """Blocks `[R, U]` float32 of independent Poisson(2^power) counts, R in all = `resamples`."""
    quantiles = _poisson_quantiles(power)
    rows = max(1, _BLOCK_ELEMENTS // units)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        words = bits.random_raw((size, -(-units // 4))).view(np.uint16)[:, :units]
        yield np.take(quantiles, words, mode="clip")  # clipped, since the check would cost more than the draw


@cache
def _poisson_quantiles(power: int) -> np.ndarray:
    """`[2^16]` float32 the count of Poisson(2^power) for each 16-bit number, as the middle of its share of the line."""
    mean = 2.0**power
    chances = pdtr(np.arange(mean + 10 * mean**0.5 + 10), mean)
    return np.searchsorted(chances, (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)

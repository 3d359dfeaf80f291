"""Resamples of users: how far the means of drawn users lie from the means of all.

What costs is drawing, so the draws are whole blocks of random bits turned into counts, and the means are
one matrix product of counts and values. Small tables are resampled exactly: as many users as there are,
with replacement. Above `TILE` users each is drawn a Poisson(1) number of times instead, and the mean is
taken over those drawn. Their total is then not fixed, but the mean does not depend on the total to the order
that matters: the two agree up to terms of 1 / U. It makes users independent, so that they are handled in
tiles, in memory that does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.special import pdtr

TILE = 4096
"""Users whose counts come from one stream of random bits. Part of what a seed means: figures move with it."""

_BLOCK_ELEMENTS = 2**18
"""Counts that are held at once; speed only, the draws do not depend on it."""

_ROWS, _USERS, _COLUMNS = 16, 256, 32
"""Size of one small matrix product: BLAS does it on the calling thread, and waking its own costs more."""

# a 16-bit number at or above the k-th of these is drawn more than k times: P(count ≤ k) in units of 2^-16
_POISSON_LIMITS = np.minimum(np.rint(2.0**16 * pdtr(np.arange(8), 1.0)), 2**16 - 1).astype(np.uint16)


def resampled_deviations(
    table: np.ndarray, means: np.ndarray, *, num_resamples: int, seed: int, poisson: bool | None = None
) -> np.ndarray:
    """Means of resampled users minus the means of all: the bootstrap's error, `[R, M]`.

    Users for whom nothing is defined are left out. A resample may draw no user for whom a rarely defined
    metric is defined: it says nothing and is nan.

    Args:
      table: `[U, M]` float64, nan = undefined.
      means: `[M]` mean of each column over the users for whom it is defined.
      num_resamples: R.
      seed: seed of the draws.
      poisson: draw Poisson counts; None = above `TILE` users.

    Returns:
      `[R, M]` float64; above `TILE` users their last digits are those of float32.

    Source:
      Hanley and MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson frequencies;
      Chamandy, Muralidharan, Najmi and Naidu (2012), Estimating uncertainty for massive data streams.
    """
    defined = ~np.isnan(table)
    some = defined.any(axis=1)
    if not some.all():
        table, defined = table[some], defined[some]
    users, columns = table.shape
    if not users:
        return np.full((num_resamples, columns), np.nan)
    patterns, pattern = _patterns(defined)
    poisson = users > TILE if poisson is None else poisson
    tile = TILE if poisson else users
    precision = np.float32 if poisson else np.float64

    def sums_of_tile(index: int) -> np.ndarray:
        part = slice(index * tile, (index + 1) * tile)
        values = np.concatenate([table[part] - means, patterns[part]], axis=1).astype(precision)
        values[:, :columns][~defined[part]] = 0.0
        draw = _poisson_counts if poisson else _multinomial_counts
        bits = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(index,)))
        sums = np.empty((num_resamples, values.shape[1]))
        start = 0
        for counts in draw(bits, len(values), num_resamples, precision):
            sums[start : start + len(counts)] = _product(counts, values)
            start += len(counts)
        return sums

    total = _sum_in_order(sums_of_tile, -(-users // tile))
    drawn = total[:, columns:][:, pattern]
    return np.divide(total[:, :columns], drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)


def _patterns(defined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct columns of defined, and which one each column is: they share their count of users drawn."""
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
        for users in range(0, len(values), _USERS):
            part = stacked[:, :, users : users + _USERS]
            for column in range(0, values.shape[1], _COLUMNS):
                small = part @ values[users : users + _USERS, column : column + _COLUMNS]
                product[rows, column : column + _COLUMNS] += small.reshape(-1, small.shape[2])
    return product


def _sum_in_order(part: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """Σ part(i), in the order of i whatever the number of threads, so that it is the same sum everywhere."""
    total = part(0)
    if count == 1:
        return total
    threads = min(os.cpu_count() or 1, 8, count)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(1, count, threads):
            for sums in pool.map(part, range(start, min(start + threads, count))):
                total += sums
    return total


def _multinomial_counts(
    bits: np.random.SFC64, users: int, resamples: int, precision: type[np.floating]
) -> Iterator[np.ndarray]:
    """Blocks `[R, U]` of how often each user is among U drawn, R in all = `resamples`."""
    rows = max(1, _BLOCK_ELEMENTS // users)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        words = bits.random_raw((size, -(-users // 2))).view(np.uint32)[:, :users]
        # the high half of a 32-bit number times U: uniform up to U / 2^32
        drawn = (words.astype(np.int64) * users) >> 32
        drawn += np.arange(size)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=size * users)
        yield counts.reshape(size, users).astype(precision)


def _poisson_counts(
    bits: np.random.SFC64, users: int, resamples: int, precision: type[np.floating]
) -> Iterator[np.ndarray]:
    """Blocks `[R, U]` of independent Poisson(1) counts of at most 8, R in all = `resamples`."""
    rows = max(1, _BLOCK_ELEMENTS // users)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        words = bits.random_raw((size, -(-users // 4))).view(np.uint16)[:, :users]
        counts = (words >= _POISSON_LIMITS[0]).view(np.uint8)
        above = np.empty(words.shape, dtype=bool)
        for limit in _POISSON_LIMITS[1:]:
            np.greater_equal(words, limit, out=above)
            counts += above.view(np.uint8)
        yield counts.astype(precision)

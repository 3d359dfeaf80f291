"""The paired permutation test: the sum of differences under exchanges of two systems within units.

An exchange flips the sign of a unit's difference. Of all 2^U assignments of signs, the rows of a Hadamard
matrix are a part that is closed under composition and in which any two units are flipped independently.
A test over such a group is exact, like that over all assignments, since the data as they are belong to it,
and needs no more assignments than one over random ones does; and its sums are one fast Walsh–Hadamard
transform instead of one product per assignment. The units are laid on random columns of the matrix.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import hadamard

_BLOCK_ELEMENTS = 2**22
"""Sums that are held at once; 32 MiB, unless one column of a large table needs more."""


def sign_flip_p_values(differences: np.ndarray, *, num_flips: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Two-sided p-value of each column's mean under flips of the units' signs.

    The share of assignments of signs whose sum is at least as far from 0 as that of the data, which are among
    them. Their number is the smallest power of two that is at least `num_flips` and more than the number of
    units that differ at all, so p is never below one over it. With few units (13 at 5,000 flips) these are all
    the assignments there are.

    Args:
      differences: `[U, M]` float64, nan = undefined.
      num_flips: the least number of assignments.
      seed: seed of the units' columns.

    Returns:
      `[M]` float64; nan for a column without a defined difference.

    Source:
      Koning and Hemerik (2024), More efficient exact group-invariance testing: using a representative
      subgroup.
    """
    known = ~np.isnan(differences).all(axis=0)
    moves = np.nan_to_num(differences, nan=0.0)
    moves = moves[moves.any(axis=1)]  # a unit without any difference is the same either way
    units, columns = moves.shape
    bits = max(num_flips - 1, units).bit_length()
    order = 2**bits
    if units <= bits:
        places = 2 ** np.arange(units)  # all combinations of signs, equally often
    else:
        places = 1 + np.random.default_rng(seed).permutation(order - 1)[:units]
    p_values = np.full(columns, np.nan)
    block = max(1, _BLOCK_ELEMENTS // order)
    for start in range(0, columns, block):
        part = moves[:, start : start + block]
        laid = np.zeros((part.shape[1], order))
        laid[:, places] = part.T
        sums = np.abs(_walsh_hadamard(laid, bits))
        # sums in another order must not decide ties
        limits = sums[:, 0] - 1e-10 * np.abs(part).sum(axis=0)
        p_values[start : start + block] = np.count_nonzero(sums >= limits[:, None], axis=1) / order
    return np.where(known, p_values, np.nan)


def _walsh_hadamard(rows: np.ndarray, bits: int) -> np.ndarray:
    """`rows @ H` for the Hadamard matrix H of order 2^bits, which is a Kronecker product of small ones."""
    shape = rows.shape
    done = 0
    while done < bits:
        factor = min(6, bits - done)
        small = hadamard(2**factor).astype(np.float64)
        # many products of at most 64 × 64 × 32: BLAS does each on the calling thread
        if done == 0:
            rows = rows.reshape(-1, 2 ** min(5, bits - factor), 2**factor) @ small
        else:
            split = (-1, 2**factor, 2**done // 32, 32)
            product = np.empty(shape)
            np.matmul(small, rows.reshape(split).swapaxes(1, 2), out=product.reshape(split).swapaxes(1, 2))
            rows = product
        done += factor
    return rows.reshape(shape)

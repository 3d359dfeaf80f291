"""Corrections for many tests: Holm for the familywise error rate, Benjamini–Hochberg for the false discovery rate."""

from __future__ import annotations

import numpy as np

from seqrec_jax.errors import DataError
from seqrec_jax.statistics.inputs import Numbers


def holm_correction(p_values: Numbers) -> np.ndarray:
    """Adjusted p-values; rejecting those below α makes any false rejection with probability at most α.

    The i-th smallest of m p-values becomes the largest of `(m - j + 1) · p_j` over j ≤ i, at most 1. Holds
    whatever the dependence between the tests.

    Args:
      p_values: numbers in [0, 1], of any shape, such as metrics × slices: all entries are one family; nan = not
        tested, stays nan and does not count.

    Returns:
      float64 of the same shape.

    Raises:
      DataError: a value outside [0, 1].

    Source:
      Holm (1979), A simple sequentially rejective multiple test procedure.

    >>> holm_correction([0.01, 0.04, 0.03]).round(3)
    array([0.03, 0.06, 0.06])
    """
    p, order = _family(p_values)
    adjusted = np.full(p.size, np.nan)
    steps = p.ravel()[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.reshape(p.shape)


def benjamini_hochberg_correction(p_values: Numbers) -> np.ndarray:
    """Adjusted p-values; of those below α a share of at most α is false, in expectation.

    The i-th smallest of m p-values becomes the smallest of `m · p_j / j` over j ≥ i. Holds for tests that are
    independent or positively dependent, as metrics of the same units are. Less strict than Holm: for a search for
    candidates, such as slices to look at, not for a single claim.

    Args:
      p_values: numbers in [0, 1], of any shape: all entries are one family; nan = not tested, stays nan and does not
        count.

    Returns:
      float64 of the same shape.

    Raises:
      DataError: a value outside [0, 1].

    Source:
      Benjamini and Hochberg (1995), Controlling the false discovery rate; Benjamini and Yekutieli (2001) for
      positive dependence.

    >>> benjamini_hochberg_correction([0.01, 0.04, 0.03]).round(3)
    array([0.03, 0.04, 0.04])
    """
    p, order = _family(p_values)
    adjusted = np.full(p.size, np.nan)
    count = len(order)
    steps = p.ravel()[order] * count / np.arange(1, count + 1)
    adjusted[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return adjusted.reshape(p.shape)


def _family(p_values: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """The p-values, and the flat places of those that were tested, from smallest to largest."""
    p = np.asarray(p_values, dtype=np.float64)
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise DataError(f"p_values has {p[outside][0]}, expected values in [0, 1]")
    flat = p.ravel()
    tested = np.flatnonzero(~np.isnan(flat))
    return p, tested[np.argsort(flat[tested], kind="stable")]

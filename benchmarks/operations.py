"""Floating-point operations that count as useful, and nothing else: no normalisation, softmax or dropout."""

from __future__ import annotations


def block_operations(width: int, length: int, *, products: float = 6) -> float:
    """Of one block for one position, forwards.

    `products` matrices of width x width (queries, keys, values, output, and two of a feed-forward layer as wide as the
    block), and attention over itself and the earlier of `length` positions, (length + 1) / 2 on average.
    """
    return 2 * products * width**2 + 2 * (length + 1) * width

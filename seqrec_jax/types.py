"""Types shared by the rooms: arrays that functions take, axes of a device mesh, and Protocols that name arrays only.

Public functions take NumPy or JAX arrays and return JAX arrays. A shape is stated around `ArrayLike`, as in
`Float[ArrayLike, "*B P"]`; `V1` in a shape is V+1, the rows of an item table.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

ArrayLike: TypeAlias = jax.Array | np.ndarray
"""An array of JAX or NumPy, of any dtype and shape."""
IntArrayLike: TypeAlias = Integer[ArrayLike, "..."]
"""Integers of any width, signed or not, in an array of any shape."""
FloatArrayLike: TypeAlias = Float[ArrayLike, "..."]
"""Floating-point numbers of any width, in an array of any shape."""
BoolArrayLike: TypeAlias = Bool[ArrayLike, "..."]
"""Truth values in an array of any shape."""

DimSize: TypeAlias = Any
"""The size of an axis: an int, or a symbolic size of `jax.export`, for which JAX has no public type."""

AxisName: TypeAlias = str | tuple[str, ...] | None
"""Mesh axis or axes that a function inside `shard_map` or `pmap` reduces over; None: this device has it all."""


@runtime_checkable
class MetricFunction(Protocol):
    """A metric of the ranks of each user's relevant items, cut at k, such as `metrics.ndcg_at_k`."""

    def __call__(
        self, ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
    ) -> Float[Array, "*B"]:
        """`[*B]` float32, one value a user, nan where it is undefined.

        Args:
          ranks: `[*B, P]` integers, 1-based rank of each relevant item.
          k: length of the list, at least 1.
          where: `[*B, P]` bool, True for real entries; None means all.
        """
        ...


@runtime_checkable
class LossFunction(Protocol):
    """A loss of each target's score beside the scores of its negatives, such as `losses.bpr_loss`."""

    def __call__(
        self,
        positive_scores: Float[ArrayLike, "*T"],
        negative_scores: Float[ArrayLike, "*T N"],
        *,
        negative_where: Bool[ArrayLike, "*T N"] | None = None,
        where: Bool[ArrayLike, "*T"] | None = None,
        weights: Float[ArrayLike, "*T"] | None = None,
    ) -> Float[Array, "*T"]:
        """`[*T]` float32, the loss of each target times its weight.

        Args:
          positive_scores: `[*T]` floating point, scores of the targets.
          negative_scores: `[*T, N]` floating point, scores of the negatives of each target.
          negative_where: `[*T, N]` bool, True for negatives that count; None means all.
          where: `[*T]` bool, True for targets that count; None means all.
          weights: `[*T]` floating point weight of each target; None means 1.
        """
        ...

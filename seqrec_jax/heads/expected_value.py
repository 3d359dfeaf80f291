"""Candidates, such as advertisements, ranked by expected value: p(click) · p(conversion | click) · value."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import ShapeError
from seqrec_jax.types import ArrayLike


class ValueRanking(NamedTuple):
    """Candidates by their expected value: `[*U, K]` each.

    Attributes:
      item_ids: int32 candidates by falling expected value, padding (0) last.
      expected_values: float32, falling; -inf at padding.
      order: int32 column of each among the candidates given.
    """

    item_ids: Int[Array, "*U K"]
    expected_values: Float[Array, "*U K"]
    order: Int[Array, "*U K"]


def rank_by_expected_value(
    item_ids: Int[ArrayLike, "*U K"],
    click_logits: Float[ArrayLike, "*U K"],
    conversion_logits: Float[ArrayLike, "*U K"],
    *,
    values: Float[ArrayLike, " V1"],
) -> ValueRanking:
    """The order of candidates by p(click) · p(conversion | click) · value; ties stay in the order given.

    An expected value is right only as far as the probabilities are: calibrate the logits first.

    Args:
      item_ids: `[*U, K]` int32 candidates; 0 = none.
      click_logits: `[*U, K]` float calibrated logits of a click.
      conversion_logits: `[*U, K]` float calibrated logits of a conversion after a click.
      values: `[V+1]` float value of a conversion for each item, such as a bid or margin; not negative.

    Returns:
      The candidates by expected value.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> ids, values = jnp.array([[1, 2, 0]]), jnp.array([0.0, 1.0, 8.0])
    >>> ranking = rank_by_expected_value(ids, jnp.array([[0.0, -2.0, 9.0]]), jnp.zeros((1, 3)), values=values)
    >>> ranking.item_ids.tolist(), ranking.order.tolist()
    ([[2, 1, 0]], [[1, 0, 2]])
    """
    item_ids, values = jnp.asarray(item_ids), jnp.asarray(values, dtype=jnp.float32)
    for name, logits in (("click_logits", click_logits), ("conversion_logits", conversion_logits)):
        if jnp.shape(logits) != item_ids.shape:
            raise ShapeError(f"{name} have shape {jnp.shape(logits)}, expected that of item_ids, {item_ids.shape}")
    if values.ndim != 1:
        raise ShapeError(f"values have shape {values.shape}, expected [V+1], a row for each id 0…V")
    chances = jax.nn.sigmoid(click_logits) * jax.nn.sigmoid(conversion_logits)
    expected = jnp.where(item_ids > 0, chances.astype(jnp.float32) * values[item_ids], -jnp.inf)
    order = jnp.argsort(expected, axis=-1, stable=True, descending=True).astype(jnp.int32)
    return ValueRanking(
        jnp.take_along_axis(item_ids, order, axis=-1), jnp.take_along_axis(expected, order, axis=-1), order
    )

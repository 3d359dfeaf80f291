"""A step over the items that its batch reads, so that its cost does not grow with the catalogue.

The items of a batch, its targets and its negatives get numbers of their own, 0, 1, 2, …; model, loss and optimizer
then see a catalogue of these items only, and what has become of their rows is put back.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from seqrec_jax.data.batches import Batch
from seqrec_jax.negatives import Negatives
from seqrec_jax.parallel import is_item_rows


def items_read(batch: Batch, negatives: Negatives, *, num_rows: int) -> Int[Array, " R"]:
    """The items that a step reads: rising, 0 among them, filled up with numbers from `num_rows` on, which are none.

    Args:
      batch: its items and targets.
      negatives: their ids.
      num_rows: of the item table.

    Returns:
      `[R]` int32, R the number of ids that there could be at most.
    """
    parts = jnp.zeros(1, jnp.int32), batch.item_ids.ravel(), batch.targets.ravel(), negatives.ids.ravel()
    together = jnp.concatenate(parts)
    items = jnp.unique(together, size=min(len(together), num_rows), fill_value=num_rows)
    return jnp.where(items < num_rows, items, num_rows + jnp.arange(len(items), dtype=jnp.int32))


def renumbered(batch: Batch, negatives: Negatives, items: Int[Array, " R"]) -> tuple[Batch, Negatives]:
    """Batch and negatives in the numbers of `items`, their places there."""

    def places(ids: Array) -> Array:
        return jnp.searchsorted(items, ids).astype(jnp.int32)

    batch = batch._replace(item_ids=places(batch.item_ids), targets=places(batch.targets))
    return batch, Negatives(places(negatives.ids), take_rows(negatives.log_q, items))


def take_rows(column: Array, items: Int[Array, " R"]) -> Array:
    """The rows of the items, zeros for those that are none."""
    return column.at[items].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)


def take_item_rows(tree: Any, items: Int[Array, " R"]) -> Any:
    """A tree in which the tables with a row an item have the rows of `items` only."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: take_rows(leaf, items) if is_item_rows(path) else leaf, tree
    )


def put_item_rows(tree: Any, part: Any, items: Int[Array, " R"]) -> Any:
    """`part`, as `take_item_rows` gave it and a step has changed it, with its rows back in the tables of `tree`."""

    def put(path: tuple, whole: Array, new: Array) -> Array:
        if not is_item_rows(path):
            return new
        return whole.at[items].set(new, mode="drop", unique_indices=True, indices_are_sorted=True)

    return jax.tree_util.tree_map_with_path(put, tree, part)

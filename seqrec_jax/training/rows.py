"""A step over the items that its batch reads, so that its cost does not grow with the catalogue.

The items of a batch, its targets and its negatives are renumbered 0, 1, 2, …; model, loss and optimizer see a catalogue
of these items only, and their changed rows are put back.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from seqrec_jax.data.batches import Batch
from seqrec_jax.negatives import Negatives
from seqrec_jax.parallel import is_item_rows

Tree = TypeVar("Tree")


def items_read(batch: Batch, negatives: Negatives, *, num_rows: int) -> Int[Array, " R"]:
    """The sorted ids that a step reads, 0 among them, filled up with ids from `num_rows` on, which are no items.

    Args:
      batch: `[B, L]` items and targets.
      negatives: ids of any shape.
      num_rows: rows of the item table, at least V+1.

    Returns:
      `[R]` int32, R the largest possible number of ids.
    """
    parts = jnp.zeros(1, jnp.int32), batch.item_ids.ravel(), batch.targets.ravel(), negatives.ids.ravel()
    together = jnp.concatenate(parts)
    items = jnp.unique(together, size=min(len(together), num_rows), fill_value=num_rows)
    return jnp.where(items < num_rows, items, num_rows + jnp.arange(len(items), dtype=jnp.int32))


def renumbered(batch: Batch, negatives: Negatives, items: Int[Array, " R"]) -> tuple[Batch, Negatives]:
    """Batch and negatives whose ids are replaced by their places in `items`.

    Args:
      batch: `[B, L]`.
      negatives: ids of any shape, and log q `[V+1]`.
      items: `[R]` sorted ids, see `items_read`.

    Returns:
      The batch, and negatives with log q `[R]`.
    """

    def places(ids: Array) -> Array:
        return jnp.searchsorted(items, ids).astype(jnp.int32)

    batch = batch._replace(item_ids=places(batch.item_ids), targets=places(batch.targets))
    return batch, Negatives(places(negatives.ids), take_rows(negatives.log_q, items))


def take_rows(column: Shaped[Array, "V1 ..."], items: Int[Array, " R"]) -> Shaped[Array, "R ..."]:
    """The rows `[R, …]` of the items from a column `[V+1, …]`, zeros for ids that are no items."""
    return column.at[items].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)


def take_item_rows(tree: Tree, items: Int[Array, " R"]) -> Tree:
    """A tree in which every table with a row for each item is reduced to the rows `[R]` of `items`."""
    taken: Tree = jax.tree_util.tree_map_with_path(
        lambda path, leaf: take_rows(leaf, items) if is_item_rows(path) else leaf, tree
    )
    return taken


def put_item_rows(tree: Tree, part: Tree, items: Int[Array, " R"]) -> Tree:
    """`part`, changed by a step, with its item rows `[R]` put back into the tables `[V+1]` of `tree`."""

    def put(path: tuple[Any, ...], whole: Array, new: Array) -> Array:
        if not is_item_rows(path):
            return new
        return whole.at[items].set(new, mode="drop", unique_indices=True, indices_are_sorted=True)

    whole: Tree = jax.tree_util.tree_map_with_path(put, tree, part)
    return whole

"""The codes of all items as a tree in flat arrays, over which a search visits codes of existing items only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.types import ArrayLike


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["item_ids", "codes", "parents", "first_children"],
    meta_fields=["num_rows", "branching"],
)
@dataclass(frozen=True)
class CodeTree:
    """A tree whose leaves are items and whose branches are codes.

    Nodes of a level are numbered in the order of their codes, so that a node's children have consecutive numbers. Level
    0 is the root; level C has the M items that have a code.

    Attributes:
      item_ids: `[M]` int32 item of each leaf.
      codes: for each of the levels 1…C, `[N]` int32 last code of each of its nodes, from 1.
      parents: likewise, `[N]` int32 node of the level before.
      first_children: for each of the levels 0…C-1, `[N+1]` int32 first child of each of its nodes, and the number of
        children of all of them.
      num_rows: V+1.
      branching: for each of the levels 0…C-1, the largest number of children of a node.
    """

    item_ids: Int[Array, " M"]
    codes: tuple[Int[Array, " _"], ...]
    parents: tuple[Int[Array, " _"], ...]
    first_children: tuple[Int[Array, " _"], ...]
    num_rows: int
    branching: tuple[int, ...]

    @property
    def num_levels(self) -> int:
        """C."""
        return len(self.codes)

    def allowed_nodes(self, allowed: Bool[ArrayLike, "*B V1"]) -> list[Bool[Array, "*B _"]]:
        """For each of the levels 1…C, `[*B, N]` bool that is True for nodes above an allowed item.

        Args:
          allowed: `[*B, V+1]` bool, True for allowed items.
        """
        levels = [jnp.asarray(allowed)[..., self.item_ids]]
        for first in self.first_children[:0:-1]:
            before = jnp.cumsum(levels[0], axis=-1, dtype=jnp.int32)
            before = jnp.concatenate([jnp.zeros_like(before[..., :1]), before], axis=-1)
            levels.insert(0, before[..., first[1:]] > before[..., first[:-1]])
        return levels


def make_code_tree(codes: Int[ArrayLike, "V1 C"]) -> CodeTree:
    """The tree of the codes of a catalogue.

    Args:
      codes: `[V+1, C]` integers, positive and different for each item; a row of zeros is an item without codes, row 0
        is padding.

    Raises:
      ShapeError: codes that are not integers `[V+1, C]`.
      DataError: no item with a code, a code below 1 beside others, or two items of the same codes.

    >>> tree = make_code_tree(np.array([[0, 0], [2, 1], [1, 1], [2, 3]]))
    >>> [level.tolist() for level in tree.codes], tree.item_ids.tolist(), tree.branching
    ([[1, 2], [1, 1, 3]], [2, 1, 3], (2, 2))
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] < 1 or codes.dtype.kind not in "iu":
        raise ShapeError(f"codes are {codes.dtype} of shape {codes.shape}, expected integers [V+1, C]")
    items = np.flatnonzero((codes != 0).any(axis=1) & (np.arange(len(codes)) > 0))
    if not len(items):
        raise DataError("no item has a code; give codes from 1 to S to those that can be generated")
    if (wrong := (codes[items] < 1).any(axis=1)).any():
        item = items[np.argmax(wrong)]
        raise DataError(f"item {item} has the codes {codes[item].tolist()}; they start at 1, all 0 is no code")
    items = items[np.lexsort(codes[items].T[::-1])]
    ordered = codes[items]
    differs = ordered[1:] != ordered[:-1]
    if len(same := np.flatnonzero(~differs.any(axis=1))):
        first, second = items[same[0]], items[same[0] + 1]
        raise DataError(f"items {first} and {second} have the same codes {codes[first].tolist()}; tell them apart")
    starts_before = np.zeros(1, dtype=np.int64)  # first leaf below each node of a level
    level_codes, parents, first_children, branching = [], [], [], []
    for level in range(codes.shape[1]):
        starts = np.flatnonzero(np.concatenate([[True], differs[:, : level + 1].any(axis=1)]))
        firsts = np.concatenate([np.searchsorted(starts, starts_before), [len(starts)]])
        level_codes.append(jnp.asarray(ordered[starts, level], dtype=jnp.int32))
        parents.append(jnp.asarray(np.searchsorted(starts_before, starts, side="right") - 1, dtype=jnp.int32))
        first_children.append(jnp.asarray(firsts, dtype=jnp.int32))
        branching.append(int(np.diff(firsts).max()))
        starts_before = starts
    return CodeTree(
        jnp.asarray(items, dtype=jnp.int32),
        tuple(level_codes),
        tuple(parents),
        tuple(first_children),
        len(codes),
        tuple(branching),
    )

"""From a decoder of codes to items: beam search over existing items, and the scores of all items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from seqrec_jax.errors import ShapeError
from seqrec_jax.items.code_tree import CodeTree
from seqrec_jax.scoring import TopK
from seqrec_jax.types import ArrayLike

DecodeStep: TypeAlias = Callable[[Any, int, Int[Array, "B W"] | None], tuple[Float[Array, "B W S1"], Any]]
"""`step(cache, level, codes [B, W]) -> (logits [B, W, S+1], cache)`: the logits of a level's codes after each of the W
prefixes of B users. `codes` int32 are the last codes of the prefixes; None at level 0, where W = 1. Column 0 of the
logits is not a code. The leaves of a cache are `[B, W, ...]`."""


def constrained_beam_search(
    tree: CodeTree,
    cache: Any,
    step: DecodeStep,
    *,
    k: int,
    num_beams: int,
    allowed: Bool[ArrayLike, "#B V1"] | None = None,
) -> TopK:
    """The K best items that a beam search finds; only prefixes of the codes of an allowed item are followed.

    An item's score is the sum of the log softmax of its codes, each over all S codes of its level, as in training. The
    order of two items thus does not depend on which others are allowed. With at least as many beams as items, none is
    missed.

    Args:
      tree: of the codes of all items.
      cache: the decoder's cache before level 0; leaves `[B, 1, ...]`.
      step: the decoder.
      k: K, at least 1.
      num_beams: number of prefixes kept at each level, at least K.
      allowed: `[B, V+1]` bool, True for items that may be listed, or `[1, V+1]` for all users; None means all.

    Returns:
      `[B, K]` int32 item ids and float32 log probabilities; id 0 and score -inf after the last item found.

    Raises:
      ShapeError: k below 1, fewer beams than k, or an allowed that does not fit (at trace time).
    """
    if not 1 <= k <= num_beams:
        raise ShapeError(f"a beam search needs k of at least 1 and num_beams of at least k, got {k} and {num_beams}")
    logits, cache = step(cache, 0, None)
    num_users = logits.shape[0]
    masks = None if allowed is None else tree.allowed_nodes(_checked_allowed(tree, allowed, num_users))
    nodes, totals = jnp.zeros((num_users, 1), jnp.int32), jnp.zeros((num_users, 1), jnp.float32)
    for level in range(tree.num_levels):
        first, branching = tree.first_children[level], tree.branching[level]
        children = first[nodes][..., None] + jnp.arange(branching, dtype=jnp.int32)[None, None]
        real = children < first[nodes + 1][..., None]
        children = jnp.where(real, children, 0)
        values = jnp.take_along_axis(_log_softmax(logits), tree.codes[level][children], axis=2) + totals[..., None]
        if masks is not None:
            real &= _rows_of(jnp.broadcast_to(masks[level], (num_users, masks[level].shape[1])), children)
        values = jnp.where(real, values, -jnp.inf).reshape(num_users, -1)
        totals, chosen = jax.lax.top_k(values, min(num_beams, len(tree.codes[level]), values.shape[1]))
        nodes = jnp.take_along_axis(children.reshape(num_users, -1), chosen, axis=1)
        if level + 1 < tree.num_levels:
            logits, cache = step(_prefixes(cache, chosen // branching), level + 1, tree.codes[level][nodes])
    item_ids = jnp.where(totals > -jnp.inf, tree.item_ids[nodes], 0)[:, :k]
    missing = ((0, 0), (0, k - item_ids.shape[1]))
    return TopK(jnp.pad(item_ids, missing), jnp.pad(totals[:, :k], missing, constant_values=-jnp.inf))


def all_item_scores(tree: CodeTree, cache: Any, step: DecodeStep) -> Float[Array, "B V1"]:
    """The log probability of every item; visits all nodes of the tree for each user.

    Args:
      tree: as for `constrained_beam_search`.
      cache: as for `constrained_beam_search`.
      step: as for `constrained_beam_search`.

    Returns:
      `[B, V+1]` float32; -inf for items without a code. The exponentials of a row sum to the share of the decoder's
      probability that falls on existing items.
    """
    logits, cache = step(cache, 0, None)
    num_users = logits.shape[0]
    totals = jnp.zeros((num_users, 1), jnp.float32)
    for level in range(tree.num_levels):
        codes, parents = tree.codes[level], tree.parents[level]
        totals = (_log_softmax(logits) + totals[..., None])[:, parents, codes]
        if level + 1 < tree.num_levels:
            rows = (num_users, len(codes))
            cache = _prefixes(cache, jnp.broadcast_to(parents[None], rows))
            logits, cache = step(cache, level + 1, jnp.broadcast_to(codes[None], rows))
    return jnp.full((num_users, tree.num_rows), -jnp.inf).at[:, tree.item_ids].set(totals)


def _log_softmax(logits: Float[Array, "B W S1"]) -> Float[Array, "B W S1"]:
    """Over the codes 1…S, in float32."""
    return jax.nn.log_softmax(logits.astype(jnp.float32).at[..., 0].set(-jnp.inf), axis=-1)


def _prefixes(cache: Any, parents: Int[Array, "B W"]) -> Any:
    """The cache of the prefix that each new one continues."""
    return jax.tree.map(lambda leaf: _rows_of(leaf, parents), cache)


def _rows_of(table: Shaped[Array, "B N ..."], chosen: Int[Array, "B W ..."]) -> Shaped[Array, "B W ..."]:
    """The chosen rows of each user."""
    return jax.vmap(lambda rows, chosen: rows[chosen])(table, chosen)


def _checked_allowed(tree: CodeTree, allowed: Array | np.ndarray, num_users: int) -> Bool[Array, "#B V1"]:
    allowed = jnp.asarray(allowed)
    if allowed.dtype != bool or allowed.shape not in ((num_users, tree.num_rows), (1, tree.num_rows)):
        raise ShapeError(
            f"allowed is {allowed.dtype} of shape {allowed.shape}, expected bool of shape "
            f"{(num_users, tree.num_rows)} or {(1, tree.num_rows)}"
        )
    return allowed

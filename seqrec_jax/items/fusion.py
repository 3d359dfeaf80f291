"""Fusion of the vectors of an item's modalities to one: sum, concatenation, gates or cross-attention."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

FusionKind = Literal["sum", "concat", "gate", "cross_attention"]
Params: TypeAlias = dict[str, Any]

_embedding_init = jax.nn.initializers.truncated_normal(0.02)


def init_fusion(kind: FusionKind, key: PRNGKeyArray, *, num_parts: int, width: int) -> Params:
    """Initial parameters of a fusion; an empty dict for sum, which has none.

    Gates and attention start as the plain mean of the parts that an item has.

    Args:
      kind: kind of fusion.
      key: PRNG key, consumed.
      num_parts: M, number of modalities.
      width: E, width of their vectors.
    """
    if kind == "concat":
        scale = jax.nn.initializers.lecun_normal()
        return {
            "kernel": scale(key, (num_parts * width, width), jnp.float32),
            "bias": jnp.zeros(width, jnp.float32),
        }
    if kind == "gate":
        return {"kernel": jnp.zeros((num_parts * width, num_parts)), "bias": jnp.zeros(num_parts)}
    if kind == "cross_attention":
        query_key, id_key, part_key = jax.random.split(key, 3)
        return {
            "query": _embedding_init(query_key, (1, width), jnp.float32),
            "query_kernel": jax.nn.initializers.lecun_normal()(id_key, (width, width), jnp.float32),
            "key_kernel": jnp.eye(width),
            "part_keys": _embedding_init(part_key, (num_parts, width), jnp.float32),
            "value_kernel": jnp.eye(width),
        }
    return {}


def fuse(
    kind: FusionKind,
    params: Params,
    parts: Sequence[Float[Array, "*N E"]],
    present: Sequence[Bool[Array, "*N"]],
    *,
    query: Float[Array, "*N E"] | None = None,
) -> Float[Array, "*N E"]:
    """Fuse the vectors of M modalities to one vector an item.

    Args:
      kind: sum of the parts; concat, a linear layer over their concatenation; gate, their mean weighted by a softmax
        of gates computed from all parts; or cross_attention, their mean weighted by attention to a learned query.
      params: of `init_fusion`.
      parts: M arrays `[*N, E]` float, any values for items without the modality.
      present: M arrays `[*N]` bool, True for items with the modality; gate and cross_attention leave out the others.
      query: `[*N, E]` float added to the learned query of cross_attention, such as id vectors; None adds nothing.

    Returns:
      `[*N, E]` float; zeros from gate and cross_attention for an item without any modality.

    >>> parts, present = [jnp.array([[1.0]]), jnp.array([[3.0]])], [jnp.array([True]), jnp.array([True])]
    >>> fuse("sum", {}, parts, present)
    Array([[4.]], dtype=float32)
    >>> fuse("gate", init_fusion("gate", jax.random.key(0), num_parts=2, width=1), parts, present)
    Array([[2.]], dtype=float32)
    """
    if kind == "sum":
        return functools.reduce(jnp.add, parts)
    if kind == "concat":
        total = jnp.concatenate(parts, axis=-1) @ params["kernel"]
        return total + jnp.expand_dims(params["bias"], tuple(range(total.ndim - 1)))
    where = jnp.stack(present, axis=-1)  # [*N, M]
    stacked = jnp.stack(parts, axis=-2)  # [*N, M, E]
    stacked = jnp.where(where[..., None], stacked, 0.0)
    if kind == "gate":
        gates = stacked.reshape(*where.shape[:-1], -1) @ params["kernel"]
        gates = gates + jnp.expand_dims(params["bias"], tuple(range(gates.ndim - 1)))
        return _weighted(stacked, gates, where)
    queries = jnp.expand_dims(params["query"][0], tuple(range(where.ndim - 1)))
    if query is not None:
        queries = queries + query @ params["query_kernel"]
    keys = stacked @ params["key_kernel"]
    keys = keys + jnp.expand_dims(params["part_keys"], tuple(range(keys.ndim - 2)))
    logits = jnp.sum(queries[..., None, :] * keys, axis=-1) / jnp.sqrt(jnp.asarray(keys.shape[-1], keys.dtype))
    return _weighted(stacked @ params["value_kernel"], logits, where)


def _weighted(
    parts: Float[Array, "*N M E"], logits: Float[Array, "*N M"], where: Bool[Array, "*N M"]
) -> Float[Array, "*N E"]:
    """The mean of the present parts, weighted by a softmax of the logits; zeros if none is present."""
    least = jnp.finfo(logits.dtype).min
    weights = jax.nn.softmax(jnp.where(where, logits, least), axis=-1)
    return jnp.sum(jnp.where(where, weights, 0.0)[..., None] * parts, axis=-2)

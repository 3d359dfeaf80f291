"""Blocks that several encoders share: normalisation, masks, attention, feed-forward, NNX modules as pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys, dropout

embedding_init = jax.nn.initializers.truncated_normal(0.02)
_SHORTEST_SPAN = 48  # of queries that attention takes at once
NUM_TIME_BUCKETS = 32  # floor(log2(1 + seconds)) of int32 seconds


class KeyValues(NamedTuple):
    """Keys and values of attention, `[B, K, H, d]` each."""

    keys: Float[Array, "B K H d"]
    values: Float[Array, "B K H d"]


class AttentionMask(NamedTuple):
    """Which events each query may attend to, and how far away they are.

    Attributes:
      where: `[B, Q, K]` True where a query may attend to a key; each query has at least one.
      distances: `[B or 1, Q, K]` int32 number of events from the key to the query, at least 0.
      time_buckets: `[B, Q, K]` int32 logarithm of the seconds from the key to the query; None if unused.
      query_columns: `[B]` int32 column of each row's only query, so that Q = 1; None if every event is a query.
      causal: True if Q = K and no query attends to a later key.
    """

    where: Bool[Array, "B Q K"]
    distances: Int[Array, "#B Q K"]
    time_buckets: Int[Array, "B Q K"] | None = None
    query_columns: Int[Array, " B"] | None = None
    causal: bool = False

    def take_queries(self, x: Shaped[Array, "B K ..."]) -> Shaped[Array, "B Q ..."]:
        """The rows of `x` that belong to queries: `[B, K, ...]` of all events to `[B, Q, ...]`."""
        return x if self.query_columns is None else take_columns(x, self.query_columns)


UpdateCache: TypeAlias = Callable[[KeyValues], KeyValues]
"""From the keys and values of the present events to all those that they attend to, cached ones included."""


def pure_module(
    make: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Callable[[Array], Params], Callable[[Params], Any]]:
    """Turn an NNX module without state into two pure functions over a nested dict of arrays.

    Args:
      make: builds the module; it may use the random streams to initialise but must not keep them.

    Returns:
      `init(key) -> params`, and `bind(params) -> module`, the module with these parameters.

    >>> init, bind = pure_module(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    >>> params = init(jax.random.key(0))
    >>> params["kernel"].shape
    (2, 3)
    >>> bind(params)(jnp.ones((4, 2))).shape
    (4, 3)
    """
    structure, _ = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(key: Array) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(params=key))))

    def bind(params: Params) -> Any:
        return nnx.merge(structure, params)

    return init, bind


class Linear(nnx.Linear):
    """`x W + b` over the last axis.

    All rows of x are one matrix: for an x of rank 3, JAX's product on a CPU and its gradients are slower.
    """

    bias: nnx.Param[Array]

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:  # type: ignore[override]
        """`[*B, D]` to `[*B, E]`."""
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis with scale and bias, as `torch.nn.LayerNorm`.

    Mean and variance are computed in float32 for any input; Flax's own layer raises for half precision under strict
    dtype promotion.
    """

    def __init__(self, width: int, *, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """`[*B, D]` normalised, in the dtype of x."""
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        normed = (centred * jax.lax.rsqrt(variance + self.epsilon)).astype(x.dtype)
        scale, bias = (jnp.broadcast_to(part[...].astype(x.dtype), x.shape) for part in (self.scale, self.bias))
        return normed * scale + bias


def causal_mask(segment_ids: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """`[B, L, L]` True where a query (second axis) may attend to a key (third): not later, and of the same segment.

    Padding is a segment of its own, so that each position attends to itself and no softmax is empty.

    >>> causal_mask(jnp.array([[1, 1, 2]]))[0].astype(int)
    Array([[1, 0, 0],
           [1, 1, 0],
           [0, 0, 1]], dtype=int32)
    """
    length = segment_ids.shape[1]
    same_segment = segment_ids[:, :, None] == segment_ids[:, None, :]
    return same_segment & np.tri(length, dtype=bool)[None]


def segment_mask(segment_ids: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """`[B, L, L]` True where a query (second axis) may attend to a key (third): any of the same segment.

    >>> segment_mask(jnp.array([[1, 1, 2]]))[0].astype(int)
    Array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]], dtype=int32)
    """
    return segment_ids[:, :, None] == segment_ids[:, None, :]


def time_buckets(seconds: Int[Array, "*N"]) -> Int[Array, "*N"]:
    """Buckets by powers of two, `floor(log2(1 + seconds))`: int32 below `NUM_TIME_BUCKETS`; negative times count as 0.

    >>> time_buckets(jnp.array([-5, 0, 1, 2, 3, 86400])).tolist()
    [0, 0, 1, 1, 2, 16]
    """
    above_zero = jnp.maximum(seconds, 0).astype(jnp.uint32) + jnp.uint32(1)
    return 31 - jax.lax.clz(above_zero).astype(jnp.int32)


def last_columns(batch: Batch) -> Int[Array, " B"]:
    """`[B]` int32 column of each row's last real position, padding on either side; 0 for a row of padding alone."""
    columns = jnp.arange(batch.segment_ids.shape[1], dtype=jnp.int32)[None]
    return jnp.max(jnp.where(batch.segment_ids > 0, columns, 0), axis=1)


def take_columns(x: Shaped[Array, "B L ..."], columns: Int[Array, " B"]) -> Shaped[Array, "B 1 ..."]:
    """One column of each row: `[B, L, ...]` of any dtype and `[B]` int32 columns to `[B, 1, ...]`.

    >>> take_columns(jnp.array([[1, 2, 3], [4, 5, 6]]), jnp.array([2, 0]))
    Array([[3],
           [4]], dtype=int32)
    """
    return jax.vmap(lambda row, column: jax.lax.dynamic_slice_in_dim(row, column, 1))(x, columns)


def first_and_real(batch: Batch) -> tuple[Bool[Array, "B L"], Bool[Array, "B L"]]:
    """`[B, L]` True at a segment's first event, where a recurrence starts afresh, and `[B, L]` True at real events."""
    real = batch.segment_ids > 0
    return real & (batch.positions == 0), real


def linear_scan(
    factors: Float[Array, "B L #D"], addends: Float[Array, "B L D"], *, before: Float[Array, "B D"] | None = None
) -> Float[Array, "B L D"]:
    """The linear recurrence `h_t = a_t h_{t-1} + b_t`, in about 2 log2(L) steps that are parallel over t.

    Args:
      factors: `[B, L, D]` a, or `[B, L, 1]` where all channels share it.
      addends: `[B, L, D]` b.
      before: `[B, D]` h before the first position; None is zeros.

    Returns:
      `[B, L, D]` h.

    >>> linear_scan(jnp.array([[[0.5], [0.5], [0.0]]]), jnp.array([[[4.0], [1.0], [7.0]]]))[0, :, 0]
    Array([4., 3., 7.], dtype=float32)
    """

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        # each pair stands for the map of h to a h + b
        return left[0] * right[0], left[1] * right[0] + right[1]

    factor, total = jax.lax.associative_scan(combine, (factors, addends), axis=1)
    return total if before is None else factor * before[:, None] + total


def split_heads(x: Float[Array, "B L D"], *, num_heads: int) -> Float[Array, "B L H d"]:
    """`[B, L, D]` cut into H heads of equal width, `[B, L, H, D / H]`."""
    return x.reshape(*x.shape[:2], num_heads, x.shape[2] // num_heads)


def in_causal_spans(
    attention: Callable[..., Array],
    queries: Float[Array, "B L H d"],
    keys: Float[Array, "B L H d"],
    values: Float[Array, "B L H d"],
    *,
    pairs: dict[str, Array],
    site: str,
    options: dict[str, Any],
) -> Float[Array, "B L H d"]:
    """Causal attention in spans of queries: the span a…b-1 reads the keys before b only, which saves their products.

    Spans are not short, since many small products are slower than few large ones.

    Args:
      attention: called with the queries, keys and values of each span, its part of `pairs`, a site and the options.
      queries: `[B, L, H, d]`.
      keys: `[B, L, H, d]`.
      values: `[B, L, H, d]`.
      pairs: arguments with an entry for each pair of a query and a key, `[B, L, L, ...]`.
      site: name of the call's place, for dropout.
      options: the other arguments.

    Returns:
      `[B, L, H, d]`.
    """
    length = queries.shape[1]
    number = min(8, max(1, length // _SHORTEST_SPAN))
    bounds = [length * part // number for part in range(number + 1)]
    spans = [
        attention(
            queries[:, a:b],
            keys[:, :b],
            values[:, :b],
            site=f"{site}/{a}",
            **{name: array[:, a:b, :b] for name, array in pairs.items()},
            **options,
        )
        for a, b in itertools.pairwise(bounds)
    ]
    return jnp.concatenate(spans, axis=1)


def attend(
    queries: Float[Array, "B Q H d"],
    keys: Float[Array, "B K H d"],
    values: Float[Array, "B K H d"],
    *,
    where: Bool[Array, "#B #Q K"],
    causal: bool = False,
    dropout_rate: float = 0.0,
    site: str = "attention",
    key: Keys | None = None,
) -> Float[Array, "B Q H d"]:
    """Scaled dot-product attention: `softmax(q kᵀ / √d) v` for each of H heads of width d.

    Args:
      queries: `[B, Q, H, d]`.
      keys: `[B, K, H, d]`.
      values: `[B, K, H, d]`.
      where: `[B, Q, K]` bool, True where a query may attend to a key; each query needs one. Axes B and Q may be 1.
      causal: Q = K and `where` is False at later keys, so that their scores need not be computed.
      dropout_rate: share of the weights set to zero.
      site: name of the call's place, for dropout.
      key: as for `dropout`.

    Returns:
      `[B, Q, H, d]`; the softmax is computed in float32.
    """
    if causal:
        pairs, options = {"where": where}, {"dropout_rate": dropout_rate, "key": key}
        return in_causal_spans(attend, queries, keys, values, pairs=pairs, site=site, options=options)
    # heads first: with rows of one matrix far apart, products on a CPU are slower
    queries, keys, values = (
        jnp.swapaxes(x, 1, 2) for x in (queries * (1.0 / math.sqrt(queries.shape[-1])), keys, values)
    )
    scores_bhqk = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    scores_bhqk = jnp.where(where[:, None], scores_bhqk, -1e30)
    largest = jax.lax.stop_gradient(jnp.max(scores_bhqk, axis=-1, keepdims=True))
    exponentials = jnp.exp(scores_bhqk - largest)
    sums = jnp.sum(exponentials, axis=-1, keepdims=True)
    weights = dropout(exponentials.astype(values.dtype), rate=dropout_rate, site=site, key=key)
    # dividing the mixture instead of the weights saves a pass over the weights
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, values, preferred_element_type=jnp.float32) / sums
    return jnp.swapaxes(mixed.astype(values.dtype), 1, 2)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one product for queries, keys and values.

    With one query a row (`mask.query_columns`) it computes no keys and values, and returns None in their place.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.queries_keys_values = Linear(width, 3 * width, kernel_init=embedding_init, rngs=rngs)
        self.output = Linear(width, width, kernel_init=embedding_init, rngs=rngs)
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout

    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: AttentionMask,
        *,
        update_cache: UpdateCache,
        site: str,
        key: Keys | None,
    ) -> tuple[Float[Array, "B Q D"], KeyValues | None]:
        """Outputs `[B, Q, D]` of the queries of x `[B, N, D]`, and the keys and values after the update."""
        if mask.query_columns is not None:
            return self.output(self._attend_one_query(x, mask, site=site, key=key)), None
        parts = jnp.split(self.queries_keys_values(x), 3, axis=-1)
        queries, keys, values = (split_heads(part, num_heads=self.num_heads) for part in parts)
        cached = update_cache(KeyValues(keys, values))
        queries = mask.take_queries(queries)
        mixed = attend(
            queries,
            *cached,
            where=mask.where,
            causal=mask.causal,
            dropout_rate=self.dropout,
            site=f"{site}/weights",
            key=key,
        )
        return self.output(mixed.reshape(*mixed.shape[:2], -1)), cached

    def _attend_one_query(
        self, x: Float[Array, "B N D"], mask: AttentionMask, *, site: str, key: Keys | None
    ) -> Float[Array, "B 1 D"]:
        """Attention of one query a row, without computing the keys and values of all events.

        A score q · (K x) is (Kᵀ q) · x, and a mixture of V x is V times the mixture of x. The bias of the keys adds
        the same number to all scores of a query, which cancels in the softmax.
        """
        kernels = self.queries_keys_values.kernel[...].reshape(x.shape[2], 3, self.num_heads, -1)
        of_queries, of_keys, of_values = (kernels[:, part] for part in range(3))
        biases = self.queries_keys_values.bias[...].reshape(3, self.num_heads, -1)
        queries = jnp.einsum("bd,dhe->bhe", mask.take_queries(x)[:, 0], of_queries) + biases[None, 0]
        # each head is a query of its own, as wide as x, in an attention of one head, which divides by the root of D
        queries = jnp.einsum("bhe,dhe->bhd", queries, of_keys) * math.sqrt(self.num_heads)
        where = jnp.broadcast_to(mask.where, (x.shape[0], self.num_heads, x.shape[1]))
        events, site = x[:, :, None], f"{site}/weights"
        mixed = attend(queries[:, :, None], events, events, where=where, dropout_rate=self.dropout, site=site, key=key)[
            :, :, 0
        ]
        mixed = jnp.einsum("bhd,dhe->bhe", mixed, of_values) + biases[None, 2]
        return mixed.reshape(x.shape[0], 1, -1)


class FeedForward(nnx.Module):
    """Two linear layers with the activation between them, at each position alone."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        hidden = round(config.feed_forward_multiple * config.width)
        self.inner = Linear(config.width, hidden, kernel_init=embedding_init, rngs=rngs)
        self.outer = Linear(hidden, config.width, kernel_init=embedding_init, rngs=rngs)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """`[B, L, D]` to `[B, L, D]`."""
        hidden = self.inner(x)
        hidden = jax.nn.relu(hidden) if self.activation == "relu" else jax.nn.gelu(hidden, approximate=False)
        return self.outer(hidden)


class AttentionBlock(nnx.Module):
    """Self-attention, then feed-forward, each with dropout and added to its input."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(config.width)
        self.attention = SelfAttention(config, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config.width)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.norm_first = config.norm == "pre"
        self.dropout = config.dropout

    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: AttentionMask,
        *,
        update_cache: UpdateCache,
        site: str,
        key: Keys | None,
    ) -> tuple[Float[Array, "B Q D"], KeyValues | None]:
        """States `[B, Q, D]` of the queries of x `[B, N, D]`, and the keys and values after the update."""
        attention_site, feed_forward_site = f"{site}/attention", f"{site}/feed_forward"

        y = self.attention_norm(x) if self.norm_first else x
        y, cached = self.attention(y, mask, update_cache=update_cache, site=attention_site, key=key)
        x = mask.take_queries(x) + dropout(y, rate=self.dropout, site=attention_site, key=key)
        x = x if self.norm_first else self.attention_norm(x)

        y = self.feed_forward(self.feed_forward_norm(x) if self.norm_first else x)
        x = x + dropout(y, rate=self.dropout, site=feed_forward_site, key=key)
        return x if self.norm_first else self.feed_forward_norm(x), cached

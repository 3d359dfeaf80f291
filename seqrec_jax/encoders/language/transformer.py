"""Language models as pure functions: token ids or item vectors to hidden states.

Outside attention, the rows of all texts are one matrix `[B * L, D]`, since products of rank 3 are slower on a CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.language.config import LanguageConfig
from seqrec_jax.encoders.layers import attend
from seqrec_jax.encoders.linear import linear
from seqrec_jax.errors import ShapeError
from seqrec_jax.types import ArrayLike


def _gelu(x: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """The exact gelu by erf, as PyTorch computes it; JAX's own uses erfc, which costs twice as much on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def hidden_states(
    params: Params,
    token_ids: Int[ArrayLike, "B L"] | None,
    mask: Bool[ArrayLike, "B L"],
    *,
    config: LanguageConfig,
    positions: Int[ArrayLike, "#B L"] | None = None,
    embeddings: Float[ArrayLike, "B L D"] | None = None,
    segment_ids: Int[ArrayLike, "B L"] | None = None,
    where: Bool[ArrayLike, "#B L L"] | None = None,
    checkpoint_layers: bool = False,
) -> Float[Array, "B L D"]:
    """The hidden states of a language model's last layer, after its last norm.

    Args:
      params: of `read_weights`.
      token_ids: `[B, L]` int32; None if `embeddings` replace them.
      mask: `[B, L]` bool, True at real tokens. Padding is on the right.
      config: shape of the model.
      positions: `[B, L]` int32 from 0; None counts columns.
      embeddings: `[B, L, D]` float vectors in place of token embeddings, such as item vectors; position embeddings are
        added to them as usual.
      segment_ids: `[B, L]` int32 segments, for rows of several texts or users: a token attends to its own segment only,
        and padding, on either side, has a segment of its own. None for one text a row.
      where: `[B, L, L]` or `[1, L, L]` bool, True where a query (second axis) may attend to a key (third), itself
        included, in addition to the limits of the segment and of the model's family; None for no further limit.
      checkpoint_layers: the gradient recomputes each layer instead of storing its activations.

    Returns:
      `[B, L, D]` in the parameters' dtype; arbitrary at padding, but finite.

    Raises:
      ShapeError: both or neither of token_ids and embeddings, shapes that do not match, or more positions than the
        model has (at trace time).

    Source:
      Devlin et al. (2019), BERT; Liu et al. (2019), RoBERTa; Radford et al. (2019), Language Models are Unsupervised
      Multitask Learners; Touvron et al. (2023), LLaMA; Grattafiori et al. (2024), The Llama 3 Herd of Models; Yang et
      al. (2024), Qwen2 Technical Report; Yang et al. (2025), Qwen3 Technical Report.
    """
    if embeddings is None and token_ids is not None:
        given, expected, name = token_ids.shape, mask.shape, "token_ids [B, L]"
    elif embeddings is not None and token_ids is None:
        given, expected, name = embeddings.shape, (*mask.shape, config.width), f"embeddings [B, L, {config.width}]"
    else:
        raise ShapeError("hidden_states takes token_ids or embeddings, one of the two, and None for the other")
    if mask.ndim != 2 or given != expected:
        raise ShapeError(f"{name} and mask [B, L] must agree, got {given} and {mask.shape}")
    length = mask.shape[1]
    if length > config.max_length:
        raise ShapeError(f"the model has positions for {config.max_length} tokens, got rows of {length}; cut the texts")
    if positions is None:
        positions = jnp.arange(length, dtype=jnp.int32)[None]
    tables = params.get("embeddings", {})  # a rotary decoder without tokens has none
    dtype = params["layers"]["0"]["attention_norm"]["scale"].dtype
    x = tables["tokens"][token_ids] if embeddings is None else jnp.asarray(embeddings, dtype)
    x = _embedded(tables, x, positions, config)
    attention_mask = mask.astype(bool)[:, None, :]
    if segment_ids is not None:
        attention_mask = segment_ids[:, :, None] == segment_ids[:, None, :]
    if where is not None:
        attention_mask = attention_mask & where
    if config.causal:
        attention_mask = attention_mask & np.tri(length, dtype=bool)[None]
    rotations = _rotations(positions, config) if config.rotary else None
    block: Callable[..., Array] = functools.partial(_post_norm_block if not config.causal else _pre_norm_block, config)
    if checkpoint_layers:
        block = jax.checkpoint(block)
    rows = x.reshape(-1, config.width)
    for number in range(config.num_layers):
        rows = block(params["layers"][str(number)], rows, attention_mask, rotations)
    if config.causal:
        rows = _norm(params["final_norm"], rows, config)
    return rows.reshape(x.shape)


def _embedded(
    tables: Params, x: Float[Array, "B L D"], positions: Int[ArrayLike, "#B L"], config: LanguageConfig
) -> Float[Array, "B L D"]:
    if "positions" in tables:
        x = x + tables["positions"][positions + config.position_offset]
    if "types" in tables:
        x = x + tables["types"][:1][None]
    return _norm(tables["norm"], x, config) if "norm" in tables else x


def _post_norm_block(
    config: LanguageConfig, params: Params, x: Float[Array, "N D"], where: Bool[Array, "#B Q L"], rotations: None
) -> Float[Array, "N D"]:
    """BERT's post-norm block: each part adds to the residual stream, which is normalised after it."""
    mixed = _attention(params["attention"], x, where, rotations, config)
    x = _norm(params["attention_norm"], x + mixed, config)
    return _norm(params["feed_forward_norm"], x + _feed_forward(params["feed_forward"], x, config), config)


def _pre_norm_block(
    config: LanguageConfig,
    params: Params,
    x: Float[Array, "N D"],
    where: Bool[Array, "#B Q L"],
    rotations: tuple[Array, Array] | None,
) -> Float[Array, "N D"]:
    """A decoder's pre-norm block: each part reads the normalised residual stream and adds to it."""
    normed = _norm(params["attention_norm"], x, config)
    x = x + _attention(params["attention"], normed, where, rotations, config)
    normed = _norm(params["feed_forward_norm"], x, config)
    return x + _feed_forward(params["feed_forward"], normed, config)


def _feed_forward(params: Params, x: Float[Array, "N D"], config: LanguageConfig) -> Float[Array, "N D"]:
    activation = _ACTIVATIONS[config.activation]
    if "gate" in params:
        return linear(params["down"], activation(linear(params["gate"], x)) * linear(params["up"], x))
    return linear(params["down"], activation(linear(params["up"], x)))


def _attention(
    params: Params,
    x: Float[Array, "N D"],
    where: Bool[Array, "#B Q L"],
    rotations: tuple[Array, Array] | None,
    config: LanguageConfig,
) -> Float[Array, "N D"]:
    batch, length = where.shape[0], where.shape[-1]
    queries, keys, values = (
        linear(params[part], x).reshape(batch, length, -1, config.head_width) for part in ("query", "key", "value")
    )
    if "query_norm" in params:
        queries = _norm(params["query_norm"], queries, config)
        keys = _norm(params["key_norm"], keys, config)
    if rotations is not None:
        queries, keys = _rotated(queries, *rotations), _rotated(keys, *rotations)
    if config.num_key_value_heads < config.num_heads:
        group = config.num_heads // config.num_key_value_heads
        keys, values = jnp.repeat(keys, group, axis=2), jnp.repeat(values, group, axis=2)
    mixed = attend(queries, keys, values, where=where, causal=config.causal)
    return linear(params["output"], mixed.reshape(batch * length, -1))


def _norm(params: Params, x: Float[Array, "*B D"], config: LanguageConfig) -> Float[Array, "*B D"]:
    """Layer normalisation, or RMS normalisation for a rotary decoder; in float32."""
    wide = x.astype(jnp.float32)
    if not config.rotary:
        wide = wide - _means(wide)
    normed = wide * jax.lax.rsqrt(_means(wide**2) + config.norm_epsilon)
    normed = normed.astype(x.dtype) * jnp.broadcast_to(params["scale"], x.shape)
    return normed + jnp.broadcast_to(params["bias"], x.shape) if "bias" in params else normed


def _means(x: Float[Array, "*B D"]) -> Float[Array, "*B 1"]:
    """Means over the last axis by a matrix product, which is faster than a reduction on a CPU."""
    shares = jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1])
    return jnp.matmul(x, shares, precision=jax.lax.Precision.HIGHEST)


def _rotations(positions: Int[ArrayLike, "#B L"], config: LanguageConfig) -> tuple[Float[Array, "#B L 1 h"], ...]:
    """Cosines and sines of each position's angle in each of the h = head_width / 2 planes, float32."""
    assert config.rotary_base is not None
    planes = np.arange(0, config.head_width, 2, dtype=np.float32) / config.head_width
    frequencies = (1.0 / config.rotary_base**planes).astype(np.float32)
    if config.rotary_scaling is not None:
        scaling = config.rotary_scaling
        turns = scaling.original_length * frequencies / (2 * math.pi)  # over the first training length
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequencies = (frequencies * (kept + (1 - kept) / scaling.factor)).astype(np.float32)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies[None, None, None]
    return jnp.cos(angles), jnp.sin(angles)


def _rotated(x: Float[Array, "B L H d"], cosines: Array, sines: Array) -> Float[Array, "B L H d"]:
    """Each pair (i, i + d/2) of a head rotated by its angle."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(x.dtype)

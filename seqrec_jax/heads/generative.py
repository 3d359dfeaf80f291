"""A decoder that generates the next item's semantic id, code by code, from the user's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import EncoderConfig, make_encoder
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.heads.decoding import all_item_scores, constrained_beam_search
from seqrec_jax.items.code_tree import make_code_tree
from seqrec_jax.losses import softmax_loss
from seqrec_jax.scoring import TopK
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.types import ArrayLike

Params: TypeAlias = dict[str, Any]

_FEWEST_BEAMS = 32
_NODES_AT_A_TIME = 2**15  # nodes of the tree times users, when all items are scored


@dataclass(frozen=True)
class GenerativeHeadConfig:
    """Settings of the decoder.

    Attributes:
      state_width: D, width of the user's states.
      decoder: any encoder to which events can be appended; its events here are the user's state, then the codes so far.
        Its max_length is replaced by the number of levels.
    """

    state_width: Annotated[int, Interval("[1, inf)")] = 64
    decoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(feed_forward_multiple=4.0, dropout=0.1))

    def __post_init__(self) -> None:
        check_fields(self, "heads")


class GenerativeHead(NamedTuple):
    """Pure functions over one parameter pytree; states may come from a frozen encoder or be trained with the head.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      loss: `loss(params, states [T, D], targets [T], *, where=None, weights=None, key=None) -> [T, C]` float32, the
        cross entropy of each code of each target item given the codes before it; their sum is -log P(item). Items
        without codes, and 0, count as masked. A key switches dropout on.
      scores: `scores(params, states [B, D]) -> [B, V+1]` float32 log P(item) of all items, -inf for those without
        codes. It visits all nodes of the tree of codes for each user, about 2 V steps of the decoder.
      generate: `generate(params, states [B, D], *, k, num_beams=None, allowed=None) -> TopK`, the best K items that a
        beam search finds; None means 2 K beams, at least 32. `allowed` as for `constrained_beam_search`.
    """

    init: Callable[[jax.Array], Params]
    loss: Callable[..., jax.Array]
    scores: Callable[..., jax.Array]
    generate: Callable[..., TopK]


def make_generative_head(
    config: GenerativeHeadConfig, codes: Int[ArrayLike, "V1 C"], *, codebook_size: int
) -> GenerativeHead:
    """The decoder of a catalogue's semantic ids.

    The parameters do not depend on the catalogue; after it has grown, make the head again with the longer codes.

    Args:
      config: settings.
      codes: `[V+1, C]` integers, those of `SemanticIds`: from 1 to S, different for each item, zeros for an item
        without codes.
      codebook_size: S.

    Raises:
      ConfigError: a decoder to which codes cannot be appended.
      ShapeError: codes of another shape or dtype, see `make_code_tree`.
      DataError: codes that are no such table, see `make_code_tree`, or a code above S.

    Source:
      Rajput et al. (2023), Recommender Systems with Generative Retrieval (TIGER).

    >>> codes = np.array([[0, 0], [1, 1], [2, 1], [2, 2]])
    >>> head = make_generative_head(GenerativeHeadConfig(state_width=3), codes, codebook_size=2)
    >>> params = head.init(jax.random.key(0))
    >>> head.loss(params, jnp.ones((5, 3)), jnp.array([1, 2, 3, 1, 0])).shape
    (5, 2)
    >>> head.generate(params, jnp.ones((1, 3)), k=3).item_ids.shape
    (1, 3)
    """
    tree = make_code_tree(codes)
    num_levels = tree.num_levels
    if (largest := int(np.max(codes))) > codebook_size:
        raise DataError(f"codes hold {largest}, expected at most codebook_size = {codebook_size}")
    decoder = make_encoder(replace(config.decoder, max_length=num_levels))
    start, append, width = decoder.start, decoder.append, config.decoder.width
    if start is None or append is None:
        raise ConfigError(
            f"heads.decoder cannot be {config.decoder.kind}, to which codes cannot be appended one by one"
        )
    table_of_codes = jnp.asarray(codes, dtype=jnp.int32)

    def init(key: Array) -> Params:
        state_key, code_key, decoder_key = jax.random.split(key, 3)
        kernel = jax.nn.initializers.lecun_normal()(state_key, (config.state_width, width), jnp.float32)
        shape = (num_levels, codebook_size + 1, width)
        return {
            "state": {"kernel": kernel, "bias": jnp.zeros(width, jnp.float32)},
            # one table a level, for the code as it is read and as it is scored
            "codes": {"embedding": jax.nn.initializers.truncated_normal(0.02)(code_key, shape, jnp.float32)},
            "decoder": decoder.init(decoder_key),
        }

    def first_vectors(params: Params, states: Float[Array, "B D"]) -> Float[Array, "B 1 W"]:
        if states.ndim != 2 or states.shape[1] != config.state_width:
            raise ShapeError(f"states have shape {states.shape}, expected [B, {config.state_width}]")
        return (states @ params["state"]["kernel"] + params["state"]["bias"][None])[:, None]

    def loss(
        params: Params,
        states: Float[Array, "T D"],
        targets: Int[Array, " T"],
        *,
        where: Bool[Array, " T"] | None = None,
        weights: Float[Array, " T"] | None = None,
        key: Keys | None = None,
    ) -> Float[Array, "T C"]:
        codes, embedding = table_of_codes[targets], params["codes"]["embedding"]
        counts = (codes[:, 0] > 0) & (True if where is None else where) & (True if weights is None else weights != 0)
        first = first_vectors(params, jnp.where(counts[:, None], states, 0))
        levels = jnp.arange(num_levels - 1, dtype=jnp.int32)[None]
        vectors = jnp.concatenate([first, embedding[levels, codes[:, :-1]]], axis=1)
        positions = jnp.broadcast_to(jnp.arange(num_levels, dtype=jnp.int32)[None], codes.shape)
        queries = decoder.encode(params["decoder"], vectors, _batch_at(positions), key=key)

        def of_level(queries: Array, embedding: Array, codes: Array) -> Array:
            return softmax_loss(queries, embedding, codes, where=where, weights=weights)

        return jax.vmap(of_level, in_axes=(1, 0, 1), out_axes=1)(queries, embedding, codes)

    def make_step(params: Params, states: Float[Array, "B D"]) -> Any:
        embedding = params["codes"]["embedding"]

        def step(cache: Any, level: int, codes: Int[Array, "B W"] | None) -> tuple[Float[Array, "B W S1"], Any]:
            vectors = first_vectors(params, states) if codes is None else embedding[level - 1][codes]
            rows = vectors.shape[:2]
            batch = _batch_at(jnp.full((rows[0] * rows[1], 1), level, jnp.int32))
            flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), cache)
            queries, flat = append(params["decoder"], flat, vectors.reshape(-1, width), batch)
            logits = (queries @ embedding[level].T).reshape(*rows, -1)
            return logits, jax.tree.map(lambda leaf: leaf.reshape(*rows, *leaf.shape[1:]), flat)

        return step

    def no_codes(states: Float[Array, "B D"]) -> Any:
        return jax.tree.map(lambda leaf: leaf[:, None], start(states.shape[0], states.dtype))

    def scores(params: Params, states: Float[Array, "B D"]) -> Float[Array, "B V1"]:
        def of_one(state: Float[Array, " D"]) -> Float[Array, " V1"]:
            return all_item_scores(tree, no_codes(state[None]), make_step(params, state[None]))[0]

        return jax.lax.map(of_one, states, batch_size=max(1, _NODES_AT_A_TIME // tree.num_rows))

    def generate(
        params: Params,
        states: Float[Array, "B D"],
        *,
        k: int,
        num_beams: int | None = None,
        allowed: Bool[ArrayLike, "#B V1"] | None = None,
    ) -> TopK:
        beams = max(2 * k, _FEWEST_BEAMS) if num_beams is None else num_beams
        step = make_step(params, states)
        return constrained_beam_search(tree, no_codes(states), step, k=k, num_beams=beams, allowed=allowed)

    return GenerativeHead(init, loss, scores, generate)


def _batch_at(positions: Int[Array, "B L"]) -> Batch:
    """A batch of events that have a position and nothing else."""
    zeros = jnp.zeros_like(positions)
    return Batch(
        item_ids=zeros,
        behaviors=zeros,
        timestamps=zeros,
        positions=positions,
        segment_ids=jnp.ones_like(positions),
        targets=zeros,
        weights=zeros.astype(jnp.float32),
    )

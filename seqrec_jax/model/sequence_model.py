"""`SequenceModel`, a named bundle of pure functions, put together from an encoder, event inputs and an item tower."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, Shaped

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import Encoder
from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.encoders.layers import last_columns, take_columns
from seqrec_jax.items import ItemTable, ItemTower, drop_ids
from seqrec_jax.model.config import ModelConfig
from seqrec_jax.model.incremental import EventCache, append_event, start_cache
from seqrec_jax.model.parameters import bilinear_weight, init_params
from seqrec_jax.model.parts import ModelParts, condition_on_behavior, embed, make_parts
from seqrec_jax.scoring import project as project_vectors
from seqrec_jax.types import ArrayLike


class SequenceModel(NamedTuple):
    """Pure functions over one parameter pytree; each works under `jit`, `vmap` and `jax.export` with an open B.

    Attributes:
      init: `init(key) -> params` with the keys items, events, encoder, bilinear; output_items if the scored item
        vectors have weights of their own; target_behaviors if v_x depends on them.
      encode: `encode(params, item_table, batch, *, key=None, v_y=None) -> states [B, L, D]`, the v_x of a position's
        user after the events up to it. `key` is one typed key, or `[B]` typed keys, for dropout; None switches it off.
        `v_y`, the result of `item_vectors`, saves computing the vectors of the events' items again; it does not change
        the states.
      encode_last: `encode_last(params, item_table, batch, *, key=None, v_y=None) -> v_x [B, D]`, the state of `encode`
        at the last real position of each row, for rows of one user each, in less time; with a key, dropout draws
        another mask than `encode`.
      item_vectors: `item_vectors(params, item_table, ids=None) -> v_y [V+1, E]` of the scored items, or `[*ids, E]` for
        int32 ids of any shape.
      project: `project(params, states [*B, D]) -> [*B, E]`, v_xᵀ W; scores are its product with v_yᵀ.
      start: `start(num_users, dtype=float32) -> EventCache` of users without events.
      append: `append(params, item_table, cache, event, *, v_y=None) -> (v_x [B, D], cache)`: one more `Event` of each
        user, and the state after it. For users without any event v_x is meaningless. With attention, the state depends
        on the last `encoder.max_length` events: up to so many, v_x equals the last state of `encode` over all of the
        user's events; afterwards it differs from `encode` over the last `max_length`, since the cached keys of upper
        blocks still depend on older events (to get the state of the window alone, encode it anew). With a recurrence
        or a mean, v_x equals the last state of `encode` over all events, however many. ConfigError if the encoder is
        not causal, has no incremental form (language, text), or positions count from the end.
      causal: False if the model predicts masked events, see `Encoder`.
      drop_ids: `drop_ids(item_table, key) -> item_table` for a training step, with a share of the ids unknown; None if
        all are kept.
      modalities: names of the inputs of item vectors, see `ItemTowerConfig`; empty for a custom tower.
    """

    init: Callable[[jax.Array], Params]
    encode: Callable[..., jax.Array]
    encode_last: Callable[..., jax.Array]
    item_vectors: Callable[..., jax.Array]
    project: Callable[[Params, jax.Array], jax.Array]
    start: Callable[..., EventCache]
    append: Callable[..., tuple[jax.Array, EventCache]]
    causal: bool = True
    drop_ids: Callable[[ItemTable, jax.Array], ItemTable] | None = None
    modalities: tuple[str, ...] = ()


def make_sequence_model(
    config: ModelConfig,
    *,
    num_items: int,
    num_behaviors: int,
    item_table: ItemTable,
    encoder: Encoder | None = None,
    item_tower: ItemTower | None = None,
) -> SequenceModel:
    """The model that a config describes.

    Args:
      config: settings.
      num_items: V.
      num_behaviors: H, number of behaviour codes.
      item_table: with concrete arrays; the codes of its attributes set the sizes of their embeddings.
      encoder: a custom encoder in place of the one that the config names; its D is config.encoder.width.
      item_tower: a custom tower in place of the one that the config names; its E is config.items.width.

    Raises:
      ConfigError: the table lacks an attribute, or the texts of a text encoder; as `check_texts`.
      ShapeError: a table that is not for V items.
    """
    parts = make_parts(
        config,
        num_items=num_items,
        num_behaviors=num_behaviors,
        item_table=item_table,
        encoder=encoder,
        item_tower=item_tower,
    )
    id_dropout, content = config.items.id_dropout, config.items.content
    return SequenceModel(
        init=partial(init_params, parts),
        encode=partial(_encode, parts),
        encode_last=partial(_encode_last, parts),
        item_vectors=partial(_item_vectors, parts),
        project=partial(_project, parts),
        start=partial(start_cache, parts),
        append=partial(append_event, parts),
        causal=parts.encoder.causal,
        drop_ids=partial(drop_ids, rate=id_dropout, content=content) if id_dropout else None,
        modalities=config.items.modalities if item_tower is None else (),
    )


def user_vectors(
    states: Float[ArrayLike, "B L D"], rows: Int[ArrayLike, " U"], positions: Int[ArrayLike, " U"]
) -> Float[ArrayLike, "U D"]:
    """The state of each user at a position of a row, such as the last real one; rows may be packed.

    Args:
      states: `[B, L, D]`.
      rows: `[U]` int32 row of each user in the batch.
      positions: `[U]` int32 position in the row.

    Returns:
      `[U, D]`.

    >>> import jax.numpy as jnp
    >>> user_vectors(jnp.arange(6.0).reshape(1, 3, 2), jnp.array([0, 0]), jnp.array([1, 2]))
    Array([[2., 3.],
           [4., 5.]], dtype=float32)
    """
    return states[rows, positions]


def last_states(states: Shaped[Array, "B L ..."], batch: Batch) -> Shaped[Array, "B ..."]:
    """The entry of `states` `[B, L, ...]` at the last real position of each row, padding on either side.

    For rows of one user each; the entry at the first position if a row is all padding.
    """
    return take_columns(states, last_columns(batch))[:, 0]


def _encode(
    parts: ModelParts,
    params: Params,
    item_table: ItemTable,
    batch: Batch,
    *,
    key: Keys | None = None,
    v_y: Float[ArrayLike, "V1 E"] | None = None,
) -> Float[Array, "B L D"]:
    event_vectors, batch = embed(parts, params, item_table, batch, key=key, v_y=v_y)
    states = parts.encoder.encode(params["encoder"], event_vectors, batch, key=key)
    return condition_on_behavior(parts, params, states, batch.target_behaviors)


def _encode_last(
    parts: ModelParts,
    params: Params,
    item_table: ItemTable,
    batch: Batch,
    *,
    key: Keys | None = None,
    v_y: Float[ArrayLike, "V1 E"] | None = None,
) -> Float[Array, "B D"]:
    event_vectors, batch = embed(parts, params, item_table, batch, key=key, v_y=v_y)
    if parts.encoder.encode_last is None:
        states = last_states(parts.encoder.encode(params["encoder"], event_vectors, batch, key=key), batch)
    else:
        states = parts.encoder.encode_last(params["encoder"], event_vectors, batch, key=key)
    behaviors = batch.target_behaviors
    last_behaviors = None if behaviors is None else last_states(behaviors, batch)
    return condition_on_behavior(parts, params, states, last_behaviors)


def _item_vectors(
    parts: ModelParts, params: Params, item_table: ItemTable, ids: Int[ArrayLike, "*N"] | None = None
) -> Float[Array, "*M E"]:
    name = "items" if parts.config.share_item_vectors else "output_items"
    return parts.tower.item_vectors(params[name], item_table, ids)


def _project(parts: ModelParts, params: Params, states: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    return project_vectors(states, bilinear_weight(parts.config, params["bilinear"]))

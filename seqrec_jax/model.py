"""A sequence model: item tower, event inputs, encoder and W as pure functions over one parameter pytree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import Encoder, EncoderConfig, make_encoder
from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.events import EventInputConfig, make_event_inputs
from seqrec_jax.encoders.language.flattened import check_texts
from seqrec_jax.encoders.language.trained import make_text_model
from seqrec_jax.encoders.layers import last_columns, take_columns
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.items import ItemTable, ItemTower, ItemTowerConfig, drop_ids, make_item_tower
from seqrec_jax.items.table import has_modality
from seqrec_jax.items.tower import init_id_rows
from seqrec_jax.scoring import BilinearWeight
from seqrec_jax.scoring import project as project_vectors

BilinearKind = Literal["identity", "diagonal", "full", "low_rank"]


@dataclass(frozen=True)
class ModelConfig:
    """Settings of a sequence model, `f(v_x, v_y) = v_xᵀ W v_y`.

    Attributes:
      encoder: makes the user vector v_x from the events.
      events: what an event vector is made of.
      items: makes the item vector v_y.
      bilinear: W is the identity, diagonal, full, or of low rank.
      bilinear_rank: rank of a low-rank W.
      share_item_vectors: items are read by the encoder and scored with one set of weights; false makes two.
      target_behavior: v_x depends on the behaviour to be predicted, such as what the user will purchase next, not
        merely view: each behaviour scales and shifts the encoder's state.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    events: EventInputConfig = field(default_factory=EventInputConfig)
    items: ItemTowerConfig = field(default_factory=ItemTowerConfig)
    bilinear: BilinearKind = "identity"
    bilinear_rank: int = 16
    share_item_vectors: bool = True
    target_behavior: bool = False

    def __post_init__(self) -> None:
        if self.bilinear not in ("identity", "diagonal", "full", "low_rank"):
            raise ConfigError(f"model.bilinear must be identity, diagonal, full or low_rank, got {self.bilinear!r}")
        if self.bilinear in ("identity", "diagonal") and self.encoder.width != self.items.width:
            raise ConfigError(
                f"model.bilinear {self.bilinear!r} needs encoder.width equal to items.width, got "
                f"{self.encoder.width} and {self.items.width}; make them equal or choose full or low_rank"
            )
        if self.bilinear_rank < 1:
            raise ConfigError(f"model.bilinear_rank must be at least 1, got {self.bilinear_rank}")
        if self.encoder.kind == "text" and not (self.events.item and self.share_item_vectors):
            raise ConfigError(
                "encoder.kind text reads an item's text in the place of its vector: events.item must be true, and no "
                f"second set of vectors is made; got events.item {self.events.item} and model.share_item_vectors "
                f"{self.share_item_vectors}, leave both out"
            )


class Event(NamedTuple):
    """One more event of each of B users: `[B]` each.

    Attributes:
      item_ids: int32, 0 = an event without item.
      behaviors: int32 codes.
      timestamps: int32 seconds, counted as in `Batch`.
      where: bool, True for users who have an event; None means all. The others' memory does not change.
      target_behaviors: int32 code of the behaviour to be predicted next; None where it is not said.
      query_words: `[B, W]` int32 words of the event's query, as in `Batch`; None where no event has one.
    """

    item_ids: Int[Array, " B"]
    behaviors: Int[Array, " B"]
    timestamps: Int[Array, " B"]
    where: Bool[Array, " B"] | None = None
    target_behaviors: Int[Array, " B"] | None = None
    query_words: Int[Array, "B W"] | None = None


class Memory(NamedTuple):
    """What a model knows of B users after some events, so that one more costs no more than that one.

    Attributes:
      encoder: the encoder's memory.
      num_events: `[B]` int32 events so far.
      last_timestamps: `[B]` int32 time of the last one.
    """

    encoder: Any
    num_events: Int[Array, " B"]
    last_timestamps: Int[Array, " B"]


class SequenceModel(NamedTuple):
    """Pure functions over one parameter pytree.

    Attributes:
      init: `init(key) -> params` with the keys items, events, encoder, bilinear and, where input and output
        do not share weights, output_items, and target_behaviors where v_x depends on them.
      encode: `encode(params, item_table, batch, *, key=None, v_y=None) -> states [B, L, D]`, each the v_x of its user
        after the events so far; a key, or `[B]` keys, switch dropout on. `v_y` as of `item_vectors`, where it is at
        hand, saves making the vectors of the events' items again; it changes nothing else.
      encode_last: `encode_last(params, item_table, batch, *, key=None, v_y=None) -> v_x [B, D]`, the state of `encode`
        at the last real position of each row, for rows of one user each, in less time; dropout, where it is on, is
        drawn anew.
      item_vectors: `item_vectors(params, item_table, ids=None) -> v_y [V+1, E]` on the scored side, or
        `[*ids, E]`.
      project: `project(params, states [..., D]) -> [..., E]`, v_xᵀ W; scores are its product with v_yᵀ.
      start: `start(num_users, dtype=float32) -> Memory` of users without events.
      append: `append(params, item_table, memory, event, *, v_y=None) -> (v_x [B, D], memory)`, the last state of
        `encode` over all events so far; v_x is of no use for users without any. Attention reaches back to the last
        `max_length` events; a recurrence forgets none and costs the same for each. ConfigError where the model is not
        causal or counts positions from the end.
      causal: False where the model predicts masked events, see `Encoder`.
      drop_ids: `drop_ids(item_table, key) -> item_table` that a training step sees, with some of the ids unknown;
        None where all are kept.
      modalities: what item vectors are made of, see `ItemTowerConfig`; empty for a tower of one's own.
    """

    init: Callable[[jax.Array], Params]
    encode: Callable[..., jax.Array]
    encode_last: Callable[..., jax.Array]
    item_vectors: Callable[..., jax.Array]
    project: Callable[[Params, jax.Array], jax.Array]
    start: Callable[..., Memory]
    append: Callable[..., tuple[jax.Array, Memory]]
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
      item_table: with concrete arrays; its attributes' codes set the sizes of their embeddings.
      encoder: one's own, instead of the one that the config names; config.encoder.width is its D.
      item_tower: one's own, instead of the one that the config names; config.items.width is its E.

    Raises:
      ConfigError: an attribute, or the texts for an encoder, that the table does not have; as `check_texts`.
      ShapeError: a table that is not for V items.
    """
    if item_table.known.shape != (num_items + 1,):
        raise ShapeError(
            f"item_table is for V + 1 = {num_items + 1} rows, but known has shape {item_table.known.shape}"
        )
    reads_texts = encoder is None and config.encoder.kind == "text"
    if reads_texts:
        check_texts(config.encoder, item_table.features)
    encoder = make_encoder(config.encoder) if encoder is None else encoder
    tower = _item_tower(config.items, item_table) if item_tower is None else item_tower
    events = make_event_inputs(
        config.events,
        item_width=config.encoder.width if reads_texts else config.items.width,
        width=config.encoder.width,
        max_length=config.encoder.max_length,
        num_behaviors=num_behaviors,
        dropout_rate=config.encoder.dropout,
        with_mask=not encoder.causal,
    )
    ids_only = item_tower is None and not config.items.content and config.items.fusion == "sum"
    output_items = "items" if config.share_item_vectors else "output_items"

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 5)
        params = {
            "items": tower.init(keys[0]),
            "events": events.init(keys[1]),
            "encoder": encoder.init(keys[2]),
            "bilinear": _init_bilinear(config, keys[3]),
        }
        if not config.share_item_vectors:
            params["output_items"] = tower.init(keys[4])
        if config.target_behavior:
            rows = jnp.zeros((num_behaviors, config.encoder.width))
            params["target_behaviors"] = {"scale": rows, "shift": rows}
        return params

    def input_vectors(
        params: Params, item_table: ItemTable, ids: Int[Array, "B L"], v_y: Float[Array, "V1 E"] | None
    ) -> Array | None:
        if not config.events.item:
            return None
        if reads_texts:
            return jnp.broadcast_to(0.0, (*ids.shape, config.encoder.width))
        if v_y is not None and config.share_item_vectors and not ids_only:
            return v_y[ids]
        if ids_only or is_symbolic_dim(ids.size) or ids.size <= num_items:
            return tower.item_vectors(params["items"], item_table, ids)
        # fewer items than positions: content is worth fusing once an item, not once a position
        return tower.item_vectors(params["items"], item_table)[ids]

    def encode(
        params: Params,
        item_table: ItemTable,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
        v_y: Float[Array, "V1 E"] | None = None,
    ) -> Float[Array, "B L D"]:
        event_vectors, batch = embed(params, item_table, batch, key=key, v_y=v_y)
        states = encoder.encode(params["encoder"], event_vectors, batch, key=key)
        return towards_behaviors(params, states, batch.target_behaviors)

    def encode_last(
        params: Params,
        item_table: ItemTable,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
        v_y: Float[Array, "V1 E"] | None = None,
    ) -> Float[Array, "B D"]:
        event_vectors, batch = embed(params, item_table, batch, key=key, v_y=v_y)
        if encoder.encode_last is None:
            states = last_states(encoder.encode(params["encoder"], event_vectors, batch, key=key), batch)
        else:
            states = encoder.encode_last(params["encoder"], event_vectors, batch, key=key)
        behaviors = batch.target_behaviors
        return towards_behaviors(params, states, None if behaviors is None else last_states(behaviors, batch))

    def embed(
        params: Params, item_table: ItemTable, batch: Batch, *, key: PRNGKeyArray | None, v_y: Array | None
    ) -> tuple[Array, Batch]:
        vectors = input_vectors(params, item_table, batch.item_ids, v_y)
        event_vectors = events.event_vectors(params["events"], vectors, batch, key=key)
        if not reads_texts:
            return event_vectors, batch
        name, ids = config.encoder.text, batch.item_ids
        tokens = jnp.where(has_modality(item_table, name)[ids][..., None], item_table.features[name][ids], 0)
        return event_vectors, batch._replace(item_tokens=tokens)

    def towards_behaviors(params: Params, states: Array, behaviors: Array | None) -> Array:
        if not config.target_behavior:
            return states
        if behaviors is None:
            raise ConfigError("model.target_behavior is on, so the behaviour to be predicted must be said")
        rows = params["target_behaviors"]
        return states * (1.0 + rows["scale"][behaviors]) + rows["shift"][behaviors]

    def start(num_users: int, dtype: Any = jnp.float32) -> Memory:
        zeros = jnp.zeros(num_users, jnp.int32)
        return Memory(appendable().start(num_users, dtype), zeros, zeros)

    def append(
        params: Params,
        item_table: ItemTable,
        memory: Memory,
        event: Event,
        *,
        v_y: Float[Array, "V1 E"] | None = None,
    ) -> tuple[Array, Memory]:
        where = jnp.ones_like(memory.num_events, dtype=bool) if event.where is None else event.where
        zeros = jnp.zeros_like(memory.num_events)[:, None]
        batch = Batch(
            item_ids=event.item_ids[:, None],
            behaviors=event.behaviors[:, None],
            timestamps=event.timestamps[:, None],
            positions=memory.num_events[:, None],
            segment_ids=where.astype(jnp.int32)[:, None],
            targets=zeros,
            weights=zeros.astype(jnp.float32),
            query_words=None if event.query_words is None else event.query_words[:, None],
        )
        vectors = input_vectors(params, item_table, batch.item_ids, v_y)
        event_vectors = events.event_vectors(
            params["events"], vectors, batch, previous_timestamps=memory.last_timestamps
        )
        states, encoder_memory = appendable().append(params["encoder"], memory.encoder, event_vectors[:, 0], batch)
        v_x = towards_behaviors(params, states, event.target_behaviors)
        last_timestamps = jnp.where(where, event.timestamps, memory.last_timestamps)
        return v_x, Memory(encoder_memory, memory.num_events + where.astype(jnp.int32), last_timestamps)

    def appendable() -> Any:
        if encoder.append is None or encoder.start is None:
            raise ConfigError(f"events cannot be appended with encoder {config.encoder.kind}; encode whole sequences")
        if config.events.position_from_end:
            raise ConfigError(
                "events cannot be appended with events.position_from_end, since each would move the others"
            )
        return encoder

    def item_vectors(
        params: Params, item_table: ItemTable, ids: Int[Array, "*N"] | None = None
    ) -> Float[Array, "*N E"]:
        return tower.item_vectors(params[output_items], item_table, ids)

    def project(params: Params, states: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
        return project_vectors(states, _bilinear_weight(config, params["bilinear"]))

    dropping = None
    if config.items.id_dropout:
        dropping = partial(drop_ids, rate=config.items.id_dropout, content=config.items.content)
    modalities = config.items.modalities if item_tower is None else ()
    return SequenceModel(
        init, encode, encode_last, item_vectors, project, start, append, encoder.causal, dropping, modalities
    )


def user_vectors(
    states: Float[Array, "B L D"], rows: Int[Array, " U"], positions: Int[Array, " U"]
) -> Float[Array, "U D"]:
    """The state of each user at a position of a row, such as the last real one, packed or not.

    Args:
      states: `[B, L, D]`.
      rows: `[U]` int32 row of each user in the batch.
      positions: `[U]` int32 position in the row.

    >>> user_vectors(jnp.arange(6.0).reshape(1, 3, 2), jnp.array([0, 0]), jnp.array([1, 2]))
    Array([[2., 3.],
           [4., 5.]], dtype=float32)
    """
    return states[rows, positions]


def last_states(states: Float[Array, "B L ..."], batch: Batch) -> Float[Array, "B ..."]:
    """The state at the last real position of each row, on whichever side the padding is.

    For rows that hold one user each; the state at the first position where a row is all padding.
    """
    return take_columns(states, last_columns(batch))[:, 0]


def extend_item_rows(params: Params, *, old_num_items: int, new_num_items: int, key: Array) -> Params:
    """Parameters for a catalogue that has grown: new items get fresh id embeddings, old rows do not move.

    Args:
      params: of a model of `old_num_items` items.
      old_num_items: V before.
      new_num_items: V after, at least V before; the new items' ids follow the old ones'.
      key: PRNG key, consumed.

    Returns:
      New parameters; all but the id embeddings are the same arrays.

    Raises:
      ConfigError: a catalogue that shrinks.
      ShapeError: embeddings that are not for `old_num_items` items.
    """
    if new_num_items < old_num_items:
        raise ConfigError(
            f"the catalogue shrank from {old_num_items} to {new_num_items} items; keep the old vocabulary "
            "and add new items after it"
        )
    extended = dict(params)
    for name, name_key in zip(("items", "output_items"), jax.random.split(key), strict=True):
        if "ids" not in params.get(name, {}):
            continue
        table = params[name]["ids"]["embedding"]
        if table.shape[0] != old_num_items + 1:
            raise ShapeError(f"params[{name!r}]['ids'] has {table.shape[0]} rows, expected V + 1 = {old_num_items + 1}")
        fresh = init_id_rows(name_key, num_rows=new_num_items - old_num_items, width=table.shape[1])
        rows = jnp.concatenate([table, fresh.astype(table.dtype)])
        extended[name] = {**params[name], "ids": {"embedding": rows}}
    return extended


def weight_decay_mask(params: Params) -> Params:
    """Which parameters weight decay is for: a pytree like `params` of bool.

    Matrices are; vectors (biases, normalisation, a diagonal W) and what is looked up by position, behaviour or time
    are not.
    """

    def decays(path: tuple, leaf: Array) -> bool:
        names = [entry.key for entry in path]
        looked_up = names[0] in ("events", "target_behaviors") and names[-1] != "kernel"
        return leaf.ndim >= 2 and not looked_up and not names[-1].endswith("bias")

    return jax.tree_util.tree_map_with_path(decays, params)


def _item_tower(config: ItemTowerConfig, item_table: ItemTable) -> ItemTower:
    text_model = None if config.language_model is None else make_text_model(config.language_model)
    return make_item_tower(config, item_table, text_model=text_model)


def _init_bilinear(config: ModelConfig, key: Array) -> Params:
    """W near the identity, or of low rank with scores as large as the identity would give."""
    width, item_width, rank = config.encoder.width, config.items.width, config.bilinear_rank
    if config.bilinear == "identity":
        return {}
    if config.bilinear == "diagonal":
        return {"weight": jnp.ones(width)}
    if config.bilinear == "full":
        return {"weight": jnp.eye(width, item_width)}
    left_key, right_key = jax.random.split(key)
    deviation = (rank * item_width) ** -0.25
    return {
        "left": deviation * jax.random.normal(left_key, (width, rank)),
        "right": deviation * jax.random.normal(right_key, (item_width, rank)),
    }


def _bilinear_weight(config: ModelConfig, params: Params) -> BilinearWeight:
    if config.bilinear == "identity":
        return None
    return (params["left"], params["right"]) if config.bilinear == "low_rank" else params["weight"]

"""The parts of a sequence model, and the way from a batch through event vectors to the encoder and past it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import Encoder, make_encoder
from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.encoders.events import EventInputs, make_event_inputs
from seqrec_jax.encoders.language.flattened import check_texts
from seqrec_jax.encoders.language.trained import make_text_model
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.items import ItemTable, ItemTower, make_item_tower
from seqrec_jax.items.table import has_modality
from seqrec_jax.model.config import ModelConfig
from seqrec_jax.types import ArrayLike


class ModelParts(NamedTuple):
    """What the functions of a sequence model are made from.

    Attributes:
      config: settings.
      encoder: event vectors to states.
      tower: item table to item vectors.
      events: batch and item vectors to event vectors.
      num_items: V.
      num_behaviors: H, number of behaviour codes.
      reads_texts: the encoder reads the tokens of the items' texts instead of item vectors.
      ids_only: an item vector is a row of the table of id embeddings, so that looking it up costs nothing.
    """

    config: ModelConfig
    encoder: Encoder
    tower: ItemTower
    events: EventInputs
    num_items: int
    num_behaviors: int
    reads_texts: bool
    ids_only: bool


def make_parts(
    config: ModelConfig,
    *,
    num_items: int,
    num_behaviors: int,
    item_table: ItemTable,
    encoder: Encoder | None,
    item_tower: ItemTower | None,
) -> ModelParts:
    """The parts that a config describes; arguments and errors as those of `make_sequence_model`."""
    if item_table.known.shape != (num_items + 1,):
        raise ShapeError(
            f"item_table is for V + 1 = {num_items + 1} rows, but known has shape {item_table.known.shape}"
        )
    reads_texts = encoder is None and config.encoder.kind == "text"
    if reads_texts:
        check_texts(config.encoder, item_table.features)
    encoder = make_encoder(config.encoder) if encoder is None else encoder
    ids_only = item_tower is None and not config.items.content and config.items.fusion == "sum"
    if item_tower is None:
        language_model = config.items.language_model
        text_model = None if language_model is None else make_text_model(language_model)
        item_tower = make_item_tower(config.items, item_table, text_model=text_model)
    events = make_event_inputs(
        config.events,
        item_width=config.encoder.width if reads_texts else config.items.width,
        width=config.encoder.width,
        max_length=config.encoder.max_length,
        num_behaviors=num_behaviors,
        dropout_rate=config.encoder.dropout,
        with_mask=not encoder.causal,
    )
    return ModelParts(config, encoder, item_tower, events, num_items, num_behaviors, reads_texts, ids_only)


def input_item_vectors(
    parts: ModelParts,
    params: Params,
    item_table: ItemTable,
    ids: Int[ArrayLike, "B L"],
    v_y: Float[ArrayLike, "V1 E"] | None,
) -> Float[Array, "B L I"] | None:
    """Vectors of the events' items, zeros for an encoder that reads texts; None if items are not an input."""
    if not parts.config.events.item:
        return None
    if parts.reads_texts:
        return jnp.broadcast_to(0.0, (*ids.shape, parts.config.encoder.width))
    if v_y is not None and parts.config.share_item_vectors and not parts.ids_only:
        return jnp.asarray(v_y)[ids]
    if parts.ids_only or is_symbolic_dim(ids.size) or ids.size <= parts.num_items:
        return parts.tower.item_vectors(params["items"], item_table, ids)
    # fewer items than positions: fusing the content of each item once costs less than of each position
    return parts.tower.item_vectors(params["items"], item_table)[ids]


def embed(
    parts: ModelParts,
    params: Params,
    item_table: ItemTable,
    batch: Batch,
    *,
    key: Keys | None,
    v_y: Float[ArrayLike, "V1 E"] | None,
) -> tuple[Float[Array, "B L D"], Batch]:
    """Event vectors, and the batch with the tokens of its items' texts if the encoder reads them."""
    vectors = input_item_vectors(parts, params, item_table, batch.item_ids, v_y)
    event_vectors = parts.events.event_vectors(params["events"], vectors, batch, key=key)
    if not parts.reads_texts:
        return event_vectors, batch
    name, ids = parts.config.encoder.text, batch.item_ids
    tokens = jnp.where(has_modality(item_table, name)[ids][..., None], item_table.features[name][ids], 0)
    return event_vectors, batch._replace(item_tokens=tokens)


def condition_on_behavior(
    parts: ModelParts, params: Params, states: Float[Array, "*B D"], behaviors: Int[ArrayLike, "*B"] | None
) -> Float[Array, "*B D"]:
    """States scaled and shifted for the behaviour to be predicted; unchanged if the model does not depend on it.

    Raises:
      ConfigError: the model depends on the target behaviour and none is given.
    """
    if not parts.config.target_behavior:
        return states
    if behaviors is None:
        raise ConfigError(
            "model.target_behavior is true, so that each state needs a target behaviour; give target_behaviors"
        )
    rows = params["target_behaviors"]
    return states * (1.0 + rows["scale"][behaviors]) + rows["shift"][behaviors]

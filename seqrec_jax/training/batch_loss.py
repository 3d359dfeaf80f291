"""The loss of one step as functions of the parameters: model, objective and contrastive term over a drawn batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from seqrec_jax import losses
from seqrec_jax.data.batches import Batch
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.negatives import Negatives
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.objective import Objective
from seqrec_jax.training.state import Params
from seqrec_jax.training.update import StepLoss
from seqrec_jax.training.views import random_view, segment_vectors

_VIEW_STREAM = 0x71E3  # keeps the keys of views, and of dropout in them, apart from those of the batch


class StepInputs(NamedTuple):
    """The inputs of the loss of a step, besides the parameters.

    Attributes:
      item_table: attributes of the items, dropped ids already marked as unknown.
      batch: `[B, L]`.
      weights: `[B, L]` float32 weights of the targets, those of their items multiplied in.
      negatives: of the objective; None for one without.
      row_keys: `[B]` keys of dropout and views, one a row.
    """

    item_table: ItemTable
    batch: Batch
    weights: Float[Array, "B L"]
    negatives: Negatives | None
    row_keys: Key[Array, " B"]


def make_step_loss(
    model: SequenceModel, objective: Objective, config: TrainingConfig, inputs: StepInputs, *, num_segments: int
) -> StepLoss:
    """The loss of a batch as functions of the parameters.

    Args:
      model: pure functions.
      objective: loss of each target and its mean.
      config: precision and the contrastive term.
      inputs: the batch and everything drawn for it.
      num_segments: M, segments of a row at most.
    """

    def mean(params: Params) -> Float[Array, ""]:
        queries, v_y = _vectors(model, params, config, inputs)
        loss = objective.mean(queries, v_y, inputs.batch.targets, inputs.weights, inputs.negatives)
        if not config.contrastive.weight:
            return loss
        return loss + _contrastive_term(model, params, config, inputs, v_y, num_segments=num_segments)

    def row_sum(params: Params, row: Int[Array, ""]) -> Float[Array, ""]:
        if config.contrastive.weight:
            raise ConfigError(
                "training.contrastive compares the rows of a batch, so that a row has no loss of its own; set "
                "training.contrastive.weight to 0 for an update by rows"
            )
        one = _take_row(inputs, row)
        queries, v_y = _vectors(model, params, config, one)
        values = objective.target_losses(queries, v_y, one.batch.targets, one.negatives)
        counts = (one.batch.targets > 0) & (one.weights != 0)
        return jnp.sum(one.weights * jnp.where(counts, values.astype(jnp.float32), 0.0))

    weights = jnp.where(inputs.batch.targets > 0, inputs.weights, 0.0)
    return StepLoss(mean, row_sum, jnp.sum(weights, axis=1))


def _in_precision(params: Params, config: TrainingConfig) -> Params:
    """Floating-point parameters in the dtype of the encoder's arithmetic; others as they are."""
    dtype = jnp.bfloat16 if config.precision == "bfloat16" else jnp.float32

    def cast(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    cast_params: Params = jax.tree.map(cast, params)
    return cast_params


def _vectors(
    model: SequenceModel, params: Params, config: TrainingConfig, inputs: StepInputs
) -> tuple[Float[Array, "B L E"], Float[Array, "V1 E"]]:
    """`[B, L, E]` queries and `[V+1, E]` item vectors."""
    params = _in_precision(params, config)
    v_y = model.item_vectors(params, inputs.item_table)
    states = model.encode(params, inputs.item_table, inputs.batch, key=inputs.row_keys, v_y=v_y)
    return model.project(params, states), v_y


def _contrastive_term(
    model: SequenceModel,
    params: Params,
    config: TrainingConfig,
    inputs: StepInputs,
    v_y: Float[Array, "V1 E"],
    *,
    num_segments: int,
) -> Float[Array, ""]:
    """λ times the mean contrastive loss of two views of each sequence."""
    params, views = _in_precision(params, config), []
    for number in range(2):
        view_keys, keys = (
            jax.vmap(lambda key, stream=_VIEW_STREAM + 2 * number + part: jax.random.fold_in(key, stream))(
                inputs.row_keys
            )
            for part in range(2)
        )
        view = random_view(inputs.batch, config=config.contrastive, row_keys=view_keys)
        states = model.encode(params, inputs.item_table, view, key=keys, v_y=v_y)
        vectors, where = segment_vectors(states, view.segment_ids, num_segments=num_segments)
        views.append(vectors.reshape(-1, vectors.shape[-1]))
    real = where.reshape(-1)
    values = losses.contrastive_loss(*views, temperature=config.contrastive.temperature, where=real)
    return config.contrastive.weight * losses.weighted_mean(values, where=real)


def _take_row(inputs: StepInputs, row: Int[Array, ""]) -> StepInputs:
    """The inputs of a batch of one row."""

    def take(leaf: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(leaf, row, 1)

    negatives = inputs.negatives
    if negatives is not None and negatives.ids.ndim > 1:  # those of the whole batch are shared by its rows
        negatives = negatives._replace(ids=take(negatives.ids))
    return inputs._replace(
        batch=jax.tree.map(take, inputs.batch),
        weights=take(inputs.weights),
        negatives=negatives,
        row_keys=take(inputs.row_keys),
    )

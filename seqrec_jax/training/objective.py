"""From the configured loss to one scalar: scores of targets and negatives, the loss, its weighted mean."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax import losses
from seqrec_jax.negatives import popularity_sampler, sample_negatives
from seqrec_jax.scoring import candidate_scores, pair_scores
from seqrec_jax.training.config import LossConfig

Objective = Callable[..., Float[Array, ""]]


def make_objective(config: LossConfig, *, item_counts: np.ndarray, axis_name: str | None) -> Objective:
    """The training objective as a pure function.

    Args:
      config: the loss.
      item_counts: `[V+1]` events of each item in training; items with none are neither negatives nor part of
        the softmax, so that an item without training is not pushed down.
      axis_name: mesh axis that shares the batch, None on one device.

    Returns:
      `objective(queries [B, L, E], v_y [V+1, E], targets [B, L], weights [B, L], step_key, row_keys [B])`, the
      weighted mean over all targets of all devices, float32.
    """
    trained = np.asarray(item_counts) > 0
    trained[0] = False
    sampler = popularity_sampler(np.where(trained, item_counts, 0), power=config.negatives_power)

    def objective(
        queries: Float[Array, "B L E"],
        v_y: Float[Array, "V1 E"],
        targets: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        step_key: jax.Array,
        row_keys: jax.Array,
    ) -> Float[Array, ""]:
        flat = queries.reshape(-1, queries.shape[-1])
        flat_targets, flat_weights = targets.reshape(-1), weights.reshape(-1)
        where: Bool[Array, " T"] = flat_targets > 0
        if config.kind == "softmax":
            return losses.mean_softmax_loss(
                flat,
                v_y,
                flat_targets,
                temperature=config.temperature,
                allowed=jnp.asarray(trained),
                where=where,
                weights=flat_weights,
                axis_name=axis_name,
            )
        if config.kind == "sampled_softmax":
            negatives = sample_negatives(sampler, (config.num_negatives,), step_key)
            values = losses.sampled_softmax_loss(
                flat,
                v_y,
                flat_targets,
                negative_ids=negatives.ids,
                negative_log_q=negatives.log_q,
                target_log_q=sampler.log_q[flat_targets],
                temperature=config.temperature,
                where=where,
            )
        else:
            shape = (targets.shape[1], config.num_negatives)
            # a row's negatives follow from the row, so that they do not depend on the number of devices
            drawn = jax.vmap(lambda key: sample_negatives(sampler, shape, key).ids)(row_keys)
            negative_ids = drawn.reshape(-1, config.num_negatives)
            loss = losses.binary_cross_entropy_loss if config.kind == "binary_cross_entropy" else losses.bpr_loss
            positive_scores = pair_scores(flat, None, v_y[flat_targets])
            negative_scores = candidate_scores(flat, None, v_y, candidate_ids=negative_ids)
            values = loss(
                positive_scores / config.temperature,
                negative_scores / config.temperature,
                negative_where=negative_ids != flat_targets[:, None],
                where=where,
            )
        return losses.weighted_mean(values, flat_weights, where=where, axis_name=axis_name)

    return objective

"""From the configured loss to one scalar: negatives, scores of targets and negatives, the loss, its weighted mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec_jax import losses
from seqrec_jax.negatives import Negatives, in_batch_negatives, mixed_negatives, popularity_sampler, sample_negatives
from seqrec_jax.scoring import pair_scores
from seqrec_jax.training.config import LossConfig

DrawNegatives = Callable[[Int[Array, "B L"], jax.Array, jax.Array], Negatives]

_LARGEST_PROPENSITY_WEIGHT = 10.0  # a target that counts for more than ten others makes steps too noisy


class Objective(NamedTuple):
    """A loss in two halves: which negatives, and how much; called with the arguments of both it is a plain function.

    Attributes:
      draw: `draw(targets [B, L], step_key, row_keys [B]) -> Negatives`; None for a loss over all items.
      loss: `loss(queries [B, L, E], v_y [V+1, E], targets [B, L], weights [B, L], negatives)`, the weighted mean over
        all targets, float32. Given item numbers of its own for targets and negatives, and the rows of these items as
        `v_y`, it gives the same.
      item_weights: `[V+1]` float32 that a target's weight is multiplied by; None for ones.
    """

    draw: DrawNegatives | None
    loss: Callable[..., Float[Array, ""]]
    item_weights: Float[Array, " V+1"] | None

    def weigh(self, targets: Int[Array, "B L"], weights: Float[Array, "B L"]) -> Float[Array, "B L"]:
        """`[B, L]` weights of the targets."""
        return weights if self.item_weights is None else weights * self.item_weights[targets]

    def __call__(
        self,
        queries: Float[Array, "B L E"],
        v_y: Float[Array, "V1 E"],
        targets: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        step_key: jax.Array,
        row_keys: jax.Array,
    ) -> Float[Array, ""]:
        """The weighted mean over all targets, float32."""
        negatives = None if self.draw is None else self.draw(targets, step_key, row_keys)
        return self.loss(queries, v_y, targets, self.weigh(targets, weights), negatives)


def make_objective(
    config: LossConfig,
    *,
    item_counts: np.ndarray,
    target_counts: np.ndarray | None = None,
    data_devices: int = 1,
    model_devices: int = 1,
) -> Objective:
    """The training objective as a pure function.

    Args:
      config: the loss.
      item_counts: `[V+1]` events of each item in training; items with none are neither negatives nor part of
        the softmax, so that an item without training is not pushed down.
      target_counts: `[V+1]` how often each item is a target, by which negatives come from the batch and inverse
        propensities are taken; None takes the events for it.
      data_devices: devices that share the batch.
      model_devices: devices that share the items.

    Returns:
      `objective(queries [B, L, E], v_y [V+1, E], targets [B, L], weights [B, L], step_key, row_keys [B])`.
    """
    trained = np.asarray(item_counts) > 0
    trained[0] = False
    target_counts = np.where(trained, item_counts if target_counts is None else target_counts, 0)
    draw = None if config.kind == "softmax" else _make_draw(config, np.where(trained, item_counts, 0), target_counts)
    pair_loss = _make_pair_loss(config, num_items=int(trained.sum()))
    item_weights = None
    if config.propensity_power:
        item_weights = losses.inverse_propensity_weights(
            target_counts, power=config.propensity_power, max_weight=_LARGEST_PROPENSITY_WEIGHT
        )

    def loss(
        queries: Float[Array, "B L E"],
        v_y: Float[Array, "V1 E"],
        targets: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        negatives: Negatives | None,
    ) -> Float[Array, ""]:
        where = targets > 0
        if negatives is None:
            return losses.mean_softmax_loss(
                queries.reshape(-1, queries.shape[-1]),
                v_y,
                targets.reshape(-1),
                temperature=config.temperature,
                label_smoothing=config.label_smoothing,
                allowed=jnp.asarray(trained),
                where=where.reshape(-1),
                weights=weights.reshape(-1),
                row_shards=data_devices,
                item_shards=model_devices,
            )
        if config.kind == "sampled_softmax":
            values = losses.sampled_softmax_loss(
                queries,
                v_y,
                targets,
                negative_ids=negatives.ids,
                log_q=negatives.log_q,
                temperature=config.temperature,
                where=where,
            )
        else:
            values = pair_loss(
                pair_scores(queries, None, v_y[targets]) / config.temperature,
                losses.negative_scores(queries, v_y, negative_ids=negatives.ids) / config.temperature,
                negative_where=losses.negatives_that_count(negatives.ids, targets),
                where=where,
            )
        return losses.weighted_mean(values, weights, where=where)

    return Objective(draw, loss, item_weights)


def _make_draw(config: LossConfig, item_counts: np.ndarray, target_counts: np.ndarray) -> DrawNegatives:
    """`draw(targets [B, L], step_key, row_keys [B])` gives the ids of a batch `[N]`, of rows or of targets."""
    power = config.popularity_power if config.negatives == "popularity" else 0.0
    sampler = popularity_sampler(item_counts, power=power)
    target_log_q = popularity_sampler(target_counts).log_q

    def draw(targets: Array, step_key: jax.Array, row_keys: jax.Array) -> Negatives:
        if config.negatives == "in_batch":
            return in_batch_negatives(targets, target_log_q, num_negatives=config.num_negatives, key=step_key)
        if config.negatives == "mixed":
            return mixed_negatives(targets, target_log_q, sampler, num_negatives=config.num_negatives, key=step_key)
        if config.negatives_per == "batch":
            return sample_negatives(sampler, (config.num_negatives,), step_key)
        places = (targets.shape[1],) if config.negatives_per == "target" else ()
        # a row's negatives follow from the row, so that they do not depend on the number of devices
        ids = jax.vmap(lambda key: sample_negatives(sampler, (*places, config.num_negatives), key).ids)(row_keys)
        return Negatives(ids, sampler.log_q)

    return draw


def _make_pair_loss(config: LossConfig, *, num_items: int) -> Callable[..., Array]:
    """The loss of positive and negative scores that the configuration names; plain BPR where it names none."""
    if config.kind == "binary_cross_entropy":
        return losses.binary_cross_entropy_loss
    if config.kind == "generalized_binary_cross_entropy":
        beta = losses.calibrated_beta(config.num_negatives, max(num_items, 2), calibration=config.calibration)
        return partial(losses.generalized_binary_cross_entropy_loss, beta=beta)
    if config.kind == "bpr_max":
        return partial(losses.bpr_max_loss, score_penalty=config.score_penalty)
    return losses.bpr_loss

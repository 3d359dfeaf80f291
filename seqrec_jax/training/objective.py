"""The training objective: which negatives, the loss of each target, and its weighted mean over a batch."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Shaped

from seqrec_jax import losses
from seqrec_jax.negatives import Negatives, in_batch_negatives, mixed_negatives, popularity_sampler, sample_negatives
from seqrec_jax.scoring import pair_scores
from seqrec_jax.training.config import LossConfig
from seqrec_jax.types import ArrayLike

_LARGEST_PROPENSITY_WEIGHT = 10.0  # a target that counts for more than ten others makes steps too noisy


@runtime_checkable
class DrawNegatives(Protocol):
    """Negatives of a batch, from a key of the step and one of each row."""

    def __call__(
        self, targets: Int[Array, "B L"], step_key: Key[Array, ""], row_keys: Key[Array, " B"], /
    ) -> Negatives:
        """Ids `[N]` for the batch, `[B, N]` for each row or `[B, L, N]` for each target, and log q of every item."""
        ...


@runtime_checkable
class TargetLosses(Protocol):
    """Loss of each target, `[B, L]` float32, without weights; where there is no target its value does not count."""

    def __call__(
        self,
        queries: Float[Array, "B L E"],
        v_y: Float[Array, "V1 E"],
        targets: Int[Array, "B L"],
        negatives: Negatives | None,
        /,
    ) -> Float[Array, "B L"]:
        """Losses `[B, L]` of `queries` `[B, L, E]` against `v_y` `[V+1, E]`."""
        ...


@runtime_checkable
class MeanLoss(Protocol):
    """The weighted mean of the losses of a batch's targets, computed without the losses themselves."""

    def __call__(
        self,
        queries: Float[Array, "B L E"],
        v_y: Float[Array, "V1 E"],
        targets: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        /,
    ) -> Float[Array, ""]:
        """Σ weight × loss / Σ weight, float32."""
        ...


class Objective(NamedTuple):
    """A training loss as pure functions; called, it is the weighted mean over a batch.

    Attributes:
      target_losses: loss of each target `[B, L]`. It may be given item numbers of its own, with the rows of these
        items as `v_y`.
      draw: the negatives that `target_losses` takes; None for a loss without negatives.
      item_weights: `[V+1]` float32 by which the weight of a target is multiplied; None for ones.
      fused_mean: a faster way to the mean of a loss without negatives; None takes it from `target_losses`.
    """

    target_losses: TargetLosses
    draw: DrawNegatives | None = None
    item_weights: Float[Array, " V1"] | None = None
    fused_mean: MeanLoss | None = None

    def weigh(self, targets: Int[Array, "B L"], weights: Float[Array, "B L"]) -> Float[Array, "B L"]:
        """`[B, L]` weights of the targets times those of their items."""
        return weights if self.item_weights is None else weights * self.item_weights[targets]

    def mean(
        self,
        queries: Float[Array, "B L E"],
        v_y: Float[Array, "V1 E"],
        targets: Int[Array, "B L"],
        weights: Float[Array, "B L"],
        negatives: Negatives | None,
    ) -> Float[Array, ""]:
        """Σ weight × loss / Σ weight over the targets of a batch: the one place where the mean is taken.

        Args:
          queries: `[B, L, E]` user vectors in the item space, v_xᵀ W.
          v_y: `[V+1, E]` item vectors.
          targets: `[B, L]` item ids; 0 = none.
          weights: `[B, L]` as `weigh` gives them.
          negatives: as `draw` gives them; None for a loss without.

        Returns:
          float32 scalar; 0 where there is no target.
        """
        if self.fused_mean is not None:
            return self.fused_mean(queries, v_y, targets, weights)
        values = self.target_losses(queries, v_y, targets, negatives)
        return losses.weighted_mean(values, weights, where=targets > 0)

    def __call__(
        self,
        queries: Float[ArrayLike, "B L E"],
        v_y: Float[ArrayLike, "V1 E"],
        targets: Int[ArrayLike, "B L"],
        weights: Float[ArrayLike, "B L"],
        step_key: Key[Array, ""],
        row_keys: Key[Array, " B"],
    ) -> Float[Array, ""]:
        """The mean with freshly drawn negatives, float32; arguments as for `mean` and `draw`."""
        queries, v_y, targets, weights = map(jnp.asarray, (queries, v_y, targets, weights))
        negatives = None if self.draw is None else self.draw(targets, step_key, row_keys)
        return self.mean(queries, v_y, targets, self.weigh(targets, weights), negatives)


def make_objective(
    config: LossConfig,
    *,
    item_counts: Shaped[np.ndarray, " V1"],
    target_counts: Shaped[np.ndarray, " V1"] | None = None,
    data_devices: int = 1,
    model_devices: int = 1,
) -> Objective:
    """The objective that a configuration describes.

    Args:
      config: the loss.
      item_counts: `[V+1]` events of each item in training; items with none are neither negatives nor part of
        the softmax, so that an item without training is not pushed down.
      target_counts: `[V+1]` how often each item is a target, for the frequencies of negatives from the batch and for
        inverse propensities; None takes `item_counts`.
      data_devices: devices that share the batch.
      model_devices: devices that share the items.
    """
    trained = np.asarray(item_counts) > 0
    trained[0] = False
    target_counts = np.where(trained, item_counts if target_counts is None else target_counts, 0)
    item_weights = None
    if config.propensity_power:
        item_weights = losses.item_count_weights(
            target_counts, power=config.propensity_power, max_weight=_LARGEST_PROPENSITY_WEIGHT
        )
    if config.kind == "softmax":
        return _softmax_objective(config, trained, item_weights, data_devices=data_devices, model_devices=model_devices)
    draw = _make_draw(config, np.where(trained, item_counts, 0), target_counts)
    if config.kind == "sampled_softmax":
        return Objective(_sampled_softmax_losses(config), draw, item_weights)
    return Objective(_pair_losses(config, num_items=int(trained.sum())), draw, item_weights)


def _softmax_objective(
    config: LossConfig, trained: np.ndarray, item_weights: Array | None, *, data_devices: int, model_devices: int
) -> Objective:
    """The loss over all items that have training events."""

    def target_losses(queries: Array, v_y: Array, targets: Array, negatives: Negatives | None) -> Array:
        values = losses.softmax_loss(
            queries.reshape(-1, queries.shape[-1]),
            v_y,
            targets.reshape(-1),
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
            allowed=jnp.asarray(trained),
        )
        return values.reshape(targets.shape)

    def mean(queries: Array, v_y: Array, targets: Array, weights: Array) -> Array:
        where = targets > 0
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

    return Objective(target_losses, item_weights=item_weights, fused_mean=mean)


def _sampled_softmax_losses(config: LossConfig) -> TargetLosses:
    def target_losses(queries: Array, v_y: Array, targets: Array, negatives: Negatives | None) -> Array:
        assert negatives is not None
        return losses.sampled_softmax_loss(
            queries,
            v_y,
            targets,
            negative_ids=negatives.ids,
            log_q=negatives.log_q,
            temperature=config.temperature,
            where=targets > 0,
        )

    return target_losses


def _pair_losses(config: LossConfig, *, num_items: int) -> TargetLosses:
    """Losses of the target's score against each negative's."""
    pair_loss = _pair_loss(config, num_items=num_items)

    def target_losses(queries: Array, v_y: Array, targets: Array, negatives: Negatives | None) -> Array:
        assert negatives is not None
        return pair_loss(
            pair_scores(queries, None, v_y[targets]) / config.temperature,
            losses.negative_scores(queries, v_y, negative_ids=negatives.ids) / config.temperature,
            negative_where=losses.negatives_that_count(negatives.ids, targets),
            where=targets > 0,
        )

    return target_losses


@runtime_checkable
class _PairLoss(Protocol):
    """A loss of `losses` over scores of positives `[B, L]` and negatives `[B, L, N]`."""

    def __call__(
        self, positive_scores: Array, negative_scores: Array, /, *, negative_where: Array | None, where: Array | None
    ) -> Array: ...


def _pair_loss(config: LossConfig, *, num_items: int) -> _PairLoss:
    if config.kind == "binary_cross_entropy":
        return losses.binary_cross_entropy_loss
    if config.kind == "generalized_binary_cross_entropy":
        beta = losses.calibrated_beta(config.num_negatives, max(num_items, 2), calibration=config.calibration)
        return partial(losses.generalized_binary_cross_entropy_loss, beta=beta)
    if config.kind == "bpr_max":
        return partial(losses.bpr_max_loss, score_penalty=config.score_penalty)
    return losses.bpr_loss


def _make_draw(config: LossConfig, item_counts: np.ndarray, target_counts: np.ndarray) -> DrawNegatives:
    """The draw of negatives for a batch, for its rows or for its targets."""
    power = config.popularity_power if config.negatives == "popularity" else 0.0
    sampler = popularity_sampler(item_counts, power=power)
    target_log_q = popularity_sampler(target_counts).log_q

    def draw(targets: Array, step_key: Key[Array, ""], row_keys: Key[Array, " B"]) -> Negatives:
        if config.negatives == "in_batch":
            return in_batch_negatives(targets, target_log_q, num_negatives=config.num_negatives, key=step_key)
        if config.negatives == "mixed":
            return mixed_negatives(targets, target_log_q, sampler, num_negatives=config.num_negatives, key=step_key)
        if config.negatives_per == "batch":
            return sample_negatives(sampler, (config.num_negatives,), step_key)
        places = (targets.shape[1],) if config.negatives_per == "target" else ()
        # a row's negatives follow from the row's key, so that they do not depend on the number of devices
        ids = jax.vmap(lambda key: sample_negatives(sampler, (*places, config.num_negatives), key).ids)(row_keys)
        return Negatives(ids, sampler.log_q)

    return draw

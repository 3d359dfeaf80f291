"""Training losses: arrays in, one float32 value for each target out; `mean_…` and `weighted_mean` reduce.

The values of a loss are multiplied by `weights` (`[*T]` floating point, None means 1) and 0 where `where` (`[*T]`
bool, None means all) is False; a target of weight 0 changes neither values nor gradients, whatever it holds. To
average, pass the weights to `weighted_mean` and leave the loss unweighted.

On several devices, the gradient of a mean with `axis_name` by a replicated parameter is that of the whole batch
inside `jax.shard_map`; inside `jax.pmap` it is so after `jax.lax.pmean`.
"""

from __future__ import annotations

from seqrec_jax.losses.contrastive import contrastive_loss
from seqrec_jax.losses.labelled import class_loss, click_and_conversion_loss, logistic_loss
from seqrec_jax.losses.pairwise import bpr_loss, bpr_max_loss
from seqrec_jax.losses.pointwise import (
    binary_cross_entropy_loss,
    calibrated_beta,
    generalized_binary_cross_entropy_loss,
    squared_error_loss,
)
from seqrec_jax.losses.reduce import weighted_mean
from seqrec_jax.losses.sampled import negative_scores, negatives_that_count, sampled_softmax_loss
from seqrec_jax.losses.softmax import mean_softmax_loss, softmax_loss
from seqrec_jax.losses.weighting import combine_losses, item_count_weights, uncertainty_weighted_loss

__all__ = [
    "binary_cross_entropy_loss",
    "bpr_loss",
    "bpr_max_loss",
    "calibrated_beta",
    "class_loss",
    "click_and_conversion_loss",
    "combine_losses",
    "contrastive_loss",
    "generalized_binary_cross_entropy_loss",
    "item_count_weights",
    "logistic_loss",
    "mean_softmax_loss",
    "negative_scores",
    "negatives_that_count",
    "sampled_softmax_loss",
    "softmax_loss",
    "squared_error_loss",
    "uncertainty_weighted_loss",
    "weighted_mean",
]

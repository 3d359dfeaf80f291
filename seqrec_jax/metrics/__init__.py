"""Metrics: arrays in, one value for each user (or one for the catalogue) out, nan where it is undefined.

| file | arguments | metrics |
|---|---|---|
| `ranking` | ranks of the relevant items | hit rate, precision, recall, F1, NDCG (also graded), MRR, MAP at k |
| `whole_ranking` | the same | mean rank, AUC, grouped AUC |
| `classification` | probabilities and labels | log loss, Brier score, calibration error, AUC, precision, recall, F1 |
| `lists` | lists of item ids | ranks from lists, novelty, diversity, overlap of two lists |
| `histories` | lists and histories | serendipity, repeats, popularity lift, miscalibration |
| `exposure` | all lists, or counts of items | coverage, Gini, entropy, tail, groups, personalisation |
| `correction` | propensities | weights, effective sample size, inverse-propensity means |

All are pure functions that work under `jit`, `vmap`, `pmap` and on arrays sharded over users. They take NumPy arrays
too, whose values are checked. `where` is True for entries that count; `k` and other sizes are static.
"""

from __future__ import annotations

from seqrec_jax.metrics.classification import (
    Reliability,
    ThresholdMetrics,
    brier_score,
    expected_calibration_error,
    log_loss,
    reliability,
    roc_auc,
    threshold_metrics,
)
from seqrec_jax.metrics.correction import (
    effective_sample_size,
    inverse_propensity_mean,
    inverse_propensity_weights,
    popularity_propensities,
)
from seqrec_jax.metrics.exposure import (
    catalogue_coverage,
    exposure_counts,
    exposure_disparity,
    exposure_entropy,
    gini,
    group_exposure,
    mean_list_distance,
    tail_share,
)
from seqrec_jax.metrics.histories import calibration_divergence, popularity_lift, repeat_rate, serendipity
from seqrec_jax.metrics.inputs import MISSING_RANK
from seqrec_jax.metrics.lists import (
    attribute_diversity,
    hits_from_lists,
    intra_list_diversity,
    list_overlap,
    novelty,
    rank_biased_overlap,
    ranks_from_lists,
)
from seqrec_jax.metrics.ranking import (
    RANKING_METRICS,
    accuracy_at_1,
    f1_at_k,
    graded_ndcg_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    num_relevant,
    precision_at_k,
    recall_at_k,
)
from seqrec_jax.metrics.whole_ranking import auc, grouped_auc, mean_rank

__all__ = [
    "MISSING_RANK",
    "RANKING_METRICS",
    "Reliability",
    "ThresholdMetrics",
    "accuracy_at_1",
    "attribute_diversity",
    "auc",
    "brier_score",
    "calibration_divergence",
    "catalogue_coverage",
    "effective_sample_size",
    "expected_calibration_error",
    "exposure_counts",
    "exposure_disparity",
    "exposure_entropy",
    "f1_at_k",
    "gini",
    "graded_ndcg_at_k",
    "group_exposure",
    "grouped_auc",
    "hit_rate_at_k",
    "hits_from_lists",
    "intra_list_diversity",
    "inverse_propensity_mean",
    "inverse_propensity_weights",
    "list_overlap",
    "log_loss",
    "map_at_k",
    "mean_list_distance",
    "mean_rank",
    "mrr_at_k",
    "ndcg_at_k",
    "novelty",
    "num_relevant",
    "popularity_lift",
    "popularity_propensities",
    "precision_at_k",
    "rank_biased_overlap",
    "ranks_from_lists",
    "recall_at_k",
    "reliability",
    "repeat_rate",
    "roc_auc",
    "serendipity",
    "tail_share",
    "threshold_metrics",
]

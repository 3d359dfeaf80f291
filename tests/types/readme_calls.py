"""Calls in the README's style with NumPy arrays, of every public function of metrics, losses and scoring.

`test_readme_calls.py` runs this file, and mypy over it.
"""

from __future__ import annotations

import jax
import numpy as np

from seqrec_jax import losses, metrics, scoring
from seqrec_jax.types import LossFunction, MetricFunction

rng = np.random.default_rng(0)
ranks, real = np.array([[1, 7], [3, 2]]), np.array([[True, True], [True, False]])
lists, relevant, histories = np.array([[1, 2], [2, 3]]), np.array([[2, 4], [1, 3]]), np.array([[1, 1, 4], [3, 0, 0]])
probabilities, happened = np.array([0.1, 0.6, 0.8]), np.array([False, True, True])
counts, tail, groups = np.array([0, 4, 3, 2, 1]), np.array([False, False, True, True, True]), np.array([0, 1, 1, 2, 2])
v_x, v_y, weight = rng.normal(size=(2, 3)), rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
targets, negative_ids = np.array([1, 3]), np.array([[2, 4], [1, 2]])
positive, negative = rng.normal(size=2), rng.normal(size=(2, 2))


def call_metrics() -> None:
    recall: jax.Array = metrics.recall_at_k(ranks, k=3, where=real)
    of_ranks: list[MetricFunction] = [metrics.ndcg_at_k, *metrics.RANKING_METRICS.values()]
    for metric in of_ranks:
        metric(ranks, k=2, where=real)
    for whole in (metrics.accuracy_at_1, metrics.num_relevant):
        whole(ranks, where=real)
    metrics.hit_rate_at_k(ranks, k=3)
    metrics.precision_at_k(ranks, k=3)
    metrics.f1_at_k(ranks, k=3)
    metrics.mrr_at_k(ranks)
    metrics.map_at_k(ranks, k=3)
    metrics.graded_ndcg_at_k(ranks, np.array([[1, 2], [3, 4]]), k=3)
    metrics.mean_rank(np.where(real, ranks, metrics.MISSING_RANK), num_candidates=9)
    metrics.grouped_auc(metrics.auc(ranks, num_candidates=np.array([9, 9])), np.array([3, 1]))
    metrics.log_loss(probabilities, happened)
    metrics.brier_score(probabilities, happened.astype(int))
    metrics.roc_auc(probabilities, happened)
    curve: metrics.Reliability = metrics.reliability(probabilities, happened, num_bins=2)
    decisions: metrics.ThresholdMetrics = metrics.threshold_metrics(probabilities, happened)
    metrics.expected_calibration_error(probabilities, happened)
    metrics.ranks_from_lists(lists, relevant)
    metrics.hits_from_lists(lists, relevant)
    metrics.novelty(lists, counts / counts.sum())
    metrics.intra_list_diversity(lists, v_y)
    metrics.attribute_diversity(lists, groups[:, None])
    metrics.list_overlap(lists, relevant)
    metrics.rank_biased_overlap(lists, relevant)
    metrics.serendipity(lists, relevant, histories)
    metrics.repeat_rate(lists, histories)
    metrics.popularity_lift(lists, histories, counts)
    metrics.calibration_divergence(lists, histories, groups, num_categories=2)
    metrics.catalogue_coverage(metrics.exposure_counts(lists, num_items=4))
    metrics.gini(counts)
    metrics.exposure_entropy(counts, normalized=True)
    metrics.tail_share(counts, tail)
    metrics.exposure_disparity(metrics.group_exposure(counts, groups, num_groups=2), np.ones(3) / 3)
    metrics.mean_list_distance(lists)
    propensities = metrics.popularity_propensities(counts)
    factors = metrics.inverse_propensity_weights(np.asarray(propensities)[lists], cap=10.0)
    metrics.effective_sample_size(factors)
    metrics.inverse_propensity_mean(real.astype(float), factors)
    assert recall.shape == (2,) and curve.counts.shape == (2,) and decisions.f1.shape == ()


def call_losses() -> None:
    of_pairs: list[LossFunction] = [losses.bpr_loss, losses.bpr_max_loss, losses.binary_cross_entropy_loss]
    for loss in of_pairs:
        loss(positive, negative, where=real[:, 0])
    beta = losses.calibrated_beta(2, 4, calibration=0.5)
    losses.generalized_binary_cross_entropy_loss(positive, negative, beta=beta)
    losses.squared_error_loss(positive, np.array([1, 0]))
    losses.class_loss(v_x, np.array([1, 2]))
    losses.logistic_loss(positive, real[:, 1])
    losses.click_and_conversion_loss(positive, negative[:, 0], clicks=real[:, 0], conversions=real[:, 1])
    losses.contrastive_loss(v_x, v_x[::-1])
    losses.softmax_loss(v_x, v_y, targets, allowed=counts > 0)
    losses.mean_softmax_loss(v_x, v_y, targets, weights=np.ones(2))
    scores = losses.negative_scores(v_x, v_y, negative_ids=negative_ids)
    values = losses.bpr_loss(positive, scores, negative_where=losses.negatives_that_count(negative_ids, targets))
    losses.sampled_softmax_loss(v_x, v_y, targets, negative_ids=negative_ids, log_q=np.log(np.full(5, 0.25)))
    weights = losses.item_count_weights(counts, power=0.5)
    mean: jax.Array = losses.weighted_mean(values, np.asarray(weights)[targets])
    losses.combine_losses({"purchase": mean}, {"purchase": 2.0})
    losses.uncertainty_weighted_loss(np.ones(2), np.zeros(2))


def call_scoring() -> None:
    priority = np.asarray(scoring.catalogue_order(4, jax.random.key(0)))
    scores = scoring.bilinear_scores(v_x, weight, v_y)
    low_rank: scoring.BilinearWeight = (weight[:, :2], weight[:, 1:])
    scoring.pair_scores(v_x, low_rank, v_y[targets])
    scoring.candidate_scores(scoring.project(v_x, weight[0]), None, v_y, candidate_ids=negative_ids)
    found: scoring.Ranks = scoring.ranks_in_scores(scores, relevant, priority=priority, where=real)
    assert (found.ranks[~real] == scoring.UNREACHABLE).all()
    scoring.target_ranks(v_x, weight, v_y, relevant, priority=priority, allowed=counts > 1, excluded=histories)
    lists: scoring.TopK = scoring.top_k(v_x, weight, v_y, k=2, priority=priority, allowed=np.ones((2, 5), dtype=bool))
    np.testing.assert_array_equal(
        lists.item_ids, scoring.top_k_in_scores(np.asarray(scores), k=2, priority=priority).item_ids
    )

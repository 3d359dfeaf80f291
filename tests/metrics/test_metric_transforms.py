"""Every figure is the same eager, under jit, vmap and pmap, and on sharded arrays; the public names are all there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqrec_jax import metrics

NUM_ITEMS = 12
GENERATOR = np.random.default_rng(7)
LISTS, OTHER, HISTORIES = (GENERATOR.integers(0, NUM_ITEMS + 1, (8, 3, width)) for width in (5, 4, 6))
# relevant items are distinct within a user
RELEVANT = GENERATOR.permuted(np.tile(np.arange(1, NUM_ITEMS + 1), (8, 3, 1)), axis=-1)[..., :3]
CHANCES = GENERATOR.integers(0, 11, (8, 3, 9)) / 10
LABELS = GENERATOR.random((8, 3, 9)) < 0.5
WHERE = GENERATOR.random((8, 3, 9)) < 0.8
ROW = GENERATOR.random(NUM_ITEMS + 1)
CODES = GENERATOR.integers(0, 4, (NUM_ITEMS + 1, 2))
VECTORS = GENERATOR.normal(size=(NUM_ITEMS + 1, 4))


def of_users(lists, other, histories, relevant, chances, labels, where):
    """One value a user: all leading axes are users."""
    ranks = metrics.ranks_from_lists(lists, relevant)
    return {
        "graded_ndcg": metrics.graded_ndcg_at_k(ranks, 1 + relevant % 3, k=4, exponential=True),
        "log_loss": metrics.log_loss(chances, labels, where=where),
        "brier": metrics.brier_score(chances, labels, where=where),
        "calibration_error": metrics.expected_calibration_error(chances, labels, num_bins=4, where=where),
        "roc_auc": metrics.roc_auc(chances, labels, where=where),
        "threshold": jnp.stack(metrics.threshold_metrics(chances, labels, where=where), axis=-1),
        "grouped_auc": metrics.grouped_auc(chances, 1 + 9 * chances),
        "novelty": metrics.novelty(lists, ROW),
        "vectors": metrics.intra_list_diversity(lists, VECTORS),
        "codes": metrics.attribute_diversity(lists, CODES),
        "overlap": metrics.list_overlap(lists, other),
        "rbo": metrics.rank_biased_overlap(lists, other),
        "serendipity": metrics.serendipity(lists, relevant, other),
        "repeats": metrics.repeat_rate(lists, histories),
        "lift": metrics.popularity_lift(lists, histories, ROW),
        "divergence": metrics.calibration_divergence(lists, histories, CODES, num_categories=3),
        "weights": metrics.inverse_propensity_weights(chances, cap=5.0),
        "sample_size": metrics.effective_sample_size(chances, where=where),
        "mean": metrics.inverse_propensity_mean(chances, chances, where=where),
    }


def of_catalogue(lists):
    """One value for all users of a set."""
    counts = metrics.exposure_counts(lists, num_items=NUM_ITEMS)
    candidates = jnp.arange(NUM_ITEMS + 1) > 2
    groups = metrics.group_exposure(counts, CODES[:, 0], num_groups=3)
    return {
        "counts": counts,
        "discounted": metrics.exposure_counts(lists, num_items=NUM_ITEMS, discounted=True),
        "coverage": metrics.catalogue_coverage(counts, where=candidates),
        "gini": metrics.gini(counts, where=candidates),
        "entropy": metrics.exposure_entropy(counts, where=candidates, normalized=True),
        "tail": metrics.tail_share(counts, candidates),
        "groups": groups,
        "disparity": metrics.exposure_disparity(groups, groups[::-1]),
        "distance": metrics.mean_list_distance(lists, num_items=NUM_ITEMS),
        "propensities": metrics.popularity_propensities(counts),
    }


USER_ARRAYS = tuple(jnp.asarray(a) for a in (LISTS, OTHER, HISTORIES, RELEVANT, CHANCES, LABELS, WHERE))


def assert_same(values, expected, transform):
    for name, value in values.items():
        assert value.dtype == expected[name].dtype, f"{name} under {transform}"
        # sums may be added in another order, and 1 - x doubles what that does to a small value
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=f"{name} under {transform}")


def test_figures_of_users_under_every_transform():
    expected = of_users(*USER_ARRAYS)
    assert all(np.isfinite(value).any() for value in expected.values())
    assert_same(jax.jit(of_users)(*USER_ARRAYS), expected, "jit")
    assert_same(jax.jit(jax.vmap(of_users))(*USER_ARRAYS), expected, "vmap")
    assert_same(jax.block_until_ready(jax.pmap(of_users)(*USER_ARRAYS)), expected, "pmap")
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    placed = jax.device_put(USER_ARRAYS, sharding)
    assert_same(jax.block_until_ready(jax.jit(of_users)(*placed)), expected, "sharding")


def test_figures_of_the_catalogue_under_every_transform():
    lists = USER_ARRAYS[0]
    one = jax.jit(of_catalogue)
    each = [one(part) for part in lists]
    expected = {name: jnp.stack([part[name] for part in each]) for name in each[0]}
    assert_same(of_catalogue(lists[2]), each[2], "eager")
    assert_same(jax.jit(jax.vmap(of_catalogue))(lists), expected, "vmap")
    assert_same(jax.block_until_ready(jax.pmap(of_catalogue)(lists)), expected, "pmap")
    together = jax.jit(of_catalogue)(lists)
    sharded = jax.device_put(lists, NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data")))
    assert_same(jax.block_until_ready(jax.jit(of_catalogue)(sharded)), together, "sharding")
    np.testing.assert_array_equal(together["counts"], sum(part["counts"] for part in each))


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_public_name_says_what_it_is(name):
    item = getattr(metrics, name)
    if callable(item):
        assert item.__doc__ and item.__module__.startswith("seqrec_jax.metrics."), name

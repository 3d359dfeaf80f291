"""K-means and residual quantisation beside NumPy and scikit-learn; codes of new items; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans as SklearnKMeans

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.items import kmeans as kmeans_module
from seqrec_jax.items.kmeans import kmeans, nearest
from seqrec_jax.items.semantic_ids import (
    SemanticIdConfig,
    extend_semantic_ids,
    fit_semantic_ids,
    reconstructed_vectors,
    semantic_id_report,
)

CONFIG = SemanticIdConfig(num_levels=2, codebook_size=8, num_iterations=30)


def clustered_vectors(num_items=120, width=4, seed=0):
    """Row 0 of nonsense, then items around ten centres."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(10, width))
    vectors = centres[rng.integers(0, 10, num_items)] + rng.normal(size=(num_items, width))
    return np.concatenate([np.full((1, width), 99.0), vectors]).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return fit_semantic_ids(clustered_vectors(), config=CONFIG, key=jax.random.key(0))


class TestKMeans:
    def test_it_ends_where_no_vector_and_no_centroid_can_be_better(self):
        vectors = clustered_vectors()[1:]
        centroids, assignments, errors = kmeans(
            jnp.asarray(vectors), num_clusters=8, num_iterations=200, key=jax.random.key(1)
        )
        distances = np.square(vectors[:, None] - np.asarray(centroids)[None]).sum(axis=2)
        np.testing.assert_array_equal(assignments, distances.argmin(axis=1))
        np.testing.assert_allclose(errors, distances.min(axis=1), rtol=1e-4, atol=1e-5)
        for cluster in range(8):
            np.testing.assert_allclose(centroids[cluster], vectors[assignments == cluster].mean(axis=0), atol=1e-4)

    def test_it_is_about_as_good_as_scikit_learns(self):
        vectors = clustered_vectors(num_items=400, seed=3)[1:]
        best = SklearnKMeans(12, n_init=10, random_state=0).fit(vectors).inertia_
        ours = [
            float(kmeans(jnp.asarray(vectors), num_clusters=12, key=jax.random.key(seed)).errors.sum())
            for seed in range(5)
        ]
        assert best * 0.999 < min(ours) < best * 1.02
        assert max(ours) < best * 1.3

    def test_the_same_key_gives_the_same_clusters_and_another_other_ones(self):
        vectors = jnp.asarray(clustered_vectors()[1:])
        keys = jax.random.split(jax.random.key(0), 2)[jnp.array([0, 0, 1])]
        mapped = jax.vmap(lambda key: kmeans(vectors, num_clusters=8, key=key))(keys)
        np.testing.assert_array_equal(mapped.centroids[0], mapped.centroids[1])
        assert np.any(np.asarray(mapped.assignments[0]) != np.asarray(mapped.assignments[2]))

    def test_an_empty_cluster_moves_to_a_vector_that_is_badly_served(self, monkeypatch):
        """All starts are one and the same, so that all clusters but the first are empty."""
        monkeypatch.setattr(
            kmeans_module, "_spread_vectors", lambda vectors, number, key: vectors[:1].repeat(number, 0)
        )
        vectors = np.zeros((203, 2), np.float32)
        vectors[1:6] = 5 * np.arange(2, 12).reshape(5, 2)
        clusters = kmeans(jnp.asarray(vectors), num_clusters=6, key=jax.random.key(0))
        assert len(np.unique(clusters.assignments)) == 6
        assert float(clusters.errors.sum()) == 0

    def test_more_clusters_than_vectors(self):
        vectors = jnp.array([[0.0, 1.0], [2.0, 3.0]])
        clusters = kmeans(vectors, num_clusters=5, key=jax.random.key(0))
        np.testing.assert_array_equal(clusters.centroids[clusters.assignments], vectors)
        assert np.all(np.isfinite(clusters.centroids))

    def test_bad_sizes(self):
        with pytest.raises(ShapeError, match=r"got \(2, 4\), 0 and 50"):
            kmeans(jnp.ones((2, 4)), num_clusters=0, key=jax.random.key(0))


class TestFit:
    def test_every_item_has_codes_of_its_own_and_the_nearest_of_each_level(self, fitted):
        vectors = clustered_vectors()
        assert fitted.codes.shape == (121, 3) and fitted.codes.dtype == np.int32
        assert len(np.unique(fitted.codes[1:], axis=0)) == 120
        assert not fitted.codes[0].any() and fitted.codes[1:].min() == 1
        rest = vectors[1:].astype(np.float64)
        for level in range(2):
            distances = np.square(rest[:, None] - fitted.codebooks[level, 1:][None]).sum(axis=2)
            np.testing.assert_array_equal(fitted.codes[1:, level], 1 + distances.argmin(axis=1))
            rest -= fitted.codebooks[level][fitted.codes[1:, level]]
        np.testing.assert_allclose(reconstructed_vectors(fitted)[1:], vectors[1:] - rest, atol=1e-5)
        np.testing.assert_array_equal(reconstructed_vectors(fitted)[0], 0.0)

    def test_the_last_level_counts_items_of_the_same_codes_in_the_order_of_their_ids(self, fitted):
        seen: dict[tuple, int] = {}
        for item in range(1, 121):
            before = tuple(fitted.codes[item, :2])
            seen[before] = seen.get(before, 0) + 1
            assert fitted.codes[item, 2] == seen[before]

    def test_what_is_left_out_has_no_code_and_moves_no_centroid(self):
        vectors, where = clustered_vectors(), np.arange(121) % 3 > 0
        masked = fit_semantic_ids(vectors, config=CONFIG, key=jax.random.key(0), where=where)
        assert not masked.codes[~where].any() and masked.codes[where].all()
        vectors[~where] = 1e6
        again = fit_semantic_ids(vectors, config=CONFIG, key=jax.random.key(0), where=where)
        np.testing.assert_array_equal(masked.codebooks, again.codebooks)

    def test_report_beside_counting(self, fitted):
        report = semantic_id_report(fitted, clustered_vectors())
        groups: dict[tuple, int] = {}
        for before in map(tuple, fitted.codes[1:, :2]):
            groups[before] = groups.get(before, 0) + 1
        assert report.num_items == 120
        assert report.largest_collision == max(groups.values()) == fitted.codes[:, 2].max()
        assert report.colliding_items == sum(size for size in groups.values() if size > 1)
        first = np.bincount(fitted.codes[1:, 0])[1:] / 120
        assert report.perplexities[0] == pytest.approx(np.prod(first**-first))
        np.testing.assert_array_equal(report.used_codes[:2], [8, 8])
        left = clustered_vectors()[1:] - reconstructed_vectors(fitted)[1:]
        assert report.errors[1] == pytest.approx(np.square(left).sum() / np.square(clustered_vectors()[1:]).sum(), 1e-4)
        assert report.errors[1] < report.errors[0] < 0.5

    def test_items_without_collisions_or_perplexity(self):
        vectors = np.array([[0.0], [1.0], [2.0]], np.float32)
        report = semantic_id_report(
            fit_semantic_ids(vectors, config=SemanticIdConfig(1, 2), key=jax.random.key(0)), vectors
        )
        assert (report.colliding_items, report.largest_collision) == (0, 1)
        np.testing.assert_allclose(report.perplexities, [2.0, 1.0])
        np.testing.assert_allclose(report.errors, [0.0])


class TestNewItems:
    def test_they_get_the_codes_of_the_codebooks_as_they_are(self, fitted):
        new = clustered_vectors()[[5, 5, 9]] + np.float32(1e-4)
        longer = extend_semantic_ids(fitted, new)
        np.testing.assert_array_equal(longer.codes[:121], fitted.codes)
        np.testing.assert_array_equal(longer.codes[121:, :2], fitted.codes[[5, 5, 9], :2])
        assert len(np.unique(longer.codes[1:], axis=0)) == 123
        same = (fitted.codes[:, :2] == fitted.codes[5, :2]).all(axis=1).sum()
        assert longer.codes[121:123, 2].tolist() == [same + 1, same + 2]
        assert longer.codebooks is fitted.codebooks

    def test_new_items_without_a_vector(self, fitted):
        longer = extend_semantic_ids(fitted, np.zeros((2, 4), np.float32), where=np.array([False, True]))
        assert not longer.codes[121].any() and longer.codes[122].all()


def test_what_cannot_be_coded_is_refused(fitted):
    vectors = clustered_vectors()
    with pytest.raises(DataError, match="the vector of item 7 is not finite"):
        fit_semantic_ids(np.where(np.arange(121)[:, None] == 7, np.nan, vectors), config=CONFIG, key=jax.random.key(0))
    with pytest.raises(DataError, match=r"20 items have the codes \[\d\], more than the last level's 2"):
        fit_semantic_ids(np.ones((21, 2)), config=SemanticIdConfig(1, 2), key=jax.random.key(0))
    with pytest.raises(DataError, match="no item to make semantic ids for"):
        fit_semantic_ids(vectors, config=CONFIG, key=jax.random.key(0), where=np.zeros(121, bool))
    with pytest.raises(ShapeError, match=r"bool of shape \(3,\), expected bool of shape \(121,\)"):
        fit_semantic_ids(vectors, config=CONFIG, key=jax.random.key(0), where=np.ones(3, bool))
    with pytest.raises(ShapeError, match=r"\(2, 3\), expected \[N, 4\]"):
        extend_semantic_ids(fitted, np.zeros((2, 3)))
    with pytest.raises(ShapeError, match=r"\(120, 4\), expected \(121, 4\)"):
        semantic_id_report(fitted, vectors[1:])
    with pytest.raises(ConfigError, match=r"semantic_ids.codebook_size must be at least 2, got 1"):
        SemanticIdConfig(codebook_size=1)


def test_nearest_takes_the_first_of_equals():
    assert nearest(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0], [0.0, 1.0]]))[0].tolist() == [0]

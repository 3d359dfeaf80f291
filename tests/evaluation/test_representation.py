"""Figures of vectors against scikit-learn, scipy, brute force and cases with a known answer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.evaluation.representation import vectors as representation
from seqrec_jax.evaluation.representation.vectors import (
    alignment,
    dead_dimensions,
    effective_rank,
    gaussian_like,
    isoscore,
    mean_cosine,
    neighbourhood_consistency,
    neighbours,
    shuffled_alignment,
    shuffled_consistency,
    spectrum,
    two_dimensional_map,
    uniformity,
    unit_vectors,
)

ONE_SET = (
    unit_vectors, uniformity, spectrum, effective_rank, mean_cosine, isoscore, dead_dimensions, two_dimensional_map,
    lambda v: neighbours(v, k=3),
)  # fmt: skip
TWO_SETS = (alignment, shuffled_alignment)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def normalised(v):
    lengths = np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)
    return np.divide(v, lengths, out=np.zeros(v.shape), where=lengths > 0)


@given(seed=st.integers(0, 1000), offset=st.floats(-3, 3), scale=st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_pairs_of_all_rows_agree_with_brute_force(seed, offset, scale):
    v = (scale * (gaussian(23, 3, seed=seed) + np.float32(offset))).astype(np.float32)
    w = gaussian(23, 3, seed=seed + 1)
    units, others = normalised(v), normalised(w)
    squares = pdist(units, "sqeuclidean")
    np.testing.assert_allclose(uniformity(v, temperature=1.5), np.log(np.exp(-1.5 * squares).mean()), rtol=1e-4)
    np.testing.assert_allclose(mean_cosine(v), (1 - pdist(units, "cosine")).mean(), atol=1e-5)
    distances = ((units[:, None] - others[None, :]) ** 2).sum(axis=2)
    np.testing.assert_allclose(alignment(v, w), np.diag(distances).mean(), rtol=1e-5)
    np.testing.assert_allclose(shuffled_alignment(v, w), distances.mean(), rtol=1e-4, atol=1e-5)


def test_shuffled_alignment_is_the_mean_over_shuffles():
    v = gaussian(40, 5) + 0.5
    w = v + 0.3 * gaussian(40, 5, seed=1)
    random = np.random.default_rng(2)
    shuffled = [float(alignment(v, w[random.permutation(40)])) for _ in range(300)]
    assert abs(np.mean(shuffled) - float(shuffled_alignment(v, w))) < 4 * np.std(shuffled) / math.sqrt(300)
    assert float(alignment(v, w)) < 0.2 < min(shuffled)


def test_tiles_change_nothing(monkeypatch):
    v = gaussian(70, 4)
    monkeypatch.setattr(representation, "_TILE", 1000)
    even, nearest = uniformity.__wrapped__, neighbours.__wrapped__  # as they are before they are compiled
    whole = even(v), nearest(v, k=5)
    monkeypatch.setattr(representation, "_TILE", 16)  # four tiles and six rows over
    np.testing.assert_allclose(even(v), whole[0], rtol=1e-6)
    np.testing.assert_array_equal(nearest(v, k=5), whole[1])


def test_spread_has_known_values():
    assert float(uniformity(np.ones((5, 3), dtype=np.float32))) == pytest.approx(0.0, abs=1e-5)
    assert float(mean_cosine(3 * np.ones((5, 3), dtype=np.float32))) == pytest.approx(1.0)
    wide = gaussian(400, 64)
    assert abs(float(mean_cosine(wide))) < 0.01
    assert float(uniformity(wide)) == pytest.approx(-4.0, abs=0.2)  # nearly all pairs at right angles
    assert float(mean_cosine(wide + 2)) > 0.7


def test_zeros_have_no_direction():
    v = gaussian(6, 3)
    with_zeros = np.concatenate([v, np.zeros((2, 3), dtype=np.float32)])
    np.testing.assert_allclose(mean_cosine(with_zeros), mean_cosine(v), rtol=1e-5)
    assert math.isnan(mean_cosine(np.eye(1, 3, dtype=np.float32)))
    np.testing.assert_array_equal(unit_vectors(with_zeros)[6:], 0.0)


def test_effective_rank_of_known_shapes():
    many = gaussian(4000, 16)
    assert 15.9 < float(effective_rank(many)) <= 16.001
    one = gaussian(50, 1) * gaussian(1, 16, seed=1)
    assert float(effective_rank(one, centered=False)) == pytest.approx(1.0, abs=1e-3)
    assert float(effective_rank(one)) == pytest.approx(1.0, abs=1e-3)
    assert float(effective_rank(np.full((5, 4), 7.0, dtype=np.float32))) == 0.0
    values = np.linalg.svd(many[:30].astype(np.float64), compute_uv=False)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    np.testing.assert_allclose(effective_rank(many[:30], centered=False), expected, rtol=1e-4)
    shifted = many + 100
    assert float(effective_rank(shifted, centered=False)) < 5 < 15 < float(effective_rank(shifted))


def test_principal_components_agree_with_scikit_learn():
    v = gaussian(80, 6) * np.array([5, 3, 1, 1, 0.5, 0.1], dtype=np.float32) + 4
    pca = PCA().fit(v.astype(np.float64))
    found = spectrum(v)
    np.testing.assert_allclose(found.singular_values, pca.singular_values_, rtol=1e-4)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-4)
    plane = two_dimensional_map(v)
    theirs = pca.transform(v)[:, :2]
    signs = np.sign((plane.points * theirs).sum(axis=0))
    np.testing.assert_allclose(plane.points, theirs * signs, atol=2e-3)
    np.testing.assert_allclose(plane.explained, pca.explained_variance_ratio_[:2], rtol=1e-4)
    mirrored = two_dimensional_map(v[::-1])  # the sign comes from the vectors, not from their order
    np.testing.assert_allclose(mirrored.points[::-1], plane.points, atol=2e-3)


@pytest.mark.parametrize("used", [1, 2, 5, 9])
def test_isoscore_is_the_share_of_directions_used(used):
    """With equal variance in k of D directions the source proves (k - 1) / (D - 1)."""
    corners = np.kron(np.eye(9), [[1.0], [-1.0]])[:, :].astype(np.float32)
    corners[:, used:] = 0
    assert float(isoscore(corners)) == pytest.approx((used - 1) / 8, abs=1e-5)
    turned = corners @ np.linalg.qr(gaussian(9, 9))[0] + 3
    assert float(isoscore(turned.astype(np.float32))) == pytest.approx((used - 1) / 8, abs=1e-3)


def test_dead_dimensions_are_counted():
    v = gaussian(50, 6) + 10
    v[:, [1, 4]] = 3.0
    v[:, 5] *= 1e-5
    assert int(dead_dimensions(v)) == 3
    assert int(dead_dimensions(v, tolerance=0.0)) == 2
    assert int(dead_dimensions(gaussian_like(v, key=jax.random.key(0)))) == 0
    assert int(dead_dimensions(np.ones((4, 3), dtype=np.float32))) == 3


def test_neighbours_agree_with_scikit_learn():
    v = gaussian(300, 5)  # more than one tile
    theirs = NearestNeighbors(n_neighbors=8, metric="cosine").fit(v).kneighbors(return_distance=False)
    np.testing.assert_array_equal(np.sort(neighbours(v, k=8), axis=1), np.sort(theirs, axis=1))
    same = neighbours(np.ones((4, 2), dtype=np.float32), k=2)
    np.testing.assert_array_equal(same, [[1, 2], [0, 2], [0, 1], [0, 1]])


def test_neighbourhoods_of_clusters_and_of_nothing():
    labels = np.repeat(np.arange(4, dtype=np.int32), 25)
    clusters = 10 * np.eye(4, dtype=np.float32)[labels] + gaussian(100, 4)
    np.testing.assert_array_equal(neighbourhood_consistency(clusters, labels, k=10), 1.0)
    uneven = np.repeat(np.arange(3, dtype=np.int32), [60, 30, 10])
    random = np.random.default_rng(0)
    shuffled = [float(neighbourhood_consistency(clusters, random.permutation(uneven), k=10).mean()) for _ in range(60)]
    expected = (60 * 59 + 30 * 29 + 10 * 9) / (100 * 99)
    assert float(shuffled_consistency(uneven)) == pytest.approx(expected, rel=1e-6)
    assert abs(np.mean(shuffled) - expected) < 4 * np.std(shuffled) / math.sqrt(60)


@pytest.mark.parametrize("place", range(len(ONE_SET)))
def test_eager_jit_vmap_and_pmap_agree_on_one_set(place):
    function = ONE_SET[place]
    many = jnp.asarray(gaussian(8, 12, 4))
    eager = jax.tree.map(lambda *values: np.stack(values), *[function(v) for v in many])
    for transformed in (jax.vmap(jax.jit(function)), jax.pmap(function)):
        found = jax.block_until_ready(transformed(many))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, eager)


@pytest.mark.parametrize("function", TWO_SETS)
def test_eager_jit_vmap_and_pmap_agree_on_pairs(function):
    many = jnp.asarray(gaussian(8, 12, 4)), jnp.asarray(gaussian(8, 12, 4, seed=1))
    eager = np.stack([function(*pair) for pair in zip(*many, strict=True)])
    np.testing.assert_allclose(jax.vmap(jax.jit(function))(*many), eager, rtol=1e-5)
    np.testing.assert_allclose(jax.block_until_ready(jax.pmap(function)(*many)), eager, rtol=1e-5)


def test_gradients_are_finite_with_zeros_and_point_the_right_way():
    v = jnp.asarray(np.concatenate([gaussian(5, 3), np.zeros((2, 3), dtype=np.float32)]))
    figures = {"uniformity": uniformity, "cosine": mean_cosine, "alignment": lambda v: alignment(v, v[::-1])}
    gradients = jax.jit(lambda v: {name: jax.grad(figure)(v) for name, figure in figures.items()})(v)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert np.isfinite(jax.jit(jax.grad(uniformity))(jnp.zeros((7, 3)))).all()
    step = v - 0.1 * gradients["uniformity"]
    assert float(uniformity(step)) < float(uniformity(v))


def test_half_precision_is_computed_in_full():
    v = jnp.asarray(gaussian(30, 4), dtype=jnp.bfloat16)
    assert effective_rank(v).dtype == jnp.float32
    np.testing.assert_array_equal(effective_rank(v), effective_rank(v.astype(jnp.float32)))


def test_bad_input_is_refused():
    v = gaussian(5, 3)
    with pytest.raises(ShapeError, match=r"\[N, D\], got shape \(5,\)"):
        unit_vectors(v[:, 0])
    with pytest.raises(ShapeError, match="at least two vectors"):
        uniformity(v[:1])
    with pytest.raises(ShapeError, match="project v_x first"):
        alignment(v, gaussian(5, 4))
    with pytest.raises(ShapeError, match="one a vector"):
        neighbourhood_consistency(v, np.zeros(4, dtype=np.int32), k=1)
    with pytest.raises(ShapeError, match="at least 2 dimensions"):
        isoscore(v[:, :1])
    with pytest.raises(ShapeError, match="at least 2 dimensions"):
        two_dimensional_map(v[:, :1])
    for k in (0, 5):
        with pytest.raises(ConfigError, match=f"k must be from 1 to 4, got {k}"):
            neighbours(v, k=k)
    with pytest.raises(ConfigError, match="temperature"):
        uniformity(v, temperature=0.0)
    with pytest.raises(ConfigError, match="tolerance"):
        dead_dimensions(v, tolerance=-1.0)

"""Likeness of two sets of vectors against scipy, kernel matrices written out, and cases with a known answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
from builders import make_sequences

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.representation.similarity import (
    FIGURES,
    aligned_cosines,
    drift_table,
    linear_cka,
    neighbour_overlap,
    procrustes_distance,
    sensitivity,
    similarity_table,
)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def turned(v, *, seed=9):
    return v @ np.linalg.qr(gaussian(v.shape[1], v.shape[1], seed=seed))[0]


def hsic(a, b, *, unbiased):
    """By kernel matrices; the unbiased one as in Song et al., equation 5."""
    kernel_a, kernel_b = a @ a.T, b @ b.T
    n = len(a)
    if not unbiased:
        center = np.eye(n) - 1 / n
        return np.trace(kernel_a @ center @ kernel_b @ center)
    np.fill_diagonal(kernel_a, 0)
    np.fill_diagonal(kernel_b, 0)
    whole = kernel_a.sum() * kernel_b.sum() / ((n - 1) * (n - 2))
    return np.trace(kernel_a @ kernel_b) + whole - 2 / (n - 2) * (kernel_a @ kernel_b).sum()


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_agrees_with_kernel_matrices(debiased):
    a = gaussian(25, 6) + 1
    b = np.concatenate([a[:, :2], gaussian(25, 3, seed=1)], axis=1)
    x, y = a.astype(np.float64), b.astype(np.float64)
    own = hsic(x, x, unbiased=debiased) * hsic(y, y, unbiased=debiased)
    expected = hsic(x, y, unbiased=debiased) / np.sqrt(own)
    np.testing.assert_allclose(linear_cka(a, b, debiased=debiased), expected, rtol=1e-3)


def test_a_turn_a_scale_and_a_shift_change_no_figure_that_claims_so():
    a = gaussian(300, 8)
    b = 3 * turned(a)
    assert float(linear_cka(a, b + 5)) == pytest.approx(1.0, abs=1e-4)
    assert float(linear_cka(a, b + 5, debiased=True)) == pytest.approx(1.0, abs=1e-4)
    assert float(procrustes_distance(a, b + 5)) == pytest.approx(0.0, abs=1e-4)
    np.testing.assert_allclose(aligned_cosines(a, b), 1.0, atol=1e-4)
    assert float(neighbour_overlap(a, b, k=7).mean()) > 0.999


def test_independent_vectors_are_not_alike():
    a, b = gaussian(40, 30), gaussian(40, 30, seed=1)
    assert float(linear_cka(a, b)) > 0.3  # what the debiased estimate is for
    assert abs(float(linear_cka(a, b, debiased=True))) < 0.1
    a, b = gaussian(2000, 8), gaussian(2000, 8, seed=1)
    assert float(linear_cka(a, b)) < 0.02
    assert float(neighbour_overlap(a, b, k=10).mean()) == pytest.approx(10 / 1999, abs=0.003)
    assert float(aligned_cosines(a, b).mean()) < 0.1


def test_common_neighbours_by_sets():
    a, b = gaussian(60, 4), gaussian(60, 4) + 0.5 * gaussian(60, 4, seed=1)

    def nearest(v, row):
        units = v / np.linalg.norm(v, axis=1, keepdims=True)
        return set(np.argsort([-(unit @ units[row]) if i != row else 2.0 for i, unit in enumerate(units)])[:9])

    expected = [len(nearest(a, row) & nearest(b, row)) / 9 for row in range(60)]
    assert 0.2 < np.mean(expected) < 0.9
    np.testing.assert_allclose(neighbour_overlap(a, b, k=9), expected, rtol=1e-6)


def test_alignment_by_turning_agrees_with_scipy():
    a = gaussian(50, 5)
    b = turned(a) + 0.5 * gaussian(50, 5, seed=1)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    rotation, _ = scipy.linalg.orthogonal_procrustes(x, y)
    np.testing.assert_allclose(aligned_cosines(a, b), ((x @ rotation) * y).sum(axis=1), atol=1e-4)
    # scipy also scales, so that it measures 1 - s² where we measure 2 - 2 s
    _, _, disparity = scipy.spatial.procrustes(a, b)
    np.testing.assert_allclose(procrustes_distance(a, b), 2 - 2 * np.sqrt(1 - disparity), atol=1e-4)


def test_widths_may_differ():
    a = gaussian(100, 3)
    wide = turned(np.pad(a, ((0, 0), (0, 4))))
    np.testing.assert_allclose(aligned_cosines(a, wide), 1.0, atol=1e-4)
    np.testing.assert_allclose(aligned_cosines(wide, a), 1.0, atol=1e-4)
    assert float(linear_cka(a, wide)) == pytest.approx(1.0, abs=1e-4)
    assert float(procrustes_distance(wide, a)) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    "function", [linear_cka, procrustes_distance, aligned_cosines, lambda a, b: neighbour_overlap(a, b, k=3)]
)
def test_eager_jit_vmap_and_pmap_agree(function):
    many = jnp.asarray(gaussian(8, 12, 4)), jnp.asarray(gaussian(8, 12, 5, seed=1))
    eager = np.stack([function(*pair) for pair in zip(*many, strict=True)])
    np.testing.assert_allclose(jax.vmap(jax.jit(function))(*many), eager, atol=1e-4)
    np.testing.assert_allclose(jax.block_until_ready(jax.pmap(function)(*many)), eager, atol=1e-4)


def test_the_table_shows_chance_beside_likeness():
    a = gaussian(200, 6)
    a[:20] = 0
    b = turned(a)
    b[190:] = 0
    found = similarity_table(a, b)
    assert list(found.index) == list(FIGURES)
    assert set(found["rows"]) == {170}
    assert found.loc[["cka", "cka_debiased", "aligned_cosine", "common_neighbours"], "value"].min() > 0.99
    assert found.loc[["cka", "cka_debiased", "common_neighbours"], "permuted"].max() < 0.15
    assert found.loc["procrustes", "value"] < 0.01 < 1 < found.loc["procrustes", "permuted"]
    assert set(similarity_table(a, b, most_rows=50)["rows"]) == {50}


def test_drift_grows_with_the_distance_in_time():
    weeks = {"first": gaussian(150, 6)}
    for week, before in enumerate(["first", "second", "third"], start=1):
        weeks[["second", "third", "fourth"][week - 1]] = turned(weeks[before] + 0.6 * gaussian(150, 6, seed=week))
    found = drift_table(weeks)
    assert list(found.index) == ["second", "third", "fourth"]
    assert found.loc["second", "cka"] == found.loc["second", "cka_from_first"]
    for name in ("cka", "common_neighbours", "aligned_cosine"):
        from_first = found[f"{name}_from_first"]
        assert from_first["second"] > from_first["third"] > from_first["fourth"]
        assert found.loc["fourth", name] > from_first["fourth"]


def test_sensitivity_is_the_turn_of_each_vector():
    """v_x counts items 1 and 2, so that losing an event turns it by a known angle."""
    histories = make_sequences([[1, 2], [1, 1], [2], []])

    def count_items(sequences):
        counts = np.zeros((sequences.num_users, 2), dtype=np.float32)
        np.add.at(counts, (sequences.users_of_events, sequences.item_ids - 1), 1)
        return counts

    def without_last(sequences):
        keep = np.ones(len(sequences.item_ids), dtype=bool)
        keep[sequences.offsets[1:][sequences.lengths > 0] - 1] = False
        return sequences.select_events(keep)

    found = sensitivity(count_items, histories, {"nothing": lambda same: same, "last dropped": without_last})
    np.testing.assert_allclose(found["nothing"], [0, 0, 0, np.nan], atol=1e-7)
    np.testing.assert_allclose(found["last dropped"], [1 - 1 / np.sqrt(2), 0, np.nan, np.nan], atol=1e-7)
    with pytest.raises(DataError, match="'fewer' gives other users"):
        sensitivity(count_items, histories, {"fewer": lambda all_of: all_of.select_users(np.arange(2))})
    with pytest.raises(ShapeError, match=r"gave \(1, 2\)"):
        sensitivity(lambda sequences: np.ones((1, 2)), histories, {})


def test_bad_input_is_refused():
    a = gaussian(5, 3)
    for function in (linear_cka, aligned_cosines, procrustes_distance, similarity_table):
        with pytest.raises(ShapeError, match=r"\(5, 3\) and b \(4, 3\)"):
            function(a, a[:4])
    with pytest.raises(ShapeError, match="at least 4"):
        linear_cka(a[:3], a[:3], debiased=True)
    with pytest.raises(DataError, match="only 5 of 5 rows"):
        similarity_table(a, a)
    with pytest.raises(ConfigError, match="at least two checkpoints"):
        drift_table({"one": a})

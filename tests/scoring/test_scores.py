"""Scores against the bilinear form written out in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from seqrec_jax import scoring
from seqrec_jax.errors import ShapeError


@pytest.mark.parametrize("form", ["identity", "diagonal", "full", "low_rank"])
@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)])
def test_every_form_of_w_is_the_bilinear_form(form, batch):
    rng = np.random.default_rng(0)
    width = 5 if form in ("full", "low_rank") else 4
    weight, dense = {
        "identity": lambda: (None, np.eye(4)),
        "diagonal": lambda: (lambda d: (d, np.diag(d)))(rng.normal(size=4)),
        "full": lambda: (lambda w: (w, w))(rng.normal(size=(4, 5))),
        "low_rank": lambda: (lambda a, b: ((a, b), a @ b.T))(rng.normal(size=(4, 2)), rng.normal(size=(5, 2))),
    }[form]()
    v_x, v_y = rng.normal(size=(*batch, 4)), rng.normal(size=(8, width))
    candidate_ids = rng.integers(1, 8, (*batch, 3)).astype(np.int32)
    weight, x, y = jax.tree.map(lambda array: jnp.asarray(array, dtype=jnp.float32), (weight, v_x, v_y))
    expected = v_x @ dense @ v_y.T
    np.testing.assert_allclose(scoring.bilinear_scores(x, weight, y), expected, rtol=2e-5, atol=1e-5)
    candidates = scoring.candidate_scores(x, weight, y, candidate_ids=jnp.asarray(candidate_ids))
    np.testing.assert_allclose(candidates, np.take_along_axis(expected, candidate_ids, axis=-1), rtol=2e-5, atol=1e-5)
    pairs = scoring.pair_scores(x, weight, y[candidate_ids[..., 0]])
    np.testing.assert_allclose(pairs, candidates[..., 0], rtol=2e-5, atol=1e-5)


def test_scores_of_bfloat16_are_accumulated_in_float32():
    v_x, v_y = jnp.ones((2, 1000), dtype=jnp.bfloat16), jnp.ones((3, 1000), dtype=jnp.bfloat16)
    scores = scoring.bilinear_scores(v_x, None, v_y)
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(scores, 1000.0)


def test_scores_have_the_gradients_of_finite_differences():
    rng = np.random.default_rng(1)
    v_x, v_y = (jnp.asarray(rng.normal(size=shape), dtype=jnp.float32) for shape in ((2, 3), (5, 4)))
    weight = tuple(jnp.asarray(rng.normal(size=shape), dtype=jnp.float32) for shape in ((3, 2), (4, 2)))
    check_grads(scoring.bilinear_scores, (v_x, weight, v_y), order=1, rtol=1e-2)


@pytest.mark.parametrize(
    "weight",
    [
        jnp.ones(3),
        jnp.ones((3, 4)),
        jnp.ones((4, 5)),
        (jnp.ones((4, 2)), jnp.ones((4, 3))),
        jnp.ones((4, 4, 1)),
    ],
)
def test_a_w_that_does_not_fit_is_refused(weight):
    with pytest.raises(ShapeError, match=r"width D = 4|with E = 5"):
        scoring.bilinear_scores(jnp.ones((2, 4)), weight, jnp.ones((6, 4)))

"""Every public function of scoring exports by `jax.export` for any number of users, and keeps its values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scoring_cases import problem

from seqrec_jax import scoring

CASE = problem(2, num_users=6, num_items=40)
V_Y, PRIORITY = jnp.asarray(CASE["v_y"]), jnp.asarray(CASE["priority"])
ONE_MASK = jnp.asarray(CASE["allowed"])
RULES = {"priority": PRIORITY, "allowed": ONE_MASK}
FULL = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)), dtype=jnp.float32)

# of v_x [U, 3], targets [U, P], excluded [U, X], mask [U, V+1]
FUNCTIONS = {
    "project": lambda v_x, targets, excluded, mask: scoring.project(v_x, (FULL, FULL)),
    "bilinear_scores": lambda v_x, targets, excluded, mask: scoring.bilinear_scores(v_x, FULL, V_Y),
    "pair_scores": lambda v_x, targets, excluded, mask: scoring.pair_scores(v_x, FULL[0], V_Y[targets[:, 0]]),
    "candidate_scores": lambda v_x, targets, excluded, mask: scoring.candidate_scores(
        v_x, None, V_Y, candidate_ids=targets
    ),
    "ranks_in_scores": lambda v_x, targets, excluded, mask: scoring.ranks_in_scores(
        v_x @ V_Y.T, targets, excluded=excluded, **RULES
    ),
    "target_ranks": lambda v_x, targets, excluded, mask: scoring.target_ranks(
        v_x, None, V_Y, targets, excluded=excluded, where=targets > 3, **RULES
    ),
    "target_ranks in tiles": lambda v_x, targets, excluded, mask: scoring.target_ranks(
        v_x, None, V_Y, targets, priority=PRIORITY, allowed=mask, chunk_size=16
    ),
    "top_k_in_scores": lambda v_x, targets, excluded, mask: scoring.top_k_in_scores(
        v_x @ V_Y.T, k=5, excluded=excluded, **RULES
    ),
    "top_k": lambda v_x, targets, excluded, mask: scoring.top_k(v_x, None, V_Y, k=5, excluded=excluded, **RULES),
    "top_k in tiles": lambda v_x, targets, excluded, mask: scoring.top_k(
        v_x, None, V_Y, k=5, priority=PRIORITY, allowed=mask, excluded=excluded, chunk_size=16
    ),
}
NOT_OF_USERS = {"BilinearWeight", "Ranks", "TopK", "UNREACHABLE", "catalogue_order"}


def test_every_public_function_is_exported_here():
    assert {name.split()[0] for name in FUNCTIONS} == set(scoring.__all__) - NOT_OF_USERS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_export_for_any_batch_has_the_values_of_the_function(name):
    arguments = [jnp.asarray(CASE[key]) for key in ("v_x", "targets", "excluded")]
    arguments.append(jnp.asarray(np.random.default_rng(1).random((6, 41)) < 0.5))
    (users,) = export.symbolic_shape("U")
    shapes = [jax.ShapeDtypeStruct((users, *array.shape[1:]), array.dtype) for array in arguments]

    def leaves(*arrays):
        return tuple(jax.tree.leaves(FUNCTIONS[name](*arrays)))

    exported = export.deserialize(export.export(jax.jit(leaves))(*shapes).serialize())
    for num_users in (1, 6):
        given = [array[:num_users] for array in arguments]
        # the products of a score may be added up in another order
        for found, expected in zip(exported.call(*given), leaves(*given), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)

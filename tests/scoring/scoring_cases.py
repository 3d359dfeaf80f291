"""Lists and ranks written out as loops, and small problems, shared by the tests of scoring."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.scoring import UNREACHABLE


def slow_list(scores, priority, allowed, excluded):
    """Item ids of one user from first to last: sorted by score, then by the catalogue's order."""
    usable = [
        item
        for item in range(1, len(scores))
        if allowed[item] and item not in excluded and scores[item] > -np.inf  # nan compares False
    ]
    return sorted(usable, key=lambda item: (-scores[item], priority[item]))


def slow_ranks(scores, target, priority, allowed, excluded):
    order = slow_list(scores, priority, allowed, excluded)
    if target not in order:
        return (UNREACHABLE,) * 3
    values = [scores[item] for item in order]
    greater = sum(value > scores[target] for value in values)
    return order.index(target) + 1, greater + 1, greater + sum(value == scores[target] for value in values)


def problem(seed, *, num_users=3, num_items=11, num_targets=3, levels=4):
    """Scores with many ties (few integer levels), holes, exclusions and masked targets."""
    rng = np.random.default_rng(seed)
    v_x = rng.integers(-1, 2, (num_users, 3)).astype(np.float32)
    v_y = rng.integers(-levels, levels + 1, (num_items + 1, 3)).astype(np.float32)
    v_y[0] = 100.0  # the padding row would win if it counted
    return {
        "v_x": v_x,
        "v_y": v_y,
        "targets": rng.integers(0, num_items + 1, (num_users, num_targets)).astype(np.int32),
        "priority": np.concatenate([[0], rng.permutation(num_items) + 1]).astype(np.int32),
        "allowed": rng.random(num_items + 1) < 0.8,
        "excluded": rng.integers(0, num_items + 1, (num_users, 2)).astype(np.int32),
        "where": rng.random((num_users, num_targets)) < 0.9,
    }


def options(case, *names):
    return {name: jnp.asarray(case[name]) for name in names}


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))

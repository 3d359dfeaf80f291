"""Ranks and lists against sorted lists written out in Python, and under every transform."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scoring_cases import assert_same, options, problem, slow_list, slow_ranks

from seqrec_jax import scoring
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.scoring import UNREACHABLE

ranks_in_scores = jax.jit(scoring.ranks_in_scores)
top_k_in_scores = jax.jit(scoring.top_k_in_scores, static_argnames="k")
target_ranks = jax.jit(scoring.target_ranks, static_argnames="chunk_size")
top_k = jax.jit(scoring.top_k, static_argnames=("k", "chunk_size"))


def test_ranks_worked_by_hand():
    #                     item      1    2    3    4    5
    scores = jnp.array([[99.0, 0.5, 0.9, 0.5, 0.1, 0.5]])
    priority = jnp.array([0, 3, 1, 2, 5, 4], dtype=jnp.int32)
    found = scoring.ranks_in_scores(scores, jnp.array([[1, 2, 3, 4, 5, 0]], dtype=jnp.int32), priority=priority)
    np.testing.assert_array_equal(found.ranks, [[3, 1, 2, 5, 4, UNREACHABLE]])
    np.testing.assert_array_equal(found.best, [[2, 1, 2, 5, 2, UNREACHABLE]])
    np.testing.assert_array_equal(found.worst, [[4, 1, 4, 5, 4, UNREACHABLE]])
    top = scoring.top_k_in_scores(scores, k=7, priority=priority)
    np.testing.assert_array_equal(top.item_ids, [[2, 3, 1, 5, 4, 0, 0]])
    np.testing.assert_array_equal(top.scores[0, 4:], np.float32([0.1, -np.inf, -np.inf]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), holes=st.booleans())
def test_ranks_and_lists_equal_a_sorted_list(seed, holes):
    case = problem(seed)
    scores = case["v_x"] @ case["v_y"].T
    if holes:
        rng = np.random.default_rng(seed)
        scores = rng.choice(np.float32([np.nan, -np.inf, np.inf, 0.0, -0.0, 1.0]), scores.shape)
    request = options(case, "priority", "allowed", "excluded")
    ranks = ranks_in_scores(
        jnp.asarray(scores), jnp.asarray(case["targets"]), **request, where=jnp.asarray(case["where"])
    )
    top = top_k_in_scores(jnp.asarray(scores), k=14, **request)
    for user, row in enumerate(scores):
        rules = case["priority"], case["allowed"], case["excluded"][user]
        expected = slow_list(row, *rules)
        assert top.item_ids[user].tolist() == expected + [0] * (14 - len(expected))
        np.testing.assert_array_equal(top.scores[user, : len(expected)], row[expected])
        assert np.all(top.scores[user, len(expected) :] == -np.inf)
        for place, target in enumerate(case["targets"][user]):
            triple = slow_ranks(row, target, *rules) if case["where"][user, place] else (UNREACHABLE,) * 3
            assert tuple(int(figure[user, place]) for figure in ranks) == triple


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), chunk_size=st.sampled_from([1, 5, 6, 11, 12]))
def test_tiles_change_nothing(seed, chunk_size):
    case = problem(seed)  # small integers, so that scores are exact whatever the tile
    request = options(case, "priority", "allowed", "excluded")
    v_x, v_y, targets, where = options(case, "v_x", "v_y", "targets", "where").values()
    scores = scoring.bilinear_scores(v_x, None, v_y)
    assert_same(
        target_ranks(v_x, None, v_y, targets, **request, where=where, chunk_size=chunk_size),
        ranks_in_scores(scores, targets, **request, where=where),
    )
    assert_same(
        top_k(v_x, None, v_y, k=5, **request, chunk_size=chunk_size),
        top_k_in_scores(scores, k=5, **request),
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), chunk_size=st.sampled_from([5, 12]))
def test_each_user_may_have_allowed_items_of_their_own(seed, chunk_size):
    case = problem(seed)
    allowed = np.random.default_rng(seed).random((3, 12)) < 0.5
    request = options(case, "priority", "excluded") | {"allowed": jnp.asarray(allowed)}
    v_x, v_y, targets = options(case, "v_x", "v_y", "targets").values()
    top = top_k(v_x, None, v_y, k=5, **request, chunk_size=chunk_size)
    ranks = target_ranks(v_x, None, v_y, targets, **request, chunk_size=chunk_size)
    for user, row in enumerate(case["v_x"] @ case["v_y"].T):
        rules = case["priority"], allowed[user], case["excluded"][user]
        expected = slow_list(row, *rules)[:5]
        assert top.item_ids[user].tolist() == expected + [0] * (5 - len(expected))
        assert ranks.ranks[user].tolist() == [slow_ranks(row, target, *rules)[0] for target in case["targets"][user]]
    one_mask = jnp.asarray(allowed[0])
    of_each = top_k(v_x, None, v_y, k=5, **request | {"allowed": jnp.tile(one_mask, (3, 1))}, chunk_size=chunk_size)
    assert_same(of_each, top_k(v_x, None, v_y, k=5, **request | {"allowed": one_mask}, chunk_size=chunk_size))


@pytest.mark.parametrize("k", [1, 3, 17])
def test_ties_at_the_last_place_between_blocks_are_settled_by_priority(k):
    rng = np.random.default_rng(k)
    scores = rng.choice(np.float32([-1.0, -0.0, 0.0, 1.0]), (6, 700), p=[0.5, 0.2, 0.28, 0.02])
    scores[3:] = np.minimum(scores[3:], 0)  # hundreds of items share the last place
    priority = np.concatenate([[0], rng.permutation(699) + 1]).astype(np.int32)
    found = top_k_in_scores(jnp.asarray(scores), k=k, priority=jnp.asarray(priority))
    for row, ids in zip(scores, found.item_ids.tolist(), strict=True):
        assert ids == slow_list(row, priority, np.ones(700, dtype=bool), ())[:k]


@pytest.mark.parametrize("chunk_size", [64, 100, 301])
def test_lists_and_ranks_agree_where_scores_are_rounded(chunk_size):
    keys = jax.random.split(jax.random.key(3), 4)
    v_x = jax.random.normal(keys[0], (5, 16))
    v_y = jnp.concatenate([jax.random.normal(keys[1], (151, 16))] * 2)[:301]  # every item has a twin
    priority = scoring.catalogue_order(300, keys[2])
    top = top_k(v_x, None, v_y, k=300, priority=priority, chunk_size=chunk_size)
    found = target_ranks(v_x, None, v_y, top.item_ids, priority=priority, chunk_size=chunk_size)
    np.testing.assert_array_equal(found.ranks, np.tile(np.arange(1, 301), (5, 1)))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(-8, 8))
def test_shifting_scores_and_renaming_items_leave_the_ranks(seed, shift):
    case = problem(seed)
    scores, targets = case["v_x"] @ case["v_y"].T, case["targets"]
    ranks = ranks_in_scores(jnp.asarray(scores), jnp.asarray(targets), **options(case, "priority"))
    shifted = jnp.asarray(scores + np.float32(shift))
    assert_same(ranks_in_scores(shifted, jnp.asarray(targets), **options(case, "priority")), ranks)
    renamed = np.concatenate([[0], np.random.default_rng(seed).permutation(scores.shape[1] - 1) + 1])
    old = np.argsort(renamed)
    again = ranks_in_scores(
        jnp.asarray(scores[:, old]),
        jnp.asarray(renamed[targets].astype(np.int32)),
        priority=jnp.asarray(case["priority"][old]),
    )
    assert_same(again, ranks)


def test_a_constant_scorer_gets_chance_level():
    targets = jnp.arange(1, 101, dtype=jnp.int32)[:, None]
    scores, priority = jnp.zeros((100, 101)), scoring.catalogue_order(100, jax.random.key(0))
    found = ranks_in_scores(scores, targets, priority=priority)
    assert sorted(found.ranks[:, 0].tolist()) == list(range(1, 101))
    np.testing.assert_array_equal(found.best, 1)
    np.testing.assert_array_equal(found.worst, 100)


def test_nothing_to_recommend():
    scores, priority = jnp.ones((2, 4)), jnp.arange(4, dtype=jnp.int32)
    nothing = {"priority": priority, "allowed": jnp.zeros(4, dtype=bool)}
    found = ranks_in_scores(scores, jnp.array([[1], [2]], dtype=jnp.int32), **nothing)
    np.testing.assert_array_equal(found.ranks, UNREACHABLE)
    np.testing.assert_array_equal(top_k_in_scores(scores, k=2, **nothing).item_ids, 0)


def test_targets_outside_the_table_are_unreachable():
    targets = jnp.array([[-1, 0, 4, 99]], dtype=jnp.int32)
    v_x, v_y, priority = jnp.ones((1, 2)), jnp.ones((4, 2)), jnp.arange(4, dtype=jnp.int32)
    for chunk_size in (2, 10):
        found = target_ranks(v_x, None, v_y, targets, priority=priority, chunk_size=chunk_size)
        np.testing.assert_array_equal(found.ranks, UNREACHABLE)


def test_memory_does_not_grow_with_the_catalogue():
    def temporary_bytes(function, num_items):
        arguments = (
            jax.ShapeDtypeStruct((64, 8), jnp.float32),
            jax.ShapeDtypeStruct((num_items + 1, 8), jnp.float32),
            jax.ShapeDtypeStruct((64, 2), jnp.int32),
            jax.ShapeDtypeStruct((num_items + 1,), jnp.int32),
            jax.ShapeDtypeStruct((64, num_items + 1), jnp.bool_),
        )
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    def rank(v_x, v_y, targets, priority, _):
        return scoring.target_ranks(v_x, None, v_y, targets, priority=priority, chunk_size=512)

    def choose(v_x, v_y, targets, priority, _, **rules):
        return scoring.top_k(v_x, None, v_y, k=10, priority=priority, chunk_size=512, **rules)

    def choose_of_allowed(v_x, v_y, targets, priority, allowed):
        return choose(v_x, v_y, targets, priority, None, allowed=allowed, excluded=targets)

    for function in (rank, choose, choose_of_allowed):
        small, large = temporary_bytes(function, 4000), temporary_bytes(function, 64000)
        assert large <= small + 2**16, (small, large)
        assert large < 64 * 64000 * 4 / 10


# --- transforms ---


def functions_of_users(case):
    """Name to a function of (v_x [U, D], targets [U, P], excluded [U, X])."""
    v_y, rules = jnp.asarray(case["v_y"]), options(case, "priority", "allowed")

    def rank(v_x, targets, excluded, **how):
        return scoring.target_ranks(v_x, None, v_y, targets, excluded=excluded, **rules, **how)

    def choose(v_x, targets, excluded, **how):
        return scoring.top_k(v_x, None, v_y, k=4, excluded=excluded, **rules, **how)

    return {
        "ranks": rank,
        "ranks in tiles": partial(rank, chunk_size=5),
        "top k": choose,
        "top k in tiles": partial(choose, chunk_size=5),
        "candidates": lambda v_x, targets, _: scoring.candidate_scores(v_x, None, v_y, candidate_ids=targets),
        "pairs": lambda v_x, targets, _: scoring.pair_scores(v_x, None, v_y[targets[:, 0]]),
    }


@pytest.mark.parametrize("name", functions_of_users(problem(0)))
def test_eager_jit_vmap_pmap_shards_and_shard_map_agree(name):
    case = problem(5, num_users=16)
    function = functions_of_users(case)[name]
    arguments = tuple(options(case, "v_x", "targets", "excluded").values())
    expected = function(*arguments)
    assert_same(jax.jit(function)(*arguments), expected)

    split = [array.reshape(8, 2, *array.shape[1:]) for array in arguments]
    for mapped in (jax.vmap(function), jax.pmap(function)):
        result = jax.block_until_ready(mapped(*split))
        assert_same(jax.tree.map(lambda array: array.reshape(16, *array.shape[2:]), result), expected)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("data")
    sharded = [jax.device_put(array, NamedSharding(mesh, rows)) for array in arguments]
    assert_same(jax.block_until_ready(jax.jit(function)(*sharded)), expected)
    per_shard = jax.shard_map(function, mesh=mesh, in_specs=(rows,) * 3, out_specs=rows)
    assert_same(jax.block_until_ready(jax.jit(per_shard)(*sharded)), expected)


# --- errors ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"priority": jnp.arange(5, dtype=jnp.int32)}, r"priority has shape \(5,\)"),
        ({"allowed": jnp.ones(3, dtype=bool)}, r"allowed has shape \(3,\)"),
        ({"allowed": jnp.ones((3, 4), dtype=bool)}, r"allowed has shape \(3, 4\), expected .* \(2, 4\)"),
        ({"excluded": jnp.ones((3, 1), dtype=jnp.int32)}, "excluded has shape"),
        ({"targets": jnp.ones(2, dtype=jnp.int32)}, "targets has shape"),
        ({"where": jnp.ones((2, 2), dtype=bool)}, "where has shape"),
        ({"scores": jnp.ones((2, 4), dtype=jnp.int32)}, "floating point"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes, message):
    good = {
        "scores": jnp.ones((2, 4)),
        "targets": jnp.ones((2, 1), dtype=jnp.int32),
        "priority": jnp.arange(4, dtype=jnp.int32),
    }
    with pytest.raises(ShapeError, match=message):
        scoring.ranks_in_scores(**(good | changes))


def test_sizes_below_1_are_refused():
    v_x, v_y, priority = jnp.ones((1, 2)), jnp.ones((4, 2)), jnp.arange(4, dtype=jnp.int32)
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        scoring.top_k(v_x, None, v_y, k=0, priority=priority)
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, got 0"):
        scoring.top_k(v_x, None, v_y, k=1, priority=priority, chunk_size=0)
    with pytest.raises(ShapeError, match="v_y has shape"):
        scoring.top_k(v_x, None, v_y[:, :1], k=1, priority=priority)

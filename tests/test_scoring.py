"""Scores, ranks and lists against loops written out in NumPy, and under every transform."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from seqrec_jax import scoring
from seqrec_jax.errors import ShapeError
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


ranks_in_scores = jax.jit(scoring.ranks_in_scores)
top_k_in_scores = jax.jit(scoring.top_k_in_scores, static_argnames="k")
target_ranks = jax.jit(scoring.target_ranks, static_argnames="chunk_size")
top_k = jax.jit(scoring.top_k, static_argnames=("k", "chunk_size"))


def options(case, *names):
    return {name: jnp.asarray(case[name]) for name in names}


def assert_same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# --- scores ---


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


# --- ranks and lists ---


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
        )
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    def rank(v_x, v_y, targets, priority):
        return scoring.target_ranks(v_x, None, v_y, targets, priority=priority, chunk_size=512)

    def choose(v_x, v_y, targets, priority):
        return scoring.top_k(v_x, None, v_y, k=10, priority=priority, chunk_size=512)

    for function in (rank, choose):
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
    with pytest.raises(ShapeError, match="k must be at least 1, got 0"):
        scoring.top_k(v_x, None, v_y, k=0, priority=priority)
    with pytest.raises(ShapeError, match="chunk_size must be at least 1, got 0"):
        scoring.top_k(v_x, None, v_y, k=1, priority=priority, chunk_size=0)
    with pytest.raises(ShapeError, match="v_y has shape"):
        scoring.top_k(v_x, None, v_y[:, :1], k=1, priority=priority)

"""Ranks and lists whose item table is spread over devices equal those of one device."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scoring_cases import assert_same, options, problem

from seqrec_jax import scoring
from seqrec_jax.errors import ShapeError

TABLE, USERS, WHOLE = PartitionSpec("model"), PartitionSpec("data"), PartitionSpec()
COLUMNS = PartitionSpec("data", "model")


def spread(function, mesh_shape, in_specs, out_specs=USERS):
    mesh = jax.make_mesh(mesh_shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))


def tied_case():
    """A table of 64 rows whose scores are small integers, with many ties within and between devices."""
    return problem(7, num_users=8, num_items=63)


def rounded_case():
    """A table whose scores are rounded, so that no two of a user are equal."""
    rng = np.random.default_rng(3)
    case = problem(8, num_users=8, num_items=63)
    return case | {name: rng.normal(size=(size, 5)).astype(np.float32) for name, size in (("v_x", 8), ("v_y", 64))}


def rank(v_x, v_y, targets, where, excluded, priority, allowed, **how):
    return scoring.target_ranks(
        v_x, None, v_y, targets, where=where, excluded=excluded, priority=priority, allowed=allowed, **how
    )


def rank_scores(v_x, v_y, targets, where, excluded, priority, allowed, *, chunk_size, **how):
    scores, rules = v_x @ v_y.T, {"priority": priority, "allowed": allowed}
    return scoring.ranks_in_scores(scores, targets, where=where, excluded=excluded, **rules, **how)


def choose(v_x, v_y, targets, where, excluded, priority, allowed, *, k, **how):
    return scoring.top_k(v_x, None, v_y, k=k, excluded=excluded, priority=priority, allowed=allowed, **how)


def choose_scores(v_x, v_y, targets, where, excluded, priority, allowed, *, k, chunk_size, **how):
    rules = {"excluded": excluded, "priority": priority, "allowed": allowed}
    return scoring.top_k_in_scores(v_x @ v_y.T, k=k, **rules, **how)


FUNCTIONS = {
    "ranks": rank,
    "ranks in scores": rank_scores,
    "top 5": partial(choose, k=5),
    "top 100": partial(choose, k=100),
    "top 5 in scores": partial(choose_scores, k=5),
}
NAMES = ("v_x", "v_y", "targets", "where", "excluded", "priority", "allowed")
SPECS = (USERS, TABLE, USERS, USERS, USERS, TABLE, TABLE)


@pytest.mark.parametrize(
    ("name", "mesh_shape"),
    [(name, (2, 4)) for name in FUNCTIONS]
    + [(name, shape) for name in ("ranks", "top 5") for shape in ((1, 8), (4, 2))],
)
def test_a_spread_table_gives_the_ranks_and_lists_of_one_device(name, mesh_shape):
    for case, chunk_size in ((tied_case(), 3), (rounded_case(), None)):
        arguments = options(case, *NAMES).values()
        function = partial(FUNCTIONS[name], chunk_size=chunk_size)
        expected = jax.jit(function)(*arguments)
        assert np.ptp(np.asarray(expected[0])) > 3
        found = spread(partial(function, axis_name="model"), mesh_shape, SPECS)(*arguments)
        jax.block_until_ready(found)
        assert_same(found[0], expected[0])
        for one, other in zip(found[1:], expected[1:], strict=True):  # rounded scores may differ in the last bit
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 if chunk_size is None else 0)


def test_a_table_spread_over_two_axes_and_by_pmap():
    arguments = options(tied_case(), *NAMES)
    for function in (rank, partial(choose, k=5)):
        expected = jax.jit(function)(*arguments.values())
        over_all = PartitionSpec(("data", "model"))
        specs = (WHOLE, over_all, WHOLE, WHOLE, WHOLE, over_all, over_all)
        spread_out = spread(partial(function, axis_name=("data", "model")), (2, 4), specs, WHOLE)
        assert_same(jax.block_until_ready(spread_out(*arguments.values())), expected)

        def of_items(v_y, priority, allowed, function=function):
            return function(**arguments | {"v_y": v_y, "priority": priority, "allowed": allowed}, axis_name="items")

        split = [arguments[name].reshape(8, 8, *arguments[name].shape[1:]) for name in ("v_y", "priority", "allowed")]
        found = jax.block_until_ready(jax.pmap(of_items, axis_name="items")(*split))
        for device in range(8):
            assert_same(jax.tree.map(lambda part, device=device: part[device], found), expected)


def test_only_the_first_row_of_the_whole_table_is_padding():
    scores = jnp.zeros((1, 16))
    priority = jnp.arange(16, dtype=jnp.int32)
    choose_16 = partial(scoring.top_k_in_scores, k=16, axis_name="model")
    spread_out = spread(lambda scores, priority: choose_16(scores, priority=priority), (1, 8), (COLUMNS, TABLE))
    found = jax.block_until_ready(spread_out(scores, priority))
    np.testing.assert_array_equal(found.item_ids[0], [*range(1, 16), 0])


def test_priorities_of_another_size_than_the_rows_of_a_device_are_refused():
    scores, priority = jnp.zeros((1, 16)), jnp.arange(16, dtype=jnp.int32)

    def of_whole_order(scores, priority):
        return scoring.top_k_in_scores(scores, k=1, priority=priority, axis_name="model")

    with pytest.raises(ShapeError, match=r"priority has shape \(16,\), expected \(2,\)"):
        spread(of_whole_order, (1, 8), (COLUMNS, WHOLE))(scores, priority)

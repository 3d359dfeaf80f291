"""Ranking metrics against hand-worked cases, slow references, other libraries, and under every transform."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqrec_jax import metrics
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.metrics import MISSING_RANK, RANKING_METRICS

ORACLES = {
    "hit_rate": oracles.hit_rate,
    "precision": oracles.precision,
    "recall": oracles.recall,
    "f1": oracles.f1,
    "ndcg": oracles.ndcg,
    "mrr": oracles.mrr,
    "map": oracles.average_precision,
}

# every public metric as a function of ranks and where
PUBLIC = {
    "num_relevant": lambda ranks, where: metrics.num_relevant(ranks, where=where),
    "accuracy": lambda ranks, where: metrics.accuracy_at_1(ranks, where=where),
    "mrr_all": lambda ranks, where: metrics.mrr_at_k(ranks, where=where),
    "mean_rank": lambda ranks, where: metrics.mean_rank(ranks, num_candidates=20, where=where),
    "auc": lambda ranks, where: metrics.auc(ranks, num_candidates=20, where=where),
    **{
        name: partial(lambda ranks, where, metric: metric(ranks, k=5, where=where), metric=metric)
        for name, metric in RANKING_METRICS.items()
    },
}


def all_metrics(ranks, where):
    return {name: metric(ranks, where) for name, metric in PUBLIC.items()}


def log2(x: float) -> float:
    return math.log(x) / math.log(2)


# ranks 1, 3, 8 of three relevant items; ranks 2 of one; one that is missed; none relevant
HAND_RANKS = np.array([[8, 1, 3], [2, 1, 1], [30, 1, 1], [1, 1, 1]])
HAND_WHERE = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
HAND = [
    ("hit_rate", 1, [1, 0, 0]),
    ("hit_rate", 5, [1, 1, 0]),
    ("precision", 5, [2 / 5, 1 / 5, 0]),
    ("precision", 100, [3 / 100, 1 / 100, 1 / 100]),
    ("recall", 5, [2 / 3, 1, 0]),
    ("f1", 5, [2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3), 2 * (1 / 5) / (1 / 5 + 1), 0]),
    ("ndcg", 1, [1, 0, 0]),
    ("ndcg", 2, [1 / (1 + 1 / log2(3)), 1 / log2(3), 0]),
    ("ndcg", 5, [(1 + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)), 1 / log2(3), 0]),
    ("ndcg", 9, [(1 + 1 / log2(4) + 1 / log2(9)) / (1 + 1 / log2(3) + 1 / log2(4)), 1 / log2(3), 0]),
    ("mrr", 1, [1, 0, 0]),
    ("mrr", None, [1, 1 / 2, 1 / 30]),
    ("map", 2, [1 / 2, 1 / 2, 0]),
    ("map", 5, [(1 + 2 / 3) / 3, 1 / 2, 0]),
    ("map", 9, [(1 + 2 / 3 + 3 / 8) / 3, 1 / 2, 0]),
]


@pytest.mark.parametrize(("name", "k", "expected"), HAND, ids=[f"{n}@{k}" for n, k, _ in HAND])
def test_hand_worked(name, k, expected):
    value = RANKING_METRICS[name](HAND_RANKS, k=k, where=HAND_WHERE)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, [*expected, math.nan], rtol=1e-6)


def test_hand_worked_without_k():
    np.testing.assert_array_equal(metrics.num_relevant(HAND_RANKS, where=HAND_WHERE), [3, 1, 1, 0])
    np.testing.assert_array_equal(metrics.accuracy_at_1(HAND_RANKS, where=HAND_WHERE), [1, 0, 0, math.nan])
    np.testing.assert_array_equal(metrics.mean_rank(HAND_RANKS, where=HAND_WHERE), [4, 2, 30, math.nan])
    # 30 candidates: 27 irrelevant, of which 0, 1 and 5 stand above the ranks 1, 3 and 8
    expected = [(27 + 26 + 22) / 27 / 3, 28 / 29, 0, math.nan]
    np.testing.assert_allclose(metrics.auc(HAND_RANKS, num_candidates=30, where=HAND_WHERE), expected, rtol=1e-6)


# computed with ranx 0.3.21, which takes over a minute to compile; MAP at full length, as it divides by P
RANX_RANKS = [
    [9, 0, 0, 0, 0, 0],
    [5, 1, 9, 0, 0, 0],
    [12, 10, 3, 9, 6, 5],
    [9, 1, 0, 0, 0, 0],
    [9, 7, 10, 5, 0, 0],
]
RANX_VALUES = {
    "hit_rate": [0.0, 1.0, 1.0, 1.0, 0.0],
    "precision": [0.0, 0.25, 0.25, 0.25, 0.0],
    "recall": [0.0, 0.333333, 0.166667, 0.5, 0.0],
    "f1": [0.0, 0.285714, 0.2, 0.333333, 0.0],
    "ndcg": [0.0, 0.469279, 0.19519, 0.613147, 0.0],
    "mrr": [0.0, 1.0, 0.333333, 1.0, 0.0],
    "map": [0.111111, 0.577778, 0.446296, 0.611111, 0.304762],
}


def test_agrees_with_ranx():
    ranks = jnp.asarray(RANX_RANKS)
    where = ranks > 0
    for name, expected in RANX_VALUES.items():
        value = RANKING_METRICS[name](ranks, k=12 if name == "map" else 4, where=where)
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)


@st.composite
def users(draw, count=4, width=5):
    """Per user: the ranked candidates and the relevant items, some of which cannot be ranked."""
    result = []
    for _ in range(count):
        size = draw(st.integers(1, 8))
        scores = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
        order = draw(st.permutations(range(size)))
        relevant = draw(st.lists(st.integers(0, size + 1), max_size=width, unique=True))
        result.append((oracles.ranking(scores, order), relevant))
    return result


def as_arrays(cases, width=5):
    """Ranks `[U, P]` and mask; items beyond the candidates are missing, padding would be a hit."""
    ranks = np.ones((len(cases), width), dtype=np.int32)
    where = np.zeros((len(cases), width), dtype=bool)
    for user, (ranked, relevant) in enumerate(cases):
        for i, item in enumerate(relevant):
            ranks[user, i] = ranked.index(item) + 1 if item in ranked else MISSING_RANK
            where[user, i] = True
    return ranks, where


@given(cases=users(), k=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_metrics_at_k_match_walking_down_the_list(cases, k):
    ranks, where = as_arrays(cases)
    for name, oracle in ORACLES.items():
        expected = [oracle(ranked, relevant, k) for ranked, relevant in cases]
        value = RANKING_METRICS[name](ranks, k=k, where=where)
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=f"{name}@{k}")
        assert not np.any(np.asarray(value) > 1), name


@given(cases=users())
@settings(max_examples=60, deadline=None)
def test_metrics_of_the_whole_ranking_match_the_oracle(cases):
    ranks, where = as_arrays(cases)
    lengths = np.array([len(ranked) for ranked, _ in cases])
    np.testing.assert_allclose(
        metrics.auc(ranks, num_candidates=lengths, where=where),
        [oracles.auc(ranked, relevant) for ranked, relevant in cases],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        metrics.mrr_at_k(ranks, where=where),
        [oracles.mrr(ranked, relevant, len(ranked)) for ranked, relevant in cases],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        metrics.accuracy_at_1(ranks, where=where),
        [oracles.precision(ranked, relevant, 1) for ranked, relevant in cases],
    )
    places = [
        [ranked.index(item) + 1 if item in ranked else len(ranked) for item in relevant] for ranked, relevant in cases
    ]
    np.testing.assert_allclose(
        metrics.mean_rank(ranks, num_candidates=lengths, where=where),
        [np.mean(user) if user else math.nan for user in places],
        rtol=1e-6,
    )


@given(cases=users(), length=st.just(6))
@settings(max_examples=40, deadline=None)
def test_lists_from_elsewhere_get_the_same_figures(cases, length):
    """Item ids are index + 1; lists are cut or padded with 0 to K places."""
    lists = np.zeros((len(cases), length), dtype=np.int32)
    relevant_ids = np.zeros((len(cases), 5), dtype=np.int32)
    hits = np.zeros((len(cases), length), dtype=bool)
    for user, (ranked, relevant) in enumerate(cases):
        lists[user, : len(ranked)] = np.array(ranked[:length]) + 1
        relevant_ids[user, : len(relevant)] = np.array(relevant, dtype=int) + 1
        hits[user, : len(ranked)] = [item in relevant for item in ranked[:length]]
    np.testing.assert_array_equal(metrics.hits_from_lists(lists, relevant_ids), hits)
    from_lists = metrics.ranks_from_lists(lists, relevant_ids)
    ranks, where = as_arrays(cases)
    for name, metric in RANKING_METRICS.items():
        value = metric(from_lists, k=length, where=relevant_ids > 0)
        np.testing.assert_allclose(value, metric(ranks, k=length, where=where), rtol=1e-6, err_msg=name)


def test_lists_ignore_padding_masked_entries_and_repeats():
    recommended = jnp.array([[5, 5, 0, 7, -1]])
    relevant = jnp.array([[7, 5, 0, -1]])
    np.testing.assert_array_equal(metrics.ranks_from_lists(recommended, relevant), [[4, 1, MISSING_RANK, MISSING_RANK]])
    np.testing.assert_array_equal(metrics.hits_from_lists(recommended, relevant), [[1, 0, 0, 1, 0]])
    where = jnp.array([[False, True, True, True]])
    np.testing.assert_array_equal(metrics.hits_from_lists(recommended, relevant, where=where), [[1, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def random_case():
    """Ranks of up to 6 of 20 items for 16 users, some without relevant items, and the scores behind."""
    generator = np.random.default_rng(3)
    scores = generator.permuted(np.tile(np.arange(20.0), (16, 1)), axis=1)
    labels = np.zeros((16, 20))
    ranks = np.full((16, 6), 1, dtype=np.int32)
    where = np.zeros((16, 6), dtype=bool)
    for user in range(16):
        items = generator.choice(20, size=user % 7, replace=False)
        labels[user, items] = 1
        ranks[user, : len(items)] = 20 - scores[user, items]
        where[user, : len(items)] = True
    return scores, labels, ranks, where


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_agrees_with_rax(random_case, k):
    rax = pytest.importorskip("rax")
    scores, labels, ranks, where = random_case
    known = where.any(axis=1)
    pairs = {"ndcg": rax.ndcg_metric, "mrr": rax.mrr_metric, "recall": rax.recall_metric}
    pairs["precision"] = rax.precision_metric
    if k >= where.shape[1]:  # rax divides by P, not by min(P, k)
        pairs["map"] = rax.ap_metric
    for name, other in pairs.items():
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            expected = other(jnp.float32(scores), jnp.float32(labels), topn=k, reduce_fn=None)
        value = RANKING_METRICS[name](ranks, k=k, where=where)
        np.testing.assert_allclose(value[known], expected[known], rtol=1e-5, err_msg=name)


def test_agrees_with_scikit_learn(random_case):
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    scores, labels, ranks, where = random_case
    auc = metrics.auc(ranks, num_candidates=20, where=where)
    average_precision = metrics.map_at_k(ranks, k=20, where=where)
    ndcg = metrics.ndcg_at_k(ranks, k=4, where=where)
    users_with_items = np.flatnonzero(where.any(axis=1))
    assert len(users_with_items) > 10
    for user in users_with_items:
        truth, score = labels[user], scores[user]
        np.testing.assert_allclose(auc[user], sklearn_metrics.roc_auc_score(truth, score), rtol=1e-6)
        np.testing.assert_allclose(
            average_precision[user], sklearn_metrics.average_precision_score(truth, score), rtol=1e-6
        )
        np.testing.assert_allclose(ndcg[user], sklearn_metrics.ndcg_score([truth], [score], k=4), rtol=1e-6)


def test_same_under_every_transform_and_sharding(random_case):
    _, _, ranks, where = random_case
    ranks, where = jnp.asarray(ranks), jnp.asarray(where)
    eager = all_metrics(ranks, where)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    assert sharding.num_devices == 8
    sharded = jax.jit(all_metrics)(jax.device_put(ranks, sharding), jax.device_put(where, sharding))
    over_devices = jax.pmap(all_metrics)(ranks.reshape(8, 2, 6), where.reshape(8, 2, 6))
    over_grid = jax.jit(all_metrics)(ranks.reshape(2, 8, 6), where.reshape(2, 8, 6))
    results = {
        "jit": jax.jit(all_metrics)(ranks, where),
        "vmap": jax.vmap(all_metrics)(ranks, where),
        "pmap": jax.block_until_ready(over_devices),
        "sharded": jax.block_until_ready(sharded),
        "two leading axes": over_grid,
    }
    for transform, values in results.items():
        for name, value in values.items():
            assert value.dtype == eager[name].dtype, (transform, name)
            np.testing.assert_allclose(value.reshape(16), eager[name], rtol=1e-6, err_msg=f"{name} under {transform}")
    one_user = all_metrics(ranks[3], where[3])
    for name, value in one_user.items():
        assert value.shape == ()
        np.testing.assert_allclose(value, eager[name][3], rtol=1e-6, err_msg=name)


def test_lists_and_candidates_under_every_transform():
    generator = np.random.default_rng(0)
    lists = jnp.asarray(generator.permuted(np.tile(np.arange(1, 10), (8, 1)), axis=1)[:, :4])
    relevant = jnp.asarray(generator.permuted(np.tile(np.arange(10), (8, 1)), axis=1)[:, :3])
    candidates = jnp.arange(9, 17)

    def judge(lists, relevant, candidates):
        ranks = metrics.ranks_from_lists(lists, relevant)
        options = {"num_candidates": candidates, "where": relevant > 0}
        return metrics.hits_from_lists(lists, relevant), metrics.auc(ranks, **options)

    eager = judge(lists, relevant, candidates)
    for transform in (jax.jit, jax.vmap, jax.pmap):
        for value, expected in zip(transform(judge)(lists, relevant, candidates), eager, strict=True):
            np.testing.assert_allclose(value.block_until_ready(), expected, rtol=1e-6)


def test_order_and_padding_of_relevant_items_do_not_matter(random_case):
    _, _, ranks, where = random_case
    expected = all_metrics(ranks, where)
    order = np.random.default_rng(1).permutation(6)
    wider = np.pad(ranks, ((0, 0), (2, 3)), constant_values=1), np.pad(where, ((0, 0), (2, 3)))
    for other in ((ranks[:, order], where[:, order]), wider):
        for name, value in jax.jit(all_metrics)(*other).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("width", [0, 3])
def test_without_relevant_items_is_nan(width):
    values = jax.jit(all_metrics)(jnp.ones((2, width), dtype=jnp.int32), jnp.zeros((2, width), dtype=bool))
    np.testing.assert_array_equal(values.pop("num_relevant"), [0, 0])
    for name, value in values.items():
        assert value.shape == (2,) and np.isnan(value).all(), name


def test_no_users_give_no_values():
    for name, value in jax.jit(all_metrics)(jnp.ones((0, 3), dtype=jnp.int32), None).items():
        assert value.shape == (0,), name


def test_nothing_irrelevant_leaves_auc_undefined():
    assert np.isnan(metrics.auc(np.array([[2, 1]]), num_candidates=2)).all()


@pytest.mark.parametrize("k", [1, 10**6, MISSING_RANK, 2**40])
def test_a_missing_item_is_a_miss_at_every_k(k):
    for name, metric in RANKING_METRICS.items():
        np.testing.assert_array_equal(metric(np.array([[MISSING_RANK]]), k=k), [0.0], err_msg=name)
    np.testing.assert_array_equal(metrics.mrr_at_k(np.array([[MISSING_RANK]])), [0.0])
    np.testing.assert_array_equal(metrics.auc(np.array([[MISSING_RANK]]), num_candidates=5), [0.0])


def test_k_beyond_the_catalogue_counts_empty_places():
    np.testing.assert_allclose(metrics.precision_at_k(np.array([[1, 2]]), k=2**40), [2 / 2**40], rtol=1e-6)
    np.testing.assert_array_equal(metrics.recall_at_k(np.array([[1, 2]]), k=2**40), [1.0])


def test_large_numpy_ranks_do_not_wrap_around():
    ranks = np.array([[2**32 + 1, 2**62]])
    np.testing.assert_array_equal(metrics.hit_rate_at_k(ranks, k=10), [0.0])
    np.testing.assert_array_equal(metrics.hit_rate_at_k(np.array([[3]], dtype=np.uint8), k=10), [1.0])


def test_auc_is_exact_for_a_large_catalogue():
    """The number of pairs, 4e9, is beyond int32."""
    ranks = jnp.arange(1, 2001) * 1000
    above = np.sum(np.asarray(ranks, dtype=np.int64) - np.arange(1, 2001))
    expected = 1 - above / (2000 * (2_000_000 - 2000))
    np.testing.assert_allclose(metrics.auc(ranks, num_candidates=2_000_000), expected, rtol=1e-6)


ANY_RANKS = jnp.array([[1, 2]])


@pytest.mark.parametrize("name", RANKING_METRICS)
@pytest.mark.parametrize(
    ("k", "error"), [(0, ConfigError), (-3, ConfigError), (2.0, ShapeError), (True, ShapeError), ("5", ShapeError)]
)
def test_bad_k_is_refused(name, k, error):
    with pytest.raises(error, match=r"^k (is|must be at least 1)"):
        RANKING_METRICS[name](ANY_RANKS, k=k)
    with pytest.raises(error, match=r"^k (is|must be at least 1)"):
        jax.jit(lambda ranks: RANKING_METRICS[name](ranks, k=k))(ANY_RANKS)


def test_a_traced_k_is_refused():
    with pytest.raises(ShapeError, match="static under jit"):
        jax.jit(metrics.recall_at_k)(ANY_RANKS, k=3)


@pytest.mark.parametrize("name", PUBLIC)
def test_bad_shapes_and_dtypes_are_refused(name):
    metric = PUBLIC[name]
    with pytest.raises(ShapeError, match=r"where has shape \(1, 3\), expected that of ranks, \(1, 2\)"):
        jax.jit(metric)(ANY_RANKS, jnp.ones((1, 3), dtype=bool))
    with pytest.raises(ShapeError, match="where has dtype int32"):
        metric(ANY_RANKS, jnp.ones((1, 2), dtype=jnp.int32))
    with pytest.raises(ShapeError, match="ranks has dtype float32"):
        metric(jnp.ones((1, 2)), None)
    with pytest.raises(ShapeError, match="ranks is a scalar"):
        metric(3, None)
    with pytest.raises(DataError, match="ranks start at 1, found 0"):
        metric(np.array([[0, 1]]), None)


def test_bad_candidates_and_lists_are_refused():
    with pytest.raises(ShapeError, match=r"num_candidates has shape \(3,\)"):
        metrics.auc(ANY_RANKS, num_candidates=jnp.array([4, 5, 6]))
    with pytest.raises(ShapeError, match="num_candidates is 0"):
        metrics.mean_rank(ANY_RANKS, num_candidates=0)
    with pytest.raises(ShapeError, match=r"recommended has shape \(2, 3\) and relevant \(1, 2\)"):
        metrics.ranks_from_lists(jnp.ones((2, 3), dtype=jnp.int32), ANY_RANKS)
    with pytest.raises(ShapeError, match="where has shape"):
        metrics.hits_from_lists(ANY_RANKS, ANY_RANKS, where=jnp.ones((1, 1), dtype=bool))
    with pytest.raises(DataError, match="relevant has id 4 twice"):
        metrics.hits_from_lists(np.array([[1]]), np.array([[4, 2, 4]]))
    with pytest.raises(DataError, match="recommended has id 4294967297"):
        metrics.ranks_from_lists(np.array([[2**32 + 1]]), np.array([[1]]))
    masked = np.array([[True, True, False]])
    assert metrics.hits_from_lists(np.array([[4]]), np.array([[4, 2, 4]]), where=masked).all()

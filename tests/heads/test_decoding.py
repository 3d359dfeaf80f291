"""Beam search over a tree of codes: hand-worked, exhaustive with many beams, and held to allowed items."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.heads.decoding import all_item_scores, constrained_beam_search
from seqrec_jax.items.code_tree import make_code_tree

NUM_CODES, NUM_LEVELS, NUM_USERS = 5, 3, 4


def table_step(tables):
    """A decoder that looks up its logits `tables[level]`, `[B, S+1, ..., S+1]`, by the codes so far."""

    def step(cache, level, codes):
        size = tables[level].shape[-1]
        beginnings = cache if codes is None else cache * size + codes
        rows = tables[level].reshape(len(cache), -1, size)
        return jnp.take_along_axis(rows, beginnings[..., None], axis=1), beginnings

    return step


def random_decoder(seed=0):
    """Tables of logits for each level."""
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(2 * rng.normal(size=(NUM_USERS, *[NUM_CODES + 1] * (level + 1))), jnp.float32)
        for level in range(NUM_LEVELS)
    ]


def search(codes, tables, **options):
    tree, cache = make_code_tree(codes), jnp.zeros((len(tables[0]), 1), jnp.int32)
    return jax.jit(lambda cache: constrained_beam_search(tree, cache, table_step(tables), **options))(cache)


def all_scores(codes, tables):
    tree, cache = make_code_tree(codes), jnp.zeros((len(tables[0]), 1), jnp.int32)
    return jax.jit(lambda cache: all_item_scores(tree, cache, table_step(tables)))(cache)


def random_codes(num_items=40, seed=1):
    """Some 40 of the 125 codes, in any order, and three items without."""
    rng = np.random.default_rng(seed)
    possible = np.array(list(itertools.product(range(1, NUM_CODES + 1), repeat=NUM_LEVELS)))
    codes = np.concatenate([np.zeros((4, NUM_LEVELS), int), rng.permutation(possible)[: num_items - 3]])
    codes[1:] = rng.permutation(codes[1:])
    return codes


def scores_by_hand(tables, codes):
    """`[B, V+1]` log probabilities by a loop over users, items and levels."""
    scores = np.full((NUM_USERS, len(codes)), -np.inf)
    for user, item in itertools.product(range(NUM_USERS), range(1, len(codes))):
        if codes[item].any():
            scores[user, item] = 0
            for level in range(NUM_LEVELS):
                logits = np.asarray(tables[level], np.float64)[(user, *codes[item, :level])][1:]
                scores[user, item] += logits[codes[item, level] - 1] - np.log(np.exp(logits).sum())
    return scores


def beam_search_by_hand(tables, codes, user, num_beams, allowed):
    """Item ids and scores, by Python lists."""
    items = [item for item in range(1, len(codes)) if codes[item].any() and allowed[item]]
    beams = [((), 0.0)]
    for level in range(NUM_LEVELS):
        grown = []
        for beginning, total in beams:
            logits = np.asarray(tables[level], np.float64)[(user, *beginning)][1:]
            for code in {codes[item, level] for item in items if tuple(codes[item, :level]) == beginning}:
                value = total + logits[code - 1] - np.log(np.exp(logits).sum())
                grown.append(((*beginning, int(code)), value))
        beams = sorted(grown, key=lambda beam: -beam[1])[:num_beams]
    by_codes = {tuple(map(int, codes[item])): item for item in items}
    return [by_codes[beginning] for beginning, _ in beams], [total for _, total in beams]


def test_a_search_worked_by_hand():
    """First codes 1 and 2 at 0.6 and 0.4; under 1 its children share evenly, under 2 one has all."""
    codes = np.array([[0, 0], [1, 1], [1, 2], [2, 1]])
    first = jnp.log(jnp.array([[1.0, 0.6, 0.4]]))
    second = jnp.log(jnp.array([[[1, 1, 1], [1, 0.5, 0.5], [1, 0.999, 0.001]]]))
    tables = [first, second]
    wide = search(codes, tables, k=3, num_beams=3)
    assert wide.item_ids.tolist() == [[3, 1, 2]]
    np.testing.assert_allclose(np.exp(wide.scores), [[0.3996, 0.3, 0.3]], rtol=1e-5)
    # one beam follows code 1 and never sees the best item
    assert search(codes, tables, k=1, num_beams=1).item_ids.tolist() == [[1]]
    # unless no item below code 1 is allowed
    found = search(codes, tables, k=2, num_beams=2, allowed=jnp.array([[True, False, False, True]]))
    assert found.item_ids.tolist() == [[3, 0]]
    np.testing.assert_allclose(found.scores, [[np.log(0.3996), -np.inf]], rtol=1e-5)


@pytest.mark.parametrize(("num_beams", "share"), [(3, 1.1), (7, 0.4), (60, 0.4)])
def test_it_finds_what_a_search_with_lists_finds(num_beams, share):
    tables, codes = random_decoder(), random_codes()
    allowed = np.random.default_rng(2).random((NUM_USERS, len(codes))) < share
    mask = None if allowed.all() else jnp.asarray(allowed)
    found = search(codes, tables, k=num_beams, num_beams=num_beams, allowed=mask)
    assert found.item_ids.shape == (NUM_USERS, num_beams)
    for user in range(NUM_USERS):
        ids, scores = beam_search_by_hand(tables, codes, user, num_beams, allowed[user])
        assert found.item_ids[user, : len(ids)].tolist() == ids
        np.testing.assert_allclose(found.scores[user, : len(ids)], scores, rtol=1e-5)
        assert not found.item_ids[user, len(ids) :].any()
        assert np.all(found.scores[user, len(ids) :] == -np.inf)


def test_all_scores_equal_the_loop_and_so_does_a_search_with_as_many_beams_as_items():
    tables, codes = random_decoder(3), random_codes(seed=4)
    expected = scores_by_hand(tables, codes)
    np.testing.assert_allclose(all_scores(codes, tables), expected, rtol=1e-5)
    found = search(codes, tables, k=37, num_beams=37)
    np.testing.assert_array_equal(found.item_ids, np.argsort(-expected, axis=1)[:, :37])


def test_probabilities_of_all_codes_sum_to_1():
    possible = np.array(list(itertools.product(range(1, NUM_CODES + 1), repeat=NUM_LEVELS)))
    scores = all_scores(np.concatenate([np.zeros((1, NUM_LEVELS), int), possible]), random_decoder(6))
    np.testing.assert_allclose(jax.nn.logsumexp(scores, axis=1), 0.0, atol=1e-5)


class TestCodeTree:
    def test_every_leaf_leads_back_to_its_items_codes(self):
        codes = random_codes(seed=7)
        tree = make_code_tree(codes)
        assert sorted(tree.item_ids.tolist()) == np.flatnonzero(codes.any(axis=1)).tolist()
        for leaf, item in enumerate(tree.item_ids.tolist()):
            node, found = leaf, []
            for level in reversed(range(NUM_LEVELS)):
                found.insert(0, int(tree.codes[level][node]))
                parent = int(tree.parents[level][node])
                first = tree.first_children[level]
                assert int(first[parent]) <= node < int(first[parent + 1])
                node = parent
            assert found == codes[item].tolist()

    def test_allowed_nodes_are_those_above_an_allowed_item(self):
        codes = random_codes(seed=8)
        tree = make_code_tree(codes)
        allowed = np.random.default_rng(9).random(len(codes)) < 0.2
        masks = tree.allowed_nodes(jnp.asarray(allowed))
        beginnings = [np.unique(codes[codes.any(axis=1)][:, : level + 1], axis=0) for level in range(NUM_LEVELS)]
        for level, nodes in enumerate(beginnings):
            expected = [(codes[allowed][:, : level + 1] == node).all(axis=1).any() for node in nodes]
            np.testing.assert_array_equal(masks[level], expected)

    def test_it_is_a_pytree_whose_branching_is_static(self):
        tree = make_code_tree(random_codes())
        assert jax.jit(lambda tree: jnp.zeros(tree.branching))(tree).shape == tree.branching

    def test_bad_codes_are_refused(self):
        with pytest.raises(DataError, match=r"items 1 and 3 have the same codes \[1, 2\]"):
            make_code_tree(np.array([[0, 0], [1, 2], [1, 1], [1, 2]]))
        with pytest.raises(DataError, match=r"item 2 has the codes \[1, 0\]"):
            make_code_tree(np.array([[0, 0], [1, 2], [1, 0]]))
        with pytest.raises(DataError, match="no item has a code"):
            make_code_tree(np.zeros((3, 2), int))
        with pytest.raises(ShapeError, match=r"float64 of shape \(3, 2\)"):
            make_code_tree(np.ones((3, 2)))


def test_bad_searches_are_refused():
    tables, codes = random_decoder(), random_codes()
    with pytest.raises(ShapeError, match="got 5 and 4"):
        search(codes, tables, k=5, num_beams=4)
    with pytest.raises(ShapeError, match=r"allowed is bool of shape \(2, 41\), expected bool of shape \(4, 41\)"):
        search(codes, tables, k=4, num_beams=4, allowed=jnp.ones((2, 41), bool))

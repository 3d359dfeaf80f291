"""Feature vectors, neighbours and fusions: hand-worked vectors, absence, gradients, and dropped ids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.items import ItemTable, ItemTower, ItemTowerConfig, drop_ids, id_table, make_item_tower
from seqrec_jax.items.fusion import fuse, init_fusion
from seqrec_jax.items.table import has_modality, without_modality

# item 3 was never seen, item 4 neither, and nothing is known of item 5
TABLE = ItemTable(
    known=jnp.array([False, True, True, False, False, False]),
    categorical={"brand": jnp.array([0, 2, 0, 1, 0, 0], jnp.int32)},
    multi_categorical={},
    numeric={"price": jnp.array([0.0, 1.5, 0.0, 0.5, 0.0, 0.0])},
    features={"text": jnp.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [3.0, -1.0], [0.5, 0.5], [0.0, 0.0]])},
    neighbors={"with": jnp.array([[0, 0], [2, 3], [1, 0], [5, 0], [0, 0], [0, 0]], jnp.int32)},
    has={
        "price": jnp.array([False, True, False, True, False, False]),
        "text": jnp.array([False, True, False, True, True, False]),
    },
)
FUSIONS = ("sum", "concat", "gate", "cross_attention")
EVERYTHING = {"attributes": ("brand", "price"), "features": ("text",), "edges": ("with",)}


def build(**settings: object) -> tuple[ItemTower, dict]:
    tower = make_item_tower(ItemTowerConfig(width=4, **settings), TABLE)
    leaves, structure = jax.tree.flatten(jax.jit(tower.init)(jax.random.key(0)))
    rng = np.random.default_rng(9)  # added, so that they are large enough that a missing part shows
    leaves = [jnp.asarray(leaf + rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return tower, jax.tree.unflatten(structure, leaves)


def linear(layer: dict, vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def text_by_hand(params: dict) -> list[np.ndarray]:
    layer = params["features"]["text"]
    absent = np.asarray(layer["absent"])
    has = np.asarray(TABLE.has["text"])
    return [linear(layer, TABLE.features["text"][item]) if has[item] else absent for item in range(1, 6)]


def test_a_feature_goes_through_a_linear_layer_and_a_learned_vector_stands_in_for_it() -> None:
    tower, params = build(features=("text",))
    ids, text = np.asarray(params["ids"]["embedding"]), text_by_hand(params)
    nothing = np.zeros(4)
    expected = [nothing, ids[1] + text[0], ids[2] + text[1], text[2], text[3], nothing]
    np.testing.assert_allclose(jax.jit(tower.item_vectors)(params, TABLE), expected, rtol=1e-5, atol=1e-6)


def test_a_neighbour_counts_with_what_it_has_of_its_own() -> None:
    tower, params = build(features=("text",), edges=("with",))
    ids, text = np.asarray(params["ids"]["embedding"]), text_by_hand(params)
    layer, zeros = params["edges"]["with"], np.zeros(4)
    own = [zeros, ids[1] + text[0], ids[2], text[2], text[3], zeros]  # nothing stands in for a neighbour's text
    mean = {1: (own[2] + own[3]) / 2, 2: own[1], 3: own[5]}
    beside = [linear(layer, mean[item]) if item in mean else np.asarray(layer["absent"]) for item in range(1, 6)]
    expected = [zeros, *(np.where(item < 3, ids[item], 0) + text[item - 1] + beside[item - 1] for item in range(1, 6))]
    expected[5] = zeros
    np.testing.assert_allclose(jax.jit(tower.item_vectors)(params, TABLE), expected, rtol=1e-5, atol=1e-5)


def test_gates_are_a_softmax_over_what_an_item_has() -> None:
    tower, params = build(attributes=("brand", "price"), features=("text",), fusion="gate")
    ids, text = np.asarray(params["ids"]["embedding"]), text_by_hand(params)
    brand, price = (np.asarray(params["attributes"][name]["embedding"]) for name in ("brand", "price"))
    kernel, bias = (np.asarray(params["fusion"][name]) for name in ("kernel", "bias"))
    items = {
        1: ([ids[1], brand[2], 1.5 * price[0], text[0]], [1, 1, 1, 1]),
        2: ([ids[2], 0 * text[0], 0 * text[0], 0 * text[0]], [1, 0, 0, 0]),
        3: ([0 * text[0], brand[1], 0.5 * price[0], text[2]], [0, 1, 1, 1]),
    }
    vectors = np.asarray(jax.jit(tower.item_vectors)(params, TABLE))
    for item, (parts, has) in items.items():
        gates = np.exp(np.concatenate(parts) @ kernel + bias) * has
        expected = (gates / gates.sum()) @ np.stack(parts)
        np.testing.assert_allclose(vectors[item], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(vectors[[0, 5]], 0.0)


def test_attention_asks_with_a_learned_vector_and_the_ids() -> None:
    tower, params = build(features=("text",), fusion="cross_attention")
    ids, text, fusion = np.asarray(params["ids"]["embedding"]), text_by_hand(params), params["fusion"]
    query, to_query, to_key, names, to_value = (
        np.asarray(fusion[name]) for name in ("query", "query_kernel", "key_kernel", "part_keys", "value_kernel")
    )
    parts = np.stack([ids[1], text[0]])
    answers = (parts @ to_key + names) @ (query[0] + ids[1] @ to_query) / 2
    weights = np.exp(answers) / np.exp(answers).sum()
    vectors = jax.jit(tower.item_vectors)(params, TABLE)
    np.testing.assert_allclose(vectors[1], weights @ (parts @ to_value), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors[4], text[3] @ to_value, rtol=1e-4, atol=1e-5)  # all it has


@pytest.mark.parametrize("kind", ["gate", "cross_attention"])
def test_a_fresh_fusion_is_near_the_mean_of_what_is_there(kind: str) -> None:
    parts = [jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 4.0]]), jnp.array([[9.0, 9.0]])]
    present = [jnp.array([True]), jnp.array([True]), jnp.array([False])]
    params = init_fusion(kind, jax.random.key(0), num_parts=3, width=2)
    np.testing.assert_allclose(fuse(kind, params, parts, present), [[1.0, 2.0]], atol=0.1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_slice_of_ids_equals_rows_of_the_table(fusion: str) -> None:
    tower, params = build(fusion=fusion, **EVERYTHING)
    whole = jax.jit(tower.item_vectors)(params, TABLE)
    ids = jnp.array([[3, 0, 1], [5, 2, 4]], jnp.int32)
    np.testing.assert_allclose(jax.jit(tower.item_vectors)(params, TABLE, ids), whole[ids], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(whole[0], 0.0)
    assert np.isfinite(whole).all() and np.any(whole[1:5], axis=1).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_an_item_lacks_moves_nothing_and_stays_finite(fusion: str) -> None:
    tower, params = build(fusion=fusion, **EVERYTHING)

    def loss(params: dict, vectors: jax.Array) -> jax.Array:
        table = TABLE._replace(features={"text": vectors})
        return jnp.sum(tower.item_vectors(params, table, jnp.array([2], jnp.int32)) ** 2)

    of_params, of_vectors = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, TABLE.features["text"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_params))
    np.testing.assert_array_equal(of_vectors[2], 0.0)
    np.testing.assert_array_equal(of_params["attributes"]["brand"]["embedding"][0], 0.0)
    learns = np.any(of_params["features"]["text"]["absent"])
    assert learns == (fusion in ("sum", "concat"))  # gates and attention look elsewhere
    # item 5 has nothing at all
    of_nothing = jax.jit(jax.grad(lambda params: jnp.sum(tower.item_vectors(params, TABLE)[5])))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_nothing))


def test_content_alone_represents_all_items_alike() -> None:
    tower, params = build(ids=False, features=("text",))
    text = text_by_hand(params)
    expected = [text[0], np.zeros(4), text[2], text[3]]
    np.testing.assert_allclose(jax.jit(tower.item_vectors)(params, TABLE)[1:5], expected, rtol=1e-5, atol=1e-6)
    assert "ids" not in params


def test_half_precision_parameters_take_vectors_of_any_precision() -> None:
    for fusion in FUSIONS:
        tower, params = build(fusion=fusion, **EVERYTHING)
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        assert jax.eval_shape(tower.item_vectors, half, TABLE).dtype == jnp.bfloat16
    table = TABLE._replace(features={"text": TABLE.features["text"].astype(jnp.float16)})
    assert jax.eval_shape(tower.item_vectors, params, table).dtype == jnp.float32


def test_as_many_ids_are_dropped_as_asked_for_and_others_at_each_step() -> None:
    table = id_table(4000)._replace(categorical={"brand": jnp.arange(4001, dtype=jnp.int32) % 2})
    steps = [drop_ids(table, jax.random.key(step), rate=0.3, content=("brand",)).known for step in range(2)]
    with_content = np.arange(4001) % 2 == 1
    for known in steps:
        assert not known[0] and known[1:][~with_content[1:]].all()  # without content an id is kept
        np.testing.assert_allclose(1 - np.mean(known[with_content]), 0.3, atol=0.03)
    both = np.mean(~np.asarray(steps[0] | steps[1])[with_content])
    np.testing.assert_allclose(both, 0.09, atol=0.02)


def test_a_table_without_a_modality() -> None:
    for name in ("ids", "brand", "price", "text", "with"):
        assert np.any(has_modality(TABLE, name))
        less = without_modality(TABLE, name)
        assert not np.any(has_modality(less, name))
        others = {"ids", "brand", "price", "text", "with"} - {name}
        assert all(np.array_equal(has_modality(less, other), has_modality(TABLE, other)) for other in others)


def test_bad_content_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing tells items apart"):
        ItemTowerConfig(ids=False, edges=("with",))
    with pytest.raises(ConfigError, match="id_dropout needs ids"):
        ItemTowerConfig(id_dropout=0.5)
    with pytest.raises(ConfigError, match="less than 1, got 1"):
        ItemTowerConfig(features=("text",), id_dropout=1.0)
    with pytest.raises(ConfigError, match=r"items.features names one of text, text twice"):
        ItemTowerConfig(features=("text", "text"))
    with pytest.raises(ConfigError, match=r"'sound'.*it has brand, price, text, with"):
        make_item_tower(ItemTowerConfig(features=("sound",)), TABLE)
    with pytest.raises(ConfigError, match=r"items.attributes names 'text', which belongs under model.items.features"):
        make_item_tower(ItemTowerConfig(attributes=("text",)), TABLE)
    with pytest.raises(ConfigError, match=r"items.features names 'with', which belongs under model.items.edges"):
        make_item_tower(ItemTowerConfig(features=("with",)), TABLE)
    with pytest.raises(ShapeError, match=r"features\['text'\] must be \[6, F\]"):
        make_item_tower(ItemTowerConfig(), TABLE._replace(features={"text": jnp.zeros(6)}))
    with pytest.raises(ShapeError, match=r"has\['text'\] must be \[6\]"):
        make_item_tower(ItemTowerConfig(), TABLE._replace(has={"text": jnp.zeros(3, bool)}))

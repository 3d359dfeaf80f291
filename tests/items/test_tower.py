"""The item tower: hand-worked vectors, slices, unknown items, and refused tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.items import ItemTable, ItemTower, ItemTowerConfig, id_table, make_item_tower

TABLE = ItemTable(
    known=jnp.array([False, True, True, False]),
    categorical={"brand": jnp.array([0, 2, 0, 1], jnp.int32)},
    multi_categorical={"tags": jnp.array([[0, 0], [1, 3], [2, 0], [0, 0]], jnp.int32)},
    numeric={"price": jnp.array([0.0, 1.5, -1.0, 0.5])},
)
ATTRIBUTES = ("brand", "tags", "price")


def build(**settings: object) -> tuple[ItemTower, dict]:
    tower = make_item_tower(ItemTowerConfig(width=4, **settings), TABLE)
    params = tower.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    # large enough that a missing part shows
    leaves = [leaf + jax.random.normal(jax.random.key(9 + number), leaf.shape) for number, leaf in enumerate(leaves)]
    return tower, jax.tree.unflatten(structure, leaves)


def parts_by_hand(params: dict) -> list[list[np.ndarray]]:
    """For items 1 to 3: id, brand, tags and price, each a vector."""
    ids = np.asarray(params["ids"]["embedding"])
    brand, tags, price = (np.asarray(params["attributes"][name]["embedding"]) for name in ATTRIBUTES)
    nothing = np.zeros(4, np.float32)
    return [
        [ids[1], brand[2], (tags[1] + tags[3]) / 2, 1.5 * price[0]],
        [ids[2], nothing, tags[2], -price[0]],
        [nothing, brand[1], nothing, 0.5 * price[0]],
    ]


def test_sum_of_the_parts() -> None:
    tower, params = build(attributes=ATTRIBUTES)
    expected = [np.zeros(4), *(np.sum(parts, axis=0) for parts in parts_by_hand(params))]
    np.testing.assert_allclose(tower.item_vectors(params, TABLE), expected, rtol=1e-5, atol=1e-6)


def test_linear_layer_over_the_parts_side_by_side() -> None:
    tower, params = build(attributes=ATTRIBUTES, fusion="concat")
    kernel, bias = (np.asarray(params["fusion"][name]) for name in ("kernel", "bias"))
    expected = [np.zeros(4), *(np.concatenate(parts) @ kernel + bias for parts in parts_by_hand(params))]
    np.testing.assert_allclose(tower.item_vectors(params, TABLE), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attributes": ATTRIBUTES},
        {"attributes": ("tags",), "ids": False},
        {"attributes": ATTRIBUTES, "fusion": "concat"},
    ],
)
def test_a_slice_of_ids_equals_rows_of_the_table_and_row_0_is_zeros(settings: dict) -> None:
    tower, params = build(**settings)
    whole = jax.jit(tower.item_vectors)(params, TABLE)
    ids = jnp.array([[3, 0, 1], [2, 2, 0]], jnp.int32)
    np.testing.assert_allclose(tower.item_vectors(params, TABLE, ids), whole[ids], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tower.item_vectors(params, TABLE, ids[0, 0]), whole[3], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(whole[0], 0.0)
    assert np.all(np.isfinite(whole))


def test_an_unknown_item_is_its_content_alone_and_its_id_row_is_never_trained() -> None:
    tower, params = build()
    np.testing.assert_array_equal(tower.item_vectors(params, TABLE)[3], 0.0)
    gradient = jax.grad(lambda p: jnp.sum(tower.item_vectors(p, TABLE)))(params)["ids"]["embedding"]
    np.testing.assert_array_equal(gradient, [[0] * 4, [1] * 4, [1] * 4, [0] * 4])
    tower, params = build(attributes=("brand",))
    content = params["attributes"]["brand"]["embedding"][1]
    np.testing.assert_array_equal(tower.item_vectors(params, TABLE)[3], content)


def test_missing_codes_train_nothing() -> None:
    tower, params = build(attributes=ATTRIBUTES)
    gradient = jax.grad(lambda p: jnp.sum(tower.item_vectors(p, TABLE) ** 2))(params)["attributes"]
    np.testing.assert_array_equal(gradient["brand"]["embedding"][0], 0.0)
    np.testing.assert_array_equal(gradient["tags"]["embedding"][0], 0.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_parameters_are_drawn_as_they_were_before_there_were_features() -> None:
    params = make_item_tower(ItemTowerConfig(width=4, attributes=ATTRIBUTES, fusion="concat"), TABLE).init(
        jax.random.key(3)
    )
    assert jax.tree.structure(params) == jax.tree.structure(
        {
            "ids": {"embedding": 0},
            "attributes": {name: {"embedding": 0} for name in ATTRIBUTES},
            "fusion": {"kernel": 0, "bias": 0},
        }
    )
    id_key, fusion_key, attribute_key = jax.random.split(jax.random.key(3), 3)
    embedding, kernel = jax.nn.initializers.truncated_normal(0.02), jax.nn.initializers.lecun_normal()
    np.testing.assert_array_equal(params["ids"]["embedding"], embedding(id_key, (4, 4)))
    np.testing.assert_array_equal(params["fusion"]["kernel"], kernel(fusion_key, (16, 4)))
    for number, (name, size) in enumerate(zip(ATTRIBUTES, (3, 4, 1), strict=True)):
        expected = embedding(jax.random.fold_in(attribute_key, number), (size, 4))
        np.testing.assert_array_equal(params["attributes"][name]["embedding"], expected)


def test_vmap_over_ids() -> None:
    tower, params = build(attributes=ATTRIBUTES)
    ids = jnp.array([1, 3, 0], jnp.int32)
    mapped = jax.vmap(lambda i: tower.item_vectors(params, TABLE, i))(ids)
    np.testing.assert_allclose(mapped, tower.item_vectors(params, TABLE, ids), rtol=1e-6)


def test_bad_settings_and_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing tells items apart"):
        ItemTowerConfig(ids=False)
    with pytest.raises(ConfigError, match="names one of brand, brand twice"):
        ItemTowerConfig(attributes=("brand", "brand"))
    with pytest.raises(ConfigError, match="fusion"):
        ItemTowerConfig(fusion="product")
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        ItemTowerConfig(width=0)
    with pytest.raises(ConfigError, match=r"'colour'.*it has brand, tags, price"):
        make_item_tower(ItemTowerConfig(attributes=("colour",)), TABLE)
    with pytest.raises(ConfigError, match="no attributes"):
        make_item_tower(ItemTowerConfig(attributes=("colour",)), id_table(2))
    with pytest.raises(ShapeError, match=r"categorical\['brand'\] must be \[4\]"):
        make_item_tower(ItemTowerConfig(), TABLE._replace(categorical={"brand": jnp.zeros(3, jnp.int32)}))
    with pytest.raises(ShapeError, match=r"must be \[4, M\]"):
        make_item_tower(ItemTowerConfig(), TABLE._replace(multi_categorical={"tags": jnp.zeros(4, jnp.int32)}))
    with pytest.raises(ConfigError, match="two kinds"):
        make_item_tower(ItemTowerConfig(), TABLE._replace(numeric={"brand": jnp.zeros(4)}))

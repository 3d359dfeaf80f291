"""The item tower: an item table to one vector an item, from id embeddings and attributes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import ConfigError, ShapeError

Params: TypeAlias = dict[str, Any]

_embedding_init = jax.nn.initializers.truncated_normal(0.02)


class ItemTable(NamedTuple):
    """What is known of the items; row j belongs to item id j, row 0 is padding.

    Attributes:
      known: `[V+1]` True for items seen in training; the others get no id embedding, so that their attributes
        alone represent them.
      categorical: name to `[V+1]` int32 codes, 0 = missing.
      multi_categorical: name to `[V+1, M]` int32 codes, 0 = no further value.
      numeric: name to `[V+1]` float32, standardised, 0 where missing.
    """

    known: Bool[Array, " V+1"]
    categorical: dict[str, Int[Array, " V+1"]]
    multi_categorical: dict[str, Int[Array, "V+1 M"]]
    numeric: dict[str, Float[Array, " V+1"]]


def id_table(num_items: int) -> ItemTable:
    """A table of items without attributes, all seen in training.

    >>> id_table(2).known
    Array([False,  True,  True], dtype=bool)
    """
    return ItemTable(jnp.arange(num_items + 1) > 0, {}, {}, {})


@dataclass(frozen=True)
class ItemTowerConfig:
    """How an item's vector is made.

    Attributes:
      width: E, the width of item vectors v_y.
      ids: a learned embedding for each item id.
      attributes: names of the item attributes to use.
      fusion: sum (of the id's and the attributes' vectors) or concat (side by side, then a linear layer).
    """

    width: int = 64
    ids: bool = True
    attributes: tuple[str, ...] = ()
    fusion: Literal["sum", "concat"] = "sum"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"items.width must be at least 1, got {self.width}")
        if self.fusion not in ("sum", "concat"):
            raise ConfigError(f"items.fusion must be sum or concat, got {self.fusion!r}")
        if not self.ids and not self.attributes:
            raise ConfigError("items: ids is false and attributes is empty, so nothing tells items apart")
        if len(set(self.attributes)) < len(self.attributes):
            raise ConfigError(f"items.attributes names an attribute twice: {', '.join(self.attributes)}")


class ItemTower(NamedTuple):
    """Pure functions that make item vectors; one's own tower is this pair.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      item_vectors: `item_vectors(params, item_table, ids=None) -> [V+1, E]`, row 0 zeros; or `[*ids, E]` for
        int32 ids of any shape, without computing the other items' vectors.
    """

    init: Callable[[jax.Array], Params]
    item_vectors: Callable[..., jax.Array]


def make_item_tower(config: ItemTowerConfig, item_table: ItemTable) -> ItemTower:
    """An item tower for tables with the attributes and no higher codes than `item_table`.

    Args:
      config: the tower's settings.
      item_table: with concrete arrays, since the number of codes is read from them.

    Raises:
      ConfigError: an attribute that the table does not have.
      ShapeError: columns that are not `[V+1]`, or `[V+1, M]`.

    >>> tower = make_item_tower(ItemTowerConfig(width=3), id_table(4))
    >>> params = tower.init(jax.random.key(0))
    >>> tower.item_vectors(params, id_table(4)).shape
    (5, 3)
    >>> tower.item_vectors(params, id_table(4), jnp.array([2, 0])).shape
    (2, 3)
    """
    check_item_table(item_table)
    sizes = {name: _num_codes(item_table, name) for name in config.attributes}
    num_rows = item_table.known.shape[0]
    num_parts = config.ids + len(config.attributes)

    def init(key: Array) -> Params:
        id_key, fusion_key, attribute_key = jax.random.split(key, 3)
        params: Params = {}
        if config.ids:
            params["ids"] = {"embedding": init_id_rows(id_key, num_rows=num_rows, width=config.width)}
        for number, (name, size) in enumerate(sizes.items()):
            table = _embedding_init(jax.random.fold_in(attribute_key, number), (size, config.width), jnp.float32)
            params.setdefault("attributes", {})[name] = {"embedding": table}
        if config.fusion == "concat":
            scale = jax.nn.initializers.lecun_normal()
            params["fusion"] = {
                "kernel": scale(fusion_key, (num_parts * config.width, config.width), jnp.float32),
                "bias": jnp.zeros(config.width, jnp.float32),
            }
        return params

    def item_vectors(
        params: Params, item_table: ItemTable, ids: Int[Array, "*N"] | None = None
    ) -> Float[Array, "*N E"]:
        def rows(column: Array) -> Array:
            return column if ids is None else column[ids]

        parts = []
        if config.ids:
            parts.append(_masked(rows(params["ids"]["embedding"]), where=rows(item_table.known)))
        for name in config.attributes:
            parts.append(_attribute_vectors(params["attributes"][name]["embedding"], item_table, name, rows))
        if config.fusion == "sum":
            total = functools.reduce(jnp.add, parts)
        else:
            total = jnp.concatenate(parts, axis=-1) @ params["fusion"]["kernel"]
            total = total + jnp.expand_dims(params["fusion"]["bias"], tuple(range(total.ndim - 1)))
        if config.ids and config.fusion == "sum" and not config.attributes:
            return total  # row 0 is not known, so it is zeros already
        return _masked(total, where=rows(jnp.arange(len(item_table.known)) > 0))

    return ItemTower(init, item_vectors)


def init_id_rows(key: Array, *, num_rows: int, width: int) -> Float[Array, "V+1 E"]:
    """Fresh id embeddings: normal with standard deviation 0.02, cut at two of them."""
    return _embedding_init(key, (num_rows, width), jnp.float32)


def check_item_table(item_table: ItemTable) -> None:
    """Check that the columns of a table fit together.

    Raises:
      ShapeError: a column whose shape is not `[V+1]`, or `[V+1, M]` for a multi-categorical one.
      ConfigError: a name that occurs in two kinds of columns.
    """
    if item_table.known.ndim != 1:
        raise ShapeError(f"item_table.known must be [V+1], got shape {item_table.known.shape}")
    num_rows = item_table.known.shape[0]
    seen: set[str] = set()
    for kind, ndim in (("categorical", 1), ("multi_categorical", 2), ("numeric", 1)):
        for name, column in getattr(item_table, kind).items():
            if column.ndim != ndim or column.shape[0] != num_rows:
                expected = f"[{num_rows}]" if ndim == 1 else f"[{num_rows}, M]"
                raise ShapeError(
                    f"item_table.{kind}[{name!r}] must be {expected}, since known is [{num_rows}], got {column.shape}"
                )
            if name in seen:
                raise ConfigError(f"item attribute {name!r} occurs in two kinds of columns; rename one")
            seen.add(name)


def _num_codes(item_table: ItemTable, name: str) -> int:
    """Rows of the attribute's embedding: one for each code including 0, or a single one for a number."""
    if name in item_table.numeric:
        return 1
    for columns in (item_table.categorical, item_table.multi_categorical):
        if name in columns:
            return int(np.max(np.asarray(columns[name]), initial=0)) + 1
    available = [*item_table.categorical, *item_table.multi_categorical, *item_table.numeric]
    raise ConfigError(
        f"items.attributes names {name!r}, which the item table does not have; "
        f"it has {', '.join(available) or 'no attributes'}"
    )


def _attribute_vectors(
    embedding: Float[Array, "C E"], item_table: ItemTable, name: str, rows: Callable[[Array], Array]
) -> Float[Array, "*N E"]:
    """The embedding of a code, the mean of several codes' embeddings, or a number times its vector."""
    if name in item_table.numeric:
        numbers = rows(item_table.numeric[name])[..., None].astype(embedding.dtype)
        return numbers * embedding.reshape((1,) * (numbers.ndim - 1) + embedding.shape[1:])
    if name in item_table.categorical:
        codes = rows(item_table.categorical[name])
        return _masked(embedding[codes], where=codes > 0)
    codes = rows(item_table.multi_categorical[name])
    total = jnp.sum(_masked(embedding[codes], where=codes > 0), axis=-2)
    count = jnp.sum(codes > 0, axis=-1, keepdims=True).astype(embedding.dtype)
    return total / jnp.maximum(count, 1.0)


def _masked(vectors: Float[Array, "*N E"], *, where: Bool[Array, "*N"]) -> Float[Array, "*N E"]:
    return jnp.where(where[..., None], vectors, 0.0)

"""The item table: attributes, features and neighbours of items as the arrays that an item tower reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from seqrec_jax.data.attributes import AttributeVocabulary, encode_attributes
from seqrec_jax.data.item_content import ItemContent
from seqrec_jax.errors import ConfigError, ShapeError


class ItemTable(NamedTuple):
    """Attributes, features and neighbours of V items; row j belongs to item id j, row 0 is padding.

    Attributes:
      known: `[V+1]` bool, True for items seen in training; the others have no id embedding, so that their vector is
        made of content alone.
      categorical: name to `[V+1]` int32 codes, 0 = missing.
      multi_categorical: name to `[V+1, M]` int32 codes, 0 = no further value.
      numeric: name to `[V+1]` float32, standardised, 0 if missing.
      features: name to `[V+1, F]` float32 feature vectors of another encoder (text, picture, sound), zeros if missing;
        or int32 tokens + 1 of a text, 0 after its end.
      neighbors: name of a relation to `[V+1, M]` int32 item ids, 0 = no further neighbour.
      has: name of a numeric attribute or feature to `[V+1]` bool, True for items that have it; all items have a name
        without an entry.
    """

    known: Bool[Array, " V1"]
    categorical: dict[str, Int[Array, " V1"]]
    multi_categorical: dict[str, Int[Array, "V1 M"]]
    numeric: dict[str, Float[Array, " V1"]]
    features: dict[str, Num[Array, "V1 F"]] = {}  # noqa: RUF012 (a pytree's default, never changed)
    neighbors: dict[str, Int[Array, "V1 M"]] = {}  # noqa: RUF012
    has: dict[str, Bool[Array, " V1"]] = {}  # noqa: RUF012


COLUMNS = {"categorical": 1, "multi_categorical": 2, "numeric": 1, "features": 2, "neighbors": 2}
"""The kinds of columns of an `ItemTable` that describe items, with their number of axes."""


def id_table(num_items: int) -> ItemTable:
    """A table of items without attributes, all seen in training.

    >>> id_table(2).known
    Array([False,  True,  True], dtype=bool)
    """
    return ItemTable(jnp.arange(num_items + 1) > 0, {}, {}, {})


def make_item_table(
    items: pd.DataFrame,
    vocabulary: AttributeVocabulary,
    *,
    content: ItemContent | None = None,
    num_rows: int | None = None,
) -> ItemTable:
    """The table of V items, encoded with a dataset's vocabulary.

    Args:
      items: V rows in vocabulary order with the column `known` and those that the vocabulary names.
      vocabulary: the columns and their codes.
      content: feature vectors and neighbours; None for none.
      num_rows: at least V+1; further rows are padding, so that devices can share the table evenly. None means V+1.

    Returns:
      Arrays of V+1 rows, or `num_rows`.

    Raises:
      DataError: a column that `items` lacks.
    """
    content = content or ItemContent()
    encoded, _ = encode_attributes(items, vocabulary.config, vocabulary=vocabulary)
    known = np.concatenate([[False], items["known"].to_numpy()])
    missing = 0 if num_rows is None else num_rows - len(known)

    def column(values: np.ndarray) -> jax.Array:
        return jnp.pad(jnp.asarray(values), ((0, missing),) + ((0, 0),) * (values.ndim - 1))

    has = {name: np.concatenate([[False], items[name].notna().to_numpy()]) for name in encoded.numeric}
    has |= {name: feature.has(len(items)) for name, feature in content.features.items()}
    return ItemTable(
        known=column(known),
        categorical={name: column(codes) for name, codes in encoded.categorical.items()},
        multi_categorical={name: column(codes) for name, codes in encoded.multi_categorical.items()},
        numeric={name: column(numbers) for name, numbers in encoded.numeric.items()},
        features={name: column(feature.dense(len(items))) for name, feature in content.features.items()},
        neighbors={name: column(edges.padded(len(items))) for name, edges in content.edges.items()},
        has={name: column(there) for name, there in has.items()},
    )


def check_item_table(item_table: ItemTable) -> None:
    """Check that the columns of a table fit together.

    Raises:
      ShapeError: a column whose shape is not `[V+1]`, or `[V+1, M]` for one of several values.
      ConfigError: a name that occurs in two kinds of columns.
    """
    if item_table.known.ndim != 1:
        raise ShapeError(f"item_table.known must be [V+1], got shape {item_table.known.shape}")
    num_rows = item_table.known.shape[0]
    seen: set[str] = set()
    for kind, ndim in {**COLUMNS, "has": 1}.items():
        for name, column in getattr(item_table, kind).items():
            if column.ndim != ndim or column.shape[0] != num_rows:
                expected = f"[{num_rows}]" if ndim == 1 else f"[{num_rows}, {'F' if kind == 'features' else 'M'}]"
                raise ShapeError(
                    f"item_table.{kind}[{name!r}] must be {expected}, since known is [{num_rows}], got {column.shape}"
                )
            if kind != "has" and name in seen:
                raise ConfigError(f"item attribute {name!r} occurs in two kinds of columns; rename one")
            seen.add(name)


def kind_of(item_table: ItemTable, name: str) -> str:
    """The kind of column of `COLUMNS` that a modality's name belongs to, or "ids".

    Raises:
      ConfigError: no column has that name.
    """
    if name == "ids":
        return "ids"
    for kind in COLUMNS:
        if name in getattr(item_table, kind):
            return kind
    available = [name for kind in COLUMNS for name in getattr(item_table, kind)]
    raise ConfigError(
        f"model.items names {name!r}, which the item table does not have; it has "
        f"{', '.join(available) or 'no attributes'}"
    )


def has_modality(item_table: ItemTable, name: str) -> Bool[Array, " V1"]:
    """`[V+1]` bool, True for the items that have a modality: an id embedding, a value, a vector, a neighbour.

    Raises:
      ConfigError: no column has that name.
    """
    kind = kind_of(item_table, name)
    if kind == "ids":
        return item_table.known
    if kind in ("numeric", "features"):
        return item_table.has.get(name, jnp.arange(item_table.known.shape[0]) > 0)
    column = getattr(item_table, kind)[name] > 0
    return column if kind == "categorical" else jnp.any(column, axis=1)


def without_modality(item_table: ItemTable, name: str) -> ItemTable:
    """The table as if no item had a modality, to measure what it contributes.

    Raises:
      ConfigError: no column has that name.
    """
    kind = kind_of(item_table, name)
    if kind == "ids":
        return item_table._replace(known=jnp.zeros_like(item_table.known))
    columns = getattr(item_table, kind)
    if kind in ("numeric", "features"):
        item_table = item_table._replace(has={**item_table.has, name: jnp.zeros_like(item_table.known)})
    changed: Any = {kind: {**columns, name: jnp.zeros_like(columns[name])}}
    return item_table._replace(**changed)


def drop_ids(item_table: ItemTable, key: PRNGKeyArray, *, rate: float, content: tuple[str, ...]) -> ItemTable:
    """The table with a random share of the known items made unknown, so that a training step relies on content.

    Args:
      item_table: of V items.
      key: PRNG key, consumed.
      rate: share of the ids that are dropped, in [0, 1).
      content: names of the modalities beside the id; an item without any of them keeps its id.
    """
    has_content = jnp.zeros_like(item_table.known)
    for name in content:
        has_content = has_content | has_modality(item_table, name)
    dropped = jax.random.bernoulli(key, rate, item_table.known.shape)
    return item_table._replace(known=item_table.known & ~(dropped & has_content))

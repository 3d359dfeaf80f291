"""The item tower: an item table to one vector an item, from id embeddings, attributes, features and neighbours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

from seqrec_jax.errors import ConfigError
from seqrec_jax.items.fusion import FusionKind, fuse, init_fusion
from seqrec_jax.items.table import ItemTable, check_item_table, has_modality, kind_of
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.types import ArrayLike

Params: TypeAlias = dict[str, Any]
Rows: TypeAlias = Callable[[Array], Array]
"""From a column of the item table to its rows of the wanted items."""

_embedding_init = jax.nn.initializers.truncated_normal(0.02)


@dataclass(frozen=True)
class ItemTowerConfig:
    """Settings of the item tower.

    Attributes:
      width: E, the width of item vectors v_y.
      ids: a learned embedding for each item id; false makes vectors of content alone, so that an item that was never
        seen in training is represented like any other.
      attributes: names of the item attributes to use.
      features: names of the feature vectors to use (text, picture, sound); each goes through a linear layer, and a
        learned vector replaces missing ones.
      texts: names of features that hold the tokens of texts; a language model makes vectors of them and is trained
        with the rest of the model (`features` are fixed vectors).
      language_model: directory of that language model in the Hugging Face layout; its weights are the initial ones.
      edges: names of the relations to use; an item gets the mean of its neighbours' vectors through a linear layer.
      fusion: sum (of the modalities' vectors), concat (side by side, then a linear layer), gate (their mean, weighted
        by a softmax of gates computed from all) or cross_attention (their mean, weighted by attention to a query of
        a learned vector and the id's). The last two leave out modalities that an item does not have.
      id_dropout: share of the id embeddings that each training step leaves out, so that training relies on content;
        items without content keep theirs.
    """

    width: Annotated[int, Interval("[1, inf)")] = 64
    ids: bool = True
    attributes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    language_model: str | None = None
    edges: tuple[str, ...] = ()
    fusion: FusionKind = "sum"
    id_dropout: Annotated[float, Interval("[0, 1)")] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "items")
        if not self.ids and not self.attributes and not self.features and not self.texts:
            raise ConfigError(
                "items: ids is false and there are no attributes, features or texts: nothing tells items apart"
            )
        if bool(self.texts) != (self.language_model is not None):
            raise ConfigError(
                f"items.texts is {list(self.texts)} and items.language_model {self.language_model}; texts need a "
                "language model, and without texts there is none"
            )
        for kind in ("attributes", "features", "texts", "edges"):
            if len(set(names := getattr(self, kind))) < len(names):
                raise ConfigError(f"items.{kind} names one of {', '.join(names)} twice")
        if self.id_dropout and not (self.ids and self.content):
            raise ConfigError(
                "items.id_dropout needs ids, and content (attributes, features, texts or edges) to replace them"
            )

    @property
    def content(self) -> tuple[str, ...]:
        """Names of the modalities beside the id, in the order in which they are fused."""
        return (*self.attributes, *self.features, *self.texts, *self.edges)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities in the order in which they are fused; that of the id embedding is ids."""
        return (*(("ids",) if self.ids else ()), *self.content)


class ItemTower(NamedTuple):
    """Pure functions that make item vectors; a custom tower is such a pair.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      item_vectors: `item_vectors(params, item_table, ids=None) -> [V+1, E]`, row 0 zeros; or `[*ids, E]` for
        int32 ids of any shape, without computing the other items' vectors.
    """

    init: Callable[[jax.Array], Params]
    item_vectors: Callable[..., jax.Array]


@runtime_checkable
class TextModel(Protocol):
    """A language model as pure functions; `encoders.language.trained.make_text_model` makes one from a directory."""

    @property
    def width(self) -> int:
        """D, the width of its vectors."""

    @property
    def init(self) -> Callable[[jax.Array], Params]:
        """`init(key) -> params`."""

    @property
    def vectors(self) -> Callable[[Params, jax.Array], jax.Array]:
        """`vectors(params, tokens [*N, T]) -> [*N, D]`; tokens are int32 token ids + 1, 0 after a text's end."""


def make_item_tower(
    config: ItemTowerConfig, item_table: ItemTable, *, text_model: TextModel | None = None
) -> ItemTower:
    """An item tower for tables with the attributes and no higher codes than `item_table`.

    Args:
      config: the tower's settings.
      item_table: with concrete arrays, since the number of codes is read from them.
      text_model: makes the vectors of `config.texts`; None if there are none.

    Raises:
      ConfigError: texts without a text_model; an attribute, a feature or a relation that the table does not have.
      ShapeError: columns that are not `[V+1]`, or `[V+1, M]`.

    >>> from seqrec_jax.items import id_table
    >>> tower = make_item_tower(ItemTowerConfig(width=3), id_table(4))
    >>> params = tower.init(jax.random.key(0))
    >>> tower.item_vectors(params, id_table(4)).shape
    (5, 3)
    >>> tower.item_vectors(params, id_table(4), jnp.array([2, 0])).shape
    (2, 3)
    """
    check_item_table(item_table)
    _check_kinds(config, item_table)
    sizes = {name: _num_codes(item_table, name) for name in config.attributes}
    if config.texts and text_model is None:
        raise ConfigError("items.texts need a text_model; make_sequence_model makes that of items.language_model")
    widths = {name: item_table.features[name].shape[1] for name in config.features}
    widths |= {name: text_model.width for name in config.texts if text_model is not None}
    num_rows = item_table.known.shape[0]

    def init(key: PRNGKeyArray) -> Params:
        id_key, fusion_key, attribute_key = jax.random.split(key, 3)
        params: Params = {}
        if config.ids:
            params["ids"] = {"embedding": init_id_rows(id_key, num_rows=num_rows, width=config.width)}
        for number, (name, size) in enumerate(sizes.items()):
            table = _embedding_init(jax.random.fold_in(attribute_key, number), (size, config.width), jnp.float32)
            params.setdefault("attributes", {})[name] = {"embedding": table}
        linear_key = jax.random.fold_in(attribute_key, len(sizes))  # so that attributes start as without features
        for number, name in enumerate((*config.features, *config.texts, *config.edges)):
            kind, width = ("features", widths[name]) if name in widths else ("edges", config.width)
            layer = _init_linear(jax.random.fold_in(linear_key, number), width, config.width)
            params.setdefault(kind, {})[name] = layer
        if config.texts and text_model is not None:
            params["language"] = text_model.init(jax.random.fold_in(linear_key, 2**31 - 1))
        fusion = init_fusion(config.fusion, fusion_key, num_parts=len(config.modalities), width=config.width)
        return {**params, "fusion": fusion} if fusion else params

    def own_parts(params: Params, item_table: ItemTable, rows: Rows) -> list[Array]:
        """The vectors of all modalities but the relations to neighbours."""
        parts = []
        if config.ids:
            parts.append(_masked(rows(params["ids"]["embedding"]), where=rows(item_table.known)))
        for name in config.attributes:
            parts.append(_attribute_vectors(params["attributes"][name]["embedding"], item_table, name, rows))
        for name in config.features:
            vectors, where = rows(item_table.features[name]), rows(has_modality(item_table, name))
            parts.append(_linear_or_absent(params["features"][name], vectors, where=where))
        for name in config.texts:
            assert text_model is not None
            tokens, where = rows(item_table.features[name]), rows(has_modality(item_table, name))
            vectors = text_model.vectors(params["language"], tokens)
            parts.append(_linear_or_absent(params["features"][name], vectors, where=where))
        return parts

    def neighbor_parts(params: Params, item_table: ItemTable, rows: Rows) -> list[Array]:
        """For each relation, the mean of the neighbours' own vectors through a linear layer."""
        whole = functools.reduce(jnp.add, _present_parts(own_parts(params, item_table, _all_rows), item_table))
        parts = []
        for name in config.edges:
            ids = rows(item_table.neighbors[name])
            mean = _mean_where(whole[ids], where=ids > 0)
            parts.append(_linear_or_absent(params["edges"][name], mean, where=jnp.any(ids > 0, axis=-1)))
        return parts

    def _present_parts(parts: list[Array], item_table: ItemTable) -> list[Array]:
        names = config.modalities[: len(parts)]
        return [_masked(part, where=has_modality(item_table, name)) for name, part in zip(names, parts, strict=True)]

    def item_vectors(
        params: Params, item_table: ItemTable, ids: Int[ArrayLike, "*N"] | None = None
    ) -> Float[Array, "*M E"]:
        rows = _all_rows if ids is None else lambda column: column[ids]
        parts = own_parts(params, item_table, rows)
        if config.edges:
            parts += neighbor_parts(params, item_table, rows)
        is_item = rows(jnp.arange(item_table.known.shape[0]) > 0)
        if config.fusion in ("sum", "concat") and not config.features and not config.texts and not config.edges:
            total = fuse(config.fusion, params.get("fusion", {}), parts, [])
            if config.fusion == "sum" and not config.attributes:
                return total  # row 0 is not known, so it is zeros already
            return _masked(total, where=is_item)
        present = [rows(has_modality(item_table, name)) for name in config.modalities]
        query = parts[0] if config.ids else None
        total = fuse(config.fusion, params.get("fusion", {}), parts, present, query=query)
        # the vectors that replace missing modalities must not give an item without any modality a vector
        return _masked(total, where=is_item & functools.reduce(jnp.logical_or, present))

    return ItemTower(init, item_vectors)


def init_id_rows(key: PRNGKeyArray, *, num_rows: int, width: int) -> Float[Array, "{num_rows} {width}"]:
    """Initial id embeddings, `[num_rows, width]` float32: normal with standard deviation 0.02, truncated at two."""
    return _embedding_init(key, (num_rows, width), jnp.float32)


def _check_kinds(config: ItemTowerConfig, item_table: ItemTable) -> None:
    """Raise a ConfigError for a modality that the table does not have, or has as something else."""
    kinds = {"features": ("features",), "neighbors": ("neighbors",)}
    for field, allowed in (
        ("attributes", ("categorical", "multi_categorical", "numeric")),
        ("features", kinds["features"]),
        ("texts", kinds["features"]),
        ("edges", kinds["neighbors"]),
    ):
        for name in getattr(config, field):
            if (kind := kind_of(item_table, name)) not in allowed:
                right = {"features": "features", "neighbors": "edges"}.get(kind, "attributes")
                raise ConfigError(f"model.items.{field} names {name!r}, which belongs under model.items.{right}")
            if kind == "features":
                has_tokens = jnp.issubdtype(item_table.features[name].dtype, jnp.integer)
                if has_tokens != (field == "texts"):
                    raise ConfigError(
                        f"model.items.{field} names {name!r}, which the dataset has as "
                        f"{'tokens of texts' if has_tokens else 'vectors'}; name it under model.items."
                        f"{'texts' if has_tokens else 'features'}, or prepare the dataset with another "
                        "data.items.text.tokens"
                    )


def _num_codes(item_table: ItemTable, name: str) -> int:
    """Rows of the attribute's embedding: one for each code including 0, or a single one for a number."""
    if name in item_table.numeric:
        return 1
    codes = {**item_table.categorical, **item_table.multi_categorical}[name]
    return int(np.max(np.asarray(codes), initial=0)) + 1


def _init_linear(key: PRNGKeyArray, num_inputs: int, width: int) -> Params:
    kernel = jax.nn.initializers.lecun_normal()(key, (num_inputs, width), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(width), "absent": jnp.zeros(width)}


def _linear_or_absent(
    params: Params, vectors: Num[ArrayLike, "*N F"], *, where: Bool[Array, "*N"]
) -> Float[Array, "*N E"]:
    """A linear layer over the vectors, and a learned vector in place of missing ones."""
    present = vectors.astype(params["kernel"].dtype) @ params["kernel"]
    axes = tuple(range(present.ndim - 1))
    present = present + jnp.expand_dims(params["bias"], axes)
    return jnp.where(where[..., None], present, jnp.expand_dims(params["absent"], axes))


def _attribute_vectors(
    embedding: Float[Array, "C E"], item_table: ItemTable, name: str, rows: Rows
) -> Float[Array, "*N E"]:
    """The embedding of a code, the mean of several codes' embeddings, or a number times its vector."""
    if name in item_table.numeric:
        numbers = rows(item_table.numeric[name])[..., None].astype(embedding.dtype)
        return numbers * embedding.reshape((1,) * (numbers.ndim - 1) + embedding.shape[1:])
    if name in item_table.categorical:
        codes = rows(item_table.categorical[name])
        return _masked(embedding[codes], where=codes > 0)
    codes = rows(item_table.multi_categorical[name])
    return _mean_where(embedding[codes], where=codes > 0)


def _mean_where(vectors: Float[Array, "*N M E"], *, where: Bool[Array, "*N M"]) -> Float[Array, "*N E"]:
    """The mean of the vectors where `where` is True, zeros if there is none."""
    total = jnp.sum(_masked(vectors, where=where), axis=-2)
    count = jnp.sum(where, axis=-1, keepdims=True).astype(vectors.dtype)
    return total / jnp.maximum(count, 1.0)


def _masked(vectors: Float[ArrayLike, "*N E"], *, where: Bool[Array, "*N"]) -> Float[Array, "*N E"]:
    return jnp.where(where[..., None], vectors, 0.0)


def _all_rows(column: Array) -> Array:
    return column

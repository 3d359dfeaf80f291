"""Attributes of items as codes and standardised numbers, by a vocabulary that is kept for new items."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from seqrec_jax.data.features import multi_hot
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import Interval, check_fields


@dataclass(frozen=True)
class AttributeConfig:
    """The columns of the item table that describe items.

    Attributes:
      categorical: columns with one value an item (brand, category).
      multi_categorical: columns with several values an item: lists, or text with `|` between the values.
      numeric: columns with a number (price).
      numeric_buckets: columns with a number that becomes a category, each with its number of buckets, such as
        `{price: 10}`; the buckets begin at quantiles of the items seen in training, fewer if many items have the same
        number.
      paths: columns with one or several places in a tree, such as "Home > Kitchen > Knives"; an item gets the place and
        all places above it.

    Raises:
      ConfigError: fewer than two buckets, or a column that is named twice.
    """

    categorical: tuple[str, ...] = ()
    multi_categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    numeric_buckets: Annotated[Mapping[str, int], Interval("[2, inf)")] = field(default_factory=dict)
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "attributes")
        names = [*self.categorical, *self.multi_categorical, *self.numeric, *self.numeric_buckets, *self.paths]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ConfigError(f"attributes name the columns {doubled} twice; each column is of one kind")


_LATER_KINDS = {"numeric_buckets", "paths"}


@dataclass(frozen=True)
class AttributeVocabulary:
    """The codes and scales of attributes; kept with a checkpoint, so that new items are encoded alike.

    Attributes:
      categorical: column to its values in the order of their codes 1, 2, …
      multi_categorical: likewise.
      numeric: column to (mean, standard deviation) of the values that are not missing.
      numeric_buckets: column to the lower bounds of the second bucket, the third, …
      paths: column to the places in the tree in the order of their codes.
    """

    categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    multi_categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numeric: dict[str, tuple[float, float]] = field(default_factory=dict)
    numeric_buckets: dict[str, tuple[float, ...]] = field(default_factory=dict)
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def config(self) -> AttributeConfig:
        """The columns that the vocabulary encodes."""
        return AttributeConfig(
            categorical=tuple(self.categorical),
            multi_categorical=tuple(self.multi_categorical),
            numeric=tuple(self.numeric),
            numeric_buckets={name: len(starts) + 2 for name, starts in self.numeric_buckets.items()},
            paths=tuple(self.paths),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers for JSON; buckets and paths only if there are any."""
        values = asdict(self)
        return {kind: names for kind, names in values.items() if names or kind not in _LATER_KINDS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AttributeVocabulary:
        """The vocabulary from the dictionary of `to_dict`, also after a round trip through JSON.

        Raises:
          DataError: keys other than those of `to_dict`.
        """
        expected = {"categorical", "multi_categorical", "numeric"}
        if not expected <= set(values) <= expected | _LATER_KINDS:
            raise DataError(f"an attribute vocabulary has the keys {sorted(expected)}, found {sorted(values)}")
        return cls(**{kind: {name: tuple(row) for name, row in names.items()} for kind, names in values.items()})


class ItemAttributes(NamedTuple):
    """The encoded item table; row j belongs to item id j, row 0 is padding and all zeros.

    Attributes:
      categorical: column to `[V+1]` int32 codes, 0 = missing or not in the vocabulary; buckets of numbers too.
      multi_categorical: column to `[V+1, M]` int32 codes, 0 = no further value; places in a tree too.
      numeric: column to `[V+1]` float32, standardised, 0 where missing.
      unseen: column to the number of values that the vocabulary does not have (encoded as 0).
    """

    categorical: dict[str, np.ndarray]
    multi_categorical: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    unseen: dict[str, int]


def encode_attributes(
    items: pd.DataFrame,
    config: AttributeConfig,
    *,
    vocabulary: AttributeVocabulary | None = None,
    known: Bool[np.ndarray, " V"] | None = None,
) -> tuple[ItemAttributes, AttributeVocabulary]:
    """Codes and standardised numbers of an item table.

    Values are compared as text, 3.0 like 3; empty text counts as missing.

    Args:
      items: V rows in vocabulary order: row j-1 describes item id j. The index is ignored.
      config: the columns to encode.
      vocabulary: values, means and standard deviations to use; None takes them from `items`.
      known: `[V]` bool, True for items seen in training, whose numbers decide where buckets begin; None means all.

    Returns:
      The encoded table and its vocabulary (the given one, or a new one with values in sorted order).

    Raises:
      DataError: a column that the table lacks, or a numeric column with a value that is not a finite number.
      ConfigError: a vocabulary made for other columns.

    >>> table = pd.DataFrame({"brand": ["b", None, "a"], "tags": ["x|y", "y", ""]})
    >>> config = AttributeConfig(categorical=("brand",), multi_categorical=("tags",))
    >>> attributes, vocabulary = encode_attributes(table, config)
    >>> attributes.categorical["brand"].tolist(), attributes.multi_categorical["tags"].tolist()
    ([0, 2, 0, 1], [[0, 0], [1, 2], [2, 0], [0, 0]])
    """
    for kind, names in asdict(config).items():
        for name in names:
            _check_column(items, name, kind)
        if vocabulary is not None and set(names) != set(getattr(vocabulary, kind)):
            raise ConfigError(
                f"the {kind} attributes are {list(names)}, but the vocabulary was made for "
                f"{list(getattr(vocabulary, kind))}; use the attributes that the checkpoint was trained with"
            )
    texts = {name: _one_value_a_row(items[name]) for name in config.categorical}
    texts |= {name: _values_of_lists(items[name]) for name in config.multi_categorical}
    texts |= {name: _places_in_tree(items[name]) for name in config.paths}
    numbers = {name: _numbers(items[name]) for name in (*config.numeric, *config.numeric_buckets)}
    if vocabulary is None:
        counted = np.ones(len(items), dtype=bool) if known is None else known
        vocabulary = AttributeVocabulary(
            {name: _distinct(texts[name]) for name in config.categorical},
            {name: _distinct(texts[name]) for name in config.multi_categorical},
            {name: _mean_and_deviation(numbers[name]) for name in config.numeric},
            {name: _bucket_starts(numbers[name][counted], number) for name, number in config.numeric_buckets.items()},
            {name: _distinct(texts[name]) for name in config.paths},
        )
    categorical, multi_categorical, unseen = {}, {}, {}
    for name in config.categorical:
        rows, codes = _codes(texts[name], vocabulary.categorical[name])
        unseen[name] = int(np.sum(codes == 0))
        categorical[name] = np.zeros(len(items) + 1, dtype=np.int32)
        categorical[name][rows + 1] = codes
    for name in config.numeric_buckets:
        codes = np.searchsorted(vocabulary.numeric_buckets[name], numbers[name], side="right") + 1
        categorical[name] = np.concatenate([[0], np.where(np.isnan(numbers[name]), 0, codes)]).astype(np.int32)
    for name, values in {**vocabulary.multi_categorical, **vocabulary.paths}.items():
        rows, codes = _codes(texts[name], values)
        unseen[name] = int(np.sum(codes == 0))
        multi_categorical[name] = _padded(rows[codes > 0], codes[codes > 0], len(items))
    numeric = {}
    for name, (mean, deviation) in vocabulary.numeric.items():
        standardised = np.nan_to_num((numbers[name] - mean) / deviation, nan=0.0)
        numeric[name] = np.concatenate([[0.0], standardised]).astype(np.float32)
    return ItemAttributes(categorical, multi_categorical, numeric, unseen), vocabulary


def attribute_vectors(attributes: ItemAttributes, vocabulary: AttributeVocabulary) -> Float[np.ndarray, "V1 A"]:
    """Dense v_y: one-hot, multi-hot and numeric columns side by side, in the order of `attribute_columns`.

    Args:
      attributes: the encoded item table.
      vocabulary: the vocabulary that it was encoded with.

    Returns:
      `[V+1, A]` float32; row 0 is zeros, and so is a missing attribute's part.

    Raises:
      ConfigError: a vocabulary without attributes.
    """
    sizes = _sizes(vocabulary)
    parts = [
        multi_hot(attributes.categorical[name][:, None], depth=sizes[name] + 1)[:, 1:]
        for name in (*vocabulary.categorical, *vocabulary.numeric_buckets)
    ]
    parts += [
        multi_hot(attributes.multi_categorical[name], depth=sizes[name] + 1)[:, 1:]
        for name in (*vocabulary.multi_categorical, *vocabulary.paths)
    ]
    parts += [attributes.numeric[name][:, None] for name in vocabulary.numeric]
    if not parts:
        raise ConfigError("attribute_vectors needs at least one attribute; name columns in AttributeConfig")
    return np.concatenate(parts, axis=1)


def attribute_columns(vocabulary: AttributeVocabulary) -> list[str]:
    """Names of the A columns of `attribute_vectors`: `column=value` for categories, `column` for numbers."""
    buckets = {name: ["lowest", *map(str, starts)] for name, starts in vocabulary.numeric_buckets.items()}
    values_of = {**vocabulary.categorical, **buckets, **vocabulary.multi_categorical, **vocabulary.paths}
    return [f"{name}={value}" for name, values in values_of.items() for value in values] + list(vocabulary.numeric)


def _sizes(vocabulary: AttributeVocabulary) -> dict[str, int]:
    """Number of codes of each column that becomes codes."""
    values_of = {**vocabulary.categorical, **vocabulary.multi_categorical, **vocabulary.paths}
    buckets = {name: len(starts) + 1 for name, starts in vocabulary.numeric_buckets.items()}
    return {name: len(values) for name, values in values_of.items()} | buckets


class _Values(NamedTuple):
    """Texts with the 0-based row of the item table that each belongs to; several a row, or none."""

    rows: np.ndarray
    texts: np.ndarray


def _one_value_a_row(column: pd.Series) -> _Values:
    return _without_missing(np.arange(len(column)), column.to_numpy(dtype=object))


def _values_of_lists(column: pd.Series) -> _Values:
    lists = [_as_list(value) for value in column]
    rows = np.repeat(np.arange(len(lists)), [len(values) for values in lists])
    flat = np.empty(len(rows), dtype=object)
    flat[:] = [value for values in lists for value in values]
    rows, texts = _without_missing(rows, flat)
    kept = pd.DataFrame({"row": rows, "text": texts}).drop_duplicates()
    return _Values(kept["row"].to_numpy(), kept["text"].to_numpy(dtype=object))


def _places_in_tree(column: pd.Series) -> _Values:
    """Each place of a row, written with all above it, and those above."""

    def ancestors(path: Any) -> list[str]:
        steps = [step for step in (part.strip() for part in path.split(">")) if step]
        return [" > ".join(steps[: depth + 1]) for depth in range(len(steps))]

    cells = [[path for path in _as_list(cell) if isinstance(path, str)] for cell in column]
    return _values_of_lists(pd.Series([[place for path in cell for place in ancestors(path)] for cell in cells]))


def _as_list(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split("|")]
    if isinstance(value, Iterable):
        return list(value)
    return [value]


def _without_missing(rows: np.ndarray, values: np.ndarray) -> _Values:
    codes, distinct = pd.factorize(values)  # -1 = missing; as text only once a distinct value
    texts = np.array([_text(value) for value in distinct] + [""], dtype=object)[codes]
    return _Values(rows[texts != ""], texts[texts != ""])


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers becomes float where one is missing
    return str(value)


def _distinct(values: _Values) -> tuple[str, ...]:
    return tuple(sorted(set(values.texts)))


def _codes(values: _Values, vocabulary: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    codes = pd.Index(vocabulary, dtype=object).get_indexer(pd.Index(values.texts, dtype=object)) + 1
    return values.rows, codes.astype(np.int32)


def _padded(rows: np.ndarray, codes: np.ndarray, num_items: int) -> np.ndarray:
    counts = np.bincount(rows, minlength=num_items)
    firsts = np.cumsum(counts) - counts
    padded = np.zeros((num_items + 1, max(1, int(counts.max(initial=0)))), dtype=np.int32)
    padded[rows + 1, np.arange(len(rows)) - firsts[rows]] = codes
    return padded


def _numbers(column: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").astype("float64").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = (np.isnan(numbers) & column.notna().to_numpy()) | np.isinf(numbers)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"numeric attribute {column.name!r} holds '{column.iloc[row]}' in row {row} "
            f"({int(bad.sum())} such rows), expected finite numbers or missing values; "
            "clean the column or list it under categorical"
        )
    return numbers


def _mean_and_deviation(numbers: np.ndarray) -> tuple[float, float]:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return 0.0, 1.0
    return float(known.mean()), float(known.std()) or 1.0


def _bucket_starts(numbers: np.ndarray, num_buckets: int) -> tuple[float, ...]:
    """Numbers that occur, so that no bucket is empty."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return ()
    quantiles = np.quantile(known, np.arange(1, num_buckets) / num_buckets, method="inverted_cdf")
    return tuple(float(start) for start in np.unique(quantiles) if start > known.min())


def _check_column(items: pd.DataFrame, name: str, kind: str) -> None:
    if name in items.columns:
        return
    columns = [str(column) for column in items.columns]
    nearest = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise DataError(f"the item table has no column {name!r} ({kind} attribute), only {columns}{hint}")

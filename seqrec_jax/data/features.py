"""Features of time, behaviour and items, vectorised over a whole log or item table.

Inside the library ids stay ids; the one-hot and multi-hot arrays here are made where somebody asks for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError

TIME_COLUMNS = (
    "hour_sin", "hour_cos", "day_of_month_sin", "day_of_month_cos", "day_of_week_sin", "day_of_week_cos",
    "month_sin", "month_cos", "is_weekend",
)  # fmt: skip


class TimeFeatures(NamedTuple):
    """Calendar numbers in UTC, `[N]` int32 each.

    Attributes:
      hour: 0 to 23.
      day_of_month: 1 to 31.
      day_of_week: 0 (Monday) to 6 (Sunday).
      month: 1 to 12.
      is_weekend: 1 on Saturday and Sunday, else 0.
    """

    hour: np.ndarray
    day_of_month: np.ndarray
    day_of_week: np.ndarray
    month: np.ndarray
    is_weekend: np.ndarray


def time_features(timestamps: Int[np.ndarray, " N"]) -> TimeFeatures:
    """The calendar numbers of moments in time.

    Args:
      timestamps: `[N]` integer seconds UTC.

    Raises:
      DataError: timestamps that are not integers.

    >>> [int(feature[0]) for feature in time_features(np.array([951_782_400 + 7_200]))]  # Tuesday, 2000-02-29
    [2, 29, 1, 2, 0]
    """
    timestamps = np.asarray(timestamps)
    if not np.issubdtype(timestamps.dtype, np.integer):
        raise DataError(f"timestamps must be integer seconds UTC, got dtype {timestamps.dtype}; convert them first")
    moments = timestamps.astype(np.int64).astype("datetime64[s]")
    days = moments.astype("datetime64[D]")
    months = moments.astype("datetime64[M]")
    # 1970-01-01 was a Thursday, which is 3 from Monday
    day_of_week = ((days.astype(np.int64) + 3) % 7).astype(np.int32)
    return TimeFeatures(
        hour=(moments - days).astype(np.int64).astype(np.int32) // 3600,
        day_of_month=(days - months).astype(np.int32) + 1,
        day_of_week=day_of_week,
        month=(months.astype(np.int64) % 12).astype(np.int32) + 1,
        is_weekend=(day_of_week >= 5).astype(np.int32),
    )


def cyclic_encoding(values: Int[np.ndarray, " N"], *, period: float) -> Float[np.ndarray, "N 2"]:
    """Sine and cosine of `2π · values / period`, so that the last value lies beside the first.

    Args:
      values: `[N]` numbers, 0 at the start of the cycle.
      period: after how much the cycle starts again.

    Returns:
      `[N, 2]` float32, sine then cosine.

    Raises:
      ConfigError: a period that is not positive.

    >>> cyclic_encoding(np.array([0, 6]), period=24).round(6)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    if not period > 0:
        raise ConfigError(f"period must be positive, got {period}")
    angles = 2 * np.pi * np.asarray(values, dtype=np.float64) / period
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def time_feature_array(timestamps: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N 9"]:
    """All time features as floats: cyclic hour, day of month, day of week and month, and the weekend.

    Args:
      timestamps: `[N]` integer seconds UTC.

    Returns:
      `[N, 9]` float32, columns as `TIME_COLUMNS` names them. Days of a month turn with a period of 31.

    Raises:
      DataError: timestamps that are not integers.
    """
    features = time_features(timestamps)
    return np.concatenate(
        [
            cyclic_encoding(features.hour, period=24),
            cyclic_encoding(features.day_of_month - 1, period=31),
            cyclic_encoding(features.day_of_week, period=7),
            cyclic_encoding(features.month - 1, period=12),
            features.is_weekend.astype(np.float32)[:, None],
        ],
        axis=1,
    )


def time_gaps(sequences: Sequences) -> Int[np.ndarray, " N"]:
    """`[N]` int64 seconds since the user's event before, 0 for the first.

    In a log with an order but no times, they are steps of its running index.
    """
    gaps = np.diff(sequences.timestamps, prepend=sequences.timestamps[:1])
    gaps[sequences.offsets[:-1][sequences.lengths > 0]] = 0
    return gaps


def one_hot(ids: Int[np.ndarray, "*B"], *, depth: int) -> Float[np.ndarray, "*B depth"]:
    """A 1 in the column of each id, 0 included.

    Args:
      ids: `[*B]` integers in 0…depth-1.
      depth: number of columns; V + 1 for item ids.

    Returns:
      `[*B, depth]` float32.

    Raises:
      DataError: an id outside 0…depth-1.

    >>> one_hot(np.array([2, 0]), depth=3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    ids = _checked_ids(ids, depth)
    encoded = np.zeros((*ids.shape, depth), dtype=np.float32)
    np.put_along_axis(encoded, ids[..., None], 1.0, axis=-1)
    return encoded


def multi_hot(ids: Int[np.ndarray, "*B M"], *, depth: int) -> Float[np.ndarray, "*B depth"]:
    """A 1 in the column of every id of a row; 0 is padding and sets nothing, so column 0 stays empty.

    Args:
      ids: `[*B, M]` integers in 0…depth-1.
      depth: number of columns.

    Returns:
      `[*B, depth]` float32.

    Raises:
      DataError: an id outside 0…depth-1.

    >>> multi_hot(np.array([[2, 1, 2], [1, 0, 0]]), depth=4)
    array([[0., 1., 1., 0.],
           [0., 1., 0., 0.]], dtype=float32)
    """
    ids = _checked_ids(ids, depth)
    encoded = np.zeros((*ids.shape[:-1], depth), dtype=np.float32)
    np.put_along_axis(encoded, ids, 1.0, axis=-1)
    encoded[..., 0] = 0.0
    return encoded


def bag_of_items(sequences: Sequences, *, num_items: int) -> Float[np.ndarray, "U V+1"]:
    """How often each user's history holds each item, as one dense table.

    Args:
      sequences: U users.
      num_items: V.

    Returns:
      `[U, V+1]` float32 counts; events without item are not counted, so column 0 is 0.

    Raises:
      DataError: an item id outside 0…V.
    """
    ids = _checked_ids(sequences.item_ids, num_items + 1)
    cells = sequences.users_of_events * (num_items + 1) + ids
    counts = np.bincount(cells, minlength=sequences.num_users * (num_items + 1))
    bag = counts.reshape(sequences.num_users, num_items + 1).astype(np.float32)
    bag[:, 0] = 0.0
    return bag


def behavior_one_hot(sequences: Sequences, *, num_behaviors: int) -> Float[np.ndarray, "N H"]:
    """`[N, H]` float32 one-hot of each event's behaviour code. DataError for codes of H and above."""
    return one_hot(sequences.behaviors, depth=num_behaviors)


@dataclass(frozen=True)
class AttributeConfig:
    """Which columns of the item table describe items.

    Attributes:
      categorical: columns with one value an item (brand, category).
      multi_categorical: columns with several: lists, or strings with `|` between the values.
      numeric: columns with a number (price).
    """

    categorical: tuple[str, ...] = ()
    multi_categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*self.categorical, *self.multi_categorical, *self.numeric]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ConfigError(f"attributes name the columns {doubled} twice; each column is of one kind")


@dataclass(frozen=True)
class AttributeVocabulary:
    """What turns an item table into codes; kept with a checkpoint, so that new items get the same ones.

    Attributes:
      categorical: column to its values in order; the code of a value is its place, from 1.
      multi_categorical: the same.
      numeric: column to (mean, standard deviation) of the known values.
    """

    categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    multi_categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numeric: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AttributeVocabulary:
        """The vocabulary back from `to_dict`, also after a way through JSON.

        Raises:
          DataError: keys other than those of `to_dict`.
        """
        expected = {"categorical", "multi_categorical", "numeric"}
        if set(values) != expected:
            raise DataError(f"an attribute vocabulary has the keys {sorted(expected)}, found {sorted(values)}")
        return cls(**{kind: {name: tuple(row) for name, row in values[kind].items()} for kind in expected})


class ItemAttributes(NamedTuple):
    """The encoded item table; row j belongs to item id j, row 0 is padding and all zeros.

    Attributes:
      categorical: column to `[V+1]` int32 codes, 0 = missing or not in the vocabulary.
      multi_categorical: column to `[V+1, M]` int32 codes, 0 = no further value.
      numeric: column to `[V+1]` float32, standardised, 0 where missing.
      unseen: column to the number of values that the vocabulary does not have (encoded as 0).
    """

    categorical: dict[str, np.ndarray]
    multi_categorical: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    unseen: dict[str, int]


def encode_attributes(
    items: pd.DataFrame, config: AttributeConfig, *, vocabulary: AttributeVocabulary | None = None
) -> tuple[ItemAttributes, AttributeVocabulary]:
    """Codes and standardised numbers of an item table.

    Values are compared as text, 3.0 like 3; missing values and empty text are missing.

    Args:
      items: V rows in vocabulary order: row j-1 describes item id j. Its index is not looked at.
      config: which columns to encode.
      vocabulary: the values, means and standard deviations to use; None takes them from `items`.

    Returns:
      The encoded table and its vocabulary (the given one, or a new one with values in sorted order).

    Raises:
      DataError: a column that the table lacks, or a numeric column with something else than finite numbers.
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
    numbers = {name: _numbers(items[name]) for name in config.numeric}
    if vocabulary is None:
        vocabulary = AttributeVocabulary(
            {name: _distinct(texts[name]) for name in config.categorical},
            {name: _distinct(texts[name]) for name in config.multi_categorical},
            {name: _mean_and_deviation(numbers[name]) for name in config.numeric},
        )
    categorical, multi_categorical, unseen = {}, {}, {}
    for name in config.categorical:
        rows, codes = _codes(texts[name], vocabulary.categorical[name])
        unseen[name] = int(np.sum(codes == 0))
        categorical[name] = np.zeros(len(items) + 1, dtype=np.int32)
        categorical[name][rows + 1] = codes
    for name in config.multi_categorical:
        rows, codes = _codes(texts[name], vocabulary.multi_categorical[name])
        unseen[name] = int(np.sum(codes == 0))
        multi_categorical[name] = _padded(rows[codes > 0], codes[codes > 0], len(items))
    numeric = {}
    for name, values in numbers.items():
        mean, deviation = vocabulary.numeric[name]
        standardised = np.nan_to_num((values - mean) / deviation, nan=0.0)
        numeric[name] = np.concatenate([[0.0], standardised]).astype(np.float32)
    return ItemAttributes(categorical, multi_categorical, numeric, unseen), vocabulary


def attribute_vectors(attributes: ItemAttributes, vocabulary: AttributeVocabulary) -> Float[np.ndarray, "V+1 A"]:
    """Dense v_y: one-hot, multi-hot and numeric columns side by side, in the order of `attribute_columns`.

    Args:
      attributes: the encoded item table.
      vocabulary: the one it was encoded with.

    Returns:
      `[V+1, A]` float32; row 0 is zeros, and so is a missing attribute's part.

    Raises:
      ConfigError: a vocabulary without attributes.
    """
    parts = [
        multi_hot(attributes.categorical[name][:, None], depth=len(values) + 1)[:, 1:]
        for name, values in vocabulary.categorical.items()
    ]
    parts += [
        multi_hot(attributes.multi_categorical[name], depth=len(values) + 1)[:, 1:]
        for name, values in vocabulary.multi_categorical.items()
    ]
    parts += [attributes.numeric[name][:, None] for name in vocabulary.numeric]
    if not parts:
        raise ConfigError("attribute_vectors needs at least one attribute; name columns in AttributeConfig")
    return np.concatenate(parts, axis=1)


def attribute_columns(vocabulary: AttributeVocabulary) -> list[str]:
    """Names of the A columns of `attribute_vectors`: `column=value` for categories, `column` for numbers."""
    values_of = vocabulary.categorical | vocabulary.multi_categorical
    return [f"{name}={value}" for name, values in values_of.items() for value in values] + list(vocabulary.numeric)


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


def _check_column(items: pd.DataFrame, name: str, kind: str) -> None:
    if name in items.columns:
        return
    columns = [str(column) for column in items.columns]
    nearest = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise DataError(f"the item table has no column {name!r} ({kind} attribute), only {columns}{hint}")


def _checked_ids(ids: np.ndarray, depth: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < depth):
        raise DataError(f"ids run from {ids.min()} to {ids.max()}, expected 0 to {depth - 1}")
    return ids.astype(np.int64)

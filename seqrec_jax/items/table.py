"""From a data frame of items to the arrays that an item tower reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax.data.features import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.items.tower import ItemTable


def make_item_table(items: pd.DataFrame, vocabulary: AttributeVocabulary, *, num_rows: int | None = None) -> ItemTable:
    """The table of V items, encoded by a dataset's own vocabulary.

    Args:
      items: V rows in vocabulary order with `known` and the columns that the vocabulary names.
      vocabulary: the columns and their codes.
      num_rows: at least V+1; rows beyond are no items, they let devices share the table evenly. None means V+1.

    Returns:
      Arrays of V+1 rows, or `num_rows`.

    Raises:
      DataError: a column that `items` lacks.
    """
    config = AttributeConfig(
        categorical=tuple(vocabulary.categorical),
        multi_categorical=tuple(vocabulary.multi_categorical),
        numeric=tuple(vocabulary.numeric),
    )
    encoded, _ = encode_attributes(items, config, vocabulary=vocabulary)
    known = np.concatenate([[False], items["known"].to_numpy()])
    missing = 0 if num_rows is None else num_rows - len(known)

    def column(values: np.ndarray) -> jax.Array:
        return jnp.pad(jnp.asarray(values), ((0, missing),) + ((0, 0),) * (values.ndim - 1))

    return ItemTable(
        known=column(known),
        categorical={name: column(codes) for name, codes in encoded.categorical.items()},
        multi_categorical={name: column(codes) for name, codes in encoded.multi_categorical.items()},
        numeric={name: column(numbers) for name, numbers in encoded.numeric.items()},
    )

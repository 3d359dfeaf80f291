"""From a data frame of items to the arrays that an item tower reads."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax.data.features import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.items.tower import ItemTable


def make_item_table(items: pd.DataFrame, vocabulary: AttributeVocabulary) -> ItemTable:
    """The table of V items, encoded by a dataset's own vocabulary.

    Args:
      items: V rows in vocabulary order with `known` and the columns that the vocabulary names.
      vocabulary: the columns and their codes.

    Returns:
      Arrays of V+1 rows.

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
    return ItemTable(
        known=jnp.asarray(known),
        categorical={name: jnp.asarray(codes) for name, codes in encoded.categorical.items()},
        multi_categorical={name: jnp.asarray(codes) for name, codes in encoded.multi_categorical.items()},
        numeric={name: jnp.asarray(numbers) for name, numbers in encoded.numeric.items()},
    )

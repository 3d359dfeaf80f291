"""The questions that probes ask of v_x, made from what a dataset has."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from seqrec_jax.data.attributes import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.representation.probes import is_number
from seqrec_jax.evaluation.users.attributes import categorical_codes

MOST_CLASSES = 20
LEAST_EXAMPLES = 50
_LEAST_OF_A_CLASS = 10
_PRICE_BANDS = ("lowest fifth", "second fifth", "middle fifth", "fourth fifth", "highest fifth")


class ProbeTasks(NamedTuple):
    """What can be asked, and what cannot.

    Attributes:
      labels: U rows, a column a task: numbers, or categories; missing where a user has no label.
      types: `[U]` the last item of each history, what the control task hangs its labels on.
      left_out: task to the reason why it is not asked, in words.
    """

    labels: pd.DataFrame
    types: np.ndarray
    left_out: dict[str, str]


def item_categories(dataset: Dataset) -> tuple[str, pd.Categorical] | None:
    """The attribute that sorts items best for people, and its value for each item id.

    Returns:
      The name and `[V+1]` values, missing where an item has none: the first categorical attribute, else the first
      value of the first multi-categorical one. None where the dataset has neither.
    """
    known = dataset.attributes
    if known.categorical:
        name, values = next(iter(known.categorical.items()))
        codes = categorical_codes(dataset, most=1)[name]
    elif known.multi_categorical:
        name, values = next(iter(known.multi_categorical.items()))
        config = AttributeConfig(multi_categorical=(name,))
        vocabulary = AttributeVocabulary(multi_categorical={name: values})
        codes = encode_attributes(dataset.items, config, vocabulary=vocabulary)[0].multi_categorical[name][:, 0]
    else:
        return None
    return name, pd.Categorical.from_codes(codes - 1, categories=list(values))


def probe_tasks(
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    users: Int[np.ndarray, " U"] | None = None,
    attributes: pd.DataFrame | None = None,
) -> ProbeTasks:
    """Labels of evaluated users: of their next target, of their history, and of themselves.

    - next category, next price band (fifths of the users' targets), next behaviour (a purchase or not, where the log
      has purchases), time until the next event: what v_x foretells
    - last category, time between the last two events, history length: what it remembers
    - each column of `attributes`: what it says of the user

    Times and lengths are logarithms of 1 + the number. The 20 most frequent classes of at least 10 users count; users
    with another one have no label.

    Args:
      dataset: where the cases come from.
      cases: the evaluated users.
      users: `[U]` places of the users asked about in the cases; None for all.
      attributes: what else is known of users, such as a segment: a row a raw user id, which is its index.

    Returns:
      The tasks with at least 50 examples and two classes; the others with the reason.

    Raises:
      DataError: attributes with a user twice.
      ConfigError: a column of attributes that is called like another task.
    """
    users = np.arange(len(cases.users)) if users is None else np.asarray(users)
    histories = cases.histories
    first, ends = cases.target_offsets[users], histories.offsets[users + 1]
    lengths = histories.lengths[users]
    events, next_items = cases.target_events[first], cases.target_items[first]
    last_items = np.zeros(len(users), dtype=np.int32)
    last_items[lengths > 0] = histories.item_ids[ends[lengths > 0] - 1]
    candidates: dict[str, pd.Series | str] = {
        "next category": _categories(dataset, next_items),
        "next price band": _price_bands(dataset, next_items),
        "next behaviour": _behaviors(dataset, events),
        "time until the next event": "the log has an order but no times",
        "last category": _categories(dataset, last_items),
        "time between the last two events": "the log has an order but no times",
        "history length": pd.Series(np.log1p(lengths)),
    }
    if dataset.time_kind == "seconds":
        until, between = np.full(len(users), np.nan), np.full(len(users), np.nan)
        last, two = ends[lengths > 0] - 1, ends[lengths > 1] - 1
        until[lengths > 0] = dataset.sequences.timestamps[events[lengths > 0]] - histories.timestamps[last]
        between[lengths > 1] = histories.timestamps[two] - histories.timestamps[two - 1]
        candidates["time until the next event"] = pd.Series(np.log1p(np.maximum(until, 0)))
        candidates["time between the last two events"] = pd.Series(np.log1p(between))
    if attributes is not None:
        candidates |= _user_attributes(attributes, dataset.sequences.user_ids[cases.users[users]], candidates)
    labels: dict[str, pd.Series] = {}
    left_out: dict[str, str] = {}
    for name, values in candidates.items():
        found = values if isinstance(values, str) else _usable(values)
        if isinstance(found, str):
            left_out[name] = found
        else:
            labels[name] = found
    return ProbeTasks(pd.DataFrame(labels, index=pd.RangeIndex(len(users))), last_items, left_out)


def _categories(dataset: Dataset, items: np.ndarray) -> pd.Series | str:
    found = item_categories(dataset)
    return "items have no categorical attribute" if found is None else pd.Series(found[1][items])


def _price_bands(dataset: Dataset, items: np.ndarray) -> pd.Series | str:
    """Which fifth of the users' next items each one is in, by its price or else the first numeric attribute."""
    numeric = list(dataset.attributes.numeric)
    if not numeric:
        return "items have no numeric attribute such as a price"
    name = "price" if "price" in numeric else numeric[0]
    values = pd.to_numeric(dataset.items[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)[items - 1]
    known = values[np.isfinite(values)]
    if not len(known):
        return f"no next item has a {name}"
    edges = np.quantile(known, [0.2, 0.4, 0.6, 0.8])
    codes = np.where(np.isfinite(values), np.searchsorted(edges, values, side="left"), -1)
    return pd.Series(pd.Categorical.from_codes(codes, categories=list(_PRICE_BANDS), ordered=True))


def _behaviors(dataset: Dataset, events: np.ndarray) -> pd.Series:
    codes = dataset.sequences.behaviors[events].astype(np.int64)
    names = list(dataset.behaviors)
    if "purchase" in names:
        codes, names = (codes == names.index("purchase")).astype(np.int64), ["other", "purchase"]
    return pd.Series(pd.Categorical.from_codes(codes, categories=names))


def _user_attributes(
    attributes: pd.DataFrame, user_ids: np.ndarray, taken: dict[str, pd.Series | str]
) -> dict[str, pd.Series | str]:
    doubled = attributes.index[attributes.index.duplicated()]
    if len(doubled):
        raise DataError(f"the users' attributes have user {doubled[0]!r} more than once; keep one row a user")
    clash = [name for name in attributes.columns if name in taken]
    if clash:
        raise ConfigError(f"the users' attributes have the columns {clash}, which are tasks already; rename them")
    found = attributes.reindex(user_ids).reset_index(drop=True)
    return {str(name): found[name] for name in found.columns}


def _usable(values: pd.Series) -> pd.Series | str:
    """The labels with rare classes missing, or why they are of no use."""
    if not is_number(values):
        counts = values.value_counts().iloc[:MOST_CLASSES]
        values = values.where(values.isin(counts.index[counts >= _LEAST_OF_A_CLASS]))
    if (count := int(values.notna().sum())) < LEAST_EXAMPLES:
        return f"only {count} users have a label, {LEAST_EXAMPLES} are needed"
    if values.nunique() < 2:
        return f"it is the same for all users ({values.dropna().iloc[0]})"
    return values

"""Labels for probes of v_x, made from what a dataset holds."""

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
    """Labels of users for the tasks of probes.

    Attributes:
      labels: U rows, one column a task, of numbers or categories; missing where a user has no label.
      types: `[U]` int32 last item of each history, by which the control task assigns its random labels.
      left_out: the reason, in words, why a task has no labels, by the task's name.
    """

    labels: pd.DataFrame
    types: np.ndarray
    left_out: dict[str, str]


def item_categories(dataset: Dataset) -> tuple[str, pd.Categorical] | None:
    """The first categorical attribute of the items, and its value for each item number.

    Returns:
      The name and V+1 values, missing where an item has none: the first categorical attribute, else the first value of
      the first multi-categorical one. None where the dataset has neither.
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

    - of the next target: its category, its price band (fifths of the users' targets), its behaviour (a purchase or not,
      where the log has purchases), the time until it
    - of the history: the last category, the time between the last two events, the length
    - of the user: each column of `attributes`

    Times and lengths are logarithms of 1 + the number. The 20 most frequent classes of at least 10 users are kept;
    users of other classes have no label.

    Args:
      dataset: where the cases come from.
      cases: the evaluated users.
      users: `[U]` integer places of the users in the cases; None for all.
      attributes: further attributes of users, such as a segment, with the raw user id as index.

    Returns:
      The tasks with at least 50 examples and two classes, and the reasons for the others.

    Raises:
      DataError: attributes with a user twice.
      ConfigError: a column of attributes with the name of another task.
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
    """The fifth that each next item is in by price, or by the first numeric attribute where there is no price."""
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
    """The labels with rare classes missing, or the reason why they cannot be used."""
    if not is_number(values):
        counts = values.value_counts().iloc[:MOST_CLASSES]
        values = values.where(values.isin(counts.index[counts >= _LEAST_OF_A_CLASS]))
    if (count := int(values.notna().sum())) < LEAST_EXAMPLES:
        return f"only {count} users have a label, {LEAST_EXAMPLES} are needed"
    if values.nunique() < 2:
        return f"it is the same for all users ({values.dropna().iloc[0]})"
    return values

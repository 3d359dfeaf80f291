"""Beyond accuracy: coverage, novelty, diversity, serendipity, popularity, calibration and repeats of lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from seqrec_jax import metrics
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.sequences import Sequences, pad_sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ShapeError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import TAIL_SHARE, categorical_codes, tail_items, training_counts
from seqrec_jax.evaluation.users.shop_questions import POPULAR, known_items
from seqrec_jax.reporting.sections import Block, Section, curve, section, table
from seqrec_jax.reporting.wording import format_figure, format_percent
from seqrec_jax.settings import check_value
from seqrec_jax.statistics import bootstrap_means

_TILE_ELEMENTS = 2**22  # pairs of a list's and a history's places that a tile of users compares at once
_MOST_USERS = 1024
_SHORTEST = 32  # histories up to this length share a shape
_MOST_ATTRIBUTES = 3
_MOST_GROUPS = 20

FIGURES = {
    "coverage": "share of the items that could be recommended which are shown to somebody",
    "gini": "inequality of exposure over the items: 0 alike, 1 all places for one item",
    "exposure_entropy": "entropy of exposure over the most it could be: 1 is even",
    "tail_share": f"share of places for the least popular items that have {100 * TAIL_SHARE:g} % of training events",
    "personalisation": "share of places that two users do not have in common",
    "novelty": "mean surprise in bits, -log2 of the share of users who have the item in training",
    "attribute_diversity": "mean distance of the items of a list by their categorical attributes",
    "vector_diversity": "mean distance 1 - cosine of the items of a list by their vectors",
    "serendipity": "share of places with a target that the popular list does not hold",
    "popularity_lift": "how much more popular the list is than the user's history: 0 alike, 1 twice as popular",
    "miscalibration": "divergence of the list's categories from the history's: 0 alike",
    "repeat_rate": "share of places with an item of the user's history",
}
"""Each figure and its meaning; the first five are over all lists together and have no intervals."""


class BeyondAccuracy(NamedTuple):
    """Figures of lists beside accuracy.

    Attributes:
      figures: one row a system and figure: `system`, `figure` (of `FIGURES`), `mean`, `low`, `high`; figures over all
        lists together have nan as low and high. A figure that cannot be measured has no row.
      per_user: by system, U rows with one column a figure of a single list, nan where it is undefined.
      groups: one row a value of the first categorical attribute: `group`, `demand` (its share of the targets), then
        its share of the places by system; the largest demand first, the rest together. None without attributes.
      attribute: name of that attribute, or None.
      lorenz: by system, `[101]` share of the exposure of the least shown 0, 1, …, 100 % of the items.
    """

    figures: pd.DataFrame
    per_user: dict[str, pd.DataFrame]
    groups: pd.DataFrame | None
    attribute: str | None
    lorenz: dict[str, np.ndarray]


class _Items(NamedTuple):
    """Tables of the items, V+1 rows each; None where an item property is unknown."""

    probabilities: jax.Array
    popularity: jax.Array
    categories: jax.Array | None
    codes: jax.Array | None
    vectors: jax.Array | None


def beyond_accuracy(
    judged: Sequence[Judged],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    k: int,
    config: EvaluationConfig,
    item_vectors: ArrayLike | None = None,
    popular: str = POPULAR,
) -> BeyondAccuracy:
    """Measure the first k places of every system's lists.

    Users are measured in tiles of histories of similar length, so that memory is bounded.

    Args:
      judged: the systems.
      dataset: where the cases come from; its categorical attributes, if any, define which items are similar.
      cases: the U users.
      k: number of places of a list that are measured.
      config: resamples and seed of the intervals.
      item_vectors: `[V+1, E]` floating point vectors of the items for `vector_diversity`; None leaves it out.
      popular: name of the system whose lists are the reference of serendipity; without it there is no serendipity.

    Returns:
      The figures. Item numbers above V, in lists made elsewhere, count as empty places.

    Raises:
      ConfigError: k < 1, or beyond the lists' length.
      ShapeError: item_vectors that are not one an item.
    """
    longest = min(entry.lists.shape[1] for entry in judged)
    check_value("k", k, f"[1, {longest}]")
    names, items = _item_facts(dataset, item_vectors)
    counts, tail = training_counts(dataset), tail_items(training_counts(dataset))
    base = next((entry for entry in judged if entry.name == popular), None)
    rows, per_user, exposures, lorenz = [], {}, {}, {}
    for entry in judged:
        lists = known_items(entry.lists[:, :k], dataset.num_items).astype(np.int32)
        shown = np.bincount(lists.reshape(-1), minlength=len(counts))
        shown[0] = 0
        exposures[entry.name] = shown
        lorenz[entry.name] = _lorenz(shown[cases.candidates])
        for name, value in _of_all_lists(shown, lists, tail, cases.candidates).items():
            rows.append((entry.name, name, value, np.nan, np.nan))
        columns = _of_each_list(lists, cases.histories, items)
        if base is not None:
            columns["serendipity"] = _serendipity(entry, base, cases, lists, k)
        ordered = {name: columns[name] for name in FIGURES if name in columns}
        per_user[entry.name] = pd.DataFrame(ordered)
        interval = bootstrap_means(per_user[entry.name], num_resamples=config.num_resamples, seed=config.seed)
        for column, name in enumerate(ordered):
            rows.append((entry.name, name, interval.mean[column], interval.low[column], interval.high[column]))
    figures = pd.DataFrame(rows, columns=["system", "figure", "mean", "low", "high"])
    attribute = names[0] if names else None
    groups = None
    if items.categories is not None and attribute is not None:
        values = dataset.attributes.categorical[attribute]
        groups = _groups(np.asarray(items.categories), values, cases.target_items, exposures)
    return BeyondAccuracy(figures, per_user, groups, attribute, lorenz)


def beyond_accuracy_section(found: BeyondAccuracy, *, k: int, model: str) -> Section:
    """The section of the report: figures of the lists, exposure over the catalogue and over groups of items.

    Args:
      found: from `beyond_accuracy`.
      k: number of places that were measured.
      model: name of the system that the summary is about.
    """
    figures = found.figures.set_index(["system", "figure"])
    names = [name for name in FIGURES if name in set(found.figures["figure"])]
    systems = list(found.per_user)
    cells = []
    for system in systems:
        row: list[object] = [system]
        for name in names:
            mean, low, high = figures.loc[(system, name), ["mean", "low", "high"]]
            row.append(float(mean) if np.isnan(low) else {"mean": mean, "low": low, "high": high})
        cells.append(row)
    note = "; ".join(f"{name.replace('_', ' ')}: {FIGURES[name]}" for name in names)
    own = {name: float(figures.loc[(model, name), "mean"]) for name in names}
    summary = (
        f"In the first {k} places {model} shows {format_percent(own['coverage'])} of the items that could be "
        f"recommended, with a Gini index of {format_figure(own['gini'])}; {format_percent(own['repeat_rate'])} of a "
        f"list are items that the user had before, and its items are {_lift(own['popularity_lift'])} than those of "
        "the user's history."
    )
    blocks: list[Block] = [
        table(f"the first {k} places", ["system", *(name.replace("_", " ") for name in names)], cells, note=note),
        curve(
            "exposure over the catalogue",
            x_label="share of the items, the least shown first",
            y_label="share of the places",
            series=[{"name": name, "x": np.linspace(0, 1, 101), "y": line} for name, line in found.lorenz.items()],
        ),
    ]
    if found.groups is not None:
        rows = [list(row) for row in found.groups.itertuples(index=False)]
        note = "Where the share of places is above the demand, a group is shown more than users take from it."
        columns = [str(found.attribute), "share of targets", *systems]
        blocks.append(table(f"exposure by {found.attribute}", columns, rows, note=note))
        gaps = (found.groups[model] - found.groups["demand"]).abs()
        worst = found.groups.loc[gaps.idxmax()]
        summary += (
            f" The {found.attribute} farthest from its demand is {worst['group']}: {format_percent(worst[model])} of "
            f"the places against {format_percent(worst['demand'])} of the targets."
        )
    return section("beyond_accuracy", "Beyond accuracy", summary, blocks)


def _item_facts(dataset: Dataset, item_vectors: ArrayLike | None) -> tuple[list[str], _Items]:
    """Names of the categorical attributes in use, and the tables of the items."""
    train = dataset.training_sequences
    pairs = np.unique(train.users_of_events * (dataset.num_items + 1) + train.item_ids)
    users = np.bincount(pairs % (dataset.num_items + 1), minlength=dataset.num_items + 1)
    vectors = None if item_vectors is None else np.asarray(item_vectors, dtype=np.float32)
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != dataset.num_items + 1):
        raise ShapeError(
            f"item_vectors have shape {vectors.shape}, expected [{dataset.num_items + 1}, E], row 0 for none"
        )
    chosen = categorical_codes(dataset, most=_MOST_ATTRIBUTES)
    codes, before = [], 0
    for name, column in chosen.items():  # values of different attributes must not look alike
        codes.append(np.where(column > 0, column.astype(np.int32) + before, 0))
        before += len(dataset.attributes.categorical[name])
    items = _Items(
        probabilities=jnp.asarray((users + 1) / (train.num_users + 1), dtype=jnp.float32),
        popularity=jnp.asarray(training_counts(dataset), dtype=jnp.float32),
        categories=jnp.asarray(next(iter(chosen.values())), dtype=jnp.int32) if chosen else None,
        codes=jnp.asarray(np.stack(codes, axis=1)) if chosen else None,
        vectors=None if vectors is None else jnp.asarray(vectors),
    )
    return list(chosen), items


def _of_all_lists(shown: np.ndarray, lists: np.ndarray, tail: np.ndarray, candidates: np.ndarray) -> dict[str, float]:
    counts, where = jnp.asarray(shown, dtype=jnp.int32), jnp.asarray(candidates)
    values = {
        "coverage": metrics.catalogue_coverage(counts, where=where),
        "gini": metrics.gini(counts, where=where),
        "exposure_entropy": metrics.exposure_entropy(counts, where=where, normalized=True),
        "tail_share": metrics.tail_share(counts, jnp.asarray(tail)),
        "personalisation": metrics.mean_list_distance(jnp.asarray(lists), num_items=len(shown) - 1),
    }
    return {name: float(value) for name, value in values.items()}


def _of_each_list(lists: Int[np.ndarray, "U K"], histories: Sequences, items: _Items) -> dict[str, np.ndarray]:
    """The figures of every user's list, tile by tile."""
    columns: dict[str, np.ndarray] = {}
    num_categories = 0 if items.categories is None else max(int(items.categories.max()), 1)
    for users, length, size in _tiles(histories.lengths, lists.shape[1], num_categories):
        # the last user fills up a tile, so that few shapes are compiled
        filled = users[np.minimum(np.arange(size), len(users) - 1)]
        padded = pad_sequences(histories.select_users(filled), length=length)
        tile = _measure(jnp.asarray(lists[filled]), jnp.asarray(padded), items, num_categories=num_categories)
        for name, values in tile.items():
            column = columns.setdefault(name, np.full(len(lists), np.nan))
            column[users] = np.asarray(values)[: len(users)]
    return columns


@partial(jax.jit, static_argnames="num_categories")
def _measure(lists: jax.Array, histories: jax.Array, items: _Items, *, num_categories: int) -> dict[str, jax.Array]:
    columns = {
        "novelty": metrics.novelty(lists, items.probabilities),
        "popularity_lift": metrics.popularity_lift(lists, histories, items.popularity),
        "repeat_rate": metrics.repeat_rate(lists, histories),
    }
    if items.categories is not None and items.codes is not None:
        columns["attribute_diversity"] = metrics.attribute_diversity(lists, items.codes)
        columns["miscalibration"] = metrics.calibration_divergence(
            lists, histories, items.categories, num_categories=num_categories
        )
    if items.vectors is not None:
        columns["vector_diversity"] = metrics.intra_list_diversity(lists, items.vectors)
    return columns


def _tiles(lengths: np.ndarray, k: int, num_categories: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Users by length of history, the padded length and the size of their tile, both powers of two."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # longer histories make smaller tiles, so the size shrinks until the longest history of the tile fits
        size = _MOST_USERS
        while True:
            users = order[start : start + size]
            length = 1 << int(max(lengths[users[-1]], _SHORTEST) - 1).bit_length()
            if size == 1 or size * max(length * k, num_categories) <= _TILE_ELEMENTS:
                break
            size //= 2
        yield users, length, size
        start += len(users)


def _serendipity(
    judged: Judged, base: Judged, cases: EvaluationCases, lists: np.ndarray, k: int
) -> Float[np.ndarray, " U"]:
    """`metrics.serendipity` from ranks: a target is in a list of k where its rank is at most k."""
    case = np.repeat(np.arange(len(lists)), cases.num_targets)
    surprises = np.bincount(case, weights=(judged.ranks <= k) & (base.ranks > k), minlength=len(lists))
    filled = (lists > 0).sum(axis=1)
    return np.asarray(np.divide(surprises, filled, out=np.full(len(lists), np.nan), where=filled > 0))


def _lorenz(shown: np.ndarray) -> Float[np.ndarray, " 101"]:
    sums = np.concatenate([[0.0], np.cumsum(np.sort(shown))])
    shares = sums / max(sums[-1], 1.0)
    return np.asarray(np.interp(np.linspace(0, 1, 101), np.linspace(0, 1, len(shares)), shares))


def _groups(
    categories: np.ndarray, values: Sequence[str], target_items: np.ndarray, exposures: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Demand and exposure of each value, the largest demand first, and the rest together."""

    def shares(counts: np.ndarray) -> np.ndarray:
        return np.asarray(
            metrics.group_exposure(
                jnp.asarray(counts, dtype=jnp.int32), jnp.asarray(categories), num_groups=max(len(values), 1)
            ),
            dtype=np.float64,
        )

    wanted = np.bincount(target_items, minlength=len(categories))
    found = pd.DataFrame({"group": ["(none)", *values][: len(values) + 1], "demand": shares(wanted)[: len(values) + 1]})
    for name, counts in exposures.items():
        found[name] = shares(counts)[: len(values) + 1]
    found = found[(found.drop(columns="group") > 0).any(axis=1)]
    found = found.sort_values("demand", ascending=False, kind="stable", ignore_index=True)
    if len(found) <= _MOST_GROUPS:
        return found
    rest = found.iloc[_MOST_GROUPS - 1 :]
    last = {"group": f"{len(rest):,} others", **rest.drop(columns="group").sum().to_dict()}
    return pd.concat([found.iloc[: _MOST_GROUPS - 1], pd.DataFrame([last])], ignore_index=True)


def _lift(value: float) -> str:
    if np.isnan(value):
        return "of no known popularity compared"
    return f"{format_percent(abs(value))} {'more' if value >= 0 else 'less'} popular"

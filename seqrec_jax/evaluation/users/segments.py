"""Which users are served worst: a search over kinds of users and pairs of kinds, corrected for having searched.

A segment's deficit is the mean of all other users minus its own mean. It is divided by its standard error under the
hypothesis that the values do not depend on the kinds of users. The largest of these statistics over all segments, when
the users are shuffled, is the distribution of what the search finds by chance. Shuffling keeps the overlap of the
segments, so that the correction is not conservative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import check_users
from seqrec_jax.evaluation.users.slices import Bins, user_bins
from seqrec_jax.reporting.sections import Block, Section, section, table
from seqrec_jax.reporting.wording import format_count, format_figure, format_p
from seqrec_jax.settings import check_value
from seqrec_jax.statistics import bootstrap_means

FEWEST_USERS = 50
"""Least number of users of a segment, and of the others that it is compared with."""
_BLOCK_ELEMENTS = 2**23
_ROUNDING = 1e-4  # of a statistic; rounding of sums in single precision must not decide ties
_COLUMNS = ("segment", "users", "mean", "rest", "deficit", "at_least", "effect_size", "p_value")


class Segments(NamedTuple):
    """The segments of a search.

    Attributes:
      names: names of the S segments, such as "history length 1 and repeat new item".
      members: `[S, C]` sparse float64, 1 where a cell of users belongs to a segment. The users of a cell have the same
        bins in all attributes.
      cells: `[U]` int64 cell of each user in 0…C-1.
    """

    names: list[str]
    members: sparse.csr_array
    cells: np.ndarray

    def users(self, segment: int) -> np.ndarray:
        """`[U]` bool, True for the users of one segment, given by its place in `names`."""
        inside = np.zeros(self.members.shape[1], dtype=bool)
        inside[self.members.indices[self.members.indptr[segment] : self.members.indptr[segment + 1]]] = True
        return np.take(inside, self.cells)


class WorstSegments(NamedTuple):
    """The result of a search.

    Attributes:
      table: S rows, the largest standardised deficit first: `segment`, `users`, `mean`, `rest` (mean of the others),
        `deficit` (rest minus mean), `at_least` (lower bound of the deficit, simultaneous over all segments),
        `effect_size` (deficit over the standard deviation of all users) and `p_value`, corrected for the search. The
        index is the place in `segments`.
      segments: all segments that were searched.
      kept: `[U]` bool, users with a defined value; `segments` holds only these.
      smallest_found: deficit that would have been significant in the smallest segment; nan without segments.
    """

    table: pd.DataFrame
    segments: Segments
    kept: np.ndarray
    smallest_found: float


def make_segments(attributes: Mapping[str, Bins], *, fewest: int = FEWEST_USERS) -> Segments:
    """All bins of single attributes and all pairs of bins of two attributes, with enough users inside and outside.

    A pair whose users are those of one of its bins is left out.

    Args:
      attributes: cuts of the same U users by name, as `user_bins` makes them.
      fewest: least number of users inside and outside a segment, at least 2.

    Returns:
      S segments, single attributes first.

    Raises:
      DataError: no attributes.
      ShapeError: attributes of different numbers of users.
      ConfigError: fewest < 2.
    """
    if not attributes:
        raise DataError("there are no attributes of users to search in; pass the cuts of user_bins")
    check_value("fewest", fewest, "[2, inf)")
    if len(sizes := {len(bins.codes) for bins in attributes.values()}) > 1:
        raise ShapeError(f"the attributes are about different numbers of users: {sorted(sizes)}")
    codes = np.stack([bins.codes for bins in attributes.values()], axis=1)
    cells = np.zeros(len(codes), dtype=np.int64)
    for place, bins in enumerate(attributes.values()):  # one attribute at a time, so that the numbers stay small
        cells = np.unique(cells * len(bins.labels) + codes[:, place], return_inverse=True)[1]
    _, first_users, counts = np.unique(cells, return_index=True, return_counts=True)
    rows = codes[first_users]
    single = {
        (place, code): rows[:, place] == code
        for place, bins in enumerate(attributes.values())
        for code in range(len(bins.labels))
    }
    words = [name.replace("_", " ") for name in attributes]
    labels = [bins.labels for bins in attributes.values()]
    total = counts.sum()
    names, members = [], []

    def add(name: str, inside: np.ndarray, parts: Sequence[np.ndarray]) -> None:
        count = counts[inside].sum()
        if min(count, total - count) >= fewest and all(counts[part].sum() > count for part in parts):
            names.append(name)
            members.append(np.flatnonzero(inside))

    for (place, code), inside in single.items():
        add(f"{words[place]} {labels[place][code]}", inside, [])
    for (first, one), (second, other) in combinations(single, 2):
        if first != second:
            parts = [single[first, one], single[second, other]]
            name = f"{words[first]} {labels[first][one]} and {words[second]} {labels[second][other]}"
            add(name, parts[0] & parts[1], parts)
    lengths = [len(inside) for inside in members]
    indices = np.concatenate([np.zeros(0, dtype=np.int64), *members])
    table = sparse.csr_array(
        (np.ones(len(indices)), indices, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])),
        shape=(len(names), len(rows)),
    )
    return Segments(names, table, cells)


def worst_segments(
    values: ArrayLike,
    attributes: Mapping[str, Bins],
    *,
    fewest: int = FEWEST_USERS,
    num_permutations: int = 500,
    seed: int = 0,
    level: float = 0.05,
) -> WorstSegments:
    """Search the segments in which a value is lowest, with p-values that hold for the whole search.

    With N users of mean m and variance s², a segment of n users with mean m_n has the deficit m_rest - m_n and the
    statistic `(m - m_n) · sqrt(n (N - 1) / (N - n)) / s`. Its p-value is `(1 + shuffles whose largest statistic is at
    least as large) / (1 + num_permutations)`. If the values do not depend on the attributes, any segment has a
    p-value of at most `level` with that probability.

    Args:
      values: `[U]` float metric of each user, or its difference between two systems; users with nan are left out.
      attributes: cuts of the same users by name.
      fewest: least number of users inside and outside a segment, at least 2.
      num_permutations: number of shuffles of the users, at least 99.
      seed: of the shuffles.
      level: error level of the bound `at_least` and of `smallest_found`, in (0, 1).

    Returns:
      All segments with their deficits.

    Raises:
      ShapeError: values that are not one a user.
      DataError: infinite values, or no attributes.
      ConfigError: an option out of range.

    Source:
      Westfall and Young (1993), Resampling-Based Multiple Testing (the largest statistic over shuffles).
    """
    values = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(values)
    check_value("num_permutations", num_permutations, "[99, inf)")
    check_value("level", level, "(0, 1)")
    if np.isinf(values).any():
        raise DataError("values are infinite for some users; expected finite ones or nan = undefined")
    for name, bins in attributes.items():
        if bins.codes.shape != values.shape:
            raise ShapeError(f"values have shape {values.shape}, attribute {name} is of {len(bins.codes)} users")
    attributes = {name: Bins(bins.labels, bins.codes[kept]) for name, bins in attributes.items()}
    segments = make_segments(attributes, fewest=fewest)
    values = np.compress(kept, values)
    counts = segments.members @ np.bincount(segments.cells, minlength=segments.members.shape[1]).astype(np.float64)
    total, mean, deviation = len(values), values.mean() if len(values) else np.nan, values.std() if len(values) else 0.0
    if not len(counts) or deviation <= 1e-12 * abs(mean):
        return WorstSegments(pd.DataFrame(columns=list(_COLUMNS)), segments, kept, float("nan"))
    errors = deviation * np.sqrt(counts * (total - counts) / (total - 1))  # of a segment's sum
    sums = segments.members @ np.bincount(segments.cells, weights=values, minlength=segments.members.shape[1])
    statistics = (counts * mean - sums) / errors
    largest = _largest_statistics(values, segments, errors, num_permutations, np.random.default_rng(seed))
    at_least = np.searchsorted(np.sort(largest), statistics - _ROUNDING, side="left")
    p_values = (1 + num_permutations - at_least) / (1 + num_permutations)
    means, rest = sums / counts, (values.sum() - sums) / (total - counts)
    per_unit = errors * total / (counts * (total - counts))  # a statistic of 1, as a deficit
    critical = np.quantile(largest, 1 - level, method="higher")
    found = pd.DataFrame(
        {
            "segment": segments.names,
            "users": counts.astype(np.int64),
            "mean": means,
            "rest": rest,
            "deficit": rest - means,
            "at_least": rest - means - critical * per_unit,
            "effect_size": (rest - means) / deviation,
            "p_value": p_values,
        }
    )
    order = np.lexsort((-counts, -statistics))
    return WorstSegments(found.iloc[order], segments, kept, float(critical * per_unit[np.argmin(counts)]))


def distinct_segments(
    found: WorstSegments, *, most: int = 5, level: float = 0.05, overlap: float = 0.5
) -> pd.DataFrame:
    """The worst segments with a significant deficit whose users are not mostly those of worse segments.

    Args:
      found: a search.
      most: largest number of rows.
      level: largest corrected p-value.
      overlap: largest share of a segment's users that earlier rows may hold.

    Returns:
      At most `most` rows of `found.table`.
    """
    covered = np.zeros(int(found.kept.sum()), dtype=bool)
    chosen: list[int] = []
    for segment in found.table.index[found.table["p_value"] <= level]:
        users = found.segments.users(segment)
        if covered[users].mean() <= overlap:
            chosen.append(segment)
            covered |= users
        if len(chosen) == most:
            break
    return found.table.loc[chosen]


def segments_section(
    judged: Sequence[Judged],
    users: pd.DataFrame,
    *,
    config: EvaluationConfig,
    other: Judged | None = None,
    num_permutations: int = 500,
    level: float = 0.05,
) -> Section:
    """The section on the users that the model serves worst, and those with the least gain over another system.

    The second search leaves out the popularity of the target.

    Args:
      judged: the systems, the model first.
      users: as `user_table` makes it.
      config: deciding metric, resamples and seed.
      other: the system that the gain is over; None takes the second one, if there is one.
      num_permutations: number of shuffles of each search.
      level: error level of each of the two searches.

    Raises:
      ShapeError: a user table of other users.
    """
    check_users(users, len(judged[0].per_user))
    model, metric = judged[0], config.metric
    other = other or (judged[1] if len(judged) > 1 else None)
    values = model.per_user[metric].to_numpy(dtype=np.float64, na_value=np.nan)
    # the decile holds the same information as the number of training events
    attributes = {name: bins for name, bins in user_bins(users).items() if name != "target_popularity"}
    searches = [(f"Where {metric} of {model.name} is low", values, attributes)]
    if other is not None:
        gains = values - other.per_user[metric].to_numpy(dtype=np.float64, na_value=np.nan)
        # a popular list finds popular targets, whichever users want them
        kinds = {name: bins for name, bins in attributes.items() if name != "popularity_decile"}
        searches.append((f"Where {model.name} gains least over {other.name}, or loses", gains, kinds))
    sentences, blocks = [], []
    for title, searched, kinds in searches:
        found = worst_segments(searched, kinds, num_permutations=num_permutations, seed=config.seed, level=level)
        chosen = distinct_segments(found, level=level)
        sentences.append(f"{title}: {_sentence(found, chosen)}.")
        blocks.append(_block(title, searched[found.kept], found, chosen, config))
    return section("worst_segments", "Who is served worst", " ".join(sentences), blocks)


def _largest_statistics(
    values: np.ndarray,
    segments: Segments,
    errors: np.ndarray,
    num_permutations: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """`[R]` the largest statistic over all segments in each of R shuffles of the users."""
    sizes = np.bincount(segments.cells, minlength=segments.members.shape[1])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    # around a mean of 0 single precision is enough, and twice as fast
    deviations = (values - values.mean()).astype(np.float32)
    members = segments.members.astype(np.float32)
    largest = np.empty(num_permutations)
    rows = max(1, min(num_permutations, _BLOCK_ELEMENTS // max(len(values), len(segments.names))))
    for start in range(0, num_permutations, rows):
        block = np.tile(deviations, (min(rows, num_permutations - start), 1))
        # after a shuffle, any consecutive users are a random draw for a cell
        sums = np.add.reduceat(generator.permuted(block, axis=1, out=block), starts, axis=1)
        of_segments = members @ np.ascontiguousarray(sums.T)
        largest[start : start + len(block)] = (-of_segments / errors[:, None]).max(axis=0)
    return largest


def _sentence(found: WorstSegments, chosen: pd.DataFrame) -> str:
    if not len(found.table):
        return "there are too few users of different kinds to search"
    tried, worst = format_count(len(found.table)), found.table.iloc[0]
    if not len(chosen):
        return (
            f"none of {tried} kinds of users is served worse than chance explains; the worst, {worst['segment']}, has "
            f"a deficit of {format_figure(worst['deficit'])} (p {_p(worst['p_value'])} after the search), and a "
            f"deficit of {format_figure(found.smallest_found)} in the smallest kind would have been found"
        )
    row = chosen.iloc[0]
    return (
        f"of {tried} kinds of users, {row['segment']} ({format_count(int(row['users']))} users) is the worst, "
        f"{format_figure(row['mean'])} against {format_figure(row['rest'])} for all others "
        f"(p {_p(row['p_value'])} after the search)"
    )


def _p(value: float) -> str:
    text = format_p(value)
    return text if text.startswith("<") else f"= {text}"


def _block(
    title: str, values: np.ndarray, found: WorstSegments, chosen: pd.DataFrame, config: EvaluationConfig
) -> Block:
    rows = []
    for segment, row in chosen.iterrows():
        inside = values[found.segments.users(segment)]
        interval = bootstrap_means(inside[:, None], num_resamples=config.num_resamples, seed=config.seed)
        mean = {"mean": interval.mean[0], "low": interval.low[0], "high": interval.high[0]}
        figures = [row[name] for name in ("rest", "deficit", "at_least", "effect_size")]
        rows.append([row["segment"], int(row["users"]), mean, *figures, format_p(row["p_value"])])
    note = (
        f"{len(found.table):,} single kinds and pairs of kinds with at least {FEWEST_USERS} users were tried; p and "
        "“at least” hold for all of them together. What a search finds tends to look worse than it is, which the "
        "interval of the mean does not include. Kinds of users that are mostly in a row above are left out."
    )
    columns = ["users of", "users", "mean", "all others", "deficit", "at least", "in standard deviations", "p"]
    return table(title, columns, rows, note=note)

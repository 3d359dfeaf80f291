"""Candidate lists reordered by the user's preferences, diversity and a shop's boosts, buries and pins.

Every weight is 0 by default, and then a list does not change. The boosts of candidate j of user u add to its score in
units of the standard deviation σ_u of the user's candidate scores (1 if they are all equal), so that a weight means the
same for models whose scores differ in scale:

    adjusted(u, j) = score(u, j) + σ_u · (attribute_affinity · affinity(u, j) + repeat_boost · [j in history]
                                          + recency_boost · 2^(-age(u, j) / recency_half_life)
                                          + Σ amounts of boost rules for j - Σ amounts of bury rules for j)

Then rules pin items to positions, and with `diversity` λ > 0 each remaining position goes to the candidate with the
largest (1 - λ) · adjusted / σ_u - λ · (largest similarity to the positions before it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from seqrec_jax.data.attributes import AttributeConfig, encode_attributes
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.reranking.rules import ShopRules, check_column, open_rules
from seqrec_jax.settings import Interval, check_fields, check_value


@dataclass(frozen=True)
class RerankConfig:
    """Weights of the re-ranking step; the module's text has the formula.

    Attributes:
      attribute_affinity: weight of the affinity, the share of the user's recent events whose item has the candidate's
        value of `affinity_attribute` (the mean over its values if it has several).
      affinity_attribute: a column of the item table, such as the category.
      recent_events: number of the user's last events with an item that count as recent.
      repeat_boost: weight of an item of the user's history; negative to hold repeats back.
      recency_boost: weight of the last item of the history, decaying for earlier ones.
      recency_half_life: number of later events after which half of the recency boost is left.
      diversity: λ of maximal marginal relevance, 0 (off) to 1 (ignore the scores after the first position).
      diversity_attributes: columns whose overlap is the similarity (the mean of their Jaccard indices); empty
        means the cosine of item vectors, negative ones counting as 0.
      rules: path of a YAML file of shop rules, see `load_rules`.
    """

    attribute_affinity: float = 0.0
    affinity_attribute: str | None = None
    recent_events: Annotated[int, Interval("[1, inf)")] = 20
    repeat_boost: float = 0.0
    recency_boost: float = 0.0
    recency_half_life: Annotated[float, Interval("(0, inf)")] = 5.0
    diversity: Annotated[float, Interval("[0, 1]")] = 0.0
    diversity_attributes: tuple[str, ...] = ()
    rules: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "reranking")
        if self.attribute_affinity and self.affinity_attribute is None:
            raise ConfigError(
                "reranking.attribute_affinity needs reranking.affinity_attribute, the name of an item column"
            )


# from the index of one candidate of each user `[U]` to its similarity with all of them `[U, C]`
_Similarity: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Reranked(NamedTuple):
    """Lists after re-ranking.

    Attributes:
      item_ids: `[U, K]` int32, 0 after the last item.
      scores: `[U, K]` float32 adjusted scores, -inf after the last item; falling unless diversity or pins
        decided the order.
    """

    item_ids: Int[np.ndarray, "U K"]
    scores: Float[np.ndarray, "U K"]


def make_reranker(
    config: RerankConfig,
    *,
    items: pd.DataFrame | None = None,
    item_vectors: Float[np.ndarray, "V1 E"] | None = None,
    rules: ShopRules | None = None,
) -> Callable[..., Reranked]:
    """A function that re-ranks candidate lists; the rules file and the item table are read here, once.

    Args:
      config: the weights.
      items: V rows in vocabulary order: row j-1 describes item id j. Affinity, rules and
        diversity_attributes need it.
      item_vectors: `[V+1, E]`, for diversity without attributes.
      rules: those of `config.rules`, if they have been opened already; None reads the file.

    Returns:
      `rerank(item_ids, scores, *, histories, k, now=None) -> Reranked`. `item_ids` `[U, C]` are candidates (0
      = empty place), `scores` `[U, C]` theirs, best first (equal ones keep their order), `histories` those of
      the same users, `k` is K; `now`, int seconds UTC, is required if a rule depends on time. Candidates that a filter
      rule takes out are dropped; to get K items in spite of them, apply `ShopRules.eligible_items` before the
      candidates are chosen. `rerank` raises ShapeError for arrays that do not fit, DataError for ids beyond V or
      scores that are not finite, and ConfigError for k < 1 or a missing `now`.

    Raises:
      ConfigError: a weight without what it needs, a wrong rules file, a column that the item table lacks.
      ShapeError: item_vectors of another number of items than the item table.

    Source:
      Carbonell and Goldstein (1998), The Use of MMR, Diversity-Based Reranking (maximal marginal relevance).
    """
    attribute_names = config.diversity_attributes if config.diversity else ()
    reads_rules = rules is None and config.rules is not None
    if items is None and (reads_rules or config.attribute_affinity or attribute_names):
        raise ConfigError("rules, attribute_affinity and diversity_attributes need the item table")
    if items is not None and item_vectors is not None and len(item_vectors) != len(items) + 1:
        raise ShapeError(f"{len(items)} items and {len(item_vectors)} rows of item_vectors, expected one more")
    table = pd.DataFrame() if items is None else items
    shop_rules = open_rules(config.rules, table) if rules is None else rules
    affinity_codes = None
    if config.attribute_affinity:
        affinity_codes = _codes(table, str(config.affinity_attribute), "affinity_attribute")
    diversity_codes = [_codes(table, name, "diversity_attributes") for name in attribute_names]
    unit_vectors = None
    if config.diversity and not attribute_names:
        if item_vectors is None:
            raise ConfigError("diversity needs diversity_attributes or item_vectors to compare items by")
        lengths = np.linalg.norm(item_vectors, axis=1, keepdims=True)
        unit_vectors = np.asarray(item_vectors) / np.where(lengths > 0, lengths, 1)
    num_rows = len(table) + 1 if items is not None else None if item_vectors is None else len(item_vectors)

    def rerank(
        item_ids: Int[np.ndarray, "U C"],
        scores: Float[np.ndarray, "U C"],
        *,
        histories: Sequences,
        k: int,
        now: int | None = None,
    ) -> Reranked:
        item_ids, scores = np.asarray(item_ids), np.asarray(scores)
        _check_candidates(item_ids, scores, histories, k, num_rows)
        real = item_ids > 0
        deviations = _deviations(scores, where=real)[:, None]
        eligible, soft = shop_rules.eligible_items(now), shop_rules.soft_rules(now)
        real = real if eligible is None else real & eligible[item_ids]
        boosts = _preferences(config, item_ids, histories, affinity_codes)
        for amount, matches in soft.boosts:
            boosts = boosts + amount * matches[item_ids]
        pins = [(position, matches[item_ids]) for position, matches in soft.pins]
        adjusted = np.where(real, scores.astype(np.float64) + deviations * boosts, -np.inf)

        order = np.argsort(-adjusted, axis=1, kind="stable")
        ids = np.take_along_axis(np.where(real, item_ids, 0), order, axis=1)
        adjusted = np.take_along_axis(adjusted, order, axis=1)
        sorted_pins = [(position, np.take_along_axis(matches, order, axis=1)) for position, matches in pins]
        slots, free = _pinned_slots(sorted_pins, where=ids > 0, num_slots=k)
        if config.diversity:
            best = np.where(np.isfinite(adjusted[:, :1]), adjusted[:, :1], 0.0)
            relevance = (1 - config.diversity) * np.where(ids > 0, adjusted - best, 0.0) / deviations
            similarity = _similarity(ids, diversity_codes, unit_vectors)
            slots = _fill_diverse(slots, relevance, similarity, weight=config.diversity, where=free)
        else:
            slots = _fill_in_order(slots, where=free)
        # places that nobody took close up: a user with few candidates, or a pin beyond the list's end
        slots = np.take_along_axis(slots, np.argsort(slots < 0, axis=1, kind="stable"), axis=1)[:, :k]
        filled = slots >= 0
        return Reranked(
            np.where(filled, np.take_along_axis(ids, slots, axis=1), 0).astype(np.int32),
            np.where(filled, np.take_along_axis(adjusted, slots, axis=1), -np.inf).astype(np.float32),
        )

    return rerank


def _preferences(
    config: RerankConfig, item_ids: np.ndarray, histories: Sequences, affinity_codes: np.ndarray | None
) -> np.ndarray:
    """`[U, C]` boosts from the user's own events, in standard deviations."""
    boosts = np.zeros(item_ids.shape)
    if not (config.repeat_boost or config.recency_boost or affinity_codes is not None):
        return boosts
    histories = histories.select_events(histories.item_ids > 0)
    users, items = histories.users_of_events, histories.item_ids.astype(np.int64)
    rows = np.arange(len(item_ids))[:, None]
    ages = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(items))
    if config.repeat_boost or config.recency_boost:
        base = int(max(item_ids.max(initial=0), items.max(initial=0))) + 1
        # from the end, so that the first of equal keys is the latest event
        keys, latest = np.unique((users * base + items)[::-1], return_index=True)
        age = _look_up(keys, ages[::-1][latest], rows * base + item_ids, missing=np.inf)
        boosts += config.repeat_boost * np.isfinite(age)
        boosts += config.recency_boost * 2.0 ** (-age / config.recency_half_life)
    if affinity_codes is not None:
        recent = ages < config.recent_events
        base = int(affinity_codes.max(initial=0)) + 1
        event_codes = affinity_codes[items[recent]]
        event_keys = users[recent, None] * base + event_codes
        keys, counts = np.unique(event_keys[event_codes > 0], return_counts=True)
        codes = affinity_codes[item_ids]
        having = _look_up(keys, counts, rows[:, :, None] * base + codes, missing=0.0) * (codes > 0)
        num_values = np.maximum(1, np.sum(codes > 0, axis=2))
        num_recent = np.clip(histories.lengths, 1, config.recent_events)[:, None]
        boosts += config.attribute_affinity * having.sum(axis=2) / num_values / num_recent
    return boosts


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, *, missing: float) -> np.ndarray:
    """The value of each wanted key among sorted unique `keys`, as floats."""
    if not len(keys):
        return np.full(wanted.shape, missing)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places].astype(np.float64), missing)


def _deviations(scores: np.ndarray, *, where: np.ndarray) -> np.ndarray:
    """`[U]` standard deviation of each user's real scores, 1 where they do not differ."""
    counts = np.maximum(1, where.sum(axis=1, keepdims=True))
    values = np.where(where, scores, 0.0).astype(np.float64)
    means = values.sum(axis=1, keepdims=True) / counts
    deviations = np.sqrt(np.sum(np.where(where, (values - means) ** 2, 0.0) / counts, axis=1))
    # equal scores may leave a rounding error in proportion to their size
    return np.where(deviations <= 1e-9 * np.abs(means[:, 0]), 1.0, deviations)


def _pinned_slots(
    pins: Sequence[tuple[int, np.ndarray]], *, where: np.ndarray, num_slots: int
) -> tuple[np.ndarray, np.ndarray]:
    """`[U, S]` index of the candidate pinned at each place or -1, and `[U, C]` which candidates are free."""
    last = max((position for position, _ in pins), default=0)
    slots = np.full((len(where), max(num_slots, last + len(pins))), -1)
    free = where.copy()
    rows = np.arange(len(where))
    for position, matches in pins:
        candidates = matches & free
        users = rows[candidates.any(axis=1)]
        chosen = candidates[users].argmax(axis=1)  # the first match is the best
        place = position - 1 + (slots[users, position - 1 :] < 0).argmax(axis=1)
        slots[users, place] = chosen
        free[users, chosen] = False
    return slots, free


def _fill_in_order(slots: np.ndarray, *, where: np.ndarray) -> np.ndarray:
    """Open places filled with the candidates of `where` `[U, C]` from the best down."""
    counts = where.sum(axis=1, keepdims=True)
    order = np.argsort(~where, axis=1, kind="stable")
    turn = np.cumsum(slots < 0, axis=1) - 1
    next_best = np.take_along_axis(order, np.clip(turn, 0, where.shape[1] - 1), axis=1)
    return np.where(slots >= 0, slots, np.where(turn < counts, next_best, -1))


def _fill_diverse(
    slots: np.ndarray, relevance: np.ndarray, similarity: _Similarity, *, weight: float, where: np.ndarray
) -> np.ndarray:
    """Open places filled by maximal marginal relevance, one place after the other for all users at once."""
    slots, free = slots.copy(), where.copy()
    rows = np.arange(len(slots))
    nearest = np.zeros(relevance.shape)
    for place in range(slots.shape[1]):
        value = np.where(free, relevance - weight * nearest, -np.inf)
        greedy = np.where(free.any(axis=1), value.argmax(axis=1), -1)
        chosen = np.where(slots[:, place] < 0, greedy, slots[:, place])
        slots[:, place] = chosen
        taken = chosen >= 0
        free[rows[taken], chosen[taken]] = False
        nearest = np.where(taken[:, None], np.maximum(nearest, similarity(chosen)), nearest)
    return slots


def _similarity(ids: np.ndarray, codes: list[np.ndarray], unit_vectors: np.ndarray | None) -> _Similarity:
    rows = np.arange(len(ids))
    if unit_vectors is not None:
        vectors = unit_vectors[ids]
        return lambda chosen: np.einsum("uce,ue->uc", vectors, vectors[rows, chosen])
    tables = [table[ids] for table in codes]

    def overlap(chosen: np.ndarray) -> np.ndarray:
        total = np.zeros(ids.shape)
        for table in tables:
            one = table[rows, chosen]
            equal = (table[:, :, :, None] == one[:, None, None, :]) & (table[:, :, :, None] > 0)
            shared = equal.sum(axis=(2, 3))
            either = (table > 0).sum(axis=2) + (one > 0).sum(axis=1)[:, None] - shared
            total += shared / np.maximum(1, either)
        return total / len(tables)

    return overlap


def _codes(items: pd.DataFrame, name: str, place: str) -> np.ndarray:
    """`[V+1, M]` codes of an item column with one or several values."""
    check_column(items, name, place)
    return encode_attributes(items, AttributeConfig(multi_categorical=(name,)))[0].multi_categorical[name]


def _check_candidates(
    item_ids: np.ndarray, scores: np.ndarray, histories: Sequences, k: int, num_rows: int | None
) -> None:
    check_value("k", k, "[1, inf)")
    users, shapes = histories.num_users, (item_ids.shape, scores.shape)
    if shapes[0] != shapes[1] or item_ids.ndim != 2 or not item_ids.shape[1] or len(item_ids) != users:
        raise ShapeError(
            f"item_ids and scores of {users} users must both be [{users}, C] with C at least 1, got {shapes}"
        )
    limit = np.iinfo(np.int32).max if num_rows is None else num_rows - 1
    for what, ids in (("candidates", item_ids), ("histories", histories.item_ids)):
        if ids.size and not (ids.min() >= 0 and ids.max() <= limit):
            raise DataError(f"item ids of {what} run from {ids.min()} to {ids.max()}, expected 0 to {limit}")
    bad = (item_ids > 0) & ~np.isfinite(scores)
    if bad.any():
        user, place = np.argwhere(bad)[0]
        raise DataError(
            f"the score of item {item_ids[user, place]} of user {user} is {scores[user, place]} "
            f"({int(bad.sum())} such scores); give an excluded item the id 0"
        )

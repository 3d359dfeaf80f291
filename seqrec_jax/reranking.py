"""The last step before a list is shown: the user's preferences, diversity and shop rules reorder candidates.

Every weight is off by default; with all of them off a list comes out as it went in. The boosts of candidate
j of user u add to its score in units of the standard deviation σ_u of the user's candidate scores (1 where
they are all equal), so that a weight means the same for models whose scores differ in scale:

    adjusted(u, j) = score(u, j) + σ_u · (attribute_affinity · affinity(u, j) + repeat_boost · [j in history]
                                          + recency_boost · 2^(-age(u, j) / recency_half_life)
                                          + Σ amounts of boost rules for j - Σ amounts of bury rules for j)

Then rules filter and pin, and with `diversity` λ > 0 each free place goes to the candidate with the largest
(1 - λ) · adjusted / σ_u - λ · (largest similarity to the places before it).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Bool, Float, Int

from seqrec_jax.data.attributes import AttributeConfig, encode_attributes
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError


@dataclass(frozen=True)
class RerankConfig:
    """Weights of the re-ranking step; the module's text has the formula.

    Attributes:
      attribute_affinity: weight of the affinity: how large a share of the user's recent events went to items
        with the candidate's value of `affinity_attribute` (the mean over its values where it has several).
      affinity_attribute: a column of the item table, such as the category.
      recent_events: how many of the user's last events with an item count as recent.
      repeat_boost: added for items of the user's history; negative to hold repeats back.
      recency_boost: added for the last item of the history, less for earlier ones.
      recency_half_life: after how many further events half of the recency boost is left.
      diversity: λ of maximal marginal relevance, 0 (off) to 1 (ignore the scores after the first place).
      diversity_attributes: columns whose overlap is the similarity (the mean of their Jaccard indices); empty
        means the cosine of item vectors, negative ones counting as 0.
      rules: path of a YAML file of shop rules, see `load_rules`.
    """

    attribute_affinity: float = 0.0
    affinity_attribute: str | None = None
    recent_events: int = 20
    repeat_boost: float = 0.0
    recency_boost: float = 0.0
    recency_half_life: float = 5.0
    diversity: float = 0.0
    diversity_attributes: tuple[str, ...] = ()
    rules: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity must be between 0 and 1, got {self.diversity}")
        if self.recent_events < 1:
            raise ConfigError(f"recent_events must be at least 1, got {self.recent_events}")
        if not self.recency_half_life > 0:
            raise ConfigError(f"recency_half_life must be positive, got {self.recency_half_life}")
        if self.attribute_affinity and self.affinity_attribute is None:
            raise ConfigError("attribute_affinity needs affinity_attribute, the name of an item column")


@dataclass(frozen=True)
class Rule:
    """One shop rule; see `load_rules`.

    Attributes:
      action: what happens to matching items.
      where: column to a value, a list of values, or a range {min, max}; an item matches all of them.
      amount: how much a boost adds or a bury takes away, in standard deviations of the user's scores.
      position: the 1-based place of a pin.
      start: int seconds UTC from which the rule holds, None = always did.
      end: int seconds UTC from which it no longer holds, None = never ends.
    """

    action: Literal["filter", "boost", "bury", "pin"]
    where: dict[str, Any]
    amount: float = 0.0
    position: int = 0
    start: int | None = None
    end: int | None = None


# from the index of one candidate of each user `[U]` to its similarity with all of them `[U, C]`
_Similarity: TypeAlias = Callable[[np.ndarray], np.ndarray]


class Reranked(NamedTuple):
    """Lists after re-ranking.

    Attributes:
      item_ids: `[U, K]` int32, 0 behind the last item.
      scores: `[U, K]` float32 adjusted scores, -inf behind the last item; falling unless diversity or pins
        decided the order.
    """

    item_ids: np.ndarray
    scores: np.ndarray


def make_reranker(
    config: RerankConfig,
    *,
    items: pd.DataFrame | None = None,
    item_vectors: Float[np.ndarray, "V+1 E"] | None = None,
) -> Callable[..., Reranked]:
    """A function that re-ranks candidate lists; the rules file and the item table are read here, once.

    Args:
      config: the weights.
      items: V rows in vocabulary order: row j-1 describes item id j. Affinity, rules and
        diversity_attributes need it.
      item_vectors: `[V+1, E]`, for diversity without attributes.

    Returns:
      `rerank(item_ids, scores, *, histories, k, now=None) -> Reranked`. `item_ids` `[U, C]` are candidates (0
      = empty place), `scores` `[U, C]` theirs, best first (equal ones keep their order), `histories` those of
      the same users, `k` is K; `now`, int seconds UTC, is needed where rules depend on time. It raises
      ShapeError for arrays that do not fit, DataError for ids beyond V or scores that are not finite, and
      ConfigError for k < 1 or a missing `now`.

    Raises:
      ConfigError: a weight without what it needs, a wrong rules file, a column that the item table lacks.
      ShapeError: item_vectors of another number of items than the item table.

    Source:
      Carbonell and Goldstein (1998), The Use of MMR, Diversity-Based Reranking (maximal marginal relevance).
    """
    rules = () if config.rules is None else load_rules(config.rules)
    attribute_names = config.diversity_attributes if config.diversity else ()
    if items is None and (rules or config.attribute_affinity or attribute_names):
        raise ConfigError("rules, attribute_affinity and diversity_attributes need the item table")
    if items is not None and item_vectors is not None and len(item_vectors) != len(items) + 1:
        raise ShapeError(f"{len(items)} items and {len(item_vectors)} rows of item_vectors, expected one more")
    table = pd.DataFrame() if items is None else items
    places = [f"{config.rules}: rule {number}" for number in range(1, len(rules) + 1)]
    masks = [matching_items(rule, table, place=place) for rule, place in zip(rules, places, strict=True)]
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
        boosts = _preferences(config, item_ids, histories, affinity_codes)
        pins: list[tuple[int, np.ndarray]] = []
        for rule, mask, place in zip(rules, masks, places, strict=True):
            matches = mask[item_ids] & _holds(rule, now, place)
            if rule.action == "filter":
                real = real & ~matches
            elif rule.action == "pin":
                pins.append((rule.position, matches))
            else:
                boosts = boosts + (rule.amount if rule.action == "boost" else -rule.amount) * matches
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


def load_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read a YAML file of shop rules.

    The file is a list. Each rule has an `action`; `where`, which items it is for, by columns of the item
    table: a value, a list of which one is enough, or numbers `{min: …, max: …}`, ends included (where an item
    has several values, one is enough too); and, if it holds for a time only, `from` (included) and `until`
    (not included), ISO dates or times, UTC unless they say otherwise.

    - `filter` takes matching items out.
    - `boost` and `bury` raise and lower matching items by `amount` standard deviations of the user's scores.
    - `pin` puts the best matching candidate that no earlier pin took at `position` (1 is the top), or at the
      next place free of pins. An item that is no candidate of the user is not brought in.

        - {action: filter, where: {in_stock: false}}
        - {action: boost, where: {brand: [Acme, Zeta], price: {max: 20}}, amount: 0.5, until: 2030-01-01}
        - {action: pin, where: {item_id: "A17"}, position: 1}

    Raises:
      ConfigError: a file that is missing or not a YAML list; a rule with an unknown action or key, without
        what its action needs, or with a time that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no rules file {path}")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-02-30 is a plain ValueError
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise ConfigError(f"{path} must hold a list of rules, each starting with '- action:', got {entries!r}")
    return tuple(_rule(entry, place=f"{path}: rule {n}") for n, entry in enumerate(entries, start=1))


def matching_items(rule: Rule, items: pd.DataFrame, *, place: str = "rule") -> Bool[np.ndarray, " V+1"]:
    """Which items a rule is for; a rule that matches none may have a value misspelt.

    Args:
      rule: the rule.
      items: V rows in vocabulary order.
      place: how an error's text starts.

    Returns:
      `[V+1]`, row j for item id j; row 0 is False.

    Raises:
      ConfigError: a column that the table lacks, or a range on a column that is not numeric.
    """
    matches = np.arange(len(items) + 1) > 0
    for name, wanted in rule.where.items():
        _check_column(items, name, place)
        if isinstance(wanted, dict):
            if not pd.api.types.is_numeric_dtype(items[name]):
                raise ConfigError(f"{place}: column {name!r} is not numeric, so give values, not {wanted}")
            numbers = items[name].to_numpy(dtype=np.float64, na_value=np.nan)
            inside = (numbers >= wanted.get("min", -np.inf)) & (numbers <= wanted.get("max", np.inf))
            matches[1:] &= inside
        else:
            config = AttributeConfig(multi_categorical=(name,))
            attributes, vocabulary = encode_attributes(items, config)
            values = pd.DataFrame({name: [wanted if isinstance(wanted, list) else [wanted]]})
            codes = encode_attributes(values, config, vocabulary=vocabulary)[0].multi_categorical[name][1]
            matches &= np.isin(attributes.multi_categorical[name], codes[codes > 0]).any(axis=1)
    return matches


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


def _rule(entry: Any, *, place: str) -> Rule:
    if not isinstance(entry, dict):
        raise ConfigError(f"{place} must have keys such as action and where, got {entry!r}")
    needs = {"filter": (), "boost": ("amount",), "bury": ("amount",), "pin": ("position",)}
    action, where = entry.get("action"), entry.get("where")
    if action not in needs:
        raise ConfigError(f"{place}: action must be of {list(needs)}, got {action!r}{_hint(action, needs)}")
    keys = ("action", "where", "from", "until", *needs[action])
    for key in entry:
        if key not in keys:
            raise ConfigError(f"{place}: a {action} rule has the keys {keys}, not {key!r}{_hint(key, keys)}")
    if not isinstance(where, dict) or not where:
        raise ConfigError(f"{place}: where must name item columns and their values, got {where!r}")
    for name, wanted in where.items():
        _check_wanted(wanted, f"{place}: column {name!r}")
    amount, position = entry.get("amount", 0.0), entry.get("position", 0)
    if "amount" in keys and not (_is_number(amount) and 0 < amount < float("inf")):
        raise ConfigError(f"{place}: a {action} rule needs amount, a positive number, got {amount!r}")
    if "position" in keys and not (type(position) is int and position >= 1):
        raise ConfigError(f"{place}: a pin rule needs position, 1 for the top, got {position!r}")
    start, end = (_seconds(entry.get(key), f"{place}: {key}") for key in ("from", "until"))
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"{place} never holds: from {entry['from']} is not before until {entry['until']}")
    where = {str(name): wanted for name, wanted in where.items()}
    return Rule(action, where, amount, position, start, end)


def _check_wanted(wanted: Any, place: str) -> None:
    if isinstance(wanted, dict):
        if not wanted or set(wanted) - {"min", "max"} or not all(map(_is_number, wanted.values())):
            raise ConfigError(f"{place}: a range is numbers {{min: …, max: …}}, got {wanted!r}")
        return
    values = wanted if isinstance(wanted, list) else [wanted]
    if not values or not all(isinstance(value, str | int | float | date) for value in values):
        raise ConfigError(f"{place}: expected a value, a list of values or a range, got {wanted!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(moment: Any, place: str) -> int | None:
    """Seconds UTC of an ISO text or what YAML has already made of it."""
    if moment is None:
        return None
    try:
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        elif not isinstance(moment, datetime):
            moment = datetime.fromisoformat(str(moment))
    except ValueError as error:
        raise ConfigError(f"{place} must be an ISO time such as 2030-01-31T18:00, got {moment!r}") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _holds(rule: Rule, now: int | None, place: str) -> bool:
    if rule.start is None and rule.end is None:
        return True
    if now is None:
        raise ConfigError(f"{place} holds for a time only; say at what time to re-rank (now, seconds UTC)")
    return (rule.start is None or rule.start <= now) and (rule.end is None or now < rule.end)


def _codes(items: pd.DataFrame, name: str, place: str) -> np.ndarray:
    """`[V+1, M]` codes of an item column with one or several values."""
    _check_column(items, name, place)
    return encode_attributes(items, AttributeConfig(multi_categorical=(name,)))[0].multi_categorical[name]


def _check_column(items: pd.DataFrame, name: str, place: str) -> None:
    columns = [str(column) for column in items.columns]
    if name not in columns:
        raise ConfigError(f"{place}: items have no column {name!r}, only {columns}{_hint(name, columns)}")


def _hint(found: Any, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(found), list(names), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _check_candidates(
    item_ids: np.ndarray, scores: np.ndarray, histories: Sequences, k: int, num_rows: int | None
) -> None:
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
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

"""A shop's rules: which items may be listed (hard), and which are boosted, buried or pinned (soft)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from jaxtyping import Bool

from seqrec_jax.data.attributes import AttributeConfig, encode_attributes
from seqrec_jax.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """One shop rule; `load_rules` describes the file.

    Attributes:
      action: what happens to matching items.
      where: item column to a value, a list of values, or a range {min, max}; an item must match every column.
      amount: what a boost adds or a bury subtracts, in standard deviations of the user's scores.
      position: 1-based place of a pin.
      start: int seconds UTC from which the rule is in force; None = no start.
      end: int seconds UTC from which it is no longer in force; None = no end.
    """

    action: Literal["filter", "boost", "bury", "pin"]
    where: dict[str, Any]
    amount: float = 0.0
    position: int = 0
    start: int | None = None
    end: int | None = None


class SoftRules(NamedTuple):
    """The boosts, buries and pins in force at a time, in the order of the file.

    Attributes:
      boosts: pairs of an amount, in standard deviations of the user's scores (negative for a bury), and `[V+1]` bool
        that is True for the items to which it is added.
      pins: pairs of a 1-based position and `[V+1]` bool that is True for the items that may take it.
    """

    boosts: tuple[tuple[float, Bool[np.ndarray, " V1"]], ...] = ()
    pins: tuple[tuple[int, Bool[np.ndarray, " V1"]], ...] = ()


@dataclass(frozen=True)
class ShopRules:
    """A rules file matched once with an item table of V items; made by `open_rules`.

    Attributes:
      rules: the rules, in the order of the file.
      matches: for each rule, `[V+1]` bool that is True for the items it is about; row 0 is False.
      places: for each rule, the start of an error message about it, such as `rules.yaml: rule 2`.
    """

    rules: tuple[Rule, ...]
    matches: tuple[Bool[np.ndarray, " V1"], ...]
    places: tuple[str, ...]

    def eligible_items(self, now: int | None) -> Bool[np.ndarray, " V1"] | None:
        """The items that the filter rules in force leave in.

        Args:
          now: int seconds UTC; required if a rule has a `from` or an `until`.

        Returns:
          `[V+1]` bool, row 0 False; None if the file has no rules.

        Raises:
          ConfigError: `now` is None and a filter rule depends on time.
        """
        if not self.rules:
            return None
        eligible = np.arange(len(self.matches[0])) > 0
        for _, matches in self._in_force(("filter",), now):
            eligible &= ~matches
        return eligible

    def soft_rules(self, now: int | None) -> SoftRules:
        """The boosts, buries and pins in force.

        Args:
          now: int seconds UTC; required if a rule has a `from` or an `until`.

        Raises:
          ConfigError: `now` is None and such a rule depends on time.
        """
        found = self._in_force(("boost", "bury", "pin"), now)
        return SoftRules(
            tuple(
                (rule.amount if rule.action == "boost" else -rule.amount, matches)
                for rule, matches in found
                if rule.action != "pin"
            ),
            tuple((rule.position, matches) for rule, matches in found if rule.action == "pin"),
        )

    def _in_force(self, actions: tuple[str, ...], now: int | None) -> list[tuple[Rule, np.ndarray]]:
        return [
            (rule, matches)
            for rule, matches, place in zip(self.rules, self.matches, self.places, strict=True)
            if rule.action in actions and _is_in_force(rule, now, place)
        ]


def open_rules(path: str | Path | None, items: pd.DataFrame) -> ShopRules:
    """Read a rules file and match each rule with the items.

    `ShopRules.eligible_items(now)` is the hard mask over items that belongs before top-k; `ShopRules.soft_rules(now)`
    are the terms that reorder a list after it.

    Args:
      path: YAML file, see `load_rules`; None for no rules.
      items: V rows in vocabulary order: row j-1 describes item id j.

    Raises:
      ConfigError: as `load_rules` and `matching_items`.
    """
    rules = () if path is None else load_rules(path)
    places = tuple(f"{path}: rule {number}" for number in range(1, len(rules) + 1))
    matches = tuple(matching_items(rule, items, place=place) for rule, place in zip(rules, places, strict=True))
    return ShopRules(rules, matches, places)


def load_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read a YAML file of shop rules.

    The file is a list. Each rule has an `action` and `where`: item columns with a value, a list of values of which one
    must match, or numbers `{min: …, max: …}`, ends included (if an item has several values, one must match). A rule for
    a limited time also has `from` (included) and `until` (not included), ISO dates or times, UTC unless they state a
    zone.

    - `filter` takes matching items out.
    - `boost` and `bury` raise and lower matching items by `amount` standard deviations of the user's scores.
    - `pin` puts the best matching candidate that no earlier pin took at `position` (1 is the top), or at the
      next place free of pins. An item that is not a candidate of the user is not added.

        - {action: filter, where: {in_stock: false}}
        - {action: boost, where: {brand: [Acme, Zeta], price: {max: 20}}, amount: 0.5, until: 2030-01-01}
        - {action: pin, where: {item_id: "A17"}, position: 1}

    Raises:
      ConfigError: the file is missing or not a YAML list; a rule has an unknown action or key, lacks a key that its
        action requires, or has a time that cannot be read.
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


def matching_items(rule: Rule, items: pd.DataFrame, *, place: str = "rule") -> Bool[np.ndarray, " V1"]:
    """The items that a rule is about; none may mean that a value is misspelt.

    Args:
      rule: the rule.
      items: V rows in vocabulary order.
      place: start of an error message.

    Returns:
      `[V+1]` bool, row j for item id j; row 0 is False.

    Raises:
      ConfigError: a column that the table lacks, or a range on a column that is not numeric.
    """
    matches = np.arange(len(items) + 1) > 0
    for name, wanted in rule.where.items():
        check_column(items, name, place)
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


def check_column(items: pd.DataFrame, name: str, place: str) -> None:
    """Raise a ConfigError that starts with `place` and names near columns unless the item table has the column."""
    columns = [str(column) for column in items.columns]
    if name not in columns:
        raise ConfigError(f"{place}: items have no column {name!r}, only {columns}{_hint(name, columns)}")


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
    """Seconds UTC of an ISO text, or of the date or time that YAML has already made of it."""
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


def _is_in_force(rule: Rule, now: int | None, place: str) -> bool:
    if rule.start is None and rule.end is None:
        return True
    if now is None:
        raise ConfigError(f"{place} holds for a time only; give the time of the list as now, int seconds UTC")
    return (rule.start is None or rule.start <= now) and (rule.end is None or now < rule.end)


def _hint(found: Any, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(str(found), list(names), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""

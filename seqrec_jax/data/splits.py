"""Named, exact splits of a log into train, validation and test, and the evaluation cases that follow from them.

A split gives every event one part. A case is a user with a history and the held-out items that follow it; the history
ends before the first held-out event, so it never contains the future.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from seqrec_jax.data.candidates import UserCandidates
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import Interval, check_choice, check_fields

TRAIN, VALIDATION, TEST, HISTORY = 0, 1, 2, 3
"""Parts of a split; HISTORY events are neither trained on nor predicted, but precede a held-out event."""

SplitRule = Literal["leave_one_out", "global_timeline", "user_holdout", "item_holdout", "random_ratio"]
Stage = Literal["validation", "test"]


@dataclass(frozen=True)
class SplitConfig:
    """The rule by which a log is split.

    Attributes:
      rule: leave_one_out (each user's last target is test, the one before validation; users with fewer than
        three targets are only trained on), global_timeline (train before t1, validate t1 to t2, test from t2),
        user_holdout (some users are never trained on), item_holdout (some items are never trained on) or
        random_ratio (leaks the future; for comparison only).
      validation_fraction: share of the validation part, at least one: of the events (global_timeline, random_ratio), of
        the users (user_holdout) or of the items that are a target (item_holdout).
      test_fraction: the same for the test part.
      validation_users: leave_one_out only; share of the users whose event before the last one is in the validation. A
        model is trained on that event of the other users, so that it knows nearly all that came before the test.
      validation_start: ISO time t1 of the timeline; together with test_start it replaces the fractions.
      test_start: ISO time t2 of the timeline.
      target_behaviors: behaviours that can be a target, such as purchase; empty means all that have an item.
      seed: seed of the random rules.

    Raises:
      ConfigError: a value out of its range, an unknown rule, fractions that leave no events to train on, or a field
        that the rule does not have.
    """

    rule: SplitRule = "global_timeline"
    validation_fraction: Annotated[float, Interval("(0, 1)")] = 0.1
    test_fraction: Annotated[float, Interval("(0, 1)")] = 0.1
    validation_users: Annotated[float, Interval("(0, 1]")] = 1.0
    validation_start: str | None = None
    test_start: str | None = None
    target_behaviors: tuple[str, ...] = ()
    seed: Annotated[int, Interval("[0, inf)")] = 0

    def __post_init__(self) -> None:
        check_fields(self, "split")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"split.validation_fraction + split.test_fraction must leave events to train on, got "
                f"{self.validation_fraction} + {self.test_fraction}"
            )
        if self.validation_users < 1 and self.rule != "leave_one_out":
            raise ConfigError(f"split.validation_users belongs to the rule leave_one_out, got {self.rule}")
        if (self.validation_start is None) != (self.test_start is None):
            raise ConfigError("split.validation_start and split.test_start must be given together")
        if self.validation_start is not None and self.rule != "global_timeline":
            raise ConfigError(f"split.validation_start belongs to the rule global_timeline, got {self.rule}")
        for name in ("validation_start", "test_start"):
            _start_seconds(getattr(self, name), name)
        if isinstance(self.target_behaviors, str):
            raise ConfigError(f"split.target_behaviors must be a list of names, got the text {self.target_behaviors!r}")


@dataclass(frozen=True)
class Split:
    """The part of each event of a log.

    Attributes:
      parts: `[N]` int8 part of each event, TRAIN, VALIDATION, TEST or HISTORY.
      targets: `[N]` bool, True for events that can be a target: they have an item and a target behaviour.
      config: the rule and its parameters.
      cuts: t1 and t2 in seconds for a timeline, else empty.
    """

    parts: np.ndarray
    targets: np.ndarray
    config: SplitConfig
    cuts: dict[str, int]

    def describe(self) -> str:
        """The split in one sentence, for reports."""
        if self.config.rule == "global_timeline":
            when = {name: pd.Timestamp(time, unit="s").isoformat() for name, time in self.cuts.items()}
            how = f"train before {when['validation_start']}, validate until {when['test_start']}, test after"
        else:
            validation, test = 100 * self.config.validation_fraction, 100 * self.config.test_fraction
            share = f"{validation:g}% validation, {test:g}% test"
            whose = "" if self.config.validation_users == 1 else f" of {100 * self.config.validation_users:g}% of them"
            how = {
                "leave_one_out": f"each user's last target is the test, the one before{whose} the validation",
                "user_holdout": f"whole users held out ({share}); their last target is predicted",
                "item_holdout": f"whole items held out ({share})",
                "random_ratio": f"events at random ({share}); leaks the future into training",
            }[self.config.rule]
        return f"{self.config.rule}: {how}; targets are events of {_target_names(self.config)}"

    def to_dict(self) -> dict[str, Any]:
        """The rule, for `dataset.json`; the parts are stored with the sequences."""
        rule = asdict(self.config)
        if self.config.validation_users == 1:
            del rule["validation_users"]  # the fingerprint of a dataset from before this field stays
        return {**rule, "cuts": self.cuts}


@dataclass(frozen=True)
class EvaluationCases:
    """The evaluation cases (users, histories, targets, candidates) that a protocol selects, one for each of U users.

    Attributes:
      users: `[U]` int64 index of each user in the dataset's sequences.
      histories: the events of the same U users that a recommender may use.
      target_offsets: `[U+1]` int64; the targets of case u are `target_offsets[u]:target_offsets[u+1]`.
      target_items: `[T]` int32 distinct held-out items of each case, in the order of their first event.
      target_events: `[T]` int64 place of each target's first held-out event in the dataset's sequences.
      candidates: `[V+1]` bool, the items that could be recommended at that time; entry 0 is False.
      users_without_history: number of users with targets who are left out because their history is too short.
      target_gains: `[T]` float32 largest gain of each target's held-out events; None if no gains were given.
      selection: the options of `evaluation_cases` by name; None for cases that were made otherwise.
      user_candidates: which of the candidates each user may be shown; None where it is the same for all.
    """

    users: np.ndarray
    histories: Sequences
    target_offsets: np.ndarray
    target_items: np.ndarray
    target_events: np.ndarray
    candidates: np.ndarray
    users_without_history: int
    target_gains: np.ndarray | None = None
    selection: dict[str, Any] | None = None
    user_candidates: UserCandidates | None = None

    @property
    def num_targets(self) -> np.ndarray:
        """`[U]` int64 number of targets P of each user."""
        return np.diff(self.target_offsets)

    def padded(self, of_targets: np.ndarray, cases: np.ndarray, *, width: int | None = None) -> np.ndarray:
        """`[U', P]` a value of each target `[T]` for some cases, 0 = none.

        P is `width`, or, for None, the most targets that any case has; targets beyond it are left out.
        """
        if width is None:
            width = int(self.num_targets.max(initial=0))
        counts = np.minimum(self.target_offsets[cases + 1] - self.target_offsets[cases], width)
        padded = np.zeros((len(cases), width), dtype=of_targets.dtype)
        padded[np.arange(width) < counts[:, None]] = of_targets[_ranges(self.target_offsets[cases], counts)]
        return padded

    @property
    def num_candidates(self) -> np.ndarray:
        """`[U]` int64 number of items that could be recommended to each user."""
        counts = np.full(len(self.users), int(self.candidates.sum()), dtype=np.int64)
        if self.user_candidates is None:
            return counts
        own = self.user_candidates
        users = np.repeat(np.arange(own.num_users), np.diff(own.offsets))
        listed = np.bincount(users[self.candidates[own.item_ids]], minlength=own.num_users)
        return listed if own.rule == "allowed" else counts - listed

    def candidate_mask(self, cases: np.ndarray) -> np.ndarray:
        """`[U', V+1]` bool, the items that could be recommended to the users of some cases `[U']`.

        Where they are the same for all users it has one row, `[1, V+1]`.
        """
        if self.user_candidates is None:
            return self.candidates[None]
        return self.user_candidates.mask(cases) & self.candidates

    def are_candidates(self, cases: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        """`[M]` bool, whether each item number 0…V `[M]` could be recommended in the case `[M]` beside it."""
        common = self.candidates[item_ids]
        return common if self.user_candidates is None else common & self.user_candidates.contain(cases, item_ids)

    def targets_available(self) -> np.ndarray:
        """`[T]` bool, targets that could be recommended to their user."""
        return self.are_candidates(np.repeat(np.arange(len(self.users)), self.num_targets), self.target_items)

    def targets_seen(self) -> np.ndarray:
        """`[T]` bool, targets whose item is in their user's history."""
        return self.histories.contain(np.repeat(np.arange(len(self.users)), self.num_targets), self.target_items)

    def targets_of(self, cases: np.ndarray) -> np.ndarray:
        """Places of the targets of some cases in `[T]`, case by case."""
        starts = self.target_offsets[cases]
        return _ranges(starts, self.target_offsets[cases + 1] - starts)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`start, start + 1, …` of so many numbers each, one range after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def split_events(
    sequences: Sequences, config: SplitConfig, *, behaviors: Sequence[str], time_kind: str = "seconds"
) -> Split:
    """The split of a log: a part for each event.

    Args:
      sequences: U users, N events in order.
      config: the rule.
      behaviors: names of the behaviours in the order of their codes.
      time_kind: "seconds", or "order" for a log without times.

    Returns:
      The split.

    Raises:
      DataError: unknown target behaviour, a timeline on a log without times or with cuts outside it, or a
        split that leaves a part without any event to train on or to predict.

    Warns:
      UserWarning: random_ratio leaks the future.
    """
    targets = _target_mask(sequences, config, behaviors)
    rng = np.random.default_rng(config.seed)
    cuts: dict[str, int] = {}
    if config.rule == "leave_one_out":
        parts = _leave_last_two(sequences, targets, config, rng)
    elif config.rule == "global_timeline":
        cuts = _timeline_cuts(sequences, config, time_kind)
        parts = np.full(len(sequences.item_ids), TRAIN, dtype=np.int8)
        parts[sequences.timestamps >= cuts["validation_start"]] = VALIDATION
        parts[sequences.timestamps >= cuts["test_start"]] = TEST
    elif config.rule == "user_holdout":
        parts = _hold_out_users(sequences, targets, config, rng)
    elif config.rule == "item_holdout":
        items = np.unique(sequences.item_ids[targets])
        of_item = np.full(int(sequences.item_ids.max(initial=0)) + 1, TRAIN, dtype=np.int8)
        of_item[items] = _random_parts(len(items), config, rng)
        parts = of_item[sequences.item_ids]
    else:
        warnings.warn("random_ratio trains on events that happen after the ones it tests", stacklevel=2)
        parts = _random_parts(len(sequences.item_ids), config, rng)
    for name, part in {"training": TRAIN, "validation": VALIDATION, "test": TEST}.items():
        if not np.any((parts == part) & (targets | (part == TRAIN))):
            kind = "" if part == TRAIN else f" of {_target_names(config)} with an item"
            way_out = {
                "leave_one_out": "it takes a user with at least three of them; choose another split.rule",
                "global_timeline": "move split.validation_start and test_start, or change the fractions",
            }.get(config.rule, "change split.validation_fraction or split.test_fraction")
            raise DataError(
                f"the {config.rule} split leaves no {name} events{kind} among {len(parts)} events of "
                f"{sequences.num_users} users; {way_out}, or bring a longer log"
            )
    return Split(parts, targets, config, cuts)


def evaluation_cases(
    sequences: Sequences,
    split: Split,
    *,
    stage: Stage,
    num_items: int,
    available_from: np.ndarray | None = None,
    targets: str = "all",
    min_history: int = 1,
    gains: np.ndarray | None = None,
) -> EvaluationCases:
    """The evaluation cases of a stage: the users with a held-out target, their histories and targets.

    The history of a user is what came before the first target of that stage, without events of held-out
    items or later parts. At the test stage it includes the validation events, except under item_holdout, where
    those items are unknown to the model.

    Args:
      sequences: U users in order.
      split: their split.
      stage: "validation" or "test".
      num_items: V.
      available_from: `[V+1]` seconds at which an item can first be recommended; None means its first event in
        the log. Only a timeline, which has one moment of recommendation, restricts the candidates by it.
      targets: which of a user's held-out events are targets: "all", "next", "next 5" (any number, their distinct
        items), or "basket" (the next one and those of the same time, such as the lines of an invoice).
      min_history: users with a history of fewer events are left out and counted.
      gains: `[H]` gain of a target by its behaviour, for graded metrics; None for no gains.

    Returns:
      The cases, users in the order of `sequences`.

    Raises:
      DataError: no user is left to evaluate, or `available_from` is not one time an item.
      ConfigError: an unknown stage or targets, or gains that are not one a behaviour.
    """
    num_next = num_next_targets(targets)
    check_choice("stage", stage, Stage)
    part = VALIDATION if stage == "validation" else TEST
    held_out = (split.parts == part) & split.targets
    first = _first_event(sequences, held_out)
    history_parts = [TRAIN, HISTORY]
    if stage == "test" and split.config.rule != "item_holdout":
        history_parts.append(VALIDATION)
    users = sequences.users_of_events
    before = np.arange(len(users)) < first[users]
    histories = sequences.select_events(before & np.isin(split.parts, history_parts))
    has_target = first < np.iinfo(np.int64).max
    evaluated = np.flatnonzero(has_target & (histories.lengths >= min_history))
    if not len(evaluated):
        raise DataError(
            f"no user has a {stage} target and a history of at least {min_history} events "
            f"({int(has_target.sum())} have a target); lower min_history or choose another split"
        )
    if targets == "basket":
        held_out &= sequences.timestamps == sequences.timestamps[np.minimum(first, len(users) - 1)][users]
    elif num_next is not None:
        so_far = np.cumsum(held_out)
        before_first = np.where(has_target, so_far[np.minimum(first, len(users) - 1)] - 1, 0)
        held_out &= so_far - before_first[users] <= num_next
    events = np.flatnonzero(held_out & np.isin(users, evaluated))
    pairs = pd.DataFrame({"user": users[events], "item": sequences.item_ids[events], "event": events})
    best_gains = None
    if gains is not None:
        if len(gains) <= sequences.behaviors.max(initial=0):
            raise ConfigError(f"gains has {len(gains)} entries, the log has behaviour {sequences.behaviors.max()}")
        pairs["gain"] = np.asarray(gains, dtype=np.float32)[sequences.behaviors[events]]
        best_gains = pairs.groupby(["user", "item"], sort=False)["gain"].max().to_numpy(dtype=np.float32)
    pairs = pairs.drop_duplicates(["user", "item"])
    counts = np.bincount(pairs["user"], minlength=sequences.num_users)[evaluated]
    return EvaluationCases(
        users=evaluated,
        histories=histories.select_users(evaluated),
        target_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        target_items=pairs["item"].to_numpy(dtype=np.int32),
        target_events=pairs["event"].to_numpy(dtype=np.int64),
        target_gains=best_gains,
        selection={"stage": stage, "targets": targets, "min_history": min_history},
        candidates=_candidates(sequences, split, part, num_items, available_from),
        users_without_history=int(has_target.sum()) - len(evaluated),
    )


def num_next_targets(targets: str) -> int | None:
    """Number of a user's next held-out events that are targets, None for "all" and "basket".

    Raises:
      ConfigError: no such rule.

    >>> num_next_targets("next"), num_next_targets("next 5"), num_next_targets("all")
    (1, 5, None)
    """
    if targets in ("all", "basket"):
        return None
    word, _, count = targets.partition(" ")
    if word == "next" and (not count or (count.isdecimal() and int(count) >= 1)):
        return int(count or 1)
    raise ConfigError(f'targets must be "all", "next", "next 5" or another number, or "basket", got {targets!r}')


def _target_names(config: SplitConfig) -> str:
    return " or ".join(config.target_behaviors) or "any behaviour"


def _target_mask(sequences: Sequences, config: SplitConfig, behaviors: Sequence[str]) -> np.ndarray:
    unknown = set(config.target_behaviors) - set(behaviors)
    if unknown:
        raise DataError(
            f"split.target_behaviors names {sorted(unknown)}, the log has the behaviours {sorted(behaviors)}"
        )
    wanted = [not config.target_behaviors or name in config.target_behaviors for name in behaviors]
    return (sequences.item_ids > 0) & np.asarray(wanted, dtype=bool)[sequences.behaviors]


def _first_event(sequences: Sequences, mask: np.ndarray) -> np.ndarray:
    """`[U]` flat index of each user's first event in the mask, the largest int64 where there is none."""
    first = np.full(sequences.num_users, np.iinfo(np.int64).max)
    events = np.flatnonzero(mask)
    np.minimum.at(first, sequences.users_of_events[events], events)
    return first


def _leave_last_two(
    sequences: Sequences, targets: np.ndarray, config: SplitConfig, rng: np.random.Generator
) -> np.ndarray:
    """Parts of a leave-one-out split: of users with at least three targets, the last or the last two are held out."""
    users = sequences.users_of_events
    per_user = np.bincount(users[targets], minlength=sequences.num_users)
    from_start = np.cumsum(targets) - np.concatenate([[0], np.cumsum(per_user)])[users]
    from_end = per_user[users] - from_start  # 0 at the last target and after it
    splittable = np.flatnonzero(per_user >= 3)
    count = min(len(splittable), max(1, round(config.validation_users * len(splittable))))
    held_out = np.zeros(sequences.num_users, dtype=np.int64)
    held_out[splittable] = 1
    held_out[splittable if count == len(splittable) else rng.choice(splittable, count, replace=False)] = 2
    parts = np.full(len(users), TRAIN, dtype=np.int8)
    parts[from_end < held_out[users]] = HISTORY
    parts[targets & (from_end == 1) & (held_out == 2)[users]] = VALIDATION
    parts[targets & (from_end == 0) & (held_out > 0)[users]] = TEST
    return parts


def _timeline_cuts(sequences: Sequences, config: SplitConfig, time_kind: str) -> dict[str, int]:
    if time_kind != "seconds":
        raise DataError("global_timeline needs timestamps, this log has only an order; use leave_one_out")
    t1, t2 = (_start_seconds(getattr(config, name), name) for name in ("validation_start", "test_start"))
    if t1 is None or t2 is None:
        shares = [1 - config.validation_fraction - config.test_fraction, 1 - config.test_fraction]
        ordered = np.sort(sequences.timestamps)
        t1, t2 = (int(ordered[int(share * len(ordered))]) for share in shares)
    first, last = int(sequences.timestamps.min()), int(sequences.timestamps.max())
    if not first < t1 < t2 <= last:
        names = [pd.Timestamp(time, unit="s").isoformat() for time in (t1, t2, first, last)]
        raise DataError(
            f"the timeline's cuts must lie in order within the log: validation_start {names[0]}, test_start "
            f"{names[1]}, log from {names[2]} to {names[3]}; set split.validation_start and split.test_start to "
            "times within it, or change the fractions"
        )
    return {"validation_start": t1, "test_start": t2}


def _start_seconds(start: str | None, name: str) -> int | None:
    """Whole seconds at or after an ISO time, UTC where it names no zone; ConfigError for anything else."""
    if start is None:
        return None
    try:
        moment = datetime.fromisoformat(start)
        return math.ceil((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError) as error:
        raise ConfigError(f"split.{name} must be an ISO time such as 2024-03-01, got {start!r}") from error


def _random_parts(count: int, config: SplitConfig, rng: np.random.Generator) -> np.ndarray:
    """`[count]` int8 parts in exact shares, at least one entry of each held-out part."""
    parts = np.full(count, TRAIN, dtype=np.int8)
    order = rng.permutation(count)
    num_validation = max(1, round(config.validation_fraction * count))
    num_test = max(1, round(config.test_fraction * count))
    parts[order[:num_validation]] = VALIDATION
    parts[order[num_validation : num_validation + num_test]] = TEST
    return parts


def _hold_out_users(
    sequences: Sequences, targets: np.ndarray, config: SplitConfig, rng: np.random.Generator
) -> np.ndarray:
    users = sequences.users_of_events
    of_user = _random_parts(sequences.num_users, config, rng)
    last = np.full(sequences.num_users, -1)
    events = np.flatnonzero(targets)
    np.maximum.at(last, users[events], events)
    held_out = of_user[users] != TRAIN
    is_last = np.arange(len(users)) == last[users]
    return np.where(held_out & ~is_last, HISTORY, of_user[users]).astype(np.int8)


def _candidates(
    sequences: Sequences, split: Split, part: int, num_items: int, available_from: np.ndarray | None
) -> np.ndarray:
    candidates = np.ones(num_items + 1, dtype=bool)
    if split.config.rule == "global_timeline":
        if available_from is None:
            available_from = np.full(num_items + 1, np.iinfo(np.int64).max)
            np.minimum.at(available_from, sequences.item_ids, sequences.timestamps)
        elif available_from.shape != candidates.shape:
            raise DataError(f"available_from must be [V+1] = {candidates.shape}, got {available_from.shape}")
        cut = split.cuts["validation_start" if part == VALIDATION else "test_start"]
        candidates = available_from < cut
    candidates[0] = False
    return candidates

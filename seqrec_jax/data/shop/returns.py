"""The exact probability that an event of a user of the simulated shop follows within some days."""

from __future__ import annotations

import numpy as np

from seqrec_jax.data.shop.world import DAY_SECONDS, HOUR_PROBABILITIES, SESSION_GAP_SECONDS, START, ShopConfig


def return_probabilities(config: ShopConfig, last_times: np.ndarray, times: np.ndarray, *, days: float) -> np.ndarray:
    """P(an event in [time, time + days) | the last event before the time, and nothing since).

    After an event the session ends with probability e, whatever the event was. If it does not, the next event comes
    after the gap between events; if it does, the user has left for good with probability c, and else comes back on a
    later day, the g-th with probability p (1 − p)^(g − 1), at an hour of the shop's. With F_s(t) and F_r(t) the
    probabilities that the next event comes before t in the two cases, and e and c as above,

        ((1 − e) (F_s(t + d) − F_s(t)) + e (1 − c) (F_r(t + d) − F_r(t)))
          / ((1 − e) (1 − F_s(t)) + e (1 − c) (1 − F_r(t)) + e c)

    Times depend on nothing else, so no forecast from the history is better. The window must end before the run does.

    Args:
      config: the settings of the shop.
      last_times: `[M]` int64 seconds UTC of each user's last event before the time.
      times: `[M]` int64 seconds UTC, after `last_times`.
      days: length of the window in days.

    Returns:
      `[M]` float64 probabilities.

    >>> config = ShopConfig(churn=0.15, return_per_day=0.35)
    >>> monday, yesterday = np.array([START + 9 * DAY_SECONDS]), np.array([START + 9 * DAY_SECONDS - 7200])
    >>> return_probabilities(config, yesterday, monday, days=1).round(4)  # the next day is the first to come back on
    array([0.2975])
    """
    last_times, times = np.asarray(last_times, dtype=np.int64), np.asarray(times, dtype=np.int64)
    ends, churns, later = config.session_end, config.churn, times + int(days * DAY_SECONDS)
    same = [(1 - ends) * value for value in (going_on(config, last_times, at) for at in (times, later))]
    new = [ends * (1 - churns) * value for value in (coming_back(config, last_times, at) for at in (times, later))]
    before = same[0] + new[0]
    return (same[1] + new[1] - before) / (1 - before)


def going_on(config: ShopConfig, last_times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`[M]` float64 P(the next event comes before `at` `[M]` | the session goes on), gaps of a cut exponential law."""
    gaps = np.clip(at - last_times - 1, 0, SESSION_GAP_SECONDS)
    return np.expm1(-gaps / config.gap_seconds) / np.expm1(-SESSION_GAP_SECONDS / config.gap_seconds)


def coming_back(config: ShopConfig, last_times: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`[M]` float64 P(the next session begins before `at` `[M]` | the user comes back)."""
    day, second = np.divmod(at - START, DAY_SECONDS)
    whole = day - (last_times - START) // DAY_SECONDS - 1  # days after that of the last event that are over
    away = (1 - config.return_per_day) ** np.maximum(whole, 0)
    return np.where(whole < 0, 0.0, 1 - away * (1 - config.return_per_day * share_of_day(second)))


def share_of_day(second: np.ndarray) -> np.ndarray:
    """Share of a day's sessions that begin before each second of the day, float64."""
    return np.interp(second / 3600, np.arange(25), np.append(0.0, np.cumsum(HOUR_PROBABILITIES)))

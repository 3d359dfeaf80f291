"""Which items each user may be shown, where that differs between users: an allow list or a deny list for each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from seqrec_jax.errors import DataError
from seqrec_jax.settings import check_choice

Rule = Literal["allowed", "denied"]


@dataclass(frozen=True)
class UserCandidates:
    """A list of items for each of U users, and whether the user may be shown only these or all but these.

    Memory grows with the lists and not with U · V, so write down the shorter side.

    Attributes:
      rule: "allowed": only the listed items may be shown; "denied": all items but the listed ones.
      offsets: `[U+1]` int64; the list of user u is `item_ids[offsets[u]:offsets[u + 1]]`.
      item_ids: `[M]` int32 item numbers 1…V, distinct within a user.
      num_items: V.
    """

    rule: Rule
    offsets: np.ndarray
    item_ids: np.ndarray
    num_items: int

    def __post_init__(self) -> None:
        check_choice("rule", self.rule, Rule)
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.item_ids):
            raise DataError(
                f"offsets {self.offsets.shape} do not divide {len(self.item_ids)} item_ids into one list a user"
            )
        if len(self.item_ids) and not (self.item_ids.min() >= 1 and self.item_ids.max() <= self.num_items):
            raise DataError(
                f"item_ids must be 1 to num_items = {self.num_items}, got {self.item_ids.min()} to "
                f"{self.item_ids.max()}"
            )

    @classmethod
    def from_mask(cls, mask: Bool[np.ndarray, "U V1"]) -> UserCandidates:
        """The shorter lists that say the same as a mask.

        Args:
          mask: `[U, V+1]` bool, True for items that a user may be shown; column 0 is ignored.

        >>> UserCandidates.from_mask(np.array([[False, True, False, True], [False, True, True, True]])).rule
        'denied'
        """
        inside = mask[:, 1:]
        rule: Rule = "allowed" if 2 * inside.sum() < inside.size else "denied"
        users, items = np.nonzero(inside if rule == "allowed" else ~inside)
        counts = np.bincount(users, minlength=len(mask))
        return cls(rule, _offsets(counts), (items + 1).astype(np.int32), mask.shape[1] - 1)

    @classmethod
    def from_lists(cls, rule: Rule, lists: Iterable[Iterable[int]], *, num_items: int) -> UserCandidates:
        """One list of item numbers a user, in the order of the users; an item that a list repeats counts once.

        Raises:
          DataError: an item that is not 1…V.
          ConfigError: an unknown rule.
        """
        distinct = [np.unique(np.asarray(list(items), dtype=np.int64)) for items in lists]
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *distinct]).astype(np.int32)
        return cls(rule, _offsets(np.array([len(items) for items in distinct], dtype=np.int64)), flat, num_items)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.offsets) - 1

    def mask(self, users: Int[np.ndarray, " U2"]) -> Bool[np.ndarray, "U2 V1"]:
        """`[U', V+1]` bool, the items that each of some users may be shown; column 0 is False.

        Args:
          users: `[U']` places in 0…U-1, in any order; a place may come twice.
        """
        chosen = self.select_users(users)
        allowed = np.full((len(users), self.num_items + 1), self.rule == "denied")
        allowed[np.repeat(np.arange(len(users)), np.diff(chosen.offsets)), chosen.item_ids] = self.rule == "allowed"
        allowed[:, 0] = False
        return allowed

    def contain(self, users: Int[np.ndarray, " M"], item_ids: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
        """`[M]` bool, whether each item may be shown to the user beside it.

        Args:
          users: `[M]` places in 0…U-1.
          item_ids: `[M]` item numbers; 0 and numbers above V may not be shown.
        """
        width = self.num_items + 1
        inside = (item_ids > 0) & (item_ids < width)
        listed = np.repeat(np.arange(self.num_users), np.diff(self.offsets)) * width + self.item_ids
        found = np.isin(np.asarray(users, dtype=np.int64) * width + np.where(inside, item_ids, 0), listed)
        return inside & (found if self.rule == "allowed" else ~found)

    def select_users(self, users: Int[np.ndarray, " U2"]) -> UserCandidates:
        """The users at the given places `[U']`, in that order; a place may come twice."""
        counts = np.diff(self.offsets)[users]
        offsets = _offsets(counts)
        places = np.repeat(self.offsets[users] - offsets[:-1], counts) + np.arange(offsets[-1])
        return UserCandidates(self.rule, offsets, self.item_ids[places], self.num_items)


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

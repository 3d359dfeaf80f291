"""Which items may be listed for each user: masks, and the allow and deny lists of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.files import as_text, check_columns, read_file
from seqrec_jax.errors import DataError
from seqrec_jax.retrieval.catalogue import ItemCatalogue

ItemLists: TypeAlias = Iterable[str] | Mapping[str, Iterable[str]] | Sequence[Iterable[str]]
"""Raw item ids for all users; or a mapping from user ids to raw item ids, where an absent user has no list; or one
collection of raw item ids for each user in order."""


class Lists(NamedTuple):
    """Lists of U users, NumPy.

    Attributes:
      item_ids: `[U, K]` int32, best first; 0 behind the last item.
      scores: `[U, K]` float32; -inf behind the last item.
    """

    item_ids: Int[np.ndarray, "U K"]
    scores: Float[np.ndarray, "U K"]


class Eligibility(NamedTuple):
    """Which items may be listed for each of U users.

    Attributes:
      items: `[V+1]` bool for all users, or `[U, V+1]`; column 0 is False.
      excluded: `[U, X]` int32 ids that this user may not be listed besides, 0 = none; None for no such ids.
    """

    items: Bool[np.ndarray, " V1"] | Bool[np.ndarray, "U V1"] | Bool[Array, " V1"]
    excluded: Int[np.ndarray, "U X"] | None = None

    def table(self, num_users: int) -> Bool[np.ndarray, "U V1"]:
        """`[U, V+1]` True for items that may be listed for each user."""
        table = np.array(np.broadcast_to(np.asarray(self.items), (num_users, np.shape(self.items)[-1])))
        if self.excluded is not None:
            table[np.arange(num_users)[:, None], self.excluded] = False
        table[:, 0] = False
        return table


class ItemFilter:
    """The allow and deny lists that come with a request, as item numbers."""

    def __init__(
        self,
        catalogue: ItemCatalogue,
        user_ids: Sequence[str] | np.ndarray,
        *,
        allowed: ItemLists | None = None,
        denied: ItemLists | None = None,
    ):
        """Lists of raw item ids for U users; `unknown` keeps the ids that the catalogue does not have.

        Args:
          catalogue: numbers the ids.
          user_ids: `[U]` raw user ids.
          allowed: items that may be listed; None for no limit.
          denied: items that may not be listed; None for none.

        Raises:
          DataError: a sequence of lists that is not one a user.
        """
        self.num_items = catalogue.num_items
        self.unknown: list[str] = []
        self._allowed = self._numbers(catalogue, user_ids, allowed, "allowed")
        self._denied = self._numbers(catalogue, user_ids, denied, "denied")

    def _numbers(
        self, catalogue: ItemCatalogue, user_ids: Sequence[str] | np.ndarray, lists: ItemLists | None, name: str
    ) -> np.ndarray | list[np.ndarray | None] | None:
        """Item numbers for all users, or for each of them; None for no list."""
        if lists is None:
            return None
        if isinstance(lists, str):
            raise DataError(f"{name} must be a collection of item ids, got the text {lists!r}")

        def read(raw: Iterable[str]) -> np.ndarray:
            found, unknown = catalogue.numbers(raw)
            self.unknown = sorted({*self.unknown, *unknown})
            return found

        if isinstance(lists, Mapping):
            by_user = {user: read(raw) for user, raw in lists.items()}
            return [by_user.get(user) for user in user_ids]
        entries: list[Any] = list(lists)
        if not entries or isinstance(entries[0], (str, bytes)) or not isinstance(entries[0], Iterable):
            return read(entries)
        if len(entries) != len(user_ids):
            raise DataError(f"{name} has {len(entries)} lists for {len(user_ids)} users; give one a user")
        return [read(raw) for raw in entries]

    @property
    def by_user(self) -> bool:
        """Whether users differ in what is allowed or denied."""
        return isinstance(self._allowed, list) or isinstance(self._denied, list)

    def candidates(
        self, items: Bool[np.ndarray, " V1"], users: Int[np.ndarray, " U"]
    ) -> Bool[np.ndarray, " V1"] | Bool[np.ndarray, "U V1"]:
        """The items of a mask that the request lets be listed.

        Args:
          items: `[V+1]` bool, for all users.
          users: `[U]` indices of users of the request.

        Returns:
          `[V+1]` if no list is for single users, else `[U, V+1]`.
        """
        for numbers, keep in ((self._allowed, True), (self._denied, False)):
            if isinstance(numbers, np.ndarray):
                listed = np.zeros(self.num_items + 1, dtype=bool)
                listed[numbers] = True
                items = items & (listed if keep else ~listed)
        for lists, keep in ((self._allowed, True), (self._denied, False)):
            if isinstance(lists, list):
                items = np.array(np.broadcast_to(items, (len(users), self.num_items + 1)))
                for row, user in zip(items, users.tolist(), strict=True):
                    if (numbers := lists[user]) is not None:
                        listed = np.zeros(self.num_items + 1, dtype=bool)
                        listed[numbers] = True
                        row &= listed if keep else ~listed
        return items


def read_item_lists(path: str | Path) -> list[str] | dict[str, list[str]]:
    """Raw item ids of a file, for `allowed` or `denied`.

    Args:
      path: a text file (.txt) with one id a line; or a table (CSV, TSV, JSON lines, Parquet) with a column `item_id`
        and, for lists of single users, `user_id`.

    Returns:
      Ids for all users, or a dictionary from user ids to ids.

    Raises:
      DataError: a missing or unreadable file, or no column item_id.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the item ids of {path}: {error}") from error
        return [line.strip() for line in lines if line.strip()]
    table = read_file(path)
    check_columns(list(table.columns), ["item_id"], source=str(path))
    item_ids = as_text(table["item_id"], name="item_id").fillna("")
    if "user_id" not in table:
        return [str(one) for one in item_ids]
    users = as_text(table["user_id"], name="user_id").fillna("")
    return {str(user): ids.tolist() for user, ids in item_ids.groupby(users.to_numpy(dtype=object), sort=False)}

"""Histories to user vectors v_x, tile by tile, and items to item vectors v_y."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.batches import Batch, history_batch
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import data_size, over_rows, replicate
from seqrec_jax.types import ArrayLike

USERS_PER_TILE = 256
CPU_EVENTS_PER_TILE = 8192
"""Most positions that a CPU encodes at once; the arrays that a block makes of many more do not stay in its cache."""


class HistoryEncoder:
    """A model's parameters and items: histories to v_x, items to v_y, in compiled functions of few shapes."""

    def __init__(
        self,
        model: SequenceModel,
        params: Any,
        item_table: ItemTable,
        *,
        num_items: int,
        length: int,
        first_timestamp: int,
        target_behavior: int | None = None,
    ):
        """An encoder from parts.

        Args:
          model: pure functions.
          params: their parameters.
          item_table: attributes of the items.
          num_items: V.
          length: L, how many of a history's last events the model reads.
          first_timestamp: seconds UTC of the dataset's first event.
          target_behavior: code of the predicted behaviour, for a model that is conditioned on it.
        """
        self.model, self.params, self.item_table = model, params, item_table
        self.length, self.target_behavior = length, target_behavior
        self.first_timestamp = first_timestamp
        self.mesh: Mesh | None = None
        self._made_items: tuple[Array, Array] | None = None

        @jax.jit
        def scored_items(params: Any, item_table: ItemTable) -> tuple[Float[Array, "V1 E"], Bool[Array, " V1"]]:
            # a table that is spread over devices may have more rows
            v_y = model.item_vectors(params, item_table)[: num_items + 1]
            # a vector of zeros is an item without training and without content: it cannot be ranked
            return v_y, jnp.any(v_y != 0, axis=1)

        self._scored_items = scored_items
        self._encode = jax.jit(partial(encode_last, model))
        self._project = jax.jit(model.project)

    @property
    def masked_end(self) -> bool:
        """Whether the last position of a row is a masked event, for a model that predicts masked events."""
        return not self.model.causal

    def changed(self, **parts: Any) -> HistoryEncoder:
        """The same encoder with other `params`, `item_table` or `target_behavior`; nothing is compiled anew."""
        other = copy.copy(self)
        for name, part in parts.items():
            setattr(other, name, part)
        if parts.keys() - {"target_behavior"}:
            other._made_items = None
        return other

    def on_mesh(self, mesh: Mesh) -> HistoryEncoder:
        """The same encoder with its users shared by the devices of a mesh over the axis `data`."""
        params, item_table = replicate((self.params, self.item_table), mesh)
        return self.changed(params=params, item_table=item_table, mesh=mesh)

    @property
    def v_y(self) -> Float[Array, "V1 E"]:
        """`[V+1, E]` float32 item vectors, computed once."""
        return self._items()[0]

    @property
    def rankable(self) -> Bool[Array, " V1"]:
        """`[V+1]` True for items that have a vector; an item without training and without content has none."""
        return self._items()[1]

    def _items(self) -> tuple[Float[Array, "V1 E"], Bool[Array, " V1"]]:
        if self._made_items is None:
            self._made_items = self._scored_items(self.params, self.item_table)
        return self._made_items

    def project(self, v_x: Float[ArrayLike, "U D"]) -> Float[Array, "U E"]:
        """`[U, E]` float32 v_xᵀ W: its product with an item's vector is the item's score."""
        projected: Array = self._project(self.params, jnp.asarray(v_x))
        return projected

    def user_vectors(self, histories: Sequences) -> Float[np.ndarray, "U D"]:
        """`[U, D]` float32 v_x of each user; zeros for users without history.

        Raises:
          DataError: no user, or times that do not fit int32 seconds.
        """
        parts = list(self._tiles(histories))  # all of them are dispatched before the first is read
        v_x = np.zeros((histories.num_users, parts[0][1].shape[1]), dtype=np.float32)
        for users, states in parts:
            v_x[users] = states
        return v_x

    def user_vectors_on_device(self, histories: Sequences) -> Float[Array, "U D"]:
        """`user_vectors` as an array on the device, so that the host need not wait for it."""
        v_x: Array | None = None
        for users, states in self._tiles(histories):
            if v_x is None:
                v_x = jnp.zeros((histories.num_users, states.shape[1]), states.dtype)
            v_x = _with_rows(v_x, users, states)
        assert v_x is not None  # there is at least one user
        spread: Array = self.spread(v_x)
        return spread

    def batch(self, histories: Sequences, *, length: int) -> Batch:
        """The last events of U users as NumPy arrays `[U, length]`; see `history_batch`."""
        return history_batch(
            histories,
            length=length,
            first_timestamp=self.first_timestamp,
            masked_end=self.masked_end,
            target_behavior=self.target_behavior,
        )

    def spread(self, rows: Any) -> Any:
        """A pytree of arrays with equal numbers of rows, shared by the mesh's devices if they divide them evenly."""
        if self.mesh is None or len(jax.tree.leaves(rows)[0]) % data_size(self.mesh):
            return rows
        return jax.device_put(rows, over_rows(self.mesh))

    def _tiles(self, histories: Sequences) -> Iterator[tuple[Int[np.ndarray, " R"], Float[Array, "R D"]]]:
        """Indices of users and their v_x, tile by tile; a tile of too few users repeats its last one.

        Users are encoded in rows of a few lengths, see `row_lengths`, so that short histories cost less than long
        ones. A user's row length, and the number of rows of its tile, depend on the user's own history alone.
        """
        if not histories.num_users:
            raise DataError("there is no user to encode")
        lengths = row_lengths(histories.lengths + self.masked_end, longest=self.length)
        for length in np.unique(lengths).tolist():
            size = 1 if histories.num_users == 1 else _rows_of(length)
            members = np.flatnonzero(lengths == length).astype(np.int32)
            members = np.pad(members, (0, -len(members) % size), mode="edge")
            for users in np.split(members, range(USERS_PER_TILE, len(members), USERS_PER_TILE)):
                batch = self.batch(histories.select_users(users), length=length)
                for start in range(0, len(users), size):
                    rows: Batch = jax.tree.map(operator.itemgetter(slice(start, start + size)), batch)
                    states = self._encode(self.params, self.item_table, self.v_y, self.spread(rows))
                    yield users[start : start + size], states


def encode_last(
    model: SequenceModel, params: Any, item_table: ItemTable, v_y: Float[Array, "V1 E"], batch: Batch
) -> Float[Array, "U D"]:
    """`[U, D]` v_x of the users of a batch, one user a row; zeros for rows of padding."""
    there = jnp.any(batch.segment_ids > 0, axis=1)
    return jnp.where(there[:, None], model.encode_last(params, item_table, batch, v_y=v_y), 0)


def row_lengths(lengths: Int[np.ndarray, " U"], *, longest: int) -> Int[np.ndarray, " U"]:
    """The row length that each history is encoded in: the least of five that holds it, `longest` if none does.

    >>> row_lengths(np.array([3, 25, 26, 160, 5000]), longest=200).tolist()
    [25, 25, 50, 200, 200]
    """
    # a masked end takes two
    choices: np.ndarray = np.maximum(-(-longest * np.array([1, 2, 4, 6, 8]) // 8), min(longest, 2))
    rows: np.ndarray = choices[np.searchsorted(choices, np.minimum(lengths, longest))]
    return rows


def _rows_of(length: int) -> int:
    """How many rows of a length are encoded at once; a power of two, so that they make up a tile of users."""
    if jax.default_backend() != "cpu":
        return USERS_PER_TILE
    return min(USERS_PER_TILE, 1 << max(0, (CPU_EVENTS_PER_TILE // length).bit_length() - 1))


_Rows = Callable[[Array, Int[ArrayLike, " R"], Array], Array]
_with_rows: _Rows = jax.jit(lambda vectors, rows, values: vectors.at[rows].set(values), donate_argnums=0)

"""User vectors that follow a stream of events: each new event costs one step, whatever the history's length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.batches import device_seconds
from seqrec_jax.model import Event, EventCache
from seqrec_jax.retrieval.encoding import HistoryEncoder
from seqrec_jax.types import ArrayLike, DimSize


class UserStates:
    """Starts users without events and appends one event at a time; `Recommender.user_states` has one.

    Up to `encoder.max_length` events, the v_x after n events equals that of the same n events encoded at once, up
    to the last bits. Beyond that, a recurrence still equals the whole history encoded at once; attention depends on
    the last `max_length` events, and through its cached keys and values on older ones (see `SequenceModel.append`).
    """

    def __init__(self, encoder: HistoryEncoder):
        """States of one encoder's users."""
        self._encoder = encoder
        self._append = jax.jit(encoder.model.append)

    def start(self, num_users: DimSize) -> EventCache:
        """The cache of U users without events.

        Raises:
          ConfigError: a model to which events cannot be appended, since it predicts masked events or counts positions
            from the end.
        """
        return self._encoder.model.start(num_users)

    def append(
        self,
        cache: EventCache,
        item_ids: Int[ArrayLike, " U"],
        *,
        behaviors: Int[ArrayLike, " U"] | None = None,
        timestamps: Int[np.ndarray, " U"] | None = None,
        query_words: Int[ArrayLike, "U W"] | None = None,
        where: Bool[ArrayLike, " U"] | None = None,
    ) -> tuple[Float[Array, "U D"], EventCache]:
        """The user vectors and the cache after one more event of each user.

        Args:
          cache: of the same U users, from `start` or the last `append`.
          item_ids: `[U]` item numbers, 0 = an event without item, such as a search.
          behaviors: `[U]` codes; None means 0.
          timestamps: `[U]` int64 seconds UTC; None means the time of the dataset's first event.
          query_words: `[U, W]` words of the events' queries, see `data.queries.query_words`; None for no queries.
          where: `[U]` True for users who have an event; None means all. The cache of the others does not change.

        Returns:
          `[U, D]` float32 v_x, meaningless for users without an event here, and the cache.

        Raises:
          DataError: times that do not fit int32 seconds.
        """
        encoder, size = self._encoder, len(item_ids)
        times = np.full(size, encoder.first_timestamp, np.int64) if timestamps is None else np.asarray(timestamps)
        event = Event(
            item_ids=jnp.asarray(item_ids, jnp.int32),
            behaviors=jnp.zeros(size, jnp.int32) if behaviors is None else jnp.asarray(behaviors, jnp.int32),
            timestamps=jnp.asarray(device_seconds(times, encoder.first_timestamp)),
            where=jnp.ones(size, bool) if where is None else jnp.asarray(where),
            target_behaviors=(
                None if encoder.target_behavior is None else jnp.full(size, encoder.target_behavior, jnp.int32)
            ),
            query_words=None if query_words is None else jnp.asarray(query_words, jnp.int32),
        )
        v_x, cache = self._append(encoder.params, encoder.item_table, cache, event, v_y=encoder.v_y)
        return v_x, cache

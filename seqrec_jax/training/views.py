"""Views of the sequences of a batch for contrastive training: some events left out, hidden, or in another order.

A view is a valid `Batch`: the events of a segment are neighbours and their positions count from 0. Segments that share
a row are changed independently, and every random choice follows from the row's key. Views have no targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from seqrec_jax.data.batches import Batch, positions_from_end
from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields

ViewKind = Literal["crop", "mask", "reorder"]


@dataclass(frozen=True)
class ContrastiveConfig:
    """A contrastive loss between two random views of each sequence, added to the objective.

    Attributes:
      weight: λ of the contrastive loss; 0 makes no views.
      temperature: divides the cosines between the views' vectors.
      kinds: kinds of views, one of which is drawn for each sequence: crop (keeps neighbouring events), mask (hides the
        items of events) and reorder (shuffles neighbouring events).
      crop: share of the events that is kept, at least one event.
      mask: share of the events whose item is hidden.
      reorder: share of the events that change places.
    """

    weight: Annotated[float, Interval("[0, inf)")] = 0.0
    temperature: Annotated[float, Interval("(0, inf)")] = 0.1
    kinds: tuple[ViewKind, ...] = get_args(ViewKind)
    crop: Annotated[float, Interval("(0, 1)")] = 0.6
    mask: Annotated[float, Interval("(0, 1)")] = 0.3
    reorder: Annotated[float, Interval("(0, 1)")] = 0.6

    def __post_init__(self) -> None:
        check_fields(self, "training.contrastive")
        if not self.kinds:
            raise ConfigError(
                f"training.contrastive.kinds is empty; name some of {', '.join(get_args(ViewKind))}, or leave it out"
            )


def random_view(batch: Batch, *, config: ContrastiveConfig, row_keys: Key[Array, " B"]) -> Batch:
    """One view of each sequence, of a kind that is drawn for it.

    Args:
      batch: `[B, L]`; events that are masked for prediction are visible in the view.
      config: kinds and shares.
      row_keys: `[B]` keys, consumed; other keys give another view.

    Returns:
      `[B, L]`, padding on the right; segments keep their numbers.

    Source:
      Xie et al. (2022), Contrastive Learning for Sequential Recommendation (CL4SRec).
    """
    kind_keys, *keys = _split(row_keys, 4)
    draws = _of_segments(batch, kind_keys)
    chosen = jnp.floor(draws * len(config.kinds)).astype(jnp.int32)
    where = {kind: chosen == number for number, kind in enumerate(config.kinds)}
    if "mask" in where:
        batch = masked_items(batch, share=config.mask, where=where["mask"], row_keys=keys[0])
    if "reorder" in where:
        batch = reordered_events(batch, share=config.reorder, where=where["reorder"], row_keys=keys[1])
    if "crop" in where:  # last, since events then stand in other columns
        batch = cropped_events(batch, share=config.crop, where=where["crop"], row_keys=keys[2])
    zeros = jnp.zeros_like(batch.targets)
    return batch._replace(targets=zeros, weights=zeros.astype(jnp.float32), masked=None)


def cropped_events(
    batch: Batch, *, share: float, row_keys: Key[Array, " B"], where: Bool[Array, "B L"] | None = None
) -> Batch:
    """A run of neighbouring events of each segment, `share` of them and at least one, with a random start.

    Args:
      batch: `[B, L]`.
      share: share of the events that is kept, in (0, 1).
      row_keys: `[B]` keys, consumed.
      where: `[B, L]` True for the segments that are cropped; None means all.

    Returns:
      `[B, L]`, the kept events moved to the left.
    """
    draws = _of_segments(batch, row_keys)
    first, size = _run(batch, share, draws)
    keep = (batch.positions >= first) & (batch.positions < first + jnp.maximum(size, 1))
    real = batch.segment_ids > 0
    keep = real & (keep if where is None else keep | ~where)
    order = jnp.argsort(~keep, axis=1, stable=True)
    kept = jnp.take_along_axis(keep, order, axis=1)

    def move(leaf: Array) -> Array:
        moved = _columns(leaf, order)
        return jnp.where(kept.reshape(*kept.shape, *[1] * (leaf.ndim - 2)), moved, jnp.zeros_like(moved))

    batch = jax.tree.map(move, batch)
    starts = jnp.concatenate(
        [jnp.ones_like(kept[:, :1]), batch.segment_ids[:, 1:] != batch.segment_ids[:, :-1]], axis=1
    )
    columns = jax.lax.broadcasted_iota(jnp.int32, kept.shape, 1)
    first_columns = jax.lax.cummax(jnp.where(starts, columns, 0), axis=1)
    return batch._replace(positions=jnp.where(kept, columns - first_columns, 0))


def masked_items(
    batch: Batch, *, share: float, row_keys: Key[Array, " B"], where: Bool[Array, "B L"] | None = None
) -> Batch:
    """Events without their items, each hidden independently with probability `share`; one of each segment is kept.

    Models know events without item from searches, so that no mask embedding has to be learnt.

    Args:
      batch: `[B, L]`.
      share: probability that an event loses its item, in (0, 1).
      row_keys: `[B]` keys, consumed.
      where: `[B, L]` True for the segments that are masked; None means all.

    Returns:
      `[B, L]`.
    """
    event_keys, kept_keys = _split(row_keys, 2)
    draws = _of_segments(batch, kept_keys)
    stays = batch.positions == jnp.floor(draws * _lengths(batch)).astype(jnp.int32)
    hidden = (_uniform(event_keys, batch.positions.shape[1]) < share) & ~stays
    hidden = hidden if where is None else hidden & where
    return batch._replace(item_ids=jnp.where(hidden, 0, batch.item_ids))


def reordered_events(
    batch: Batch, *, share: float, row_keys: Key[Array, " B"], where: Bool[Array, "B L"] | None = None
) -> Batch:
    """A run of neighbouring events of each segment, `share` of them, in random order; times stay in place.

    Args:
      batch: `[B, L]`.
      share: share of the events that change places, in (0, 1).
      row_keys: `[B]` keys, consumed.
      where: `[B, L]` True for the segments that are reordered; None means all.

    Returns:
      `[B, L]` with items, behaviours and queries moved.
    """
    place_keys, run_keys = _split(row_keys, 2)
    draws = _of_segments(batch, run_keys)
    first, size = _run(batch, share, draws)
    inside = (batch.segment_ids > 0) & (batch.positions >= first) & (batch.positions < first + size)
    inside = inside if where is None else inside & where
    columns = jax.lax.broadcasted_iota(jnp.int32, inside.shape, 1)
    # between the columns before and after the run
    begins = (columns - batch.positions + first).astype(jnp.float32) - 0.5
    places = begins + size.astype(jnp.float32) * _uniform(place_keys, inside.shape[1])
    order = jnp.argsort(jnp.where(inside, places, columns.astype(jnp.float32)), axis=1)
    return batch._replace(
        item_ids=_columns(batch.item_ids, order),
        behaviors=_columns(batch.behaviors, order),
        query_words=None if batch.query_words is None else _columns(batch.query_words, order),
    )


def segment_vectors(
    states: Float[Array, "B L D"], segment_ids: Int[Array, "B L"], *, num_segments: int
) -> tuple[Float[Array, "B M D"], Bool[Array, "B M"]]:
    """The state at the last event of each segment, and the segments that exist.

    Args:
      states: `[B, L, D]`.
      segment_ids: `[B, L]` from 1 to M, 0 = padding.
      num_segments: M, the largest number of segments in a row.

    Returns:
      `[B, M, D]`, zeros for a segment that does not exist, and `[B, M]` bool, True for one that does.

    >>> vectors, where = segment_vectors(jnp.array([[[1.0], [2.0], [3.0]]]), jnp.array([[1, 1, 3]]), num_segments=3)
    >>> vectors[0, :, 0].tolist(), where.tolist()
    ([2.0, 0.0, 3.0], [[True, False, True]])
    """
    numbers = jnp.arange(1, num_segments + 1, dtype=jnp.int32)
    columns = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
    member = segment_ids[:, None, :] == numbers[None, :, None]
    last = jnp.max(jnp.where(member, columns[None, None], -1), axis=2)
    vectors = jax.vmap(lambda states, last: states[last])(states, jnp.maximum(last, 0))
    return jnp.where(last[..., None] >= 0, vectors, 0), last >= 0


def _lengths(batch: Batch) -> Float[Array, "B L"]:
    """Events of the segment that each event belongs to."""
    return (batch.positions + positions_from_end(batch) + 1).astype(jnp.float32)


def _run(batch: Batch, share: float, draws: Float[Array, "B L"]) -> tuple[Int[Array, "B L"], Int[Array, "B L"]]:
    """First position and size of a run of neighbours in each segment: ⌊share × length⌋ of them, anywhere."""
    lengths = _lengths(batch)
    size = jnp.floor(share * lengths + 1e-4)
    room = lengths - jnp.maximum(size, 1.0)
    return jnp.floor(draws * (room + 1)).astype(jnp.int32), size.astype(jnp.int32)


def _of_segments(batch: Batch, row_keys: Key[Array, " B"]) -> Float[Array, "B L"]:
    """`[B, L]` uniform draws, the same for all events of a segment."""
    real = batch.segment_ids > 0
    columns = jax.lax.broadcasted_iota(jnp.int32, real.shape, 1)
    first_columns = jnp.where(real, columns - batch.positions, 0)
    return jnp.take_along_axis(_uniform(row_keys, real.shape[1]), first_columns, axis=1)


def _uniform(row_keys: Key[Array, " B"], length: int) -> Float[Array, "B L"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(row_keys)


def _split(row_keys: Key[Array, " B"], count: int) -> Key[Array, "count B"]:
    """`[count, B]` keys."""
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(row_keys)


def _columns(leaf: Array, order: Int[Array, "B L"]) -> Array:
    columns: Array = jax.vmap(lambda row, order: row[order])(leaf, order)
    return columns

"""The events of the training steps: all of them on the device, or piece by piece from the host.

Both ways give the same batches in the same order, so a run's result does not depend on the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqrec_jax.data.batches import EventArrays, Rows, event_arrays, shuffled_rows
from seqrec_jax.data.sequences import Packing, Sequences, Windows
from seqrec_jax.errors import MissingExtraError
from seqrec_jax.parallel import replicate

_ORDER_STREAM = 0x0E90C4  # keeps the keys of the order apart from those of initialisation and steps
_PIECES_AHEAD = 2


class Piece(NamedTuple):
    """Some batches of an epoch, and the events that they read.

    Attributes:
      events: `[N]` events on the device.
      rows: rows of the batches first…last-1, on the device.
      first: number of the first batch within its epoch.
      last: number of the last batch plus one.
    """

    events: EventArrays
    rows: Rows
    first: int
    last: int


@runtime_checkable
class Feed(Protocol):
    """The batches of any epoch."""

    def __call__(self, epoch: int, first: int, /) -> Iterator[Piece]:
        """The pieces of an epoch in order, beginning with the one that holds batch number `first`."""
        ...


class EpochPlan(NamedTuple):
    """The windows of an epoch, laid into rows and batches.

    Attributes:
      windows: W windows of the sequences.
      packing: the windows of each row.
      batch_size: rows of a batch; the last batch is filled up with empty rows.
      seed: seed of the order, which differs between epochs.
    """

    windows: Windows
    packing: Packing
    batch_size: int
    seed: int

    @property
    def num_batches(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.packing.lengths) // self.batch_size)


def resident_feed(plan: EpochPlan, sequences: Sequences, *, first_timestamp: int, mesh: Mesh) -> Feed:
    """A feed that keeps all events on every device; an epoch is one piece.

    Args:
      plan: layout of an epoch.
      sequences: training events.
      first_timestamp: seconds UTC from which times on the device count.
      mesh: the devices.

    Raises:
      DataError: too many events for int32 indices, or times that do not fit.
    """
    events = replicate(event_arrays(sequences, first_timestamp=first_timestamp), mesh)
    epoch_rows = _make_epoch_rows(plan, plan.windows.starts)

    def feed(epoch: int, first: int) -> Iterator[Piece]:
        yield Piece(events, replicate(epoch_rows(epoch), mesh), 0, plan.num_batches)

    return feed


def streamed_feed(
    plan: EpochPlan, sequences: Sequences, *, first_timestamp: int, batches_per_piece: int, mesh: Mesh
) -> Feed:
    """A feed that copies events to the devices with the batches that read them, ahead of the steps.

    Args:
      plan: layout of an epoch.
      sequences: training events.
      first_timestamp: seconds UTC from which times on the device count.
      batches_per_piece: batches whose events are copied together.
      mesh: the devices.

    Raises:
      MissingExtraError: grain is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise MissingExtraError(
            "training.stream_batches needs grain; install it with: pip install 'seqrec_jax[streaming]'"
        ) from error
    # window numbers in place of starts, which exceed int32 in a large log
    numbered_rows = _make_epoch_rows(plan, np.arange(len(plan.windows.starts)))
    rows_per_piece = batches_per_piece * plan.batch_size
    piece_of = partial(_piece_of, sequences, plan, first_timestamp=first_timestamp, num_rows=rows_per_piece)

    def feed(epoch: int, first: int) -> Iterator[Piece]:
        rows = jax.tree.map(np.asarray, numbered_rows(epoch))
        numbers = range(first // batches_per_piece, -(-plan.num_batches // batches_per_piece))
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PIECES_AHEAD)
        pieces = grain.MapDataset.source(numbers).map(partial(piece_of, rows)).to_iter_dataset(options)
        for number, arrays in zip(numbers, pieces, strict=True):
            begin = number * batches_per_piece
            events, piece_rows = replicate(arrays, mesh)
            yield Piece(events, piece_rows, begin, min(begin + batches_per_piece, plan.num_batches))

    return feed


def _make_epoch_rows(plan: EpochPlan, starts: np.ndarray) -> Callable[[int], Rows]:
    """The function from the number of an epoch to its rows, filled up to whole batches."""
    padding = plan.num_batches * plan.batch_size - len(plan.packing.lengths)

    @jax.jit
    def epoch_rows(windows: Windows, packing: Packing, epoch: jax.Array) -> Rows:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(plan.seed), _ORDER_STREAM), epoch)
        rows = shuffled_rows(windows, packing, key)
        padded: Rows = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, padding), (0, 0))), rows)
        return padded

    # passed as arguments, since constants would be compiled into the function
    tree = (Windows(starts, plan.windows.lengths), plan.packing)
    return partial(epoch_rows, *jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.int32), tree))


def _piece_of(
    sequences: Sequences, plan: EpochPlan, rows: Rows, number: int, *, first_timestamp: int, num_rows: int
) -> tuple[EventArrays, Rows]:
    """One piece, its arrays of a fixed size: its events end to end, and rows that point into them."""
    part = slice(number * num_rows, (number + 1) * num_rows)
    window_numbers, lengths = (np.asarray(leaf[part]) for leaf in (rows.starts, rows.lengths))
    missing = ((0, num_rows - len(lengths)), (0, 0))
    window_numbers, lengths = np.pad(window_numbers, missing), np.pad(lengths, missing)
    filled = lengths > 0
    sizes = lengths[filled] + 1  # the target of a window's last event is the event after it
    ends = np.cumsum(sizes)
    starts = np.zeros_like(lengths)
    starts[filled] = ends - sizes
    shifts = plan.windows.starts[window_numbers[filled]] - (ends - sizes)
    index = np.repeat(shifts, sizes) + np.arange(int(sizes.sum()))
    index = np.minimum(index, len(sequences.item_ids) - 1)
    # a row's windows have at most as many events as the longest row
    size = num_rows * int(plan.packing.lengths.sum(axis=1).max() + plan.packing.lengths.shape[1])
    events = event_arrays(sequences, first_timestamp=first_timestamp, index=np.pad(index, (0, size - len(index))))
    return events, Rows(jnp.asarray(starts), jnp.asarray(lengths))

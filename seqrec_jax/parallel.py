"""Devices: the mesh, where arrays lie on it, and how processes find each other. No other file counts devices.

A step is written for one device and compiled for all: arrays carry their sharding, and the compiler adds the
communication. Rows of a batch are split over the data axis. Tables with a row for each item, the layers of language
models, and the optimizer state of both are split over the model axis, so that neither memory nor the softmax over all
items has to fit on one device; everything else is replicated.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from seqrec_jax.errors import ConfigError, SeqrecError

DATA_AXIS = "data"
MODEL_AXIS = "model"
Tree = TypeVar("Tree")

_LANGUAGE = "language"
"""Key of the parameters of a language model."""
_SPLIT_OUTPUTS = ("query", "key", "value", "gate", "up")
_SPLIT_INPUTS = ("output", "down")
"""Layers whose inputs are the outputs of the former: each device holds some heads, or hidden units, of both."""


def make_mesh(num_devices: int | None = None, *, model_devices: int = 1) -> Mesh:
    """A `("data", "model")` mesh.

    Args:
      num_devices: number of devices to use; None means all that are visible.
      model_devices: size of the model axis, over which tables of items are split; the data axis gets the rest.

    Raises:
      ConfigError: more devices than are visible, fewer than one, or a number that `model_devices` does not divide.
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        raise ConfigError(f"num_devices is {num_devices}, but {len(devices)} devices are visible")
    if model_devices < 1 or num_devices % model_devices:
        raise ConfigError(
            f"model_devices is {model_devices}, which does not divide num_devices, {num_devices}; choose a divisor"
        )
    return jax.make_mesh(
        (num_devices // model_devices, model_devices),
        (DATA_AXIS, MODEL_AXIS),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[:num_devices],
    )


def join_processes(
    *, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Make this process one of several that train together; call it before any other use of JAX.

    Args:
      coordinator: `host:port` of process 0; None, like the others, if a TPU pod, Slurm, Open MPI or Kubernetes
        provides it.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      ConfigError: some are given and some are not, or the processes do not find each other.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ConfigError(f"processes find each other by {', '.join(given)}; {' and '.join(missing)} is missing")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the processes did not find each other ({given}): {' '.join(str(error).split())}") from error


@contextmanager
def errors_end_the_process() -> Iterator[None]:
    """End this process with code 1 when it fails as one of several, so that the others fail as well.

    Otherwise it would wait for the others before it ends, while they wait for its share of a step. A single process
    raises as usual.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        name = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, SeqrecError):
            print(f"{name}: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
            what = "another was lost, or it failed" if isinstance(error, jax.errors.JaxRuntimeError) else "it failed"
            print(
                f"{name} ends, since {what}; start all of them again, and the run continues from its last checkpoint",
                file=sys.stderr,
            )
        sys.stderr.flush()
        os._exit(1)


def is_first_process() -> bool:
    """True for the one process that writes logs and prints, which a single process is too."""
    return jax.process_index() == 0


def wait_for_processes(name: str) -> None:
    """Return when every process has reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def largest_over_processes(*values: int) -> list[int]:
    """The largest of each value over all processes, so that all of them decide alike."""
    if jax.process_count() == 1:
        return list(values)
    gathered = multihost_utils.process_allgather(np.asarray(values, dtype=np.int32))
    return [int(value) for value in np.max(gathered, axis=0)]


def on_this_process(tree: Tree) -> Tree:
    """A tree of global arrays as arrays that this process holds whole; the tree itself for a single process."""
    if jax.process_count() == 1:
        return tree
    gathered: Tree = multihost_utils.process_allgather(tree, tiled=True)
    return gathered


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a replicated array."""
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of the arrays `[B, …]` of a batch, rows over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def over_items(mesh: Mesh) -> NamedSharding:
    """The sharding of an item table, rows over the model axis, whose size must divide their number."""
    # for one device the spec is written as compiled functions write it, so that nothing is compiled again
    return NamedSharding(mesh, PartitionSpec(MODEL_AXIS) if mesh.shape[MODEL_AXIS] > 1 else PartitionSpec())


def state_sharding(tree: Any, mesh: Mesh) -> Any:
    """Shardings of parameters, of an optimizer's state or of a whole training state: a tree like `tree`.

    Embeddings of item ids, wherever they are in the tree, are split by rows over the model axis. So are the layers of
    a language model, as in Megatron, and its table of tokens, if the axis divides their sizes. All else is replicated.

    Source:
      Shoeybi et al. (2019), Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if is_item_rows(path):
            return over_items(mesh)
        axis = _shared_axis(path)
        size = mesh.shape[MODEL_AXIS]
        if size == 1 or axis is None or len(leaf.shape) <= axis or leaf.shape[axis] % size:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, MODEL_AXIS))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def is_item_rows(path: tuple[Any, ...]) -> bool:
    """True for the path of a leaf with one row for each item, `… ['ids'] ['embedding']`."""
    return tuple(getattr(entry, "key", None) for entry in path[-2:]) == ("ids", "embedding")


def _shared_axis(path: tuple[Any, ...]) -> int | None:
    """The axis of a language model's array that is split over devices, None for a replicated array."""
    names = [str(getattr(entry, "key", "")) for entry in path]
    if _LANGUAGE not in names or len(names) < 2:
        return None
    layer, part = names[-2:]
    if part == "tokens":
        return 0
    if layer in _SPLIT_OUTPUTS:
        return {"kernel": 1, "kernel_int8": 1, "kernel_scale": 0, "bias": 0}.get(part)
    return 0 if layer in _SPLIT_INPUTS and part in ("kernel", "kernel_int8") else None


def rows_on_mesh(num_items: int, *, model_devices: int) -> int:
    """Rows of an item table that `model_devices` divides: V + 1, and up to model_devices - 1 that are no items.

    >>> rows_on_mesh(20, model_devices=1), rows_on_mesh(20, model_devices=4)
    (21, 24)
    """
    return -(-(num_items + 1) // model_devices) * model_devices


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Put every array of a tree whole on every device of the mesh."""
    placed: Tree = jax.device_put(tree, replicated(mesh))
    return placed


def init_on_mesh(init: Callable[[PRNGKeyArray], Tree], key: PRNGKeyArray, mesh: Mesh) -> Tree:
    """`init(key)`, with each array made in its shards, so that none has to fit on one device.

    Args:
      init: makes a tree of arrays from a key.
      key: consumed.
      mesh: the devices; shardings are those of `state_sharding`.
    """
    sharding = state_sharding(jax.eval_shape(init, key), mesh)
    tree: Tree = jax.jit(init, out_shardings=sharding)(key)
    return tree


def data_size(mesh: Mesh) -> int:
    """Size of the data axis, over which a batch is split."""
    return int(mesh.shape[DATA_AXIS])


def is_simulated(mesh: Mesh) -> bool:
    """True for several devices simulated on one CPU, whose collectives deadlock unless every step is waited for."""
    return len(mesh.local_devices) > 1 and mesh.devices.flat[0].platform == "cpu"

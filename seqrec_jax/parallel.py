"""Devices: the mesh, what lies where on it, and multi-host start-up. No other file knows how many there are."""

from __future__ import annotations

from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqrec_jax.errors import ConfigError

DATA_AXIS = "data"
MODEL_AXIS = "model"
Tree = TypeVar("Tree")


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A `("data", "model")` mesh with every device on the data axis.

    Args:
      num_devices: how many of the visible devices to use; None means all.

    Raises:
      ConfigError: more devices than are visible, or fewer than one.
    """
    devices = jax.devices()
    num_devices = len(devices) if num_devices is None else num_devices
    if not 1 <= num_devices <= len(devices):
        raise ConfigError(f"num_devices is {num_devices}, but {len(devices)} devices are visible")
    return jax.make_mesh(
        (num_devices, 1),
        (DATA_AXIS, MODEL_AXIS),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[:num_devices],
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Put every array of a tree whole on every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def data_size(mesh: Mesh) -> int:
    """Devices that share a batch."""
    return mesh.shape[DATA_AXIS]


def is_simulated(mesh: Mesh) -> bool:
    """True for several devices on one CPU, whose collectives starve unless every step is waited for."""
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"

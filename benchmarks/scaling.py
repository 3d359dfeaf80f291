"""How the work grows with the devices: `python benchmarks/scaling.py`, about a minute on two cores.

Counted: the training step is compiled for one to eight simulated devices, for meshes that share the batch, the items
or both; the collectives of one step, the bytes that each device sends and its memory are read from the compiled
program. Strong scaling keeps the batch, weak scaling the rows of each device of the data axis. Two cores cannot show
time, so no seconds are measured.

Estimated: a roofline of a step on 8 and 256 accelerators with ten million and a thousand million items. It is the time
of the arithmetic or of the memory traffic, whichever is longer, part by part, and of the exchange, none of them
overlapping and all at the makers' peak rates: a bound from below, not a measurement. `estimate` holds every
assumption. Where parameters, moments and gradients do not fit, that is what the row says.

Writes all rows to benchmarks/results/scaling.json.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from collectives import exchange_of
from records import Row, circumstances

from seqrec_jax.data.batches import EventArrays, Rows
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.items import ItemTowerConfig, id_table
from seqrec_jax.model import ModelConfig, make_sequence_model
from seqrec_jax.parallel import make_mesh, over_items, replicated, rows_on_mesh, state_sharding
from seqrec_jax.training.config import LossConfig, TrainingConfig
from seqrec_jax.training.objective import make_objective
from seqrec_jax.training.state import init_state, make_optimizer
from seqrec_jax.training.step import make_run_steps
from seqrec_jax.training.update import gradient_update

RESULTS = Path("benchmarks/results/scaling.json")
COMMAND = "python benchmarks/scaling.py"
ITEMS, WIDTH, LENGTH, ROWS, EVENTS = 20_000, 64, 50, 64, 100_000
MESHES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 2), (2, 4))
LOSSES = {
    "softmax": LossConfig(),
    "sampled_softmax": LossConfig(kind="sampled_softmax", num_negatives=1024, negatives_per="batch"),
}


def counted(loss: str, data: int, model_devices: int, rows: int) -> Row:
    """Collectives, bytes and memory of one compiled step of SASRec on a mesh of data × model devices."""
    mesh = make_mesh(data * model_devices, model_devices=model_devices)
    num_rows = rows_on_mesh(ITEMS, model_devices=model_devices)
    encoder = EncoderConfig(kind="sasrec", width=WIDTH, max_length=LENGTH)
    table = id_table(num_rows - 1)
    model = make_sequence_model(
        ModelConfig(encoder=encoder, items=ItemTowerConfig(width=WIDTH)),
        num_items=num_rows - 1,
        num_behaviors=1,
        item_table=table,
    )
    config = TrainingConfig(batch_size=rows, loss=LOSSES[loss])
    optimizer = make_optimizer(config.optimizer, total_steps=1000)
    run_steps = make_run_steps(
        model,
        make_objective(
            config.loss,
            item_counts=np.arange(num_rows) <= ITEMS,
            data_devices=data,
            model_devices=model_devices,
        ),
        gradient_update(optimizer),
        config=config,
        length=LENGTH,
        behavior_weights=jnp.ones(1),
        mesh=mesh,
    )

    def placed(like: object, shardings: object) -> object:
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), like, shardings
        )

    def everywhere(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=replicated(mesh))

    state = jax.eval_shape(lambda: init_state(model.init(jax.random.key(0)), optimizer, with_average=False))
    compiled = run_steps.lower(  # type: ignore[attr-defined]
        placed(state, state_sharding(state, mesh)),
        placed(table, jax.tree.map(lambda _: over_items(mesh), table)),
        EventArrays(*[everywhere((EVENTS,))] * 3),
        Rows(everywhere((rows, 4)), everywhere((rows, 4))),
        0,
        1,
    ).compile()
    exchange, memory = exchange_of(compiled.as_text()), compiled.memory_analysis()
    return {
        "part": "counted",
        "loss": loss,
        "mesh": f"{data}x{model_devices}",
        "rows": rows,
        "items": ITEMS,
        "width": WIDTH,
        "collectives": dict(exchange.counts),
        "sent_bytes": round(exchange.sent_bytes),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


class Accelerator(NamedTuple):
    """Peak rates of one device, as its maker states them.

    Attributes:
      name: of the device.
      flops: bfloat16 multiplications and additions a second, without sparsity.
      bandwidth: bytes of memory read or written a second.
      memory: bytes.
      link: bytes a second that a device sends to its neighbours (8 of them for a GPU, the torus for a TPU).
      network: bytes a second beyond these.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    link: float
    network: float


ACCELERATORS = (
    Accelerator("NVIDIA H100 SXM", 989e12, 3.35e12, 80e9, 450e9, 50e9),
    Accelerator("Google TPU v5p", 459e12, 2.765e12, 95e9, 600e9, 600e9),
)


def estimate(device: Accelerator, devices: int, model_devices: int, num_items: int, loss: str) -> Row:
    """A bound from below for one step of SASRec, D = E = 256, 4 blocks, L = 200, 64 rows a device.

    Assumptions: bfloat16 products, float32 parameters, Adam's two moments and gradients (16 bytes a number); all
    positions are targets; the softmax over all items writes and reads its scores four times in float32; Adam moves 8
    numbers a parameter; the sampled softmax has 8,192 negatives for the batch. Devices of the model axis repeat the
    encoder's work. Gradients of the table are dense and added up over the data axis. Rings of more than 8 GPUs run
    at the network's rate.
    """
    width, blocks, length, rows = 256, 4, 200, 64 * devices
    data = devices // model_devices
    positions, items = rows * length / data, num_items / model_devices
    dense = blocks * 6 * width**2
    negatives = items if loss == "softmax" else 8192
    encoder_flops = 3 * 2 * positions * (dense + blocks * length * width)
    loss_flops = 3 * 2 * positions * negatives * width
    score_bytes = 4 * 4 * positions * negatives
    optimizer_bytes = 8 * 4 * (items * width + dense)

    def seconds_to_add_up(size: float, group: int, across: int) -> float:
        rate = device.link if across <= 8 or device.network == device.link else device.network
        return 2 * (group - 1) / group * size / rate

    lookups = (1 if loss == "softmax" else 2) * positions * width * 4 + positions * (width + 3) * 4 * (
        loss == "softmax"
    )
    parts = {
        "encoder": encoder_flops / device.flops,
        "loss": max(loss_flops / device.flops, score_bytes / device.bandwidth),
        "optimizer": optimizer_bytes / device.bandwidth,
        "exchange of vectors": seconds_to_add_up(lookups, model_devices, model_devices),
        "exchange of gradients": seconds_to_add_up((items * width + dense) * 4, data, devices),
    }
    memory = 16 * (items * width + dense)
    seconds = sum(parts.values())
    return {
        "part": "estimated",
        "device": device.name,
        "devices": devices,
        "mesh": f"{data}x{model_devices}",
        "items": num_items,
        "loss": loss,
        "memory_bytes": round(memory),
        "fits": memory < 0.8 * device.memory,
        "seconds": seconds,
        "positions_per_second": rows * length / seconds,
        "parts": parts,
    }


def best_estimate(device: Accelerator, devices: int, num_items: int, loss: str) -> Row:
    """The fastest mesh on which the state fits, or the one with the least memory where it fits on none."""
    meshes = [2**power for power in range(devices.bit_length())]
    rows = [estimate(device, devices, size, num_items, loss) for size in meshes]
    fitting = [row for row in rows if row["fits"]]
    return min(fitting, key=lambda row: row["seconds"]) if fitting else min(rows, key=lambda row: row["memory_bytes"])


def main() -> None:
    """Count, estimate, print and write."""
    about = circumstances(COMMAND)
    rows: list[Row] = []
    print("one step, by device: collectives, megabytes sent, megabytes of arguments and of temporary arrays")
    for loss in LOSSES:
        for data, model_devices in MESHES:
            sizes = {"strong": ROWS, "weak": 8 * data}
            for scaling, size in sizes.items():
                row = counted(loss, data, model_devices, size) | {"scaling": scaling}
                rows.append(row | about)
                megabytes = [row[name] / 1e6 for name in ("sent_bytes", "argument_bytes", "temporary_bytes")]
                print(
                    f"{loss:<16} {scaling:<7} mesh {row['mesh']} {size:>4} rows {sum(row['collectives'].values()):>4} "
                    + " ".join(f"{number:>8.2f}" for number in megabytes),
                    flush=True,
                )
    print("\nestimates, a bound from below at peak rates")
    for device in ACCELERATORS:
        for devices in (8, 256):
            for num_items, loss in ((10**7, "softmax"), (10**7, "sampled_softmax"), (10**9, "sampled_softmax")):
                row = best_estimate(device, devices, num_items, loss)
                rows.append(row | about)
                longest = max(row["parts"], key=row["parts"].get)
                verdict = f"{row['positions_per_second'] / 1e6:8.1f} M positions/s, most of it {longest}"
                print(
                    f"{device.name:<16} {devices:>4} devices {num_items:>13,} items {loss:<16} mesh {row['mesh']:>6} "
                    f"{row['memory_bytes'] / 1e9:7.1f} GB each  {verdict if row['fits'] else 'does not fit'}"
                )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The network of golden/make_adapters.py, with its parameters and peft's in this library's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.encoders.linear import linear

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
LAYERS = ("inner", "outer")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def base_params(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        layer: {"kernel": jnp.asarray(arrays[f"{layer}.weight"].T), "bias": jnp.asarray(arrays[f"{layer}.bias"])}
        for layer in LAYERS
    }


def peft_adapters(arrays: dict[str, np.ndarray], step: int) -> dict[str, Any]:
    """peft's adapters after so many steps, as `a`, `b` and perhaps `singular`."""
    adapters: dict[str, Any] = {layer: {"adapter": {}} for layer in LAYERS}
    names = {"lora_A": "a", "lora_B": "b", "lora_E": "singular"}
    for key, values in arrays.items():
        for theirs, ours in names.items():
            if key.startswith("model.") and theirs in key:
                value = values[step].ravel() if ours == "singular" else values[step].T
                adapters[key.split(".")[1]]["adapter"][ours] = jnp.asarray(value)
    return adapters


def loss(params: dict[str, Any], inputs: jax.Array, targets: jax.Array) -> jax.Array:
    outputs = linear(params["outer"], jnp.tanh(linear(params["inner"], inputs)))
    return jnp.mean(jnp.square(outputs - targets))

"""Low-rank adapters beside the kernels of a parameter tree: made, attached, detached, and merged.

Adapters are a tree of their own, `{"layers": {"0": {"query": {"adapter": {"a": …, "b": …, "scale": …}}}}}`. Attaching
them copies nothing, so that one base can serve any number of adapters, a different one in each call.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.int8 import dequantize_base
from seqrec_jax.training.adapters.paths import (
    flat_params,
    is_adapter,
    last_match,
    matching,
    near,
    nested_params,
    require_matches,
)

Params = dict[str, Any]
ADALORA_DEVIATION = 0.02


def init_adapters(params: Params, *, config: FineTuningConfig, key: PRNGKeyArray) -> Params:
    """New adapters, which change no output yet, for every kernel that the configuration targets.

    LoRA: `a` uniform in ±1/√I, like a linear layer, and `b` zero. AdaLoRA: `a` and `b` normal with deviation
    0.02 and singular values zero. `scale` is alpha / rank.

    Args:
      params: a tree whose linear layers hold a `kernel` `[I, O]`.
      config: settings with mode lora or adalora.
      key: consumed.

    Returns:
      Adapters in the layout of `encoders.linear`: `a` `[I, R]`, `b` `[R, O]`, `scale` `()`, with AdaLoRA `singular`
      `[R]`; float32.

    Raises:
      ConfigError: another mode, or a pattern that matches no kernel.
    """
    if config.mode not in ("lora", "adalora"):
        raise ConfigError(f"fine_tuning.mode {config.mode} has no adapters; choose lora or adalora")
    kernels = _kernel_shapes(params)
    layers = sorted(kernels)
    require_matches(config.targets, layers, field="fine_tuning.targets", kind="layer with a kernel")
    layers = matching(config.targets, layers) if config.targets else layers
    if not layers:
        raise ConfigError("the parameters have no layer with a kernel for an adapter; choose mode whole")
    require_matches(config.ranks, layers, field="fine_tuning.ranks", kind="targeted layer")
    require_matches(config.alphas, layers, field="fine_tuning.alphas", kind="targeted layer")
    usual_rank = config.rank if config.mode == "lora" else config.adalora.initial_rank
    make = _init_lora if config.mode == "lora" else _init_adalora
    adapters: dict[str, Array] = {}
    for number, layer in enumerate(layers):
        rank = last_match(config.ranks, layer, default=usual_rank)
        alpha = last_match(config.alphas, layer, default=config.alpha)
        inputs, outputs = kernels[layer]
        adapter = make(jax.random.fold_in(key, number), inputs, outputs, rank) | {"scale": jnp.float32(alpha / rank)}
        adapters |= {f"{layer}/adapter/{name}": array for name, array in adapter.items()}
    return nested_params(adapters)


def attach_adapters(params: Params, trained: Params) -> Params:
    """Parameters with adapters beside their kernels, for `encoders.linear`; nothing is copied.

    Args:
      params: the base.
      trained: adapters, and perhaps other parameters that replace those of the base, such as a trained head.

    Raises:
      ConfigError: an adapter for a layer that does not exist or has one; a parameter that the base does not have.
      ShapeError: an adapter that does not fit its kernel; a parameter of another shape.
    """
    attached, kernels = flat_params(params), _kernel_shapes(params)
    adapters, others = _by_layer(trained)
    for layer, adapter in adapters.items():
        if layer not in kernels:
            raise ConfigError(
                f"there is no layer {layer} with a kernel for its adapter; near it are {near(layer, kernels)}"
            )
        if f"{layer}/adapter/a" in attached:
            raise ConfigError(f"{layer} has an adapter; detach or merge it first")
        if not {"a", "b", "scale"} <= set(adapter) <= {"a", "b", "scale", "singular"}:
            raise ConfigError(
                f"the adapter of {layer} must have a, b, scale and perhaps singular, found {sorted(adapter)}"
            )
        inputs, outputs = kernels[layer]
        rank = len(adapter["b"]) if adapter["b"].ndim else 0
        fitting = {"a": (inputs, rank), "b": (rank, outputs), "scale": (), "singular": (rank,)}
        for name, array in adapter.items():
            if array.shape != fitting[name]:
                raise ShapeError(
                    f"{layer}/adapter/{name} is {array.shape}, but its kernel {kernels[layer]} needs {fitting[name]}"
                )
            attached[f"{layer}/adapter/{name}"] = array
    for path, array in others.items():
        if path not in attached:
            raise ConfigError(f"there is no parameter {path}; near it are {near(path, attached)}")
        if array.shape != attached[path].shape:
            raise ShapeError(f"{path} is {array.shape}, but the base has {attached[path].shape} there")
        attached[path] = array
    return nested_params(attached)


def detach_adapters(params: Params) -> tuple[Params, Params]:
    """Parameters without adapters, and the adapters as a tree of their own."""
    flat = flat_params(params)
    adapters = {path: leaf for path, leaf in flat.items() if is_adapter(path)}
    return nested_params({path: leaf for path, leaf in flat.items() if path not in adapters}), nested_params(adapters)


def merge_adapters(params: Params) -> Params:
    """Parameters whose kernels are `kernel + scale a diag(s) b`, without adapters; differentiable in both.

    For encoders that do not read adapters, and for serving at the cost of the base.
    """
    base, adapters = detach_adapters(params)
    return _shifted(base, adapters, sign=1.0)


def unmerge_adapters(params: Params, adapters: Params) -> Params:
    """The base, up to rounding, of parameters that these adapters were merged into.

    Args:
      params: parameters as `merge_adapters` gives them.
      adapters: the adapters that were merged.
    """
    return _shifted(params, adapters, sign=-1.0)


def low_rank_product(adapter: dict[str, Array]) -> Float[Array, "I O"]:
    """The product `scale a diag(s) b`, `[I, O]`, that an adapter adds to its kernel."""
    inner = adapter["a"] * adapter["singular"][None] if "singular" in adapter else adapter["a"]
    return adapter["scale"] * (inner @ adapter["b"])


def _shifted(base: Params, adapters: Params, *, sign: float) -> Params:
    layers = _by_layer(adapters)[0]
    flat = flat_params(dequantize_base(base, layers=layers))
    for layer, adapter in layers.items():
        kernel = flat[f"{layer}/kernel"]
        flat[f"{layer}/kernel"] = kernel + (sign * low_rank_product(adapter)).astype(kernel.dtype)
    return nested_params(flat)


def _by_layer(trained: Params) -> tuple[dict[str, dict[str, Array]], dict[str, Array]]:
    """Adapters by the path of their layer, and all other parameters by their path."""
    layers: dict[str, dict[str, Array]] = {}
    others: dict[str, Array] = {}
    for path, array in flat_params(trained).items():
        if is_adapter(path):
            layer, _, name = path.rpartition("/adapter/")
            layers.setdefault(layer, {})[name] = array
        else:
            others[path] = array
    return layers, others


def _kernel_shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """`(I, O)` of every layer with a matrix as its kernel, quantised or not."""
    shapes = {}
    for path, leaf in flat_params(params).items():
        layer, _, name = path.rpartition("/")
        if layer and name in ("kernel", "kernel_int8") and leaf.ndim == 2:
            shapes[layer] = leaf.shape
    return shapes


def _init_lora(key: PRNGKeyArray, inputs: int, outputs: int, rank: int) -> dict[str, Array]:
    bound = 1.0 / math.sqrt(inputs)
    a = jax.random.uniform(key, (inputs, rank), minval=-bound, maxval=bound)
    return {"a": a, "b": jnp.zeros((rank, outputs))}


def _init_adalora(key: PRNGKeyArray, inputs: int, outputs: int, rank: int) -> dict[str, Array]:
    a_key, b_key = jax.random.split(key)
    return {
        "a": ADALORA_DEVIATION * jax.random.normal(a_key, (inputs, rank)),
        "b": ADALORA_DEVIATION * jax.random.normal(b_key, (rank, outputs)),
        "singular": jnp.zeros(rank),
    }

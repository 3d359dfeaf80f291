"""A frozen int8 base: kernels quantised with one scale for each output."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from seqrec_jax.training.adapters.paths import flat_params, matching, nested_params, require_matches
from seqrec_jax.types import ArrayLike

Params = dict[str, Any]
_LARGEST = 127


def quantize_base(params: Params, *, patterns: Collection[str] = ()) -> Params:
    """Parameters with int8 kernels, as `encoders.linear` reads them; these kernels cannot be trained further.

    No value moves by more than 1/254 of the largest magnitude in its column. Everything else stays as it is.

    Args:
      params: a tree with `kernel` `[I, O]` in its linear layers.
      patterns: patterns of the layers' paths; none means every matrix that is called `kernel`. Choose only layers that
        go through `encoders.linear`, which are those of language models.

    Returns:
      A tree with `kernel_int8` `[I, O]` int8 and `kernel_scale` `[O]` in place of each `kernel` that was chosen.

    Raises:
      ConfigError: a pattern that matches no kernel.
    """
    flat = flat_params(params)
    layers = [path.removesuffix("/kernel") for path in flat if path.endswith("/kernel") and flat[path].ndim == 2]
    require_matches(patterns, layers, field="patterns", kind="layer with a kernel")
    for layer in matching(patterns, layers) if patterns else layers:
        flat[f"{layer}/kernel_int8"], flat[f"{layer}/kernel_scale"] = quantize_kernel(flat.pop(f"{layer}/kernel"))
    return nested_params(flat)


def dequantize_base(params: Params, *, layers: Collection[str] | None = None) -> Params:
    """Parameters whose int8 kernels are floating-point again.

    Args:
      params: a tree as `quantize_base` gives it.
      layers: paths of the layers; None means all.
    """
    flat = flat_params(params)
    for path in [path for path in flat if path.endswith("/kernel_int8")]:
        layer = path.removesuffix("/kernel_int8")
        if layers is None or layer in layers:
            scale = flat.pop(f"{layer}/kernel_scale")
            flat[f"{layer}/kernel"] = flat.pop(path).astype(scale.dtype) * scale[None]
    return nested_params(flat)


def quantize_kernel(kernel: Float[ArrayLike, "I O"]) -> tuple[Int8[Array, "I O"], Float[Array, " O"]]:
    """A kernel as int8 values from -127 to 127, and the scale `[O]` of each column.

    >>> numbers, scale = quantize_kernel(jnp.array([[0.5, 0.0], [-1.27, 0.0]]))
    >>> numbers[:, 0], round(float(scale[0]), 6)
    (Array([  50, -127], dtype=int8), 0.01)
    """
    kernel = jnp.asarray(kernel)
    largest = jnp.abs(kernel).max(axis=0)
    scale = jnp.where(largest > 0, largest / _LARGEST, jnp.ones_like(largest))
    return jnp.round(kernel / scale[None]).astype(jnp.int8), scale

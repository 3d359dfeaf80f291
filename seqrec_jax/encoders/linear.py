"""A linear layer over plain parameters, with or without a low-rank adapter beside its kernel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqrec_jax.types import ArrayLike


def linear(params: dict[str, Any], inputs: Float[ArrayLike, "*N I"]) -> Float[Array, "*N O"]:
    """`x W + b`, plus `scale (x A) diag(s) B` if an adapter is attached.

    Args:
      params: `kernel` `[I, O]`, or `kernel_int8` `[I, O]` int8 and `kernel_scale` `[O]`, whose product is the kernel;
        optionally `bias` `[O]`, and `adapter` with `a` `[I, R]`, `b` `[R, O]`, a scalar `scale`, and for AdaLoRA
        `singular` `[R]`.
      inputs: `[*N, I]` float.

    Returns:
      `[*N, O]` in the inputs' dtype.

    Source:
      Hu et al. (2022), LoRA; Zhang et al. (2023), AdaLoRA.
    """
    if "kernel_int8" in params:  # scaling the outputs costs less than scaling the kernel
        outputs = inputs @ params["kernel_int8"].astype(inputs.dtype)
        outputs = outputs * jnp.broadcast_to(params["kernel_scale"].astype(outputs.dtype), outputs.shape)
    else:
        outputs = inputs @ params["kernel"]
    if "bias" in params:
        outputs = outputs + jnp.broadcast_to(params["bias"], outputs.shape)
    if "adapter" in params:
        adapter = jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), params["adapter"])  # a base may be 16 bits
        inner = inputs @ adapter["a"]
        if "singular" in adapter:
            inner = inner * jnp.broadcast_to(adapter["singular"], inner.shape)
        outputs = outputs + adapter["scale"] * (inner @ adapter["b"])
    return outputs

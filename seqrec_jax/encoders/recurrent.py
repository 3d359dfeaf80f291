"""Gated recurrent encoders, GRU and LSTM, over rows of one or several segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys, dropout
from seqrec_jax.encoders.layers import Linear, first_and_real, pure_module
from seqrec_jax.types import DimSize

Cell = Callable[[Array, Array, tuple[Array, ...]], tuple[Array, ...]]


def gru_encoder(config: EncoderConfig) -> Encoder:
    """Stacked GRU layers, dropout between them.

    Source:
      Hidasi et al. (2016), Session-based Recommendations with Recurrent Neural Networks; the equations are
      those of `torch.nn.GRU`.
    """
    return _recurrent_encoder(config, cell=gru_cell, num_gates=3, carry_size=1)


def lstm_encoder(config: EncoderConfig) -> Encoder:
    """Stacked LSTM layers, dropout between them; the equations are those of `torch.nn.LSTM`."""
    return _recurrent_encoder(config, cell=lstm_cell, num_gates=4, carry_size=2)


def gru_cell(
    inputs: Float[Array, "B G"], recurrent: Float[Array, "B G"], carry: tuple[Array, ...]
) -> tuple[Float[Array, "B D"], ...]:
    """One GRU step: `r, z = σ(·), n = tanh(x_n + r · h_n), h' = (1 - z) n + z h`.

    Args:
      inputs: `[B, 3 D]` contribution of the input to the gates r, z, n.
      recurrent: `[B, 3 D]` contribution of the state.
      carry: (h,), `[B, D]`.

    Returns:
      The next carry, (h,).
    """
    (hidden,) = carry
    input_reset, input_update, input_new = jnp.split(inputs, 3, axis=-1)
    state_reset, state_update, state_new = jnp.split(recurrent, 3, axis=-1)
    reset = jax.nn.sigmoid(input_reset + state_reset)
    update = jax.nn.sigmoid(input_update + state_update)
    new = jnp.tanh(input_new + reset * state_new)
    return (new + update * (hidden - new),)


def lstm_cell(
    inputs: Float[Array, "B G"], recurrent: Float[Array, "B G"], carry: tuple[Array, ...]
) -> tuple[Float[Array, "B D"], ...]:
    """One LSTM step: `i, f, o = σ(·), g = tanh(·), c' = f c + i g, h' = o tanh(c')`.

    Args:
      inputs: `[B, 4 D]` contribution of the input to the gates i, f, g, o.
      recurrent: `[B, 4 D]` contribution of the state.
      carry: (h, c), `[B, D]` each.

    Returns:
      The next carry, (h, c).
    """
    _, cell_state = carry
    enter, forget, new, leave = jnp.split(inputs + recurrent, 4, axis=-1)
    cell_state = jax.nn.sigmoid(forget) * cell_state + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell_state), cell_state


class RecurrentLayer(nnx.Module):
    """One layer; the contributions of the inputs to all gates are one product before the loop over positions."""

    def __init__(self, width: int, *, cell: Cell, num_gates: int, carry_size: int, rngs: nnx.Rngs):
        inputs_init = _for_each_gate(nnx.initializers.xavier_uniform(), num_gates)
        recurrent_init = _for_each_gate(nnx.initializers.orthogonal(), num_gates)
        self.inputs = Linear(width, num_gates * width, kernel_init=inputs_init, rngs=rngs)
        self.recurrent = Linear(width, num_gates * width, kernel_init=recurrent_init, rngs=rngs)
        self.cell = cell
        self.carry_size = carry_size

    def __call__(
        self, x: Float[Array, "B L D"], *, first: Bool[Array, "B L"], real: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """The hidden state at each position, `[B, L, D]`; `first` and `real` as of `first_and_real`."""

        def step(carry: tuple[Array, ...], now: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
            carry = self.step(carry, *now)
            return carry, carry[0]

        over_time = (
            jnp.swapaxes(self.inputs(x), 0, 1),
            jnp.swapaxes(first, 0, 1)[..., None],
            jnp.swapaxes(real, 0, 1)[..., None],
        )
        # zeros made from x have its dtype and, inside shard_map, vary over the devices as it does
        carry = (jnp.zeros_like(x[:, 0]),) * self.carry_size
        return jnp.swapaxes(jax.lax.scan(step, carry, over_time)[1], 0, 1)

    def append(
        self, x: Float[Array, "B D"], carry: tuple[Array, ...], *, first: Bool[Array, "B 1"], real: Bool[Array, "B 1"]
    ) -> tuple[Array, ...]:
        """The carry after one more event."""
        return self.step(carry, self.inputs(x), first, real)

    def step(
        self,
        carry: tuple[Array, ...],
        inputs: Float[Array, "B G"],
        first: Bool[Array, "B 1"],
        real: Bool[Array, "B 1"],
    ) -> tuple[Array, ...]:
        """The carry after one position; `inputs` is the contribution of its input to the gates."""
        fresh = tuple(jnp.where(first, 0.0, part) for part in carry)
        after = self.cell(inputs, self.recurrent(fresh[0]), fresh)
        # padding keeps the state, so that it may be on either side of a segment
        return tuple(jnp.where(real, new, old).astype(old.dtype) for new, old in zip(after, carry, strict=True))


class RecurrentStack(nnx.Module):
    """Layers on top of each other."""

    def __init__(self, config: EncoderConfig, *, cell: Cell, num_gates: int, carry_size: int, rngs: nnx.Rngs):
        self.names = tuple(f"layer_{number}" for number in range(config.num_layers))
        self.dropout = config.dropout
        for name in self.names:
            layer = RecurrentLayer(config.width, cell=cell, num_gates=num_gates, carry_size=carry_size, rngs=rngs)
            setattr(self, name, layer)

    def __call__(self, x: Float[Array, "B L D"], batch: Batch, *, key: Keys | None) -> Float[Array, "B L D"]:
        """The states of the last layer, `[B, L, D]`."""
        first, real = first_and_real(batch)
        for name in self.names:
            if name != self.names[0]:
                x = dropout(x, rate=self.dropout, site=f"recurrent/{name}", key=key)
            x = getattr(self, name)(x, first=first, real=real)
        return x

    def append(
        self, x: Float[Array, "B D"], cache: dict[str, tuple[Array, ...]], batch: Batch
    ) -> tuple[Float[Array, "B D"], dict[str, tuple[Array, ...]]]:
        """The state after one more event, and the layers' carries."""
        first, real = first_and_real(batch)
        after = {}
        for name in self.names:
            after[name] = getattr(self, name).append(x, cache[name], first=first, real=real)
            x = after[name][0]
        return x, after


def _for_each_gate(init: Callable[..., Array], num_gates: int) -> Callable[..., Array]:
    """An initialiser of `[D, G D]` whose G square blocks are drawn by `init` one by one."""

    def init_blocks(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32, **kwargs: Any) -> Array:
        block = (shape[0], shape[1] // num_gates)
        return jnp.concatenate([init(k, block, dtype, **kwargs) for k in jax.random.split(key, num_gates)], axis=1)

    return init_blocks


def _recurrent_encoder(config: EncoderConfig, *, cell: Cell, num_gates: int, carry_size: int) -> Encoder:
    init, bind = pure_module(
        lambda rngs: RecurrentStack(config, cell=cell, num_gates=num_gates, carry_size=carry_size, rngs=rngs)
    )

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B L D"]:
        return bind(params)(event_vectors, batch, key=key)

    def start(num_users: DimSize, dtype: Any) -> Params:
        # an array each, so that the whole cache may be donated to `append`
        shape = (num_users, config.width)
        return {
            f"layer_{number}": tuple(jnp.zeros(shape, dtype) for _ in range(carry_size))
            for number in range(config.num_layers)
        }

    def append(
        params: Params, cache: Params, event_vectors: Float[Array, "B D"], batch: Batch
    ) -> tuple[Float[Array, "B D"], Params]:
        return bind(params).append(event_vectors, cache, batch)

    return Encoder(init, encode, start=start, append=append)

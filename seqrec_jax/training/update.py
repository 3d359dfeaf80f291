"""Updates of the parameters: pairs of pure functions that the training step takes as an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqrec_jax.training.state import Params


class StepLoss(NamedTuple):
    """The loss of one batch as functions of the parameters alone; everything random in them is already drawn.

    The rows' sums of weighted losses, added up and divided by the sum of `row_weights`, give the objective's mean.

    Attributes:
      mean: `mean(params)`, float32 scalar: the objective's weighted mean over the batch, and the contrastive term.
      row_sum: `row_sum(params, row)`, float32 scalar: the sum of weight × loss over the targets of one row, `row` an
        int32 scalar from 0 to B-1. Without packing a row is one user's window. Only negatives that are drawn from the
        batch (`in_batch`, `mixed`) make it depend on other rows. ConfigError with a contrastive term, which compares
        rows.
      row_weights: `[B]` float32 sum of the weights of each row's targets, 0 for a row of padding.
    """

    mean: Callable[[Params], Float[Array, ""]]
    row_sum: Callable[[Params, Int[Array, ""]], Float[Array, ""]]
    row_weights: Float[Array, " B"]


@runtime_checkable
class ApplyUpdate(Protocol):
    """One update of the parameters by the loss of a batch; pure, and traced once."""

    def __call__(
        self, loss: StepLoss, params: Params, state: optax.OptState, key: PRNGKeyArray, /
    ) -> tuple[Float[Array, ""], Params, optax.OptState]:
        """The loss before the update (float32 scalar, for the log), the next parameters and the next state.

        `key` is a key of this step that nothing else uses, for noise. With `optimizer.rows: read`, params and state
        hold only the rows of the id embeddings that the batch reads.
        """
        ...


class Update(NamedTuple):
    """A rule by which a training step changes the parameters.

    Attributes:
      init: `init(params) -> state`, arrays only, saved with every checkpoint.
      apply: see `ApplyUpdate`.
    """

    init: Callable[[Params], optax.OptState]
    apply: ApplyUpdate


def gradient_update(optimizer: optax.GradientTransformation) -> Update:
    """The ordinary update: the gradient of the mean loss through an Optax optimizer."""

    def apply(
        loss: StepLoss, params: Params, state: optax.OptState, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Params, optax.OptState]:
        value, grads = jax.value_and_grad(loss.mean, allow_int=True)(params)  # an int8 base is not differentiated
        updates, state = optimizer.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    return Update(optimizer.init, apply)

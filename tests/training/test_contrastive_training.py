"""The contrastive term of a training step: the same on any devices and rows, and it draws views together."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from tiny_training import (
    BEHAVIOR_WEIGHTS,
    CONFIG,
    LENGTH,
    NUM_ITEMS,
    STEPS_PER_EPOCH,
    shared_steps,
    tiny_model,
    tiny_params,
    tiny_rows,
)

from seqrec_jax.data.batches import gather_batch
from seqrec_jax.items import id_table
from seqrec_jax.losses import contrastive_loss, weighted_mean
from seqrec_jax.training.config import LossConfig, OptimizerConfig
from seqrec_jax.training.views import ContrastiveConfig, random_view, segment_vectors

CONTRASTIVE = replace(
    CONFIG,
    loss=LossConfig(kind="sampled_softmax", num_negatives=4),
    contrastive=ContrastiveConfig(weight=2.0, temperature=0.5, kinds=("crop", "mask")),
    optimizer=OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0),
)


@cache
def contrastive_steps():
    return shared_steps(CONTRASTIVE, devices=1, dropout=0.0)


def gradient(steps):
    """What plain gradient descent at rate 1 takes off."""
    after = steps(steps.start(), STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH)[0].params
    return jax.tree.map(lambda old, new: old - np.asarray(new), tiny_params(steps.kind), after)


def test_its_gradient_is_the_same_on_eight_devices_that_see_only_the_rows_that_are_read():
    read = replace(CONTRASTIVE, optimizer=replace(CONTRASTIVE.optimizer, rows="read"))
    one, other = gradient(contrastive_steps()), gradient(shared_steps(read, devices=8, dropout=0.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), one, other)


def test_views_of_a_sequence_come_nearer_than_those_of_others():
    model, steps = tiny_model("mean", 0.0), contrastive_steps()
    batch = gather_batch(steps.events, tiny_rows(), length=LENGTH, behavior_weights=jnp.asarray(BEHAVIOR_WEIGHTS))

    @jax.jit
    def told_apart(params):
        vectors = []
        for seed in (1, 2):
            keys = jax.random.split(jax.random.key(seed), len(batch.item_ids))
            view = random_view(batch, config=CONTRASTIVE.contrastive, row_keys=keys)
            found, where = segment_vectors(
                model.encode(params, id_table(NUM_ITEMS), view), view.segment_ids, num_segments=1
            )
            vectors.append(found[:, 0])
        return weighted_mean(contrastive_loss(*vectors, temperature=0.5, where=where[:, 0]), where=where[:, 0])

    state = steps.start()
    before = float(told_apart(state.params))
    for _ in range(6):
        state = steps(state, 0, STEPS_PER_EPOCH)[0]
    after = float(told_apart(state.params))
    assert after < before - 0.3, (before, after)

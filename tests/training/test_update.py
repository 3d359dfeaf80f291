"""Updates of one's own: the step takes one as an argument, with the loss of the batch and of each of its rows."""

import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import CONFIG, STEPS_PER_EPOCH, Steps, same_bits, shared_steps, tiny_params, train_tiny

from seqrec_jax.errors import ConfigError
from seqrec_jax.parallel import make_mesh
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.config import LossConfig, OptimizerConfig
from seqrec_jax.training.state import init_state
from seqrec_jax.training.update import Update
from seqrec_jax.training.views import ContrastiveConfig

RATE = 0.01
SOFTMAX = replace(CONFIG, optimizer=OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0), loss=LossConfig())
SAMPLED = replace(SOFTMAX, loss=LossConfig(kind="sampled_softmax", num_negatives=4, propensity_power=0.5))


def sign_descent(optimizer=None):
    """Every parameter moves by the same amount; the state counts the steps."""

    def apply(loss, params, state, key):
        value, grads = jax.value_and_grad(loss.mean)(params)
        return value, jax.tree.map(lambda leaf, grad: leaf - RATE * jnp.sign(grad), params, grads), state + 1

    return Update(lambda params: jnp.zeros((), jnp.int32), apply)


def by_clipped_rows(bound):
    """Differentially private training without its noise: the gradient of each row, clipped, and their mean."""

    def apply(loss, params, state, key):
        rows = jnp.arange(len(loss.row_weights), dtype=jnp.int32)
        values, grads = jax.vmap(jax.value_and_grad(loss.row_sum), (None, 0))(params, rows)
        norms = jnp.sqrt(sum(jnp.sum(leaf.reshape(len(rows), -1) ** 2, axis=1) for leaf in jax.tree.leaves(grads)))
        scales = jnp.minimum(1.0, bound / jnp.maximum(norms, 1e-12))
        total = jax.tree.map(lambda leaf: jnp.tensordot(scales, leaf, 1), grads)
        size = jnp.sum(loss.row_weights)
        return jnp.sum(values) / size, jax.tree.map(lambda leaf, step: leaf - step / size, params, total), state

    return Update(lambda params: (), apply)


def moved(steps, batch=0):
    """What one step takes off the parameters, and the loss that it reports."""
    state, totals, _ = steps(steps.start(), batch, batch + 1)
    before = tiny_params(steps.kind)
    return jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params), float(totals.loss)


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def test_sign_descent_moves_every_parameter_by_its_rate():
    taken, loss = moved(Steps(SOFTMAX, devices=1, update=sign_descent()))
    gradient, expected_loss = moved(shared_steps(SOFTMAX, devices=1))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for step, grad in zip(jax.tree.leaves(taken), jax.tree.leaves(gradient), strict=True):
        clear = np.abs(grad) > 1e-6
        np.testing.assert_allclose(step[clear], RATE * np.sign(grad[clear]), atol=1e-6)


@pytest.mark.parametrize("config", [SOFTMAX, SAMPLED], ids=["softmax", "sampled, weighted items"])
def test_rows_add_up_to_the_batch_and_are_clipped_one_by_one(config):
    """Without a bound the gradients of the rows give that of the mean, dropout included; with one, less."""
    batch = STEPS_PER_EPOCH - 1  # some of its rows are padding
    expected, expected_loss = moved(shared_steps(config, devices=1), batch)
    unbounded, loss = moved(Steps(config, devices=1, update=by_clipped_rows(1e6)), batch)
    assert loss == pytest.approx(expected_loss, rel=1e-5) and norm(expected) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), unbounded, expected)
    clipped, _ = moved(Steps(config, devices=1, update=by_clipped_rows(1e-3)))
    assert 0 < norm(clipped) <= config.batch_size * 1e-3


def test_a_step_always_gets_the_same_key_and_the_next_step_another():
    def apply(loss, params, state, key):
        return loss.mean(params), params, jax.random.normal(key, state.shape)

    steps = Steps(SOFTMAX, devices=1, update=Update(lambda params: jnp.zeros(3), apply))
    noise = np.asarray(steps(steps.start(), 0, 1)[0].optimizer)
    state = steps(steps.start(), 0, 1)[0]
    np.testing.assert_array_equal(state.optimizer, noise)
    assert not np.isclose(noise, steps(state, 0, 1)[0].optimizer).any()


def test_rows_that_are_compared_with_each_other_have_no_loss_of_their_own():
    config = replace(SOFTMAX, contrastive=ContrastiveConfig(weight=0.1))
    steps = Steps(config, devices=1, update=by_clipped_rows(1.0))
    with pytest.raises(ConfigError, match=r"set training\.contrastive\.weight to 0 for an update by rows"):
        steps(steps.start(), 0, 1)


def test_a_run_with_an_update_of_ones_own_is_saved_and_continued(tmp_path):
    config = replace(SOFTMAX, max_epochs=3)

    def last_state(name, validate):
        directory = tmp_path / name
        progress = train_tiny(directory, config=config, make_update=sign_descent, validate=validate)
        like = jax.eval_shape(lambda: init_state(tiny_params(), sign_descent(), with_average=False))
        store = CheckpointStore(directory / "checkpoints", read_only=True)
        state, _ = store.restore(like, mesh=make_mesh(1))
        store.close()
        return progress, state

    def interrupt(params):
        signal.raise_signal(signal.SIGINT)
        return {"score": 0.0}

    _, whole = last_state("whole", None)
    progress, first = last_state("stopped", interrupt)
    assert not progress.finished and int(first.optimizer) == STEPS_PER_EPOCH
    assert int(whole.optimizer) == int(whole.step) == 3 * STEPS_PER_EPOCH
    assert same_bits(last_state("stopped", None)[1], whole)

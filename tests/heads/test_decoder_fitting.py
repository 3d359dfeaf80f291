"""Codes of catalogues with new items anywhere, and a decoder fitted to states: which targets count, when it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig, Targets, catalogue_codes, fit_decoder
from seqrec_jax.heads.generative import GenerativeHeadConfig, make_generative_head
from seqrec_jax.items.semantic_ids import SemanticIdConfig, fit_semantic_ids

CODES = SemanticIdConfig(num_levels=2, codebook_size=6)
DECODER = EncoderConfig(width=8, num_layers=1, num_heads=1, dropout=0.0)


def test_new_items_get_the_codes_of_the_nearest_known_ones_and_change_none():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(31, 3)).astype(np.float32)
    known, where = rng.random(31) < 0.7, np.ones(31, dtype=bool)
    where[[4, 9]] = False
    known[0], known[4], known[9] = False, True, False
    found = catalogue_codes(jnp.asarray(vectors), known, config=CODES, key=jax.random.key(0), where=where)
    alone = fit_semantic_ids(jnp.asarray(vectors), config=CODES, key=jax.random.key(0), where=known & where)
    np.testing.assert_array_equal(found.codes[known], alone.codes[known])
    assert not found.codes[[0, 4, 9]].any()
    with_codes = np.flatnonzero(found.codes[:, 0])
    assert len(np.unique(found.codes[with_codes], axis=0)) == len(with_codes) == 28
    for item in np.flatnonzero(~known & where)[1:]:
        rest = vectors[item]
        for level, book in enumerate(found.codebooks):
            nearest = 1 + int(np.argmin(np.square(book[1:] - rest).sum(axis=1)))
            assert found.codes[item, level] == nearest
            rest = rest - book[nearest]


@pytest.fixture(scope="module")
def planted():
    """States that tell the next item without doubt, and a head of its codes; item 9 has none."""
    rng = np.random.default_rng(1)
    codes = np.array([[0, 0], *([1 + n // 3, 1 + n % 3] for n in range(8)), [0, 0]], np.int32)
    centres = 2 * rng.normal(size=(10, 5)).astype(np.float32)
    head = make_generative_head(GenerativeHeadConfig(5, DECODER), codes, codebook_size=3)

    def draw(count, seed):
        items = np.random.default_rng(seed).integers(1, 10, count).astype(np.int32)
        return Targets(centres[items] + 0.1 * rng.normal(size=(count, 5)).astype(np.float32), items)

    return head, codes, draw


def fit(head, codes, training, validation, **options):
    config = DecoderTrainingConfig(batch_size=64, learning_rate=1e-2, codes=CODES, decoder=DECODER, **options)
    with jax.numpy_dtype_promotion("standard"):
        return fit_decoder(head, codes, training=training, validation=validation, config=config)


def test_what_the_states_tell_is_learnt_and_the_best_pass_stays(planted):
    head, codes, draw = planted
    validation = draw(200, 3)
    fitted = fit(head, codes, draw(1000, 2), validation, max_epochs=8)
    kept = validation.item_ids < 9
    losses = head.loss(fitted.params, jnp.asarray(validation.states[kept]), jnp.asarray(validation.item_ids[kept]))
    figure = float(losses.sum(axis=1).mean())
    assert figure < 0.1
    np.testing.assert_allclose(figure, min(value for _, value in fitted.losses), rtol=1e-4)


def test_targets_of_no_weight_and_without_codes_do_not_count(planted):
    head, codes, draw = planted
    training, validation = draw(300, 4), draw(60, 5)
    weights = (np.arange(300) % 2).astype(np.float32)
    spoilt = np.where(((weights > 0) & (training.item_ids < 9))[:, None], training.states, np.nan)
    kept = np.flatnonzero((weights > 0) & (training.item_ids < 9))
    one = fit(head, codes, Targets(spoilt, training.item_ids, weights), validation, max_epochs=2)
    two = fit(head, codes, Targets(training.states[kept], training.item_ids[kept]), validation, max_epochs=2)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    with pytest.raises(DataError, match="none of the 60 validation targets has codes"):
        fit(head, codes, training, validation._replace(item_ids=np.full(60, 9)))


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="patience must be at least 1"):
        DecoderTrainingConfig(patience=0)

"""A tiny language model trained on judgments: the loss falls, and only what was to be trained moves."""

from pathlib import Path

import jax
import numpy as np
import pytest

from seqrec_jax.data.judgments import Judgments
from seqrec_jax.encoders.language import Pooling, encode_texts, load_text_encoder
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.search.text_tuning import TextTuningConfig, tune_text_encoder
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig
from seqrec_jax.training.adapters.paths import flat_params

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "language"
TEXTS = ["", "red shoe", "blue lamp", "cordless drill", "shoe in blue"]
CONFIG = TextTuningConfig(steps=80, batch_size=8, learning_rate=0.01, query_tokens=6, item_tokens=8)
LORA = FineTuningConfig(mode="lora", rank=4)
ADALORA = FineTuningConfig(
    mode="adalora",
    adalora=AdaLoraConfig(initial_rank=6, target_rank=4, warmup_steps=20, final_steps=30, orthogonality=0.01),
)


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder(GOLDEN / "bert", max_length=8, pooling=Pooling("mean", normalize=True))


@pytest.fixture(scope="module")
def judgments():
    """Each query is worth one item, and that is not the one with its words."""
    queries = np.array(["red", "lamp", "drill", "blue"], dtype=object)
    items = np.array([3, 1, 3, 4, 2], dtype=np.int32)
    return Judgments(queries, np.array([0, 1, 3, 4, 5]), items, np.array([1, 2, 0, 1, 1], dtype=np.float32))


@pytest.mark.parametrize("fine_tuning", [LORA, ADALORA, FineTuningConfig()], ids=["lora", "adalora", "whole"])
def test_queries_come_to_lie_near_what_was_judged(encoder, judgments, fine_tuning):
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        tuned = tune_text_encoder(encoder, TEXTS, judgments, fine_tuning=fine_tuning, config=CONFIG)
    assert tuned.losses.shape == (CONFIG.steps,)
    assert tuned.losses[-5:].mean() < 0.5 * tuned.losses[:5].mean()
    queries = encode_texts(tuned.encoder, judgments.queries.tolist()).vectors
    found = (queries @ encode_texts(tuned.encoder, TEXTS).vectors.T)[:, 1:].argmax(axis=1) + 1
    assert found.tolist() == [3, 1, 4, 2]
    before, after = flat_params(encoder.params), flat_params(tuned.encoder.params)
    assert set(before) == set(after)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    if fine_tuning.mode != "whole":
        assert tuned.summary.num_trainable < tuned.summary.num_parameters / 2
        assert moved and all(path.endswith("/kernel") for path in moved)
    else:
        assert len(moved) > len(before) / 2


def test_what_is_wrong_is_named(encoder, judgments):
    worthless = Judgments(judgments.queries, judgments.offsets, judgments.item_ids, 0 * judgments.gains)
    with pytest.raises(DataError, match="nothing to train on"):
        tune_text_encoder(encoder, TEXTS, worthless, fine_tuning=LORA)
    with pytest.raises(ConfigError, match="matches no"):
        tune_text_encoder(encoder, TEXTS, judgments, fine_tuning=FineTuningConfig(mode="lora", targets=("nothing",)))
    with pytest.raises(ConfigError, match="batch_size must be at least 2"):
        TextTuningConfig(batch_size=1)

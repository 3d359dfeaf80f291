"""The settings of a fine-tuning: read, written, and refused where they make no sense."""

import pytest

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import config_dict, parse_config
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig


def test_it_is_read_from_yaml_and_overrides(tmp_path):
    path = tmp_path / "fine_tuning.yaml"
    path.write_text(
        "mode: adalora\ntargets: [attention/query]\nranks: {layers/0: 4}\nadalora: {target_rank: 3}\n", encoding="utf-8"
    )
    config = parse_config(FineTuningConfig, path=path, overrides=["--alpha", "4"])
    assert config == FineTuningConfig(
        mode="adalora",
        targets=("attention/query",),
        ranks={"layers/0": 4},
        alpha=4.0,
        adalora=AdaLoraConfig(target_rank=3),
    )
    assert parse_config(FineTuningConfig, values=config_dict(config)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "lora", "rank": 0}, "rank must be at least 1, got 0"),
        ({"mode": "lora", "ranks": {"query": 0}}, r"fine_tuning\.ranks\.query must be at least 1, got 0"),
        ({"mode": "lora", "alpha": 0.0}, "alpha must be greater than 0"),
        ({"mode": "lora", "alphas": {"query": float("nan")}}, r"alphas\.query must be greater than 0, got nan"),
        ({"mode": "last_layers", "num_layers": 0}, "num_layers must be at least 1"),
        ({"mode": "bias", "rank": 4}, "rank is 4, but mode bias does not use it"),
        ({"mode": "adalora", "rank": 4}, "rank is 4, but mode adalora does not use it"),
        ({"mode": "lora", "num_layers": 2}, "num_layers is 2, but mode lora does not use it"),
        ({"mode": "lora", "adalora": AdaLoraConfig(target_rank=2)}, "mode lora does not use it"),
        ({"ranks": {"query": 2}}, "mode whole does not use it"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        FineTuningConfig(**fields)

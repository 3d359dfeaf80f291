"""Typed configurations: what is read, and the error text of everything that is not."""

import pytest
import yaml

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import config_dict, config_yaml, field_names, parse_config
from seqrec_jax.training.config import LossConfig, OptimizerConfig, TrainingConfig


def read(tmp_path, text, *overrides):
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return parse_config(ExperimentConfig, path=path, overrides=overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {batch_sise: 3}", "unknown key training.batch_sise; did you mean training.batch_size?"),
        ("traning: {batch_size: 3}", "unknown key traning; did you mean training?"),
        ("model: {encoder: {widht: 3}}", "unknown key model.encoder.widht; did you mean model.encoder.width?"),
        ("batch_size: 3", "unknown key batch_size; did you mean training.batch_size?"),
        ("training: {learning_rate: 0.1}", "did you mean training.optimizer.learning_rate?"),
        ("training: {width: 3}", "did you mean model.encoder.width or model.items.width?"),
        ("xyzzy: 3", "unknown key xyzzy; the fields are ['name', 'data', 'model', 'training', 'evaluation']"),
        ("training: {xyzzy: 3}", "unknown key training.xyzzy; the fields are ['training.loss', "),
        ("training: {batch_size: many}", "training.batch_size must be an int, got 'many'"),
        ("training: {batch_size: 2.5}", "training.batch_size must be an int, got 2.5"),
        ("training: {batch_size: true}", "training.batch_size must be an int, got True"),
        ("training: {patience: abc}", "training.patience must be an int or null, got 'abc'"),
        ("training: {optimizer: {clip_norm: [1]}}", "training.optimizer.clip_norm must be a number or null, got [1]"),
        (
            "training: {loss: {negatives_per: all}}",
            "negatives_per must be one of batch, row, target or null, got 'all'",
        ),
        ("data: {cleaning: {behaviors: view}}", "cleaning.behaviors must be a list of strings or null, got 'view'"),
        ("data: {cleaning: {behaviors: [view, 1]}}", "data.cleaning.behaviors[1] must be a string, got 1"),
        ("data: {shop: {attraction: [0.1]}}", "data.shop.attraction must be a list of 2 numbers, got [0.1]"),
        ("evaluation: {gains: {view: much}}", "evaluation.gains.view must be a number, got 'much'"),
        ("evaluation: {gains: [1]}", "evaluation.gains must be a mapping of names to numbers, got [1]"),
        ("training: {behavior_weights: {1: 2.0}}", "keys of training.behavior_weights must be strings, got 1; put it"),
        ("name: 2024", "name must be a string, got 2024"),
        ("training: {batch_size: null}", "training.batch_size must have a value, got null"),
        ("training: {batch_size: -3}", "training.batch_size must be at least 1, got -3"),
        ("training: {max_epochs: 0}", "training.max_epochs must be at least 1, got 0"),
        ("training: {stride: -1}", "training.stride must be at least 1, got -1"),
        ("training: {checkpoint_seconds: .inf}", "training.checkpoint_seconds must be greater than 0, got inf"),
        ("training: {packing: 3}", "training.packing must be true or false, got 3"),
        (
            "training: {loss: {kind: soft}}",
            "training.loss.kind must be one of softmax, sampled_softmax, binary_cross_entropy, "
            "generalized_binary_cross_entropy, bpr, bpr_max, got 'soft'",
        ),
        ("training: {loss: {temperature: 0}}", "training.loss.temperature must be greater than 0, got 0"),
        ("training: {optimizer: {learning_rate: .nan}}", "learning_rate must be greater than 0, got nan"),
        ("training: {optimizer: {clip_norm: -1}}", "training.optimizer.clip_norm must be greater than 0"),
        ("training: {optimizer: {warmup_steps: -1}}", "training.optimizer.warmup_steps must be at least 0, got -1"),
        ("training: {optimizer: {name: sgd, weight_decay: 0.1}}", "weight_decay is 0.1, but sgd has none"),
        ("training: {optimizer: {b1: 1.0}}", "training.optimizer.b1 must be at least 0 and less than 1, got 1.0"),
        ("training: {optimizer: {rows: read}}", "training.optimizer.rows is read, but a softmax over all items"),
        ("training: {ema_decay: 1}", "training.ema_decay must be greater than 0 and less than 1, got 1.0"),
        ("training: {behavior_weights: {view: -1}}", "training.behavior_weights.view must be at least 0, got -1.0"),
        ("training: {behavior_weights: 3}", "training.behavior_weights must be a mapping of names to numbers, got 3"),
        ("training: 3", "training is a section with fields of its own, got 3"),
        ("training:", "training is a section with fields of its own, got None"),
        ("training: {optimizer: adam}", "training.optimizer is a section with fields of its own, got 'adam'"),
        ("- training", "must hold sections and fields, found list"),
        ("", "must hold sections and fields, found NoneType"),
        ("a: b: c", "is not YAML: mapping values are not allowed here"),
        ("training: {seed: 1, seed: 2}", "is not YAML: the key seed occurs twice"),
        ("training: {seed: 1}\ntraining: {batch_size: 3}", "the key training occurs twice"),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert message in str(error.value)
    assert str(tmp_path / "experiment.yaml") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training.batch_sise", "3"], "unknown key training.batch_sise; did you mean training.batch_size?"),
        (["--batch_size=3"], "unknown key batch_size; did you mean training.batch_size?"),
        (["--training.batch", "3"], "unknown key training.batch; did you mean training.batch_size?"),
        (["--training.batch_size", "many"], "training.batch_size must be an int, got 'many'"),
        (["--training.batch_size"], "--training.batch_size needs a value"),
        (["--training.batch_size", "--name", "x"], "--training.batch_size needs a value"),
        (["--training.loss.kinds"], "unknown key training.loss.kinds; did you mean training.loss.kind?"),
        (["--training.patience", "abc"], "training.patience must be an int or null, got 'abc'"),
        (["--training", "x"], "training is a section with fields of its own, got 'x'"),
        (["five"], "unrecognized arguments: five"),
    ],
)
def test_what_is_wrong_on_the_command_line(tmp_path, words, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "name: trial", *words)
    assert str(error.value) == f"the command line: {message}"


def test_a_value_out_of_range_on_the_command_line(tmp_path):
    with pytest.raises(ConfigError, match=r"training\.batch_size must be at least 1, got -1"):
        read(tmp_path, "name: trial", "--training.batch_size", "-1")
    with pytest.raises(ConfigError, match=r"training\.batch_size must be an int, got 'null'"):
        read(tmp_path, "name: trial", "--training.batch_size", "null")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no configuration file .*absent.yaml"):
        parse_config(ExperimentConfig, path=tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="there is no configuration file"):
        parse_config(ExperimentConfig, path=tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.yaml is not YAML: 'utf-8' codec"):
        parse_config(ExperimentConfig, path=tmp_path / "binary.yaml")


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    text = "training: {optimizer: {learning_rate: 0.5, clip_norm: 1.0}, batch_size: 9, patience: 3}"
    config = read(tmp_path, text, "--training.optimizer.learning_rate", "1e-4", "--training.patience=null")
    assert config.training.optimizer == OptimizerConfig(learning_rate=1e-4, clip_norm=1.0)
    assert (config.training.batch_size, config.training.patience) == (9, None)
    assert config.training.max_epochs == TrainingConfig().max_epochs
    weights = read(tmp_path, "name: trial", "--training.behavior_weights", "{click: 2}").training.behavior_weights
    assert weights == {"click": 2.0}
    text = "training: {behavior_weights: {view: 1}, loss: {kind: bpr, num_negatives: 7}}"
    words = ["--training.behavior_weights.click", "2", "--training.loss", "{num_negatives: 9}", "--name", "2024"]
    config = read(tmp_path, text, *words)
    assert config.training.behavior_weights == {"view": 1.0, "click": 2.0}
    assert config.training.loss == LossConfig(kind="bpr", num_negatives=9) and config.name == "2024"


def test_a_number_without_a_point_is_a_float(tmp_path):
    assert isinstance(yaml.safe_load("1e-3"), str), "YAML 1.1 takes it for text, so the parser must not"
    rate = read(tmp_path, "training: {optimizer: {learning_rate: 1e-3}}").training.optimizer.learning_rate
    assert isinstance(rate, float) and rate == 0.001
    rate = read(tmp_path, "training: {optimizer: {learning_rate: 1}}").training.optimizer.learning_rate
    assert isinstance(rate, float) and rate == 1.0


def test_a_configuration_survives_being_written(tmp_path):
    config = ExperimentConfig(
        name="größe",
        training=TrainingConfig(
            loss=LossConfig(kind="bpr", num_negatives=3),
            optimizer=OptimizerConfig(learning_rate=1e-7, clip_norm=0.5),
            behavior_weights={"add to cart": 2.0, "1": 1e-3},
            stride=7,
            patience=None,
        ),
    )
    assert parse_config(ExperimentConfig, values=config_dict(config)) == config
    assert read(tmp_path, config_yaml(config)) == config
    assert parse_config(ExperimentConfig) == ExperimentConfig()


def test_field_names_lists_every_field_by_its_path():
    names = field_names(TrainingConfig)
    assert {"loss", "loss.kind", "optimizer.learning_rate", "seed"} <= set(names)
    assert len(names) == len(set(names))

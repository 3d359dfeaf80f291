"""The shape of a language model, read from the `config.json` of a directory in the Hugging Face layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields

Family = Literal["bert", "roberta", "gpt2", "llama", "qwen2", "qwen3"]
_FAMILIES: dict[str, Family] = {name: name for name in get_args(Family)} | {"xlm-roberta": "roberta"}
_ACTIVATIONS = {  # Hugging Face's names
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class RotaryScaling(NamedTuple):
    """Llama 3's scaling of slow rotations for texts longer than its first training length.

    Attributes:
      factor: by which slow rotations are slowed further.
      low_frequency_factor: rotations below this number of turns over the first training length are scaled fully.
      high_frequency_factor: rotations above this number of turns are not scaled.
      original_length: first training length in tokens.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int


@dataclass(frozen=True)
class LanguageConfig:
    """The shape of a language model.

    Attributes:
      family: bert and roberta attend in both directions; gpt2, llama, qwen2 and qwen3 to earlier tokens only.
      vocab_size: number of rows of the token embedding.
      width: D, width of hidden states.
      num_layers: number of blocks.
      num_heads: number of query heads.
      num_key_value_heads: number of heads of keys and values, each shared by equally many query heads; fewer than
        num_heads with grouped-query attention.
      head_width: width of one head.
      hidden_width: width of a block's feed-forward layer.
      max_length: largest number of tokens of a text.
      norm_epsilon: added to a variance or mean square.
      activation: of the feed-forward layer; gelu is the exact one.
      num_token_types: number of rows of BERT's token type embedding, of which texts use row 0; 0 if there is none.
      position_offset: row of the position embedding that belongs to the first token.
      rotary_base: base of the wavelengths of rotary positions; None for a position embedding.
      rotary_scaling: Llama 3's; None if there is none.
      query_key_value_bias: whether the layers of queries, keys and values have a bias.
      output_bias: whether the output layer of attention has a bias.
      feed_forward_bias: whether the feed-forward layers have a bias.
    """

    family: Family
    vocab_size: Annotated[int, Interval("[1, inf)")]
    width: Annotated[int, Interval("[1, inf)")]
    num_layers: Annotated[int, Interval("[1, inf)")]
    num_heads: Annotated[int, Interval("[1, inf)")]
    num_key_value_heads: Annotated[int, Interval("[1, inf)")]
    head_width: Annotated[int, Interval("[1, inf)")]
    hidden_width: Annotated[int, Interval("[1, inf)")]
    max_length: Annotated[int, Interval("[1, inf)")]
    norm_epsilon: float
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"]
    num_token_types: int = 0
    position_offset: int = 0
    rotary_base: float | None = None
    rotary_scaling: RotaryScaling | None = None
    query_key_value_bias: bool = True
    output_bias: bool = True
    feed_forward_bias: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "language_model")
        if self.num_heads % self.num_key_value_heads:
            raise ConfigError(
                f"a language model's {self.num_heads} query heads cannot share {self.num_key_value_heads} heads of "
                "keys and values evenly"
            )

    @property
    def causal(self) -> bool:
        """Whether a hidden state depends on no later token."""
        return self.family not in ("bert", "roberta")

    @property
    def rotary(self) -> bool:
        """Whether this is one of the rotary decoders: RMS norms, gated feed-forward layers, grouped queries."""
        return self.rotary_base is not None


def read_language_config(directory: str | Path) -> LanguageConfig:
    """The shape of the model in a directory in the Hugging Face layout.

    Raises:
      ConfigError: no such directory or no config.json in it, another family, a missing key, an option that changes the
        model and is not supported.
    """
    path = Path(directory) / "config.json"
    values = read_json(path, needed_for="a language model's directory")
    found = values.get("model_type")
    if found not in _FAMILIES:
        raise ConfigError(f"{path}: model_type is {found!r}; supported are {', '.join(_FAMILIES)}")
    keys = _Keys(path, values)
    family = _FAMILIES[found]
    if family == "gpt2":
        return _gpt2(keys)
    return _rotary_decoder(family, keys) if family not in ("bert", "roberta") else _bert(family, keys)


def read_json(path: Path, *, needed_for: str) -> Any:
    """The content of a JSON file.

    Raises:
      ConfigError: the file does not exist, with the names of the files beside it; or it is not JSON.
    """
    if not path.is_file():
        folder = path.parent
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:12]) if folder.is_dir() else "no such folder"
        raise ConfigError(f"{needed_for} needs {path.name}, which {folder} does not have; there is: {there}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); copy it again from where the model comes from") from error


class _Keys:
    """A config.json; errors name its missing and unsupported entries."""

    def __init__(self, path: Path, values: dict[str, Any]):
        self.path, self.values = path, values

    def __call__(self, name: str) -> Any:
        if self.values.get(name) is None:
            raise ConfigError(f"{self.path}: {name} is missing; the file must be the model's whole configuration")
        return self.values[name]

    def get(self, name: str, default: Any) -> Any:
        return default if self.values.get(name) is None else self.values[name]

    def only(self, name: str, *supported: Any) -> None:
        """Refuse a value other than the first, which is the default, or one of the others."""
        found = self.get(name, supported[0])
        if found not in supported:
            raise ConfigError(f"{self.path}: {name} is {found!r}; supported is {' or '.join(map(repr, supported))}")

    def activation(self, name: str) -> Any:
        found = self(name)
        if found not in _ACTIVATIONS:
            raise ConfigError(f"{self.path}: {name} is {found!r}; supported are {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[found]


def _bert(family: Family, keys: _Keys) -> LanguageConfig:
    keys.only("position_embedding_type", "absolute")
    keys.only("is_decoder", False)
    keys.only("add_cross_attention", False)
    num_heads, width = keys("num_attention_heads"), keys("hidden_size")
    # RoBERTa counts positions from the one after that of padding
    offset = keys("pad_token_id") + 1 if family == "roberta" else 0
    return LanguageConfig(
        family=family,
        vocab_size=keys("vocab_size"),
        width=width,
        num_layers=keys("num_hidden_layers"),
        num_heads=num_heads,
        num_key_value_heads=num_heads,
        head_width=_shared(keys, width, num_heads),
        hidden_width=keys("intermediate_size"),
        max_length=keys("max_position_embeddings") - offset,
        norm_epsilon=keys.get("layer_norm_eps", 1e-12),
        activation=keys.activation("hidden_act"),
        num_token_types=keys("type_vocab_size"),
        position_offset=offset,
    )


def _gpt2(keys: _Keys) -> LanguageConfig:
    keys.only("scale_attn_weights", True)
    keys.only("scale_attn_by_inverse_layer_idx", False)
    keys.only("add_cross_attention", False)
    num_heads, width = keys("n_head"), keys("n_embd")
    return LanguageConfig(
        family="gpt2",
        vocab_size=keys("vocab_size"),
        width=width,
        num_layers=keys("n_layer"),
        num_heads=num_heads,
        num_key_value_heads=num_heads,
        head_width=_shared(keys, width, num_heads),
        hidden_width=keys.get("n_inner", 4 * width),
        max_length=keys("n_positions"),
        norm_epsilon=keys.get("layer_norm_epsilon", 1e-5),
        activation=keys.activation("activation_function"),
    )


def _rotary_decoder(family: Family, keys: _Keys) -> LanguageConfig:
    keys.only("use_sliding_window", False)
    keys.only("partial_rotary_factor", 1.0)
    num_heads, width = keys("num_attention_heads"), keys("hidden_size")
    bias = {"llama": keys.get("attention_bias", False), "qwen2": True, "qwen3": keys.get("attention_bias", False)}
    head_width = keys.get("head_dim", 128 if family == "qwen3" else None) or _shared(keys, width, num_heads)
    base, scaling = _rotary_positions(keys)
    return LanguageConfig(
        family=family,
        vocab_size=keys("vocab_size"),
        width=width,
        num_layers=keys("num_hidden_layers"),
        num_heads=num_heads,
        num_key_value_heads=keys.get("num_key_value_heads", num_heads),
        head_width=head_width,
        hidden_width=keys("intermediate_size"),
        max_length=keys("max_position_embeddings"),
        norm_epsilon=keys.get("rms_norm_eps", 1e-6),
        activation=keys.activation("hidden_act"),
        rotary_base=base,
        rotary_scaling=scaling,
        query_key_value_bias=bias[family],
        output_bias=False if family == "qwen2" else bias[family],
        feed_forward_bias=keys.get("mlp_bias", False) if family == "llama" else False,
    )


def _rotary_positions(keys: _Keys) -> tuple[float, RotaryScaling | None]:
    """Base and scaling; newer files keep both under rope_parameters, older ones in two places."""
    rope = keys.get("rope_parameters", {}) or keys.get("rope_scaling", {})
    base = float(rope.get("rope_theta", keys.get("rope_theta", 10_000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise ConfigError(f"{keys.path}: the rotary scaling {kind!r} is not supported; 'default' and 'llama3' are")
    try:
        return base, RotaryScaling(
            rope["factor"],
            rope["low_freq_factor"],
            rope["high_freq_factor"],
            rope["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise ConfigError(f"{keys.path}: the rotary scaling 'llama3' lacks {error.args[0]}") from error


def _shared(keys: _Keys, width: int, num_heads: int) -> int:
    """The width of a head if the heads divide the width of the model."""
    if width % num_heads:
        raise ConfigError(f"{keys.path}: a width of {width} does not divide into {num_heads} heads")
    return width // num_heads

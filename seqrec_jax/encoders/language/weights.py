"""A language model's weights: safetensors in the Hugging Face layout to a nested dict of plain arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.language.config import LanguageConfig, read_json
from seqrec_jax.errors import ConfigError, DataError, MissingExtraError

_PREFIXES = ("", "bert.", "roberta.", "transformer.", "model.")
_ANCHORS = {"bert": "embeddings.word_embeddings.weight", "roberta": "embeddings.word_embeddings.weight"}
_ANCHORS |= {"gpt2": "wte.weight"} | dict.fromkeys(("llama", "qwen2", "qwen3"), "embed_tokens.weight")


class Weights(NamedTuple):
    """A language model's parameters.

    Attributes:
      params: nested dict. Linear layers are `{"kernel": [I, O]}` with a `"bias": [O]` if they have one, norms
        `{"scale": [D]}` likewise, embeddings arrays: `params["embeddings"]["tokens"]` `[vocab_size, D]`,
        `params["layers"]["0"]["attention"]["query"]["kernel"]` `[D, heads * head_width]`.
      unused: names of the file's tensors that hidden states do not depend on, such as heads and poolers.
    """

    params: Params
    unused: tuple[str, ...]


class _Tensor(NamedTuple):
    """The tensor that an array of the parameters is read from."""

    path: str  # in the parameters, parts joined by dots
    name: str  # in the file, without prefix
    shape: tuple[int, ...]  # in the file
    transposed: bool = False
    columns: slice | None = None  # of a tensor that holds several arrays


def read_weights(
    directory: str | Path,
    config: LanguageConfig,
    *,
    dtype: Any = jnp.float32,
    put: Callable[[str, np.ndarray], Any] = lambda path, array: jnp.asarray(array),
    skip: Collection[str] = (),
) -> Weights:
    """Read the weights of a directory with model.safetensors, or with its parts and model.safetensors.index.json.

    Args:
      directory: in the Hugging Face layout.
      config: shape of the model, of the same directory.
      dtype: dtype of the parameters, float32 or bfloat16.
      put: `put(path, array)` places each array as soon as it is read; path is such as
        `layers.0.attention.query.kernel`. For a mesh, pass `jax.device_put` with a sharding, so that no device holds
        the whole model.
      skip: paths of arrays that are left out.

    Raises:
      ConfigError: there are no weights, or none in safetensors.
      DataError: a tensor is missing or has another shape than the configuration says; a file is damaged.
      MissingExtraError: safetensors is not installed.
    """
    with_files = _TensorFiles(Path(directory))
    prefix = _prefix(with_files, config)
    params: Params = {}
    used = set()
    for tensor in _tensors(config):
        if tensor.path in skip:
            continue
        found = prefix + tensor.name
        array = with_files.read(found, tensor.shape)
        used.add(found)
        if tensor.columns is not None:
            array = array[..., tensor.columns]
        if tensor.transposed:
            array = array.T
        _put(params, tensor.path, put(tensor.path, np.ascontiguousarray(array).astype(dtype)))
    return Weights(params, tuple(sorted(with_files.names - used)))


def on_host(path: str, array: np.ndarray) -> np.ndarray:
    """A `put` that keeps NumPy arrays in the host's memory."""
    return array


def init_weights(config: LanguageConfig, key: jax.Array, *, skip: Collection[str] = ()) -> Params:
    """Random parameters in the layout of `read_weights`: normal with deviation 0.02, norms of scale 1, biases 0.

    Args:
      config: shape of the model.
      key: PRNG key, consumed.
      skip: paths of arrays that are left out, such as `embeddings.tokens`.
    """
    params: Params = {}
    for number, tensor in enumerate(_tensors(config)):
        if tensor.path in skip:
            continue
        shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
        if tensor.columns is not None:
            shape = (*shape[:-1], tensor.columns.stop - tensor.columns.start)
        name = tensor.path.rpartition(".")[2]
        if name in ("scale", "bias"):
            array = jnp.full(shape, 1.0 if name == "scale" else 0.0)
        else:
            array = 0.02 * jax.random.normal(jax.random.fold_in(key, number), shape)
        _put(params, tensor.path, array)
    return params


class _TensorFiles:
    """The tensors of one or several safetensors files by name, each read when it is needed."""

    def __init__(self, directory: Path):
        try:
            import safetensors
        except ImportError as error:
            raise MissingExtraError(
                "reading a language model needs safetensors; install it with: pip install 'seqrec_jax[language]'"
            ) from error
        self._open = safetensors.safe_open
        self._error = safetensors.SafetensorError
        self.directory = directory
        self._files: dict[str, Any] = {}  # open ones
        self._names = self._index()

    @property
    def names(self) -> set[str]:
        return set(self._names)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor that must be there in this shape."""
        if name not in self._names:
            raise DataError(f"{self.directory}: the tensor {name} is missing; expected it of shape {shape}")
        file, stored = self._names[name]
        tensors = self._file(file)
        found = tuple(tensors.get_slice(stored).get_shape())
        if found != shape:
            raise DataError(
                f"{self.directory / file}: the tensor {name} has shape {found}, and {shape} is expected by config.json"
            )
        return tensors.get_tensor(stored)

    def _index(self) -> dict[str, tuple[str, str]]:
        """File and stored name of each tensor; early BERT files call a norm's scale and bias gamma and beta."""
        if (self.directory / "model.safetensors").is_file():
            names = dict.fromkeys(self._file("model.safetensors").keys(), "model.safetensors")
        elif (index := self.directory / "model.safetensors.index.json").is_file():
            names = read_json(index, needed_for="a language model in parts").get("weight_map")
            if not isinstance(names, dict):
                raise ConfigError(f"{index} has no weight_map, which says the file of each tensor")
        else:
            others = [
                file.name for file in self.directory.glob("*") if file.suffix in (".bin", ".pt", ".h5", ".msgpack")
            ]
            there = f"; {', '.join(sorted(others))} must be converted to safetensors first" if others else ""
            raise ConfigError(f"{self.directory} has neither model.safetensors nor model.safetensors.index.json{there}")
        modern = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
        return {
            re.sub(r"LayerNorm\.(gamma|beta)$", lambda match: modern[match[0]], name): (file, name)
            for name, file in names.items()
        }

    def _file(self, name: str) -> Any:
        if name not in self._files:
            path = self.directory / name
            if not path.is_file():
                raise ConfigError(f"{self.directory / 'model.safetensors.index.json'} names {name}, which is not there")
            try:
                self._files[name] = self._open(str(path), framework="numpy")
            except self._error as error:
                raise DataError(f"{path} cannot be read as safetensors ({error}); copy it again") from error
        return self._files[name]


def _put(params: Params, path: str, array: Any) -> None:
    *parents, last = path.split(".")
    place = params
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = array


def _prefix(files: _TensorFiles, config: LanguageConfig) -> str:
    """The prefix of the tensors' names, which a model saved with a head has."""
    anchor = _ANCHORS[config.family]
    for prefix in _PREFIXES:
        if prefix + anchor in files.names:
            return prefix
    raise DataError(
        f"{files.directory}: the tensor {anchor} is missing, with or without one of the prefixes "
        f"{', '.join(filter(None, _PREFIXES))}; expected it of shape {(config.vocab_size, config.width)}. The first of "
        f"{len(files.names)} tensors there are {', '.join(sorted(files.names)[:4])}"
    )


def _tensors(config: LanguageConfig) -> Iterator[_Tensor]:
    """Every array that the model needs."""
    if config.rotary:
        return _rotary_tensors(config)
    return _gpt2_tensors(config) if config.family == "gpt2" else _bert_tensors(config)


def _linear(path: str, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[_Tensor]:
    yield _Tensor(f"{path}.kernel", f"{name}.weight", (outputs, inputs), transposed=True)
    if bias:
        yield _Tensor(f"{path}.bias", f"{name}.bias", (outputs,))


def _norm(path: str, name: str, width: int, *, bias: bool = True) -> Iterator[_Tensor]:
    yield _Tensor(f"{path}.scale", f"{name}.weight", (width,))
    if bias:
        yield _Tensor(f"{path}.bias", f"{name}.bias", (width,))


def _bert_tensors(config: LanguageConfig) -> Iterator[_Tensor]:
    width, hidden = config.width, config.hidden_width
    rows = {"word": config.vocab_size, "position": config.max_length + config.position_offset}
    rows["token_type"] = config.num_token_types
    for ours, theirs in (("tokens", "word"), ("positions", "position"), ("types", "token_type")):
        yield _Tensor(f"embeddings.{ours}", f"embeddings.{theirs}_embeddings.weight", (rows[theirs], width))
    yield from _norm("embeddings.norm", "embeddings.LayerNorm", width)
    for number in range(config.num_layers):
        ours, theirs = f"layers.{number}", f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{ours}.attention.{part}", f"{theirs}.attention.self.{part}", width, width)
        yield from _linear(f"{ours}.attention.output", f"{theirs}.attention.output.dense", width, width)
        yield from _norm(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm", width)
        yield from _linear(f"{ours}.feed_forward.up", f"{theirs}.intermediate.dense", width, hidden)
        yield from _linear(f"{ours}.feed_forward.down", f"{theirs}.output.dense", hidden, width)
        yield from _norm(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm", width)


def _gpt2_tensors(config: LanguageConfig) -> Iterator[_Tensor]:
    width, hidden = config.width, config.hidden_width
    yield _Tensor("embeddings.tokens", "wte.weight", (config.vocab_size, width))
    yield _Tensor("embeddings.positions", "wpe.weight", (config.max_length, width))
    for number in range(config.num_layers):
        ours, theirs = f"layers.{number}", f"h.{number}"
        yield from _norm(f"{ours}.attention_norm", f"{theirs}.ln_1", width)
        for place, part in enumerate(("query", "key", "value")):
            columns = slice(place * width, (place + 1) * width)
            for kind, shape in (("kernel", (width, 3 * width)), ("bias", (3 * width,))):
                name = f"{theirs}.attn.c_attn.{'weight' if kind == 'kernel' else 'bias'}"
                yield _Tensor(f"{ours}.attention.{part}.{kind}", name, shape, columns=columns)
        yield from _norm(f"{ours}.feed_forward_norm", f"{theirs}.ln_2", width)
        for path, name, shape in (
            ("attention.output", "attn.c_proj", (width, width)),
            ("feed_forward.up", "mlp.c_fc", (width, hidden)),
            ("feed_forward.down", "mlp.c_proj", (hidden, width)),
        ):  # GPT-2's kernels lie as ours do
            yield _Tensor(f"{ours}.{path}.kernel", f"{theirs}.{name}.weight", shape)
            yield _Tensor(f"{ours}.{path}.bias", f"{theirs}.{name}.bias", shape[1:])
    yield from _norm("final_norm", "ln_f", width)


def _rotary_tensors(config: LanguageConfig) -> Iterator[_Tensor]:
    width, hidden, head = config.width, config.hidden_width, config.head_width
    yield _Tensor("embeddings.tokens", "embed_tokens.weight", (config.vocab_size, width))
    for number in range(config.num_layers):
        ours, theirs = f"layers.{number}", f"layers.{number}"
        yield from _norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", width, bias=False)
        for part, heads in (
            ("query", config.num_heads),
            ("key", config.num_key_value_heads),
            ("value", config.num_key_value_heads),
        ):
            name = f"{theirs}.self_attn.{part[0]}_proj"
            yield from _linear(f"{ours}.attention.{part}", name, width, heads * head, bias=config.query_key_value_bias)
        name = f"{theirs}.self_attn.o_proj"
        yield from _linear(f"{ours}.attention.output", name, config.num_heads * head, width, bias=config.output_bias)
        if config.family == "qwen3":
            yield from _norm(f"{ours}.attention.query_norm", f"{theirs}.self_attn.q_norm", head, bias=False)
            yield from _norm(f"{ours}.attention.key_norm", f"{theirs}.self_attn.k_norm", head, bias=False)
        yield from _norm(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm", width, bias=False)
        bias = config.feed_forward_bias
        yield from _linear(f"{ours}.feed_forward.gate", f"{theirs}.mlp.gate_proj", width, hidden, bias=bias)
        yield from _linear(f"{ours}.feed_forward.up", f"{theirs}.mlp.up_proj", width, hidden, bias=bias)
        yield from _linear(f"{ours}.feed_forward.down", f"{theirs}.mlp.down_proj", hidden, width, bias=bias)
    yield from _norm("final_norm", "norm", width, bias=False)

"""Pooling: the hidden states of a text's tokens to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.language.config import LanguageConfig, read_json
from seqrec_jax.encoders.language.transformer import hidden_states
from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import check_fields
from seqrec_jax.types import ArrayLike

Kind = Literal["mean", "cls", "last"]
# sentence-transformers' names, newer and older
_MODES: dict[str, Kind] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_OLD_MODES: dict[str, Kind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Pooling:
    """Settings of pooling.

    Attributes:
      kind: mean of the states of real tokens, the state of the first token (cls), or of the last real one.
      normalize: scale vectors to length 1.
    """

    kind: Kind = "mean"
    normalize: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "pooling")


def read_pooling(directory: str | Path, config: LanguageConfig) -> Pooling:
    """The pooling that a directory was trained with, as sentence-transformers writes it to modules.json.

    Without modules.json: the mean for bidirectional models, the last token for decoders, whose earlier tokens do not
    depend on the whole text.

    Raises:
      ConfigError: a module or a pooling that is not supported, so that vectors would differ.
    """
    path = Path(directory) / "modules.json"
    if not path.is_file():
        return Pooling("last" if config.causal else "mean")
    kind: Kind = "mean"
    normalize = False
    for module in read_json(path, needed_for="a sentence encoder"):
        name = str(module.get("type", "")).rpartition(".")[2]
        if name == "Pooling":
            place = Path(directory) / module.get("path", "") / "config.json"
            kind = _pooling_kind(place, read_json(place, needed_for="modules.json's pooling"))
        elif name == "Normalize":
            normalize = True
        elif name != "Transformer":
            raise ConfigError(f"{path}: the module {name!r} is not supported; Transformer, Pooling and Normalize are")
    return Pooling(kind, normalize)


def pool(states: Float[ArrayLike, "B L D"], mask: Bool[ArrayLike, "B L"], *, pooling: Pooling) -> Float[Array, "B D"]:
    """Pool the hidden states of each row to one vector.

    Args:
      states: `[B, L, D]` float.
      mask: `[B, L]` bool, True at real tokens; padding is on the right.
      pooling: settings.

    Returns:
      `[B, D]` float32; zeros for a row of padding alone.

    >>> states = jnp.array([[[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]]])
    >>> pool(states, jnp.array([[True, True, False]]), pooling=Pooling("mean"))
    Array([[2., 0.]], dtype=float32)
    """
    real = mask.astype(jnp.float32)
    count = jnp.sum(real, axis=1, keepdims=True)
    if pooling.kind == "mean":
        total = jnp.sum(jnp.where(mask.astype(bool)[:, :, None], states.astype(jnp.float32), 0.0), axis=1)
        vectors = total / jnp.maximum(count, 1.0)
    else:
        column = jnp.zeros_like(count) if pooling.kind == "cls" else jnp.maximum(count - 1.0, 0.0)
        taken = jnp.take_along_axis(states, column.astype(jnp.int32)[:, :, None], axis=1)[:, 0]
        vectors = taken.astype(jnp.float32) * jnp.minimum(count, 1.0)
    if pooling.normalize:
        # the square root has no gradient at zero, where a text is empty
        square = jnp.sum(vectors**2, axis=1, keepdims=True)
        vectors = vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    return vectors


def text_vectors(
    params: Params,
    token_ids: Int[ArrayLike, "B L"],
    mask: Bool[ArrayLike, "B L"],
    *,
    config: LanguageConfig,
    pooling: Pooling,
    checkpoint_layers: bool = False,
) -> Float[Array, "B D"]:
    """Hidden states and pooling in one differentiable function.

    Args:
      params: of `read_weights`.
      token_ids: `[B, L]` int32.
      mask: `[B, L]` bool, True at real tokens.
      config: shape of the model.
      pooling: settings of its pooling.
      checkpoint_layers: as for `hidden_states`.

    Returns:
      `[B, D]` float32.

    Raises:
      ShapeError: as `hidden_states`.
    """
    states = hidden_states(params, token_ids, mask, config=config, checkpoint_layers=checkpoint_layers)
    return pool(states, mask, pooling=pooling)


def _pooling_kind(path: Path, values: dict[str, Any]) -> Kind:
    """The one pooling that sentence-transformers' file switches on, in its older or its newer form."""
    chosen = [name for name, on in values.items() if name.startswith("pooling_mode_") and on is True]
    kinds = [_OLD_MODES.get(name) for name in chosen]
    if "pooling_mode" in values:
        modes = values["pooling_mode"]
        chosen = [modes] if isinstance(modes, str) else list(modes)
        kinds = [_MODES.get(name) for name in chosen]
    if len(kinds) != 1 or kinds[0] is None:
        raise ConfigError(
            f"{path}: the pooling is {' and '.join(map(str, chosen)) or 'not given'}; supported is one of "
            f"{', '.join(_OLD_MODES)}"
        )
    return kinds[0]

"""Parameters of a sequence model: initial values, growth with the catalogue, weight decay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from seqrec_jax.encoders.config import Params
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.items.tower import init_id_rows
from seqrec_jax.model.config import ModelConfig
from seqrec_jax.model.parts import ModelParts
from seqrec_jax.scoring import BilinearWeight


def init_params(parts: ModelParts, key: PRNGKeyArray) -> Params:
    """Initial parameters with the keys that `SequenceModel.init` lists; the key is consumed."""
    config = parts.config
    keys = jax.random.split(key, 5)
    params = {
        "items": parts.tower.init(keys[0]),
        "events": parts.events.init(keys[1]),
        "encoder": parts.encoder.init(keys[2]),
        "bilinear": _init_bilinear(config, keys[3]),
    }
    if not config.share_item_vectors:
        params["output_items"] = parts.tower.init(keys[4])
    if config.target_behavior:
        rows = jnp.zeros((parts.num_behaviors, config.encoder.width))
        params["target_behaviors"] = {"scale": rows, "shift": rows}
    return params


def bilinear_weight(config: ModelConfig, params: Params) -> BilinearWeight:
    """W as `scoring.project` takes it: None for the identity, a pair of factors for a low rank."""
    if config.bilinear == "identity":
        return None
    return (params["left"], params["right"]) if config.bilinear == "low_rank" else params["weight"]


def extend_item_rows(params: Params, *, old_num_items: int, new_num_items: int, key: PRNGKeyArray) -> Params:
    """Parameters for a catalogue that has grown: new items get fresh id embeddings, old rows do not change.

    Args:
      params: of a model of `old_num_items` items.
      old_num_items: V before.
      new_num_items: V after, at least V before; the new items' ids follow the old ones.
      key: PRNG key, consumed.

    Returns:
      New parameters; all but the id embeddings are the same arrays.

    Raises:
      ConfigError: new_num_items < old_num_items.
      ShapeError: the embeddings have another number of rows than old_num_items + 1.
    """
    if new_num_items < old_num_items:
        raise ConfigError(
            f"the catalogue shrank from {old_num_items} to {new_num_items} items; keep the old vocabulary "
            "and add new items after it"
        )
    extended = dict(params)
    for name, name_key in zip(("items", "output_items"), jax.random.split(key), strict=True):
        if "ids" not in params.get(name, {}):
            continue
        table = params[name]["ids"]["embedding"]
        if table.shape[0] != old_num_items + 1:
            raise ShapeError(f"params[{name!r}]['ids'] has {table.shape[0]} rows, expected V + 1 = {old_num_items + 1}")
        fresh = init_id_rows(name_key, num_rows=new_num_items - old_num_items, width=table.shape[1])
        rows = jnp.concatenate([table, fresh.astype(table.dtype)])
        extended[name] = {**params[name], "ids": {"embedding": rows}}
    return extended


def weight_decay_mask(params: Params) -> Params:
    """A pytree like `params` of bool, True for parameters that weight decay applies to.

    These are matrices; not vectors (biases, normalisation, a diagonal W) and not tables looked up by position,
    behaviour or time.
    """

    def decays(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> bool:
        names = [entry.key for entry in path]
        looked_up = names[0] in ("events", "target_behaviors") and names[-1] != "kernel"
        return leaf.ndim >= 2 and not looked_up and not names[-1].endswith("bias")

    return jax.tree_util.tree_map_with_path(decays, params)


def _init_bilinear(config: ModelConfig, key: PRNGKeyArray) -> Params:
    """W near the identity, or of low rank with scores as large as the identity would give."""
    width, item_width, rank = config.encoder.width, config.items.width, config.bilinear_rank
    if config.bilinear == "identity":
        return {}
    if config.bilinear == "diagonal":
        return {"weight": jnp.ones(width)}
    if config.bilinear == "full":
        return {"weight": jnp.eye(width, item_width)}
    left_key, right_key = jax.random.split(key)
    deviation = (rank * item_width) ** -0.25
    return {
        "left": deviation * jax.random.normal(left_key, (width, rank)),
        "right": deviation * jax.random.normal(right_key, (item_width, rank)),
    }

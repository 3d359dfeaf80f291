"""New items for a trained run: another run that has them in its catalogue, without training again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp

from seqrec_jax.config import ItemsConfig
from seqrec_jax.data.attributes import AttributeVocabulary
from seqrec_jax.data.dataset import write_items
from seqrec_jax.data.files import read_item_table
from seqrec_jax.data.growing import Catalogue, NewItems, grow_catalogue
from seqrec_jax.data.item_content import read_content, read_feature_file, write_content
from seqrec_jax.data.item_edges import read_pairs
from seqrec_jax.errors import CheckpointError
from seqrec_jax.model import extend_item_rows
from seqrec_jax.pipeline.content import TEXT, EncodeTexts, text_feature, with_paths
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs.run import read_run
from seqrec_jax.settings import parse_config
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.state import TrainState


def read_new_items(
    path: str | Path,
    *,
    item_id: str = "item_id",
    features: Mapping[str, str] | None = None,
    edges: Mapping[str, str] | None = None,
) -> NewItems:
    """New items from files.

    Args:
      path: their table: CSV, TSV, JSON lines or Parquet.
      item_id: the column with the raw item id, in the table and in files of features.
      features: name of a modality to a file of vectors.
      edges: name of a relation to a file of pairs.

    Raises:
      DataError: as `read_item_table`, `read_feature_file` and `read_pairs`.
    """
    return NewItems(
        read_item_table(Path(path), item_id=item_id),
        {name: read_feature_file(file, item_id=item_id) for name, file in (features or {}).items()},
        {name: read_pairs(file) for name, file in (edges or {}).items()},
    )


def add_items(
    run: str | Path, new: NewItems, *, output: str | Path, step: int | None = None, encode: EncodeTexts | None = None
) -> list[str]:
    """A run whose catalogue has new items after the old ones, which keep their numbers, vectors and scores.

    The new items are unknown to training: their content alone makes their vectors. Where the run encodes texts, the
    new items' texts are encoded too. The output is a run like any other for everything but training; to train on the
    new items' events, prepare a log with `data.vocabulary_from` the output, and start warm from it.

    Args:
      run: a run's directory; it is not changed.
      new: the items.
      output: the new run's directory, which must not exist.
      step: of the checkpoint; None takes the best by validation.
      encode: texts to vectors; None reads the language model that the run was prepared with.

    Returns:
      Sentences on what was counted.

    Raises:
      CheckpointError: no run, no whole checkpoint, or an output that exists or cannot be written.
      DataError, ConfigError: as `grow_catalogue` and `text_feature`.
    """
    run, output = Path(run), Path(output)
    if output.exists():
        raise CheckpointError(f"{output} exists; choose another output, since a run is never changed in place")
    config, facts, items = read_run(run)
    settings = parse_config(ItemsConfig, values=config.get("data", {}).get("items", {}))
    catalogue = Catalogue(items, AttributeVocabulary.from_dict(facts["attributes"]), read_content(run))
    new = new._replace(items=with_paths(new.items, settings))
    notes: list[str] = []
    if TEXT in catalogue.content.features and settings.text.columns and TEXT not in new.features:
        vectors, notes = text_feature(new.items, settings.text, encode=encode)
        new = new._replace(features={**new.features, TEXT: vectors})
    grown, counted = grow_catalogue(catalogue, new, max_neighbors=settings.max_neighbors)
    recommender = Recommender.load(run, step=step)
    params = extend_item_rows(
        recommender.params, old_num_items=len(items), new_num_items=len(grown.items), key=jax.random.key(0)
    )
    facts = {**facts, "counts": {**facts["counts"], "items": len(grown.items)}, "grown_from": str(run.absolute())}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent, ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary, "run")
            folder.mkdir()
            shutil.copy(run / "config.yaml", folder)
            (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
            write_items(grown.items, folder)
            write_content(grown.content, folder)
            with closing(CheckpointStore(folder / "checkpoints")) as store:
                store.save(TrainState(params, {}, {}, jnp.int32(0)), {"num_items": len(grown.items)})
            Recommender.load(folder)  # so that parameters that do not fit show now
            folder.rename(output)
    except OSError as error:
        raise CheckpointError(f"cannot write the run to {output}: {error.strerror or error}") from error
    return [*notes, *counted]

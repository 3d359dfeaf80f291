"""New items for a trained run without training again: another run whose catalogue has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax

from seqrec_jax.config import ItemsConfig
from seqrec_jax.data.files import read_item_table
from seqrec_jax.data.growing import DescribedItems, NewItems, append_items
from seqrec_jax.data.item_content import read_feature_file
from seqrec_jax.data.item_edges import read_pairs
from seqrec_jax.errors import CheckpointError
from seqrec_jax.model import extend_item_rows
from seqrec_jax.pipeline.content import TEXT, TextEncoding, text_feature, with_paths
from seqrec_jax.runs import Run, write_grown_run


def read_new_items(
    path: str | Path,
    *,
    item_id: str = "item_id",
    features: Mapping[str, str] | None = None,
    edges: Mapping[str, str] | None = None,
) -> NewItems:
    """New items from files.

    Args:
      path: file of the item table: CSV, TSV, JSON lines or Parquet.
      item_id: the column with the raw item id, in the table and in files of features.
      features: the file of vectors of each modality, by its name.
      edges: the file of pairs of each relation, by its name.

    Raises:
      DataError: as `read_item_table`, `read_feature_file` and `read_pairs`.
    """
    return NewItems(
        read_item_table(Path(path), item_id=item_id),
        {name: read_feature_file(file, item_id=item_id) for name, file in (features or {}).items()},
        {name: read_pairs(file) for name, file in (edges or {}).items()},
    )


def add_items(
    run: str | Path | Run,
    new: NewItems,
    *,
    output: str | Path,
    step: int | None = None,
    encode: TextEncoding | None = None,
) -> list[str]:
    """Write a run whose catalogue has new items after the old ones, which keep their numbers, vectors and scores.

    The vectors of the new items come from their content alone, since training has not seen them. If the run encodes
    texts, the new items' texts are encoded too. The output is a run for every verb but train; to train on the new
    items' events, prepare a log with `data.vocabulary_from` the output, and start warm from it.

    Args:
      run: the run or its directory; it is not changed.
      new: the new items.
      output: the new run's directory, which must not exist.
      step: of the checkpoint; None for the best by validation.
      encode: encoder of texts; None for the language model that the run was prepared with.

    Returns:
      Sentences on what was counted.

    Raises:
      CheckpointError: no run, no whole checkpoint, or an output that exists or cannot be written.
      DataError, ConfigError: as `append_items` and `text_feature`.
    """
    run = Run.open(run)
    if Path(output).exists():  # before the texts are encoded, which may take long
        raise CheckpointError(f"{output} exists; choose another output, since a run is never changed in place")
    settings = run.section("data.items", ItemsConfig)
    catalogue = DescribedItems(run.items, run.facts.attributes, run.content)
    new = new._replace(items=with_paths(new.items, settings))
    notes: list[str] = []
    if TEXT in catalogue.content.features and settings.text.columns and TEXT not in new.features:
        vectors, notes = text_feature(new.items, settings.text, encode=encode)
        new = new._replace(features={**new.features, TEXT: vectors})
    grown, counted = append_items(catalogue, new, max_neighbors=settings.max_neighbors)
    params = extend_item_rows(
        run.params(step), old_num_items=len(run.items), new_num_items=len(grown.items), key=jax.random.key(0)
    )
    write_grown_run(run, output, items=grown.items, content=grown.content, params=params)
    return [*notes, *counted]

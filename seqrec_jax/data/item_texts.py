"""Texts of items: columns of an item table to one plain text an item."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from seqrec_jax.errors import DataError

_BLOCKS = re.compile(r"<(script|style)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"</?[a-zA-Z][^<>]*>")


def plain_text(text: str) -> str:
    """A text without HTML: tags, comments, scripts and styles are removed, entities decoded, blanks joined to one.

    >>> plain_text("<b>Pens</b>&nbsp;&amp; <br/>paper, 5 < 6")
    'Pens & paper, 5 < 6'
    """
    for _ in range(2):  # some shops escape their texts twice
        text = html.unescape(text)
    return " ".join(_TAGS.sub(" ", _BLOCKS.sub(" ", text)).split())


def item_texts(items: pd.DataFrame, columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """One text an item, and sentences with the number of items that have one.

    Args:
      items: V rows of an item table.
      columns: names of the columns to join, in this order with a full stop between; a cell may be a list of texts.

    Returns:
      V texts, "" for an item that has none; and the sentences.

    Raises:
      DataError: a column that the item table lacks.
    """
    if missing := [name for name in columns if name not in items]:
        raise DataError(f"the item table has no column {missing[0]!r} with text, only {list(items.columns)}")
    changed = 0
    parts: list[list[str]] = [[] for _ in range(len(items))]
    for name in columns:
        for row, cell in enumerate(items[name]):
            raw = _as_text(cell)
            text = plain_text(raw)
            changed += text != " ".join(raw.split())
            if text:
                parts[row].append(text)
    texts = [". ".join(part) for part in parts]
    empty = sum(not text for text in texts)
    sentences = [f"text: {len(texts) - empty:,} of {len(texts):,} items have a text from {', '.join(columns)}"]
    if changed:
        sentences.append(f"text: HTML was taken out of {changed:,} cells")
    return texts, sentences


def _as_text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if cell is None or (isinstance(cell, float) and cell != cell) or cell is pd.NA:
        return ""
    if isinstance(cell, Iterable):
        return ". ".join(filter(None, map(_as_text, cell)))
    return str(cell)

"""Vectors of texts on disk, one file a model, looked up by a hash of the text."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from seqrec_jax.encoders.config import Params
from seqrec_jax.errors import DataError

SCHEMA_VERSION = 1
_KEY_BYTES = 16


class Entries(NamedTuple):
    """Cached vectors and token counts of N texts.

    Attributes:
      keys: `[N, 16]` uint8, hash of each text.
      vectors: `[N, D]` float32.
      num_words: `[N]` int32 number of tokens, without marks of start and end.
      num_unknown: `[N]` int32 number of unknown ones among them.
      truncated: `[N]` bool, True if tokens were cut off.
    """

    keys: UInt8[np.ndarray, "N 16"]
    vectors: Float[np.ndarray, "N D"]
    num_words: Int[np.ndarray, " N"]
    num_unknown: Int[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]


def no_entries(rows: int, width: int) -> Entries:
    """Entries of `rows` texts, all zero."""
    counts = np.zeros(rows, np.int32)
    return Entries(
        np.zeros((rows, _KEY_BYTES), np.uint8),
        np.zeros((rows, width), np.float32),
        counts,
        counts.copy(),
        np.zeros(rows, bool),
    )


def text_key(text: str) -> bytes:
    """Hash of a text, 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def model_fingerprint(params: Params, *described: Any) -> str:
    """Hash of all parameters and of the `repr` of everything else that a vector depends on."""
    digest = hashlib.blake2b(digest_size=_KEY_BYTES)
    digest.update(repr(described).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_entries(path: Path, *, width: int) -> Entries:
    """The entries of a file; no entries if it does not exist.

    Raises:
      DataError: the file is damaged, or of another version or width.
    """
    if not path.exists():
        return no_entries(0, width)
    way_out = "remove it, and its texts are encoded again"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            version, entries = int(arrays["schema_version"]), Entries(*(arrays[name] for name in Entries._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a whole file of text vectors ({error}); {way_out}") from error
    if version != SCHEMA_VERSION or entries.vectors.shape != (len(entries.keys), width):
        raise DataError(
            f"{path} has version {version} and vectors {entries.vectors.shape}, expected version {SCHEMA_VERSION} and "
            f"{(len(entries.keys), width)}; {way_out}"
        )
    return entries


def write_entries(path: Path, entries: Entries) -> None:
    """Replace the file in one step, so that a reader finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, schema_version=np.int32(SCHEMA_VERSION), **entries._asdict())
    os.replace(temporary, path)

"""Readers of public data sets: their files, as published or as others prepared them, to events and tables.

A reader takes a `path`, the folder that holds the files or the file of events itself, and gives a `PublicDataset`.
Tables of items and users are read from the same folder if they exist. Nothing is downloaded, ids stay as written, and
nothing is cleaned. `READERS` holds them by the name that `data.reader` of a configuration takes; a new reader is a
function in one of these files and an entry of `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from seqrec_jax.data.readers.amazon import (
    read_amazon_bert4rec,
    read_amazon_grocery,
    read_amazon_office_titles,
    read_amazon_reviews,
    read_amazon_s3rec,
)
from seqrec_jax.data.readers.movielens import read_movielens_1m, read_movielens_100k
from seqrec_jax.data.readers.public_files import PublicDataset
from seqrec_jax.data.readers.search_log import read_search_log
from seqrec_jax.data.readers.shops import (
    read_complete_journey,
    read_online_retail,
    read_open_bandit,
    read_search_ubi,
    read_yoochoose,
)

READERS: dict[str, Callable[..., PublicDataset]] = {
    "amazon_beauty_bert4rec": read_amazon_bert4rec,
    "amazon_beauty_s3rec": read_amazon_s3rec,
    "amazon_grocery": read_amazon_grocery,
    "amazon_office_titles": read_amazon_office_titles,
    "amazon_reviews": read_amazon_reviews,
    "amazon_sports_s3rec": read_amazon_s3rec,
    "complete_journey": read_complete_journey,
    "movielens_100k": read_movielens_100k,
    "movielens_1m": read_movielens_1m,
    "online_retail": read_online_retail,
    "open_bandit": read_open_bandit,
    "search_ubi": read_search_ubi,
    "search_ubi_joined": lambda path: read_search_log(path).dataset,
    "yoochoose": read_yoochoose,
}
"""Name in a configuration to reader."""

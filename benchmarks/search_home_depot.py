"""Product search on Home Depot's human judgments: `python benchmarks/search_home_depot.py <folder of the data>`.

Lexical rankers, judged on test queries whose words (in any order or number) no training query has, among the judged
titles of each query and over all titles; figures with intervals over queries, every pair compared, by length and kind
of the query. Writes benchmarks/results/search_home_depot.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from records import circumstances

from seqrec_jax.baselines import Ranker
from seqrec_jax.data.judgments import Judgments, encode_judgments
from seqrec_jax.data.queries import query_parts, words_of
from seqrec_jax.data.readers_judgments import read_home_depot_judgments
from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION
from seqrec_jax.evaluation.search import JudgedSearch, Slice, judge_search, search_report
from seqrec_jax.search import bm25

RESULTS = Path("benchmarks/results/search_home_depot.json")
FIGURES = ("graded_ndcg@10", "mrr@10", "recall@10", "recall@100", "judged@10")
WORTHLESS, RELEVANT = 1.0, 2.0  # grades: 1 irrelevant, 2 partly relevant, 3 perfect


class Shop(NamedTuple):
    """The judged pairs.

    Attributes:
      titles: V+1 texts, "" at place 0.
      judgments: of all queries.
      parts: `[Q]` of each query.
    """

    titles: list[str]
    judgments: Judgments
    parts: np.ndarray

    def part(self, part: int) -> Judgments:
        """The judgments of the queries of one part."""
        return self.judgments.select(np.flatnonzero(self.parts == part))


def read_shop(folder: Path) -> Shop:
    """The judgments under numbers of their own, split by query."""
    pairs = read_home_depot_judgments(folder)
    items = pairs.drop_duplicates("item_id")
    numbers = pd.Series(np.arange(1, len(items) + 1), index=items["item_id"])
    judgments, _ = encode_judgments(pairs, item_numbers=numbers, least=WORTHLESS)
    return Shop(["", *items["title"]], judgments, query_parts(list(judgments.queries)))


def query_slices(test: Judgments, titles: list[str]) -> dict[str, Slice]:
    """Cuts by words of the query, by judged titles, and by how many titles have its rarest word.

    The set does not say how often a query was asked; how many titles were judged for it stands in.
    """
    texts = pd.Series([set(words_of(title)) for title in titles]).explode()
    counts = texts.value_counts()
    words = [words_of(query) for query in test.queries]
    rarest = np.array([min((int(counts.get(word, 0)) for word in query), default=0) for query in words])
    return {
        "words": Slice(np.array([len(query) for query in words]), (0, 2, 3, 4, 5, 6)),
        "judged_titles": Slice(test.num_judged, (1, 4, 7, 10, 14)),
        "titles_with_the_rarest_word": Slice(rarest, (0, 1, 10, 100, 1000)),
    }


def main() -> None:
    """Judge every ranker, print a line each and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shop = read_shop(folder)
    test = shop.part(TEST)
    nothing = np.zeros(len(shop.titles), dtype=np.float32)
    rankers = [
        Ranker("chance", lambda histories: np.tile(nothing, (histories.num_users, 1))),
        bm25(shop.titles),
    ]
    judged: list[JudgedSearch] = []
    for ranker in rankers:
        judged.append(judge_search(ranker, test, num_items=len(shop.titles) - 1, relevant_from=RELEVANT - WORTHLESS))
        for reading, table in judged[-1]._asdict().items():
            means = ", ".join(f"{name} {table.per_user[name].mean():.4f}" for name in FIGURES)
            print(f"{ranker.name}, {reading}: {means} ({table.seconds:.1f} s)", flush=True)
    report = {
        **circumstances("python benchmarks/search_home_depot.py"),
        "titles": len(shop.titles) - 1,
        "queries": {
            name: int((shop.parts == part).sum())
            for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
        },
        "test_pairs": len(test.item_ids),
        **search_report(judged, columns=FIGURES, slices=query_slices(test, shop.titles)),
    }
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

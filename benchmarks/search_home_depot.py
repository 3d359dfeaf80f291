"""Product search on Home Depot's human judgments: `python benchmarks/search_home_depot.py <data> <language model>`.

Chance, BM25, a language model's frozen vectors, the same with a W trained on the judgments of the training queries, the
vectors of a model tuned on them (`--tuned`, see fine_tuning.py), and fusions of BM25 and vectors. Judged on test
queries whose words (in any order or number) no training query has, among the judged titles of each query and over all
titles: figures with intervals over queries, every pair compared, by length and kind of the query. Whatever is chosen
(the weight of a fusion) is chosen on validation queries. Vectors of titles are kept in data/text_vectors. Writes
benchmarks/results/search_home_depot.json.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from records import circumstances

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.judgments import Judgments, encode_judgments
from seqrec_jax.data.queries import query_parts, words_of
from seqrec_jax.data.readers.judgments import read_home_depot_judgments
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION
from seqrec_jax.encoders.language import encode_texts, load_text_encoder
from seqrec_jax.evaluation.search import SEARCH, JudgedSearch, Slice, judge_search, search_report
from seqrec_jax.search import (
    DenseConfig,
    TextVectors,
    bm25,
    convex_combination,
    dense,
    fit_bilinear,
    fused,
    reciprocal_rank_fusion,
)

RESULTS = Path("benchmarks/results/search_home_depot.json")
FIGURES = ("graded_ndcg@10", "mrr@10", "recall@10", "recall@100", "judged@10")
DENSE = DenseConfig()
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CACHE = Path("data/text_vectors")
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


def make_rankers(
    shop: Shop, text_vectors: TextVectors, tuned_vectors: TextVectors | None
) -> tuple[list[FunctionRanker], dict[str, float]]:
    """The systems, the one to be beaten first, and what was chosen on validation queries."""
    nothing = np.zeros(len(shop.titles), dtype=np.float32)
    titles = text_vectors(shop.titles)
    train = shop.part(TRAIN)
    weight = fit_bilinear(text_vectors(list(train.queries)), titles, train, config=DENSE)
    lexical = bm25(shop.titles)
    frozen = dense("dense, frozen", text_vectors, titles)
    trained = dense("dense, trained W", text_vectors, titles, weight=weight)
    by_vectors = [frozen, trained]
    if tuned_vectors is not None:
        by_vectors.append(dense("dense, tuned", tuned_vectors, tuned_vectors(shop.titles)))
    chosen: dict[str, float] = {}
    mixed = []
    for vectors in by_vectors:
        name = f"BM25 + {vectors.name}, scores"
        share = best_share(lexical, vectors, shop)
        chosen[f"share of vectors in {name}"] = share
        mixed.append(fused(name, [lexical, vectors], partial(convex_combination, weights=[1 - share, share])))
    places = fused(f"BM25 + {trained.name}, places", [lexical, trained], reciprocal_rank_fusion)
    chance = FunctionRanker("chance", lambda histories: np.tile(nothing, (histories.num_users, 1)))
    return [lexical, chance, *by_vectors, *mixed, places], chosen


def best_share(lexical: FunctionRanker, vectors: FunctionRanker, shop: Shop) -> float:
    """The share of the vectors' scores in a fusion that does best on the validation queries, over all titles."""
    validation = shop.part(VALIDATION)
    kept = [keeping_scores(ranker) for ranker in (lexical, vectors)]

    def figure(share: float) -> float:
        ranker = fused("", kept, partial(convex_combination, weights=[1 - share, share]))
        judged = judge(ranker, validation, shop)
        return float(judged.all_items.per_user[SEARCH.metric].mean())

    return max(SHARES, key=figure)


def keeping_scores(ranker: FunctionRanker) -> FunctionRanker:
    """The same ranker, which keeps each query's scores in memory."""
    known: dict[str, np.ndarray] = {}

    def scores(histories: Sequences) -> np.ndarray:
        queries = histories.last_queries
        if any(query not in known for query in queries):
            known.update(zip(queries, ranker.scores(histories), strict=True))
        return np.stack([known[query] for query in queries])

    return FunctionRanker(ranker.name, scores)


def judge(ranker: FunctionRanker, judgments: Judgments, shop: Shop) -> JudgedSearch:
    """With a title for relevant from partly relevant on."""
    return judge_search(ranker, judgments, num_items=len(shop.titles) - 1, relevant_from=RELEVANT - WORTHLESS)


def main() -> None:
    """Judge every ranker, print a line each and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.csv.zip")
    parser.add_argument("language_model", type=Path, help="folder in the Hugging Face layout")
    parser.add_argument(
        "--tuned", type=Path, help="parameters that fine_tuning.py home_depot left, such as runs/…/LoRA_0.001.pickle"
    )
    arguments = parser.parse_args()
    shop = read_shop(arguments.data)
    encoder = load_text_encoder(arguments.language_model)
    started = time.monotonic()
    text_vectors = remembered(lambda texts: encode_texts(encoder, texts, cache=CACHE).vectors)
    text_vectors([*shop.titles, *shop.judgments.queries])
    print(f"vectors of titles and queries: {time.monotonic() - started:.0f} s", flush=True)
    tuned_vectors = None
    if arguments.tuned is not None:
        tuned = encoder._replace(params=pickle.loads(arguments.tuned.read_bytes())[1])
        tuned_vectors = remembered(lambda texts: encode_texts(tuned, texts, cache=CACHE).vectors)
    rankers, chosen = make_rankers(shop, text_vectors, tuned_vectors)
    test = shop.part(TEST)
    judged: list[JudgedSearch] = []
    for ranker in rankers:
        judged.append(judge(ranker, test, shop))
        for reading, table in judged[-1]._asdict().items():
            means = ", ".join(f"{name} {table.per_user[name].mean():.4f}" for name in FIGURES)
            print(f"{ranker.name}, {reading}: {means} ({table.seconds:.1f} s)", flush=True)
    report = {
        **circumstances("python benchmarks/search_home_depot.py"),
        "tuned": None if arguments.tuned is None else arguments.tuned.stem,
        "language_model": arguments.language_model.parent.name,
        "training_of_w": asdict(DENSE),
        "chosen_on_validation": chosen,
        "titles": len(shop.titles) - 1,
        "queries": {
            name: int((shop.parts == part).sum())
            for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
        },
        "test_pairs": len(test.item_ids),
        **search_report(judged, columns=FIGURES, slices=query_slices(test, shop.titles)),
    }
    RESULTS.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def remembered(text_vectors: TextVectors) -> TextVectors:
    """The same function, which keeps each text's vector in memory."""
    known: dict[str, np.ndarray] = {}

    def vectors(texts: Sequence[str]) -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if text not in known]:
            known.update(zip(new, text_vectors(new), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


if __name__ == "__main__":
    main()

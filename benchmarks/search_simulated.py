"""What a history adds to a query, where the truth is known: `python benchmarks/search_simulated.py`.

Trains configs/simulated_search.yaml, one model for search and recommendation. Of each user the last search of the test
part that led to an item is asked twice: the query alone, and the query after the history. Half of the queries mean one
of two categories, and only the user's taste tells which. Beside both stands what the shop itself would say: knowing
the query alone, after the history (the Bayes filter, above which no model can be), and knowing the user's hidden taste,
which no history tells for certain. Figures with intervals over users and paired differences, for ambiguous queries and
others, go to benchmarks/results/search_simulated.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from records import circumstances, dataset_of, experiment, train_apart

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.query_cases import query_cases, without_history
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.bayes_filter import BayesFilter
from seqrec_jax.data.shop.searches import ambiguous_words, query_probabilities
from seqrec_jax.data.shop.simulator import SimulatedShop, simulate
from seqrec_jax.data.splits import TEST, EvaluationCases
from seqrec_jax.evaluation.judging import Judged, judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reporting.sections import plain
from seqrec_jax.retrieval import Recommender
from seqrec_jax.statistics import bootstrap_means, paired_differences

CONFIGURATION = "configs/simulated_search.yaml"
RESULTS = Path("benchmarks/results/search_simulated.json")
FIGURES = ("ndcg@10", "hit_rate@10")
ALONE, WITH_HISTORY = "query alone", "history and query"
SHOP_ALONE, SHOP_TASTE = "the shop's own: query alone", "the shop's own: query and taste"
OPTIMUM = "the shop's own: history and query"


def shops_own(shop: SimulatedShop, dataset: Dataset, cases: EvaluationCases, *, knows_taste: bool) -> FunctionRanker:
    """P(item | query), or P(item | query, taste), from the tables that the shop was drawn from."""
    world = shop.world
    place = {item: number for number, item in enumerate(world.item_ids)}
    columns = np.array([place[item] for item in dataset.items["item_id"]])
    times = dataset.sequences.timestamps[cases.target_events]
    truth = shop.truth.set_index(["user_id", "timestamp"])["taste"]
    truth = truth[~truth.index.duplicated()]
    users = dataset.sequences.user_ids[cases.users]
    tastes = {user: truth[user, time] for user, time in zip(users, times, strict=True)}
    epochs = dict(zip(users, world.epochs(times), strict=True))
    asked = query_probabilities(world, dataset.sequences.queries)
    queries = {query: row for row, query in enumerate(dataset.sequences.queries)}

    def scores(histories: Sequences) -> np.ndarray:
        table = np.zeros((histories.num_users, dataset.num_items + 1), dtype=np.float32)
        for row, user, query in zip(table, histories.user_ids, histories.last_queries, strict=True):
            of_tastes = world.organic[epochs[user]]
            wanted = of_tastes[tastes[user]] if knows_taste else world.initial_tastes @ of_tastes
            row[1:] = (wanted * asked[queries[query]])[columns]
        return table

    return FunctionRanker(SHOP_TASTE if knows_taste else SHOP_ALONE, scores)


def figures(judged: list[Judged], members: np.ndarray) -> dict[str, Any]:
    """Means with intervals, and differences from the query alone, among some users."""
    tables = {one.name: one.per_user.loc[members, list(FIGURES)] for one in judged}
    found: dict[str, Any] = {"users": int(members.sum()), "systems": {}, "history_adds": {}}
    for name, table in tables.items():
        interval = bootstrap_means(table)
        found["systems"][name] = {
            figure: {"mean": interval.mean[i], "low": interval.low[i], "high": interval.high[i]}
            for i, figure in enumerate(FIGURES)
        }
    for name, first, second in (("model", WITH_HISTORY, ALONE), ("shop", OPTIMUM, SHOP_ALONE)):
        paired = paired_differences(tables[first], tables[second])
        found["history_adds"][name] = {
            figure: {
                "difference": paired.mean[i],
                "low": paired.low[i],
                "high": paired.high[i],
                "p_value": paired.p_value[i],
            }
            for i, figure in enumerate(FIGURES)
        }
    return found


def main() -> None:
    """Train, ask twice, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/search_simulated"))
    arguments = parser.parse_args()
    config = experiment(CONFIGURATION, {}).config
    dataset = dataset_of(config)
    trained = train_apart(config, runs=arguments.runs)
    evaluation = EvaluationConfig(targets="next", num_resamples=2000, parts=())
    candidates = pipeline.cases_of(dataset, evaluation).candidates
    cases = query_cases(dataset.sequences, held_out=dataset.split.parts == TEST, candidates=candidates)
    recommender = Recommender.load(trained.directory)
    shop = simulate(config.data.shop, config.data.shop_seed)
    bayes = BayesFilter(shop.world, list(dataset.items["item_id"]))
    optimum = FunctionRanker(OPTIMUM, lambda histories: bayes.scores(histories, behaviors=dataset.behaviors))
    judged = [
        judge(recommender, without_history(cases), config=evaluation)._replace(name=ALONE),
        judge(recommender, cases, config=evaluation)._replace(name=WITH_HISTORY),
        judge(shops_own(shop, dataset, cases, knows_taste=False), cases, config=evaluation),
        judge(optimum, cases, config=evaluation),
        judge(shops_own(shop, dataset, cases, knows_taste=True), cases, config=evaluation),
    ]
    ambiguous = np.isin(cases.histories.last_queries, [word for word in ambiguous_words(12) if word])
    report = {
        **circumstances("python benchmarks/search_simulated.py"),
        "training": trained.facts,
        "ambiguous": figures(judged, ambiguous),
        "unambiguous": figures(judged, ~ambiguous),
    }
    RESULTS.write_text(json.dumps(plain(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for kind in ("ambiguous", "unambiguous"):
        print(kind, report[kind]["users"], "users")
        for name, values in report[kind]["systems"].items():
            print(f"  {name}: ndcg@10 {values['ndcg@10']['mean']:.4f}")
        for name, values in report[kind]["history_adds"].items():
            one = values["ndcg@10"]
            print(f"  history adds to the {name}: {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})")


if __name__ == "__main__":
    main()

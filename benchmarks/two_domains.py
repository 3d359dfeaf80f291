"""Two domains with the same customers, in one model and in two: `python benchmarks/two_domains.py [source]`.

The Complete Journey: what households bought of packaged groceries and of fresh food, as if in two shops that share
their customers. Prepares both, joins them with shared users, trains configs/two_domains.yaml on both and the same
settings on each alone (without the attribute `domain`, which says nothing there), and judges the joined run as `seqrec
evaluate` does, with its report. Then, of each domain, all that a household bought in it after the cut is asked of each
model among this domain's items, of households that had bought in it before. Figures with intervals over households and
paired differences go to benchmarks/results/two_domains.json; a finished run is not trained again: remove
runs/two_domains and runs/two_domains_alone to start over.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from records import Row, circumstances, experiment, interval, train_apart

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker, baseline_rankers
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.cleaning import CleaningConfig, clean_events
from seqrec_jax.data.dataset import Dataset, prepare_dataset, write_dataset
from seqrec_jax.data.readers import READERS
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.evaluation.judging import Judged, judge
from seqrec_jax.pipeline.cases import case_options, known_events
from seqrec_jax.pipeline.joining import join
from seqrec_jax.reporting.sections import plain
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.statistics import bootstrap_means, paired_differences

CONFIGURATION = "configs/two_domains.yaml"
RESULTS = Path("benchmarks/results/two_domains.json")
DEPARTMENTS = {
    "grocery": ("GROCERY",),
    "fresh": ("PRODUCE", "MEAT", "MEAT-PCKGD", "DELI", "PASTRY", "SEAFOOD", "SEAFOOD-PCKGD", "SALAD BAR"),
}
SPLIT = SplitConfig("global_timeline", validation_start="2017-10-01", test_start="2017-11-15")
FIGURE = "ndcg@10"
ALONE, TOGETHER, SHARED = "this domain alone", "both domains, history of this one", "both domains, history of both"


def main() -> None:
    """Prepare, train, evaluate, compare, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", default="../shared/data/complete_journey", help="folder of the data set")
    source = parser.parse_args().source
    config = parse_config(ExperimentConfig, path=CONFIGURATION)
    directory = Path(config.dataset_directory)
    domains = {name: prepare(source, name, directory.parent) for name in DEPARTMENTS}
    paths = {name: directory.parent / name for name in DEPARTMENTS}
    joined = join(paths, output=directory, shared_users=True, overwrite=True)
    trained = {TOGETHER: train_apart(config, runs=Path("runs"))}
    pipeline.evaluate(trained[TOGETHER].directory, config.evaluation)
    attributes = [name for name in config.model.items.attributes if name != "domain"]
    alone = experiment(CONFIGURATION, {"model.items.attributes": attributes}).config
    for name in DEPARTMENTS:
        data = replace(alone.data, directory=str(paths[name]))
        trained[name] = train_apart(replace(alone, name=name, data=data), runs=Path("runs/two_domains_alone"))
    both = Recommender.load(trained[TOGETHER].directory)
    report: Row = {
        **circumstances("python benchmarks/two_domains.py"),
        "fingerprint": joined.fingerprint,
        "training": {name: run.facts for name, run in trained.items()},
        "domains": {
            name: compared(name, domain, joined, both, Recommender.load(trained[name].directory), config)
            for name, domain in domains.items()
        },
    }
    RESULTS.write_text(json.dumps(plain(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print_report(report)


def prepare(source: str, name: str, folder: Path) -> Dataset:
    """One domain: the events and items of its departments."""
    public = READERS["complete_journey"](source)
    if public.items is None:
        raise SystemExit(f"two_domains: {source} has no products.csv, which says the department of a product")
    items = public.items[public.items["department"].isin(DEPARTMENTS[name])]
    mine = public.events.frame["item_id"].isin(items["item_id"])
    raw = replace(public.events, frame=public.events.frame[mine].reset_index(drop=True))
    events, cleaned = clean_events(raw, CleaningConfig(user_k_core=2, item_k_core=5))
    dataset = prepare_dataset(
        events,
        name=name,
        split=SPLIT,
        items=items[items["item_id"].isin(events["item_id"])],
        attributes=AttributeConfig(categorical=("product_category", "product_type", "brand")),
        behaviors=list(cleaned.behaviors),
        cleaning=cleaned.to_dict(),
        source={"reader": "complete_journey", "departments": list(DEPARTMENTS[name])},
    )
    write_dataset(dataset, folder / name, overwrite=True)
    return dataset


def compared(
    name: str, domain: Dataset, joined: Dataset, both: Recommender, alone: Recommender, config: ExperimentConfig
) -> Row:
    """The figures of one domain."""
    evaluation = replace(config.evaluation, parts=())
    ids = np.concatenate([[0], joined.item_index([f"{name}:{item}" for item in domain.items["item_id"]])])
    numbers = np.zeros(joined.num_items + 1, dtype=np.int32)
    numbers[ids] = np.arange(len(ids))
    here = numbers > 0
    split = replace(joined.split, targets=joined.split.targets & here[joined.sequences.item_ids])
    options = case_options(evaluation, joined)
    cases = evaluation_cases(joined.sequences, split, stage=evaluation.stage, **options)
    cases = replace(cases, candidates=cases.candidates & here)

    def own(histories: Sequences) -> Sequences:
        return histories.select_events(here[histories.item_ids])

    def of_domain(ranker: Any, label: str) -> FunctionRanker:
        """A ranker over the domain's own numbers, over those of both."""

        def scores(histories: Sequences) -> np.ndarray:
            mine = own(histories)
            table = np.full((histories.num_users, len(numbers)), -np.inf, dtype=np.float32)
            table[:, ids] = np.asarray(ranker.scores(replace(mine, item_ids=numbers[mine.item_ids])))
            return table

        return FunctionRanker(label, scores)

    simple = baseline_rankers(
        known_events(domain, evaluation.stage), num_items=domain.num_items, time_kind=domain.time_kind
    )
    rankers = [
        of_domain(alone, ALONE),
        FunctionRanker(TOGETHER, lambda histories: np.asarray(both.scores(own(histories)))),
        FunctionRanker(SHARED, lambda histories: np.asarray(both.scores(histories))),
        *(of_domain(one, one.name) for one in simple),
    ]
    judged = [judge(ranker, cases, config=evaluation) for ranker in rankers]
    with_history = own(cases.histories).lengths > 0
    size = {"users": domain.sequences.num_users, "items": domain.num_items, "events": len(domain.sequences.item_ids)}
    return {
        **size,
        "households_with_history_elsewhere_only": int(np.sum(~with_history)),
        **figures(judged, with_history),
    }


def figures(judged: list[Judged], members: np.ndarray) -> Row:
    """Means with intervals, and the differences of the joined model from the one alone, among some users."""
    tables = {one.name: one.per_user.loc[members, [FIGURE]] for one in judged}
    means = {name: bootstrap_means(table) for name, table in tables.items()}
    gains = {name: paired_differences(tables[name], tables[ALONE]) for name in (TOGETHER, SHARED)}
    return {
        "households": int(members.sum()),
        FIGURE: {name: interval(found) for name, found in means.items()},
        "over this domain alone": {
            name: {**interval(found), "p_value": found.p_value[0]} for name, found in gains.items()
        },
    }


def print_report(report: Mapping[str, Any]) -> None:
    """The table of docs/transfer.md."""
    for name, domain in report["domains"].items():
        print(f"{name}, {domain['households']:,} households, {FIGURE}")
        for system, one in domain[FIGURE].items():
            gain = domain["over this domain alone"].get(system)
            words = f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" if gain else ""
            print(f"  {system:<36} {one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]  {words}")


if __name__ == "__main__":
    main()

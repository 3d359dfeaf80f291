"""Items that nobody has seen in training: `python benchmarks/cold_items.py [set …]`, all sets by default.

simulated_shop: the shop of configs/simulated_cold_items.yaml, where content tells all that can be known of a new item,
so that no ranker can beat the Bayes filter, which sees content and history and knows the shop. Chance, popularity, ids
alone, content alone, both, both trained on views alone (a new item is always viewed first), and the filter. Of each
user the second event of the test part is asked, after the first: so nothing is known of when it comes but what the
history tells, which a model and the filter see alike.

amazon_beauty (attributes), amazon_grocery (categories, relations), amazon_office (titles by a frozen language model): a
fifth of the items, drawn at random, is taken out of training and of all histories; each user's last event is asked.

Figures of new and of known items stand apart, with intervals over users and paired differences. Among all items a
system gains on new items by preferring new items, which costs it known ones; so either are also ranked among
themselves, where only knowing the user helps. Rows go to benchmarks/results/cold_items.json, one a set; a run that was
stopped is continued, a finished one is not trained again: remove runs/cold_items to start over. How figures are made
is in cold_items_figures.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cold_items_figures import FUSED, IDS, OPTIMUM, Ranking, describe, print_row, slices_of
from records import Row, circumstances, experiment, read_rows, train_apart, write_rows

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker, most_popular, recently_popular
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset, write_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.bayes_filter import BayesFilter
from seqrec_jax.data.shop.simulator import init_shop
from seqrec_jax.data.splits import HISTORY, TEST, TRAIN, VALIDATION, EvaluationCases
from seqrec_jax.errors import SeqrecError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.retrieval import Recommender

RESULTS = Path("benchmarks/results/cold_items.json")
RUNS = Path("runs/cold_items")
SHARE, SEED = 0.2, 0
"""Of the items that are taken out of training, and of their draw."""

CONTENT, GATED = "content alone", "ids and content by a gate"
VIEWS = "ids and content, trained on views"


class ItemSet(NamedTuple):
    """A log, and what tells its systems apart.

    Attributes:
      configuration: YAML file.
      overrides: fields of it that all systems change.
      systems: name to the fields that the system changes besides.
    """

    configuration: str
    overrides: Row
    systems: dict[str, Row]


def systems_of(content: Row, *, fusion: str, id_dropout: float) -> dict[str, Row]:
    """Both, content alone (its parts by a gate, where there are several) and ids alone."""
    named = {f"model.items.{kind}": names for kind, names in content.items()}
    several = "gate" if sum(map(len, content.values())) > 1 else "sum"
    nothing = {f"model.items.{kind}": [] for kind in content}
    return {
        FUSED: {**named, "model.items.fusion": fusion, "model.items.id_dropout": id_dropout},
        CONTENT: {**named, "model.items.ids": False, "model.items.fusion": several, "model.items.id_dropout": 0.0},
        IDS: {**nothing, "model.items.fusion": "sum", "model.items.id_dropout": 0.0},
    }


REVIEWS: Row = {
    "model.encoder.kind": "sasrec",
    "model.encoder.width": 64,
    "model.items.width": 64,
    "training.batch_size": 32,
    "training.max_epochs": 12,
    "training.validate_every": 3,
    "training.loss": {"kind": "sampled_softmax", "num_negatives": 1024, "negatives_per": "batch"},
    "training.optimizer": {"learning_rate": 1e-3, "warmup_steps": 100, "schedule": "linear"},
}
SHOP = systems_of({"attributes": ["category", "price", "rating"]}, fusion="sum", id_dropout=0.6)
# clicks, carts and purchases are on the item just viewed, and say little of what a user views next
SHOP[VIEWS] = {**SHOP[FUSED], "training.behavior_weights": dict.fromkeys(("click", "cart", "purchase"), 0.0)}
SETS = {
    "simulated_shop": ItemSet("configs/simulated_cold_items.yaml", {}, SHOP),
    "amazon_beauty": ItemSet(
        "configs/amazon_beauty_attributes.yaml",
        REVIEWS,
        {
            **systems_of({"attributes": ["attributes"]}, fusion="sum", id_dropout=0.2),
            GATED: systems_of({"attributes": ["attributes"]}, fusion="gate", id_dropout=0.2)[FUSED],
        },
    ),
    "amazon_grocery": ItemSet(
        "configs/amazon_grocery.yaml",
        {**REVIEWS, "model.encoder.dropout": 0.3},
        systems_of({"attributes": ["category"], "edges": ["complement", "substitute"]}, fusion="sum", id_dropout=0.2),
    ),
    "amazon_office": ItemSet(
        "configs/amazon_office.yaml",
        {"training.max_epochs": 24},
        systems_of({"features": ["text"]}, fusion="gate", id_dropout=0.2),
    ),
}


def main() -> None:
    """Fill the rows of the sets named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="set", help=f"{', '.join(SETS)} (default: all)")
    parser.add_argument(
        "--language-model", help="directory of the one that reads titles (default: the configuration's)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"there is no set {min(unknown)}; the sets are {', '.join(SETS)}")
    try:
        for name in options.sets or SETS:
            write_rows(options.results, [fill(name, language_model=options.language_model)], keys=("data",))
            print_row(next(row for row in read_rows(options.results) if row["data"] == name))
    except SeqrecError as error:
        sys.exit(f"cold_items: {error}")
    except KeyboardInterrupt:
        sys.exit("cold_items: stopped; the same command continues")


def fill(name: str, *, language_model: str | None) -> Row:
    """Train and judge the systems of a set; its row."""
    item_set = SETS[name]
    configs = {
        system: experiment(item_set.configuration, {**item_set.overrides, **changes}).config
        for system, changes in item_set.systems.items()
    }
    dataset, directory = dataset_with_new_items(name, configs[FUSED], language_model=language_model)
    trained = {}
    for system, config in configs.items():
        print(f"{name}: training {system} in {RUNS / config.name}", flush=True)
        trained[system] = train_apart(replace(config, data=replace(config.data, directory=directory)), runs=RUNS)
    protocol = configs[FUSED].evaluation
    cases = pipeline.cases_of(dataset, protocol)
    known = np.concatenate([[False], dataset.items["known"].to_numpy()])
    new = cases.candidates & ~known
    new[0] = False
    rankers, probabilities = baselines(dataset), None
    for system in dict.fromkeys((IDS, CONTENT, FUSED, *trained)):
        recommender = Recommender.load(trained[system].directory)
        recommender.name = system
        rankers.append(recommender)
    if configs[FUSED].data.reader == "simulator":
        rankers.append(optimum := bayes_filter(configs[FUSED], dataset))
        probabilities = optimum.scores(cases.histories)
    else:
        cases = of_known_histories(cases, known)
    unseen = replace(protocol, seen_items="excluded")
    among = {
        "all items": (cases, protocol),
        "new items": (replace(cases, candidates=new), unseen),
        "known items": (replace(cases, candidates=known & cases.candidates), unseen),
    }
    rankings = {
        which: Ranking([judge(ranker, asked, config=how) for ranker in rankers], asked)
        for which, (asked, how) in among.items()
    }
    return {
        "data": name,
        "configuration": item_set.configuration,
        "fingerprint": dataset.fingerprint,
        "split": dataset.split.describe(),
        "seen_items": protocol.seen_items,
        "users": len(cases.users),
        "known_items": int((known & cases.candidates).sum()),
        "new_items": int(new.sum()),
        "overrides": {system: {**item_set.overrides, **changes} for system, changes in item_set.systems.items()},
        "training": {system: run.facts for system, run in trained.items()},
        **describe(rankings, slices_of(cases, known), known=known, probabilities=probabilities, config=protocol),
        **circumstances(f"python benchmarks/cold_items.py {name}"),
    }


def dataset_with_new_items(name: str, config: ExperimentConfig, *, language_model: str | None) -> tuple[Dataset, str]:
    """The dataset that the systems of a set share, made now where it does not exist, and where it lies."""
    data = replace(config.data, directory=f"data/cold_items/{name}")
    if Path(data.directory).exists():
        return read_dataset(data.directory), data.directory
    items, attributes, split = data.items, data.attributes, data.split
    if data.reader != "simulator":
        split = replace(split, rule="leave_one_out")
    if name == "amazon_grocery":
        items = replace(items, edges={"complement": "complements", "substitute": "substitutes"}, shared_pairs="kept")
        attributes = replace(attributes, categorical=("category",))
    if language_model is not None and items.text.columns:
        items = replace(items, text=replace(items.text, model=language_model))
    data = replace(data, split=split, items=items, attributes=attributes)
    dataset = pipeline.prepare(replace(config, data=data))
    dataset = second_events(dataset) if data.reader == "simulator" else without_training(dataset)
    write_dataset(dataset, data.directory, overwrite=True)
    return read_dataset(data.directory), data.directory


def second_events(dataset: Dataset) -> Dataset:
    """The dataset with each user's second event of a held-out part as the one to be predicted there."""
    given, users = dataset.split.parts, dataset.sequences.users_of_events
    parts = np.where(given == TRAIN, TRAIN, HISTORY).astype(np.int8)
    for part in (VALIDATION, TEST):
        events = np.flatnonzero(given == part)
        first = np.append(True, np.diff(users[events]) != 0)
        second = events[1:][first[:-1] & ~first[1:]]
        parts[second] = part
    return replace(dataset, split=replace(dataset.split, parts=parts))


def bayes_filter(config: ExperimentConfig, dataset: Dataset) -> FunctionRanker:
    """The simulated shop's own probabilities of the next event's item."""
    world, _ = init_shop(config.data.shop, config.data.shop_seed)
    exact = BayesFilter(world, list(dataset.items["item_id"]))
    return FunctionRanker(OPTIMUM, lambda histories: exact.scores(histories, behaviors=dataset.behaviors))


def without_training(dataset: Dataset) -> Dataset:
    """The dataset with a share of its items out of training; what is asked of whom stays."""
    chosen = np.random.default_rng(SEED).random(dataset.num_items + 1) < SHARE
    parts = dataset.split.parts.copy()
    parts[(parts == TRAIN) & chosen[dataset.sequences.item_ids]] = HISTORY
    counts = np.bincount(dataset.sequences.item_ids[parts == TRAIN], minlength=dataset.num_items + 1)[1:]
    items = dataset.items.assign(training_events=counts, known=counts > 0)
    return replace(dataset, split=replace(dataset.split, parts=parts), items=items)


def of_known_histories(cases: EvaluationCases, known: np.ndarray) -> EvaluationCases:
    """The cases with histories of known items only, as a split that holds out items has them; one target each."""
    histories = cases.histories.select_events(known[cases.histories.item_ids])
    kept = np.flatnonzero(histories.lengths > 0)
    return replace(
        cases,
        users=cases.users[kept],
        histories=histories.select_users(kept),
        target_offsets=np.arange(len(kept) + 1),
        target_items=cases.target_items[kept],
        target_events=cases.target_events[kept],
        users_without_history=cases.users_without_history + len(cases.users) - len(kept),
    )


def baselines(dataset: Dataset) -> list[FunctionRanker]:
    """Chance, and popularity in training; on a timeline in all before the test, also what only validated the models."""
    rng = np.random.default_rng(SEED)

    def drawn(histories: Sequences) -> np.ndarray:
        return rng.random((histories.num_users, dataset.num_items + 1), dtype=np.float32)

    start = dataset.split.cuts.get("test_start")
    before = dataset.split.parts == TRAIN if start is None else dataset.sequences.timestamps < start
    known = dataset.sequences.select_events(before)
    rankers = [
        FunctionRanker("chance", drawn),
        FunctionRanker("popularity", most_popular(known, num_items=dataset.num_items).scores),
    ]
    if start is not None:
        recent = recently_popular(known, num_items=dataset.num_items)
        rankers.append(FunctionRanker("popularity, last 7 days", recent.scores))
    return rankers


if __name__ == "__main__":
    main()

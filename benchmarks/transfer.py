"""What a run of another domain, or another task, is worth: `python benchmarks/transfer.py [shop|office|purchases …]`.

- shop: one simulated shop cut into two domains with other users and other items but the same tastes, which category and
  price tell nearly all about. Here transfer must gain.
- office: what Online Retail taught about its descriptions, for the titles of Amazon Office; both texts are read by one
  frozen language model.
- purchases: one log; all events and views of the sequences first, then the next purchase.

In the first two, items are known by their content alone, and models train on 1 %, 10 % and 100 % of the target's users,
whose validation events alone choose the checkpoint; all users are judged. Every training of a share has the same number
of epochs. Without any of the target's users, an untrained model stands against the other domain's as it is (zero-shot).
The gain is that over training from nothing, on the same users. Rows go to benchmarks/results/transfer.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from records import Row, circumstances, interval, write_rows

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker, baseline_rankers
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import Dataset, prepare_dataset, read_dataset, write_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.simulator import ShopConfig, SimulatedShop, simulate
from seqrec_jax.data.splits import HISTORY, TEST, TRAIN, SplitConfig
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.pipeline.joining import join_datasets
from seqrec_jax.reporting.sections import plain
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.statistics import bootstrap_means, paired_differences
from seqrec_jax.training.log import read_log

RESULTS = Path("benchmarks/results/transfer.json")
KEYS = ("case", "share", "method")
FIGURE = "ndcg@10"
SHARES = {0.01: (150, 8), 0.1: (300, 4), 1.0: (600, 1)}
"""Of the target's users; about how many steps a training on them takes, and which part of a batch it reads in each."""
NOTHING, WHOLE, LORA, ZERO_SHOT = "from nothing", "transferred, whole", "transferred, LoRA", "transferred, zero-shot"
TOGETHER = "both domains together"
LORA_OF_ENCODER = {"mode": "lora", "targets": ["encoder"], "rank": 4, "alpha": 8}
STEPS = 900  # about, of a training on the source, or on purchases


def main() -> None:
    """Run the cases that are named, all by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", help="of shop, office and purchases; all by default")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/transfer"), help="runs and prepared data; finished ones stay"
    )
    parser.add_argument(
        "--language-model", default="models/all-minilm-l6-v2", help="of office, see configs/amazon_office.yaml"
    )
    options = parser.parse_args()
    cases: dict[str, Callable[[Path], Iterator[Row]]] = {
        "shop": shop,
        "office": partial(office, language_model=options.language_model),
        "purchases": purchases,
    }
    for name in options.cases or cases:
        for row in cases[name](options.runs / name):
            where = circumstances(f"python benchmarks/transfer.py {name}")
            write_rows(RESULTS, [plain({"case": name, **row, **where})], keys=KEYS)
            print(in_words(name, row), flush=True)


def shop(folder: Path) -> Iterator[Row]:
    """Two halves of a simulated shop."""
    two_halves(folder, num_users=8000)
    model: Row = {
        "encoder": {"kind": "sasrec", "width": 48, "num_layers": 2, "num_heads": 2, "dropout": 0.1, "max_length": 30},
        "items": {"width": 48, "ids": False, "attributes": ["category", "price"]},
    }
    settings: Row = {"batch_size": 32, "learning_rate": 3e-3, "seen_items": "kept"}
    yield from transfer_rows(folder, model, **settings)
    model["items"]["attributes"].append("domain")
    yield from joined_rows(folder, model, **settings)


def office(folder: Path, *, language_model: str) -> Iterator[Row]:
    """Online Retail to Amazon Office."""
    text = {"model": language_model}
    sources = {
        "source": {
            "reader": "online_retail",
            "source": "../shared/data/online_retail",
            "cleaning": {"behaviors": ["purchase"], "user_k_core": 2, "item_k_core": 5},
            "items": {"text": {"columns": ["description"], **text}},
        },
        "target": {
            "reader": "amazon_office_titles",
            "source": "../shared/data/amazon_office_titles",
            "items": {"text": {"columns": ["title"], **text}},
        },
    }
    for name, data in sources.items():
        values = {"name": name, "data": {**data, "split": {"rule": "leave_one_out"}, "directory": str(folder / name)}}
        if not (folder / name).exists():
            pipeline.prepare(parse_config(ExperimentConfig, values=values))
    model: Row = {
        "encoder": {"kind": "sasrec", "width": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.3, "max_length": 30},
        "items": {"width": 64, "ids": False, "features": ["text"]},
    }
    yield from transfer_rows(folder, model, batch_size=16, learning_rate=1e-3, seen_items="excluded")


def purchases(folder: Path) -> Iterator[Row]:
    """Next purchases of one simulated shop, with and without all its other events before them."""
    log = simulate(ShopConfig(num_users=6000, num_items=400, num_days=60), 1)
    split = SplitConfig("global_timeline", target_behaviors=("purchase",))
    dataset = prepare_dataset(log.events, name="purchases", split=split, items=log.items.drop(columns="available_from"))
    if not (folder / "purchases").exists():
        write_dataset(dataset, folder / "purchases")
    model: Row = {
        "encoder": {"kind": "sasrec", "width": 48, "num_layers": 2, "num_heads": 2, "dropout": 0.1, "max_length": 50},
        "items": {"width": 48},
        "events": {"behavior": True},
    }
    settings: Row = {"batch_size": 32, "learning_rate": 3e-3, "seen_items": "kept", "targets": "next"}
    only = {"behavior_weights": {name: 0.0 for name in dataset.behaviors if name != "purchase"}}
    contrastive = {"contrastive": {"weight": 0.1}}
    epochs = epochs_for(STEPS, dataset, batch_size=32, length=50)
    half = max(1, epochs // 2)

    def train(name: str, epochs: int, **training: Any) -> tuple[Recommender, Row]:
        config = experiment(name, folder / "purchases", model, epochs=epochs, **settings, **training)
        return trained(config, folder)

    first: Row = {NOTHING: train("from_nothing", 2 * half, **only)}
    _, before = train("pretrained", half, **contrastive)
    tuned, after = train("fine_tuned", half, **only, warm_start=str(folder / "pretrained"))
    first["pretrained on all events and views, then purchases"] = tuned, added(before, after)
    first["all events throughout"] = train("all_events", 2 * half)
    config = experiment("judged", folder / "purchases", model, epochs=1, **settings)
    facts = {"share": 1.0, "source": "the same log", "training_users": dataset.sequences.num_users}
    yield from compared(first, dataset, config, facts=facts)


def two_halves(folder: Path, *, num_users: int) -> list[Dataset]:
    """`source` and `target` of one shop, prepared in the folder: other users and items, the same tastes."""
    shop = halved_shop(num_users)
    found: list[Dataset] = []
    for half, name in enumerate(("source", "target")):
        attributes = found[0].attributes if found else None  # so that the same code means the same
        found.append(
            half_of(shop, half, name=name, users=shop.world.user_ids[half::2], attribute_vocabulary=attributes)
        )
        if not (folder / name).exists():
            write_dataset(found[-1], folder / name)
    return found


def halved_shop(num_users: int) -> SimulatedShop:
    """The shop; another number of users makes others of them and leaves catalogue and tastes as they are."""
    shop = {"num_items": 400, "num_days": 60, "popularity_exponent": 0.0, "taste_noise": 0.0}
    return simulate(ShopConfig(num_users=num_users, **shop), 0)


def half_of(shop: SimulatedShop, half: int, *, name: str, users: np.ndarray, **options: Any) -> Dataset:
    """What some users viewed of one half of the items; `options` are those of `prepare_dataset`."""
    mine = np.random.default_rng(7).permutation(len(shop.items)) % 2 == half  # not the seed of the shop
    items = shop.items[mine].drop(columns="available_from")
    views = shop.events[shop.events["behavior"] == "view"]
    return prepare_dataset(
        views[views["user_id"].isin(users) & views["item_id"].isin(items["item_id"])],
        name=name,
        split=SplitConfig("leave_one_out"),
        items=items,
        attributes=AttributeConfig(categorical=("category",), numeric_buckets={"price": 10}),
        **options,
    )


def transfer_rows(folder: Path, model: Row, **settings: Any) -> Iterator[Row]:
    """The rows of a target for each share of its users, from a source; both are prepared in the folder."""
    source, target = (read_dataset(folder / name) for name in ("source", "target"))
    sizes = {"batch_size": settings["batch_size"], "length": model["encoder"]["max_length"]}
    epochs = epochs_for(STEPS, source, **sizes)
    _, facts = trained(experiment("from", folder / "source", model, epochs=epochs, **settings), folder)
    about = {"source": describe(source), "target": describe(target), "source_training": facts}
    from_run = {"transfer_from": str(folder / "from")}
    for share in (0.0, *SHARES):
        name = f"target_{100 * share:g}"
        dataset = with_share(target, share) if share else target
        if share and not (folder / name).exists():
            write_dataset(dataset, folder / name)
        directory = folder / name if share else folder / "target"
        steps, part = SHARES.get(share, (1, 1))
        mine = {**settings, "batch_size": settings["batch_size"] // part}
        epochs = epochs_for(steps, dataset, batch_size=mine["batch_size"], length=sizes["length"])
        # what is learnt is easily lost at the rate at which it was learnt
        slow = {**from_run, "learning_rate": settings["learning_rate"] / 10}
        ways: Row = {NOTHING: {}, WHOLE: slow, LORA: {**from_run, "fine_tuning": LORA_OF_ENCODER}}
        if not share:
            ways = {NOTHING: {}, ZERO_SHOT: from_run}
        systems: Row = {}
        for number, (method, training) in enumerate(ways.items()):
            config = experiment(f"{name}_{number}", directory, model, epochs=epochs, **(mine | training))
            systems[method] = trained(config, folder) if share else (untrained(config, dataset), {})
        users = int(np.sum(dataset.training_sequences.lengths > 0)) if share else 0
        if not share:
            known = target.training_sequences
            popular = baseline_rankers(known, num_items=target.num_items, time_kind=target.time_kind)[0]
            systems[f"{popular.name} (of all users)"] = popular, {}
        yield from compared(systems, dataset, config, facts={**about, "share": share, "training_users": users})


def joined_rows(folder: Path, model: Row, **settings: Any) -> Iterator[Row]:
    """One model of both domains, trained on all users of both, asked for the target's items."""
    domains = {name: read_dataset(folder / name) for name in ("source", "target")}
    target, joined = domains["target"], join_datasets(domains, name="joined")
    if not (folder / "joined").exists():
        write_dataset(joined, folder / "joined")
    sizes = {"batch_size": settings["batch_size"], "length": model["encoder"]["max_length"]}
    epochs = epochs_for(STEPS, joined, **sizes)
    recommender, facts = trained(experiment("both", folder / "joined", model, epochs=epochs, **settings), folder)
    ids = np.concatenate([[0], joined.item_index([f"target:{item}" for item in target.items["item_id"]])])

    def scores(histories: Sequences) -> np.ndarray:
        return np.asarray(recommender.scores(replace(histories, item_ids=ids[histories.item_ids])))[:, ids]

    systems = {
        NOTHING: (Recommender.load(folder / "target_100_0"), {}),
        TOGETHER: (FunctionRanker(TOGETHER, scores), facts),
    }
    about = {name: describe(one) for name, one in domains.items()}
    users = joined.sequences.num_users
    config = experiment("judged", folder / "target", model, epochs=1, **settings)
    yield from compared(systems, target, config, facts={**about, "share": 1.0, "training_users": users})[1:]


def with_share(dataset: Dataset, share: float, *, seed: int = 0) -> Dataset:
    """The dataset with some users to train on and to validate with; of the others only the test events are asked."""
    count = max(1, round(share * dataset.sequences.num_users))
    chosen = np.random.default_rng(seed).permutation(dataset.sequences.num_users)[:count]
    others = ~np.isin(dataset.sequences.users_of_events, chosen)
    test = dataset.split.parts == TEST
    parts = np.where(others & ~test, HISTORY, dataset.split.parts).astype(np.int8)
    counts = np.bincount(dataset.sequences.item_ids[parts == TRAIN], minlength=dataset.num_items + 1)[1:]
    items = dataset.items.assign(training_events=counts, known=counts > 0)
    return replace(dataset, split=replace(dataset.split, parts=parts), items=items)


def experiment(
    name: str,
    directory: Path,
    model: Row,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seen_items: str,
    targets: str = "all",
    **training: Any,
) -> ExperimentConfig:
    """A training of so many epochs, looked at some sixteen times."""
    values = {
        "name": name,
        "data": {"directory": str(directory)},
        "model": model,
        "training": {
            "batch_size": batch_size,
            "max_epochs": epochs,
            "validate_every": math.ceil(epochs / 16),
            "patience": None,
            "optimizer": {"learning_rate": learning_rate, "warmup_steps": 50},
            **training,
        },
        # lists of 100 tell checkpoints apart where few users validate
        "evaluation": {
            "seen_items": seen_items,
            "targets": targets,
            "cutoffs": [10, 100],
            "metric": "ndcg@100",
            "parts": [],
        },
    }
    return parse_config(ExperimentConfig, values=values)


def epochs_for(steps: int, dataset: Dataset, *, batch_size: int, length: int) -> int:
    """Epochs that take about so many steps, were every row full."""
    return max(1, math.ceil(steps * batch_size * length / int(dataset.training_sequences.lengths.sum())))


def trained(config: ExperimentConfig, runs: Path) -> tuple[Recommender, Row]:
    """A run's best checkpoint, and what it took."""
    directory, progress = pipeline.train(config, show_progress=False, runs=runs)
    if not progress.finished:
        raise KeyboardInterrupt
    end = next(row for row in reversed(read_log(directory)) if row["kind"] == "end")
    facts = {"steps": end["step"], "best_step": progress.best_step, "seconds": round(progress.seconds, 1)}
    return Recommender.load(directory), facts


def untrained(config: ExperimentConfig, dataset: Dataset) -> Recommender:
    """What a run starts from."""
    model, params, item_table, _ = pipeline.start_model(config, dataset)
    length = config.model.encoder.max_length
    return Recommender.for_dataset(dataset, model, params, item_table, length=length, name=config.name)


def added(*facts: Row) -> Row:
    """The cost of several trainings, one after the other."""
    return {name: round(sum(one[name] for one in facts), 1) for name in ("steps", "seconds")}


def compared(systems: Row, dataset: Dataset, config: ExperimentConfig, *, facts: Row) -> list[Row]:
    """A row a system: its figure, and what it gains over the first."""
    cases = pipeline.cases_of(dataset, config.evaluation)
    tables: dict[str, pd.DataFrame] = {}
    for method, (system, _) in systems.items():
        tables[method] = judge(system, cases, config=config.evaluation).per_user[[FIGURE]]
    first, rows = next(iter(tables.values())), []
    for method, table in tables.items():
        mean, gain = bootstrap_means(table), paired_differences(table, first, tests=("permutation",))
        row = {"users": len(table), FIGURE: interval(mean)}
        if table is not first:
            row["gain"] = {**interval(gain), "p_value": float(gain.p_value[0])}
        rows.append({**facts, "method": method, **row, "training": systems[method][1]})
    return rows


def describe(dataset: Dataset) -> Row:
    """The size of a dataset."""
    counts = {"users": dataset.sequences.num_users, "items": dataset.num_items}
    return {**counts, "events": len(dataset.sequences.item_ids), "fingerprint": dataset.fingerprint}


def in_words(case: str, row: Row) -> str:
    """A row of the table in docs/transfer.md."""
    figure, gain = row[FIGURE], row.get("gain")
    cells: Sequence[str] = (
        case,
        f"{100 * row['share']:g} %",
        row["method"],
        f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]",
        "" if gain is None else f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

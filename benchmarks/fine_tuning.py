"""Whole fine-tuning, LoRA and AdaLoRA side by side: `python benchmarks/fine_tuning.py <part> …`.

- `shop`: what an encoder of one half of a simulated shop learnt, tuned for the other. Users and items differ, tastes
  do not; items are known by category and price alone. Judged on users of the shop that nobody has trained on, so many
  that a difference of 1 % is seen.
- `home_depot <data> <language model>`: a language model tuned on the judged titles of the training queries, judged over
  all titles on queries whose words no training query has.

Each mode has the same number of steps and as many learning rates, of which validation chooses; only the chosen one is
judged on the test. Each training has a process of its own; of the language model's its peak of memory is given. LoRA is
not inferior to whole fine-tuning at every margin above `not_inferior_above`. Rows go to
benchmarks/results/fine_tuning.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pandas as pd
from peers.protocol import peak_memory_bytes
from records import Row, circumstances, interval, train_apart, write_rows
from search_home_depot import Shop, judge, read_shop
from transfer import epochs_for, experiment, half_of, halved_shop, two_halves

from seqrec_jax import pipeline
from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION
from seqrec_jax.encoders.language import TextEncoder, encode_texts, load_text_encoder
from seqrec_jax.evaluation import judging
from seqrec_jax.retrieval import Recommender
from seqrec_jax.search import dense
from seqrec_jax.search.text_tuning import TextTuningConfig, tune_text_encoder
from seqrec_jax.settings import parse_config
from seqrec_jax.statistics import bootstrap_means, paired_differences
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.partition import FineTuningSummary, describe, partition, trainable_paths
from seqrec_jax.training.adapters.wiring import trained_part_optimizer

RESULTS = Path("benchmarks/results/fine_tuning.json")
KEYS = ("part", "method")
FROZEN, WHOLE, LORA, ADALORA = "as it was", "whole", "LoRA", "AdaLoRA"
USERS, FRESH_USERS = 80_000, 160_000
"""Of the simulated shop: those of both halves, and those that nobody has trained on and everybody is judged on."""
SOURCE_STEPS, TARGET_STEPS, TEXT_STEPS = 2000, 1000, 300


class Way(NamedTuple):
    """A mode with the learning rates that it is tried with."""

    fine_tuning: Row
    learning_rates: tuple[float, ...]


def main() -> None:
    """Run the part that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/fine_tuning"), help="finished trainings stay there")
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("shop")
    of_texts = parts.add_parser("home_depot")
    of_texts.add_argument("data", type=Path, help="folder with train.csv.zip")
    of_texts.add_argument("language_model", type=Path, help="folder in the Hugging Face layout")
    options = parser.parse_args()
    folder = options.runs / options.part
    rows = shop(folder) if options.part == "shop" else home_depot(options.data, options.language_model, folder)
    where = circumstances(f"python benchmarks/fine_tuning.py {options.part}")
    for row in rows:
        row = {"part": options.part, **row, **where}
        write_rows(RESULTS, [row], keys=KEYS)
        print(in_words(row), flush=True)


def shop(folder: Path) -> Iterator[Row]:
    """The encoder of a simulated shop's half, for the other half."""
    model: Row = {
        "encoder": {
            "kind": "sasrec",
            "width": 256,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_multiple": 4,
            "dropout": 0.1,
            "max_length": 30,
        },
        "items": {"width": 256, "ids": False, "attributes": ["category", "price"]},
    }
    sizes = {"batch_size": 64, "length": 30}
    settings: Row = {"batch_size": 64, "seen_items": "kept"}
    source, target = two_halves(folder, num_users=USERS)
    epochs = epochs_for(SOURCE_STEPS, source, **sizes)
    first = experiment("source", folder / "source", model, epochs=epochs, learning_rate=3e-3, **settings)
    from_run = {"transfer_from": str(train_apart(first, runs=folder).directory)}
    # the items' vectors are few parameters here, and what differs most between the halves
    adapters = {"targets": ["encoder"], "alpha": 4, "also_train": ["items"]}
    final = TARGET_STEPS // 2
    schedule = {"initial_rank": 3, "target_rank": 2, "warmup_steps": final // 4, "final_steps": final, "interval": 10}
    ways = {
        WHOLE: Way({"mode": "whole"}, (3e-4, 1e-3)),
        LORA: Way({"mode": "lora", "rank": 2, **adapters}, (3e-4, 1e-3)),
        ADALORA: Way({"mode": "adalora", "adalora": schedule, **adapters}, (3e-4, 1e-3)),
    }
    epochs = epochs_for(TARGET_STEPS, target, **sizes)
    systems: dict[str, Recommender] = {}
    facts: dict[str, Row] = {}
    for name, way in ways.items():
        tried = {}
        for rate in way.learning_rates:
            training = {"learning_rate": rate, "fine_tuning": way.fine_tuning, **from_run}
            config = experiment(f"{name}_{rate:g}", folder / "target", model, epochs=epochs, **settings, **training)
            tried[rate] = config, train_apart(config, runs=folder)
        best = max(tried, key=lambda rate: tried[rate][1].facts["best_validation"])
        config, run = tried[best]
        systems[name] = Recommender.load(run.directory)
        facts[name] = {
            "learning_rate": best,
            "validation": {f"{rate:g}": one.facts["best_validation"] for rate, (_, one) in tried.items()},
            "seconds": run.facts["seconds"],
            "best_step": run.facts["best_step"],
            **counted(pipeline.start_model(config, target).params, config.training.fine_tuning),
        }
    config = experiment(FROZEN, folder / "target", model, epochs=1, learning_rate=1e-3, **settings, **from_run)
    started = pipeline.start_model(config, target)
    systems[FROZEN] = Recommender.for_dataset(
        target, started.model, started.params, started.item_table, length=30, name=FROZEN
    )
    larger = halved_shop(USERS + FRESH_USERS)
    numbers = {"vocabulary": list(target.items["item_id"]), "attribute_vocabulary": target.attributes}
    fresh = half_of(larger, 1, name="fresh", users=larger.world.user_ids[USERS:], **numbers)
    cases = pipeline.cases_of(fresh, config.evaluation)
    figures = {name: judging.judge(one, cases, config=config.evaluation).per_user for name, one in systems.items()}
    yield from compared(figures, "ndcg@10", facts)


def home_depot(data: Path, language_model: Path, folder: Path) -> Iterator[Row]:
    """A language model's vectors of queries and titles."""
    adapters = {"targets": ["query", "value"], "alpha": 16}
    schedule = {"initial_rank": 12, "target_rank": 8, "warmup_steps": 50, "final_steps": 100, "interval": 10}
    ways = {
        WHOLE: Way({"mode": "whole"}, (3e-5, 1e-4)),
        LORA: Way({"mode": "lora", "rank": 8, **adapters}, (1e-3, 3e-3)),
        ADALORA: Way({"mode": "adalora", "adalora": schedule, **adapters}, (1e-3, 3e-3)),
    }
    shop, encoder = read_shop(data), load_text_encoder(language_model)
    judged = partial(judged_texts, shop=shop, encoder=encoder)
    figures = {FROZEN: judged(encoder.params, part=TEST)}
    facts: dict[str, Row] = {}
    for name, way in ways.items():
        tried: dict[float, tuple[float, Row, Any]] = {}
        for rate in way.learning_rates:
            saved = folder / f"{name}_{rate:g}.pickle"
            if not saved.exists():
                spawn = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
                    tuning = pool.submit(tune, data, language_model, way.fine_tuning, rate)
                    saved.parent.mkdir(parents=True, exist_ok=True)
                    saved.write_bytes(pickle.dumps(tuning.result()))
            cost, params = pickle.loads(saved.read_bytes())
            validation = float(judged(params, part=VALIDATION)["graded_ndcg@10"].mean())
            print(f"{name}, learning rate {rate:g}: validation {validation:.4f}, {cost}", flush=True)
            tried[rate] = validation, cost, params
        best = max(tried, key=lambda rate: tried[rate][0])
        figures[name] = judged(tried[best][2], part=TEST)
        validation = {f"{rate:g}": figure for rate, (figure, _, _) in tried.items()}
        facts[name] = {"learning_rate": best, "validation": validation, **tried[best][1]}
    yield from compared(figures, "graded_ndcg@10", facts)


def tune(data: Path, language_model: Path, fine_tuning: Row, learning_rate: float) -> tuple[Row, Any]:
    """The cost of a training on the judgments of the training queries, and the parameters that come of it."""
    shop, encoder = read_shop(data), load_text_encoder(language_model)
    mode = parse_config(FineTuningConfig, values=fine_tuning)
    config = TextTuningConfig(steps=TEXT_STEPS, learning_rate=learning_rate)
    before, started, cpu = peak_memory_bytes(), time.monotonic(), time.process_time()
    tuned = tune_text_encoder(encoder, shop.titles, shop.part(TRAIN), fine_tuning=mode, config=config)
    cost = {"steps": config.steps, "seconds": round(time.monotonic() - started, 1)}
    cost["cpu_seconds"] = round(time.process_time() - cpu, 1)
    cost |= {"peak_memory_bytes": peak_memory_bytes(), "memory_before_bytes": before}
    return cost | in_figures(tuned.summary), jax.tree.map(np.asarray, tuned.encoder.params)


def judged_texts(params: Any, *, shop: Shop, encoder: TextEncoder, part: int) -> pd.DataFrame:
    """Each query's figures: on the test among all titles, on the validation among those judged for its queries."""
    judgments, titles = shop.part(part), shop.titles
    if part == VALIDATION:
        kept = np.unique(judgments.item_ids)
        titles = ["", *(titles[item] for item in kept)]
        item_ids = (1 + np.searchsorted(kept, judgments.item_ids)).astype(np.int32)
        judgments = replace(judgments, item_ids=item_ids)
    tuned = encoder._replace(params=params)

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return encode_texts(tuned, texts).vectors

    ranker = dense("dense", vectors, vectors(titles))
    return judge(ranker, judgments, shop._replace(titles=titles)).all_items.per_user


def compared(figures: dict[str, pd.DataFrame], metric: str, facts: dict[str, Row]) -> Iterator[Row]:
    """A row a system: its figure, and what it has over whole fine-tuning, the adapters also over each other."""
    for name, table in figures.items():
        means = bootstrap_means(table[[metric]])
        row: Row = {"method": name, "users": len(table), "figure": metric, "value": interval(means)}
        for other in (FROZEN, WHOLE, LORA):
            if name != other:
                row[f"minus {other}"] = interval(paired_differences(table[[metric]], figures[other][[metric]]))
        if name not in (FROZEN, WHOLE):
            low, whole = row[f"minus {WHOLE}"]["low"], float(figures[WHOLE][metric].mean())
            row["not_inferior_above"] = max(0.0, -low / whole)
        yield {**row, **facts.get(name, {})}


def counted(params: Any, config: FineTuningConfig) -> Row:
    """What a fine-tuning with Adam trains and holds."""
    trained, frozen = partition(params, trainable_paths(params, config))
    optimizer = trained_part_optimizer(optax.adam(1e-3), config, total_steps=TARGET_STEPS)
    return in_figures(describe(trained, frozen, optimizer=optimizer))


def in_figures(summary: FineTuningSummary) -> Row:
    """The summary under the names of a row."""
    return {
        "trained_parameters": summary.num_trainable,
        "parameters": summary.num_parameters,
        "trained_share": summary.share,
        "optimizer_bytes": summary.optimizer_bytes,
    }


def in_words(row: Row) -> str:
    """A row of the tables in docs/content.md."""

    def shown(value: Row | None, sign: str = "") -> str:
        return (
            "" if value is None else f"{value['mean']:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"
        )

    cells = [row["part"], row["method"], shown(row["value"]), shown(row.get(f"minus {WHOLE}"), "+")]
    if "trained_parameters" in row:
        cells += [f"{row['trained_parameters']:,} ({row['trained_share']:.2%})", f"{row['seconds']:.0f} s"]
        cells.append(f"{row['optimizer_bytes'] / 1e6:.1f} MB")
    if "peak_memory_bytes" in row:
        cells.append(f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

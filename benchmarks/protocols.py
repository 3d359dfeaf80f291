"""What changes when the protocol changes: `python benchmarks/protocols.py [data …]`, hours of training on two cores.

Each log is split in two ways, the last event of everybody held out and at one point in time. GRU, SASRec, HSTU and
BERT4Rec are trained on each, and judged beside five baselines: under the main protocol with everything that an
evaluation says (figures, comparisons, audit, what lists are like, cost), and under one change of it after another:
another choice of targets, seen items kept or excluded, every item as candidate, a hundred sampled candidates, ties all
won or all lost, events of one time in another order, a random split. The last two take new training, so that only the
baselines, which are quick to fit, go through them.

Rows go to benchmarks/results/protocols.json, and from there into the tables of docs/protocols.md. A run that exists is
not trained again, and a log and rule whose systems all have rows are not judged again without --again.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from protocols_page import EVERYBODY, write_page
from records import Row, Trained, circumstances, read_rows, train_apart, write_rows
from scipy.stats import kendalltau

from seqrec_jax import pipeline
from seqrec_jax.baselines import baseline_rankers
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.rankers import Ranker, SeenItems
from seqrec_jax.data.splits import EvaluationCases, SplitConfig, split_events
from seqrec_jax.evaluation.audit.audit import audit
from seqrec_jax.evaluation.audit.sampled import ranking_changes
from seqrec_jax.evaluation.beyond.cost import measure_cost
from seqrec_jax.evaluation.beyond.lists import beyond_accuracy
from seqrec_jax.evaluation.comparison import compare_systems
from seqrec_jax.evaluation.judging import Judged, judge, reachable_mean
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.protocol_card import protocol_card, protocol_fingerprint
from seqrec_jax.reporting.sections import plain
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.statistics import bootstrap_means, holm_correction, paired_differences
from seqrec_jax.training.log import read_log

RUNS, RESULTS = Path("runs/protocols"), Path("benchmarks/results/protocols.json")
LOGS = ("online_retail", "amazon_grocery", "movielens_100k")
RULES = ("leave_one_out", "global_timeline")
ENCODERS: dict[str, Row] = {
    "gru": {},
    "sasrec": {},
    "hstu": {"time_bias": True},
    "bert4rec": {},
}
EPOCHS = {"online_retail": 12}
KEYS = ("data", "rule", "variant", "model")
FIGURES = ("ndcg@10", "hit_rate@10")
OF_LISTS = ("coverage", "gini", "tail_share", "personalisation", "novelty", "popularity_lift", "repeat_rate")
OF_COMPARISON = (
    "system", "baseline", "metric", "difference", "low", "high", "relative", "p_value", "p_holm", "users",
    "minimal_detectable", "users_needed", "equivalence",
)  # fmt: skip
NUM_NEGATIVES = 100
NUM_ORDERS = 3


class Variant(NamedTuple):
    """A protocol that differs from the main one in one thing, over the same split; `further` goes on its card."""

    name: str
    cases: EvaluationCases
    config: EvaluationConfig
    further: Row


class Order(NamedTuple):
    """Systems by the deciding metric: their means, and of every pair (a, b) the sign of a - b, 0 if it may be chance.

    `winner` says how far the first is from the second, and who cannot be told from it.
    """

    means: dict[str, float]
    clear: dict[tuple[str, str], int]
    winner: Row


def main() -> None:
    """Train what is missing, judge, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("data", nargs="*", metavar="data", help=f"{', '.join(LOGS)} (default: all)")
    parser.add_argument("--train-only", action="store_true", help="judge another time")
    parser.add_argument("--judge-only", action="store_true", help="the runs that have ended, without training")
    parser.add_argument("--again", action="store_true", help="judge also what has its rows")
    options = parser.parse_args()
    if unknown := set(options.data) - set(LOGS):
        parser.error(f"there is no log {min(unknown)}; the logs are {', '.join(LOGS)}")
    for log in options.data or LOGS:
        for rule in RULES:
            if not options.judge_only:
                for encoder in ENCODERS:
                    print(f"{log}, {rule}, {encoder}: {train_run(log, rule, encoder).facts}", flush=True)
            if not options.train_only:
                fill(log, rule, again=options.again)
    if not options.train_only:
        write_page(read_rows(RESULTS))


def train_run(log: str, rule: str, encoder: str) -> Trained:
    """The run of one encoder on one split of a log, trained now where it does not exist."""
    config = configuration(log, rule, encoder)
    if not Path(config.dataset_directory).exists():
        pipeline.prepare(config)
    return train_apart(config, runs=RUNS)


def configuration(log: str, rule: str, encoder: str) -> ExperimentConfig:
    """The log's own configuration with another split and encoder; all encoders have the same width and schedule."""
    values = yaml.safe_load(Path(f"configs/{log}.yaml").read_text(encoding="utf-8"))
    length = values["model"]["encoder"]["max_length"]
    values["name"] = f"{log}-{rule}-{encoder}"
    values["data"]["split"] = {"rule": rule}
    values["data"]["directory"] = f"data/protocols/{log}-{rule}"
    values["model"] = {
        "encoder": {"kind": encoder, "width": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.2, "max_length": length}
        | ENCODERS[encoder],
        "items": {"width": 64},
        # a masked event has to find its neighbours by their positions; those next to the end are what it is asked for
        "events": {"position": encoder != "bert4rec", "position_from_end": encoder == "bert4rec"},
    }
    if encoder == "gru":
        for name in ("num_heads",):
            del values["model"]["encoder"][name]
    values["training"]["optimizer"] = {"learning_rate": 1e-3}
    values["training"]["max_epochs"] = EPOCHS.get(log, 40)
    config = parse_config(ExperimentConfig, values=values)
    return replace(config, name=values["name"])


def fill(log: str, rule: str, *, again: bool) -> None:
    """Judge the systems of a log and rule that there are, unless all of them have rows."""
    runs = {name: RUNS / f"{log}-{rule}-{name}" for name in ENCODERS}
    runs = {name: run for name, run in runs.items() if ended(run)}
    config = configuration(log, rule, "gru")
    if not Path(config.dataset_directory).exists():
        pipeline.prepare(config)
    have = {row["model"] for row in read_rows(RESULTS) if (row["data"], row["rule"]) == (log, rule)}
    if EVERYBODY in have and have >= set(runs) and not again:
        return
    dataset = read_dataset(config.dataset_directory)
    about = {"data": log, **circumstances(f"python benchmarks/protocols.py {log}")}
    rows = judge_all(dataset, runs, config.evaluation)
    if rule == "global_timeline":
        rows += judge_random_split(dataset, config.evaluation)
    write_rows(RESULTS, [rounded(plain({**about, **row})) for row in rows], keys=KEYS)
    write_rows(RESULTS, [rounded(plain({**about, **row})) for row in between_rules(log)], keys=KEYS)


def ended(run: Path) -> bool:
    """Whether a training has ended."""
    return (run / "log.jsonl").exists() and any(row["kind"] == "end" for row in read_log(run))


def judge_all(dataset: Dataset, runs: Mapping[str, Path], config: EvaluationConfig) -> list[Row]:
    """The rows of a log and rule."""
    rankers: list[Ranker] = [*baselines(dataset)]
    kinds = {ranker.name: "baseline" for ranker in rankers} | dict.fromkeys(runs, "model")
    for name, run in runs.items():
        recommender = Recommender.load(run)
        recommender.name = name
        rankers.append(recommender)
    rows: list[Row] = []
    main_order = Order({}, {}, {})
    for variant in variants(dataset, config):
        started = time.monotonic()
        judged = [judge(ranker, variant.cases, config=variant.config) for ranker in rankers]
        order = order_of(judged, variant.config)
        is_main = variant.name == "main"
        main_order = order if is_main else main_order
        # the best model first, since the audit is about the first
        first = max(judged, key=lambda one: (kinds[one.name] == "model", order.means[one.name]))
        found = audit(dataset, variant.cases, [first, *(one for one in judged if one is not first)], config=config)
        facts = describe(dataset, variant)
        row = {
            **facts,
            "figures": {one.name: figures(one, FIGURES, variant.config) for one in judged},
            "winner": order.winner,
            **changes(main_order, order),
            "undecided": [pair for pair, sign in order.clear.items() if sign == 0 and pair[0] < pair[1]],
            "audited": first.name,
            "audit": [asdict(one) for one in found if is_main or one.key == "ambiguous_targets"],
            "seconds": time.monotonic() - started,
        }
        print(f"{facts['rule']}, {variant.name}: {plain(order.winner)}", flush=True)
        rows.append(row)
        if is_main:
            rows += main_rows(rankers, judged, kinds, dataset, variant, facts, runs)
            rows += derived_rows(judged, main_order, variant, facts)
    if dataset.split.config.rule == "leave_one_out":
        rows.append(judge_other_orders(dataset, config, main_order))
    else:
        rows.append(judge_with_future(dataset, config))
    return rows


def baselines(dataset: Dataset) -> list[Any]:
    """Five of them, with all that a shop would know at the test."""
    known = pipeline.known_events(dataset, "test")
    return [*baseline_rankers(known, num_items=dataset.num_items, time_kind=dataset.time_kind)]


def variants(dataset: Dataset, config: EvaluationConfig) -> Iterator[Variant]:
    """The main protocol first, then those that need no new training and ask for something else."""
    cases = pipeline.cases_of(dataset, config)
    yield Variant("main", cases, config, {})
    other: SeenItems = "kept" if config.seen_items == "excluded" else "excluded"
    yield Variant(f"seen items {other}", cases, replace(config, seen_items=other), {})
    asked = {cases.target_items.tobytes()}
    for name, targets in {"next event only": "next", "next basket": "basket"}.items():
        changed = replace(config, targets=targets)
        fewer = pipeline.cases_of(dataset, changed)
        if fewer.target_items.tobytes() not in asked:
            yield Variant(name, fewer, changed, {})
        asked.add(fewer.target_items.tobytes())
    if not cases.candidates[1:].all():
        every = np.append(False, np.ones(dataset.num_items, dtype=bool))
        further = {"candidate rule": "all items of the vocabulary, also those that appear later"}
        yield Variant("every item a candidate", replace(cases, candidates=every), config, further)


def describe(dataset: Dataset, variant: Variant) -> Row:
    """What the rows of a protocol have in common."""
    return {
        "rule": dataset.split.config.rule,
        "variant": variant.name,
        "model": EVERYBODY,
        "metric": variant.config.metric,
        "protocol": protocol_fingerprint(
            protocol_card(dataset, variant.cases, variant.config, further=variant.further)
        ),
        "split": dataset.split.describe(),
        "asked_for": variant.config.targets,
        "seen_items": variant.config.seen_items,
        "users": len(variant.cases.users),
        "targets": len(variant.cases.target_items),
        "candidates": int(variant.cases.candidates.sum()),
    }


def figures(judged: Judged, names: Sequence[str], config: EvaluationConfig) -> Row:
    """Means with intervals over users."""
    found = bootstrap_means(judged.per_user[list(names)], num_resamples=config.num_resamples, seed=config.seed)
    columns = zip(names, found.mean, found.low, found.high, strict=True)
    return {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in columns if math.isfinite(mean)}


def order_of(judged: Sequence[Judged], config: EvaluationConfig) -> Order:
    """Who is better than whom, by paired differences over users, corrected by Holm over all pairs."""
    judged = sorted(judged, key=lambda one: -float(one.per_user[config.metric].mean()))
    names = [one.name for one in judged]
    values = np.stack([one.per_user[config.metric].to_numpy(np.float64) for one in judged], axis=1)
    first, second = np.triu_indices(len(names), k=1)
    found = paired_differences(
        values[:, first], values[:, second], num_resamples=config.num_resamples, seed=config.seed
    )
    p_holm = holm_correction(found.p_value)
    pairs = [(names[a], names[b]) for a, b in zip(first, second, strict=True)]
    clear = {pair: int(p < 0.05) for pair, p in zip(pairs, p_holm, strict=True)}
    lead = {"mean": found.mean[0], "low": found.low[0], "high": found.high[0]}
    winner = {
        "name": names[0],
        "runner_up": names[1],
        "difference": lead,
        "p_value": found.p_value[0],
        "p_holm": p_holm[0],
        "not_told_apart": [other for other in names[1:] if not clear[names[0], other]],
    }
    both = clear | {(b, a): -sign for (a, b), sign in clear.items()}
    return Order(dict(zip(names, np.nanmean(values, axis=0).tolist(), strict=True)), both, winner)


def changes(before: Order, after: Order) -> Row:
    """How the order of the systems of both differs: tau and the pairs that swap, clear if each is better clearly."""
    names = [name for name in before.means if name in after.means]
    means = [[order.means[name] for name in names] for order in (before, after)]
    swapped = [
        {
            "better": a,
            "better_here": b,
            "clear": before.clear.get((a, b), 0) == 1 and (not after.clear or after.clear[b, a] == 1),
        }
        for a in names
        for b in names
        if before.means[a] > before.means[b] and after.means[a] < after.means[b]
    ]
    return {"kendall_tau": float(kendalltau(*means).statistic), "swapped": swapped}


def main_rows(
    rankers: Sequence[Ranker],
    judged: Sequence[Judged],
    kinds: Mapping[str, str],
    dataset: Dataset,
    variant: Variant,
    facts: Row,
    runs: Mapping[str, Path],
) -> Iterator[Row]:
    """A row a system with all that an evaluation says of it."""
    config, cases = variant.config, variant.cases
    best = max(
        (one for one in judged if kinds[one.name] == "baseline"), key=lambda one: one.per_user[config.metric].mean()
    )
    pairs = [(one, best) for one in judged if kinds[one.name] == "model"]
    compared = compare_systems(pairs, FIGURES, config=config) if pairs else []
    lists = beyond_accuracy(judged, dataset, cases, k=10, config=config).figures
    names = [name for name in judged[0].per_user if name != "rank"]
    popular = judged[0]
    for ranker, one in zip(rankers, judged, strict=True):
        found = audit(dataset, cases, [one] if one is popular else [one, popular], config=config)
        cost = measure_cost(ranker, cases.histories, params=getattr(ranker, "params", None), calls=20)
        of_lists = lists[(lists["system"] == one.name) & lists["figure"].isin(OF_LISTS)].set_index("figure")
        row = {
            **facts,
            "model": one.name,
            "kind": kinds[one.name],
            "figures": figures(one, names, config),
            "reachable": {name: reachable_mean(one, cases, name) for name in FIGURES},
            "ties": {"tied_targets": one.tied_targets, "best": one.best, "worst": one.worst},
            "comparisons": [
                {name: entry[name] for name in OF_COMPARISON} for entry in compared if entry["system"] == one.name
            ],
            "lists": {
                name: {
                    end: value for end, value in of_lists.loc[name, ["mean", "low", "high"]].items() if value == value
                }
                for name in of_lists.index
            },
            "cost": {name: cost[name] for name in ("parameters", "bytes", "latency_ms", "users_per_second")},
            "audit": [
                {name: getattr(entry, name) for name in ("key", "severity", "count", "share", "effect")}
                | ({"text": entry.text} if entry.key in ("ambiguous_targets", "unborn_items") else {})
                for entry in found
                if ": " not in entry.title or entry.title.endswith(f": {one.name}")
            ],
            "seconds": one.seconds,
        }
        if one.name in runs:
            row["training"] = next(entry for entry in reversed(read_log(runs[one.name])) if entry["kind"] == "end")
        yield row


def derived_rows(judged: Sequence[Judged], main_order: Order, variant: Variant, facts: Row) -> Iterator[Row]:
    """What follows from the main ranks without ranking anew: sampled candidates, and ties all won or all lost."""
    sampled = ranking_changes(judged, variant.cases, config=variant.config, num_negatives=NUM_NEGATIVES)
    systems = sampled.systems.set_index("name")
    for name, values in {
        f"{NUM_NEGATIVES} sampled candidates": systems["sampled"].to_dict(),
        "ties all won": {one.name: one.best for one in judged},
        "ties all lost": {one.name: one.worst for one in judged},
    }.items():
        if name.startswith("ties") and not any(one.tied_targets for one in judged):
            continue
        ranked = sorted(values, key=lambda system: -values[system])
        row = {
            **facts,
            "variant": name,
            "figures": {system: {variant.config.metric: {"mean": value}} for system, value in values.items()},
            "winner": {"name": ranked[0], "runner_up": ranked[1]},
            **changes(main_order, Order(values, {}, {})),
        }
        if "sampled" in name:
            row["corrected"] = systems[["corrected", "corrected_deviation"]].to_dict("index")
        yield row


def judge_other_orders(dataset: Dataset, config: EvaluationConfig, main_order: Order) -> Row:
    """The baselines with the events of a user at one time in random orders, which the log does not forbid.

    A trained model would have been trained on what is a target now, so that none is judged.
    """
    sequences, split = dataset.sequences, dataset.split.config
    targets = pipeline.cases_of(dataset, config)
    figures_of: dict[str, list[float]] = {}
    moved = []
    facts: Row = {}
    for seed in range(NUM_ORDERS):
        noise = np.random.default_rng(seed).random(len(sequences.item_ids))
        order = np.lexsort((noise, sequences.timestamps, sequences.users_of_events))
        events = {name: getattr(sequences, name)[order] for name in ("item_ids", "timestamps", "behaviors", "values")}
        shuffled = replace(sequences, **events)
        parts = split_events(shuffled, split, behaviors=dataset.behaviors, time_kind=dataset.time_kind)
        other = replace(dataset, sequences=shuffled, split=parts)
        cases = pipeline.cases_of(other, config)
        moved.append(float((cases.target_items != targets.target_items).mean()))
        facts = facts or describe(other, Variant("events of one time in another order", cases, config, {}))
        for ranker in baselines(other):
            figure = float(judge(ranker, cases, config=config).per_user[config.metric].mean())
            figures_of.setdefault(ranker.name, []).append(figure)
    spread = {
        name: {config.metric: {"mean": float(np.mean(values)), "lowest": min(values), "highest": max(values)}}
        for name, values in figures_of.items()
    }
    means = {name: figure[config.metric]["mean"] for name, figure in spread.items()}
    ranked = sorted(means, key=lambda name: -means[name])
    return {
        **facts,
        "orders": NUM_ORDERS,
        "other_targets": float(np.mean(moved)),
        "figures": spread,
        "winner": {"name": ranked[0], "runner_up": ranked[1]},
        **changes(main_order, Order(means, {}, {})),
    }


def judge_with_future(dataset: Dataset, config: EvaluationConfig) -> Row:
    """Baselines fitted before the cut and, for the same users and targets, on all that these leave of the log."""
    sequences, config = dataset.sequences, replace(config, targets="basket")
    cases = pipeline.cases_of(dataset, config)
    moments = np.full(sequences.num_users, np.iinfo(np.int64).min)
    moments[cases.users] = sequences.timestamps[cases.target_events[cases.target_offsets[:-1]]]
    known = sequences.select_events(sequences.timestamps != moments[sequences.users_of_events])
    leaky = baseline_rankers(known, num_items=dataset.num_items, time_kind=dataset.time_kind)
    judged, clean = ([judge(one, cases, config=config) for one in rankers] for rankers in (leaky, baselines(dataset)))
    order = order_of(judged, config)
    further = {"fitted on": "all events but those at the time of a user's first target"}
    return {
        **describe(dataset, Variant("next basket, fitted on later events too", cases, config, further)),
        "figures": {one.name: figures(one, FIGURES, config) for one in judged},
        "without_later_events": {one.name: figures(one, FIGURES, config) for one in clean},
        "comparisons": [
            {name: entry[name] for name in OF_COMPARISON}
            for entry in compare_systems(list(zip(judged, clean, strict=True)), FIGURES[:1], config=config)
        ],
        "winner": order.winner,
        **changes(order_of(clean, config), order),
    }


def judge_random_split(dataset: Dataset, config: EvaluationConfig) -> Iterator[Row]:
    """The baselines on a split of the events at random, which trains on what comes after the test."""
    sequences = dataset.sequences
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns of the leak that is measured here
        parts = split_events(
            sequences, SplitConfig(rule="random_ratio"), behaviors=dataset.behaviors, time_kind=dataset.time_kind
        )
    dataset = replace(dataset, split=parts)
    cases = pipeline.cases_of(dataset, config)
    judged = [judge(ranker, cases, config=config) for ranker in baselines(dataset)]
    order = order_of(judged, config)
    found = audit(dataset, cases, sorted(judged, key=lambda one: -order.means[one.name]), config=config)
    yield {
        **describe(dataset, Variant("main", cases, config, {})),
        "figures": {one.name: figures(one, FIGURES, config) for one in judged},
        "winner": order.winner,
        "audited": order.winner["name"],
        "audit": [asdict(one) for one in found if one.severity != "info"],
    }


def between_rules(log: str) -> Iterator[Row]:
    """Main protocols of a log against each other: the order of the systems that both have."""
    orders = {}
    for row in read_rows(RESULTS):
        if (row["data"], row["variant"], row["model"]) == (log, "main", EVERYBODY):
            orders[row["rule"]] = {name: figure["ndcg@10"]["mean"] for name, figure in row["figures"].items()}
    for before, after in (RULES, ("global_timeline", "random_ratio")):
        if before in orders and after in orders:
            found = changes(Order(orders[before], {}, {}), Order(orders[after], {}, {}))
            for swap in found["swapped"]:
                del swap["clear"]
            yield {"rule": f"{before} and {after}", "variant": "order of systems", "model": EVERYBODY, **found}


def rounded(value: Any) -> Any:
    """The same with numbers of five digits."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

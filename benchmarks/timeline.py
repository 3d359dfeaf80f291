"""All encoders and baselines on logs with real times: `python benchmarks/timeline.py [shop …]`, all shops by default.

Each shop is prepared once and split by time; every encoder that the library has is trained on it, and all are judged on
the same users in one process: figures with intervals over users, paired differences from the strongest baseline, and of
encoders that see the time from the same ones without. Rows go to benchmarks/results/timeline.json; a model that has a
row of the same configuration on the same data is not run again, a run that was stopped is continued.

Fields that follow (`--training.max_epochs 1`) change all contenders, which makes other rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from records import Row, Trained, circumstances, dataset_of, experiment, read_rows, train_apart, write_rows

from seqrec_jax import pipeline
from seqrec_jax.baselines import baseline_rankers
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset, write_dataset
from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.splits import HISTORY, TRAIN, EvaluationCases, evaluation_cases
from seqrec_jax.encoders import ENCODERS
from seqrec_jax.encoders.config import LANGUAGE_KINDS
from seqrec_jax.errors import ConfigError, DivergenceError, SeqrecError
from seqrec_jax.evaluation.judging import Judged, judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import field_names
from seqrec_jax.statistics import bootstrap_means, holm_correction, paired_differences

RESULTS = Path("benchmarks/results/timeline.json")
RUNS = Path("runs/timeline")
KEYS = ("data", "model", "digest", "fingerprint")
BASELINE = "default settings"  # a baseline's digest
FIGURES = ("ndcg@10", "hit_rate@10")
BEST_BASELINE, WITHOUT_TIME = "strongest baseline", "the same without time"


class Shop(NamedTuple):
    """A log and how its contenders are trained.

    Attributes:
      configuration: YAML file.
      overrides: fields of it that the contenders change.
      sessions: a session stands for the user, so that hardly anybody is there before and after a cut; of each
        session in a held-out part its last event is predicted then, from all before it.
    """

    configuration: str
    overrides: Row
    sessions: bool = False


class Contender(NamedTuple):
    """A model.

    Attributes:
      name: the row's label.
      overrides: what tells it from the other contenders of a shop.
      without_time: name of the contender that is the same but does not see the time.
    """

    name: str
    overrides: Row
    without_time: str | None = None


SHOPS = {
    "online_retail": Shop("configs/online_retail.yaml", {"training.max_epochs": 12, "training.validate_every": 1}),
    "yoochoose": Shop("configs/yoochoose.yaml", {}, sessions=True),
    "movielens_100k": Shop("configs/movielens_100k.yaml", {}),
}
EVERY: Row = {
    "model.encoder.width": 64,
    "model.encoder.num_layers": 2,
    "model.encoder.num_heads": 2,
    "model.encoder.dropout": 0.2,
    "model.encoder.recency_half_life": None,
    "model.events.position": True,
    "model.events.scale_item": True,
    "model.items.width": 64,
    "training.optimizer.learning_rate": 1e-3,
    "training.patience": 3,
}
OF_KIND: dict[str, Row] = {
    "mean": {
        "model.encoder.recency_half_life": 30,
        "model.encoder.dropout": 0.1,
        "model.events.position": False,
        "model.events.scale_item": False,
        "training.optimizer.learning_rate": 3e-3,
    },
    # a masked event has to find its neighbours by their positions; those next to the end are what it is asked for
    "bert4rec": {"model.events.position": False, "model.events.position_from_end": True},
}


def main() -> None:
    """Fill the table of the shops named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("shops", nargs="*", metavar="shop", help=f"{', '.join(SHOPS)} (default: all)")
    parser.add_argument("--only", nargs="+", help="names of contenders (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options, words = parser.parse_known_args()
    if unknown := set(options.shops) - set(SHOPS):
        parser.error(f"there is no shop {min(unknown)}; the shops are {', '.join(SHOPS)}")
    chosen = contenders()
    if unknown := set(options.only or ()) - {contender.name for contender in chosen}:
        parser.error(f"there is no {min(unknown)}; the contenders are {', '.join(one.name for one in chosen)}")
    if options.only:
        chosen = [contender for contender in chosen if contender.name in options.only]
    try:
        changes = parse_words(words)
        failed = [
            failure
            for name in options.shops or SHOPS
            for failure in fill(name, chosen, changes=changes, results=options.results)
        ]
    except SeqrecError as error:
        sys.exit(f"timeline: {error}")
    except KeyboardInterrupt:
        sys.exit("timeline: stopped; the same command continues")
    sys.exit("\n".join(failed) or None)


def parse_words(words: Sequence[str]) -> Row:
    """`--section.field value …` as a dictionary."""
    if len(words) % 2 or any(not word.startswith("--") for word in words[::2]):
        raise ConfigError(f"fields are changed by pairs such as --training.max_epochs 1, got {' '.join(words)}")
    return {name[2:]: yaml.safe_load(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def contenders() -> list[Contender]:
    """Every encoder that the library has, and those that can see the time with and without it."""
    found = []
    for kind in ENCODERS:
        if kind in LANGUAGE_KINDS:  # no log comes with a language model
            continue
        overrides = {**EVERY, "model.encoder.kind": kind, **OF_KIND.get(kind, {})}
        if kind == "hstu":
            found.append(Contender("hstu without time", {**overrides, "model.encoder.time_bias": False}))
            found.append(Contender("hstu", {**overrides, "model.encoder.time_bias": True}, "hstu without time"))
            continue
        found.append(Contender(kind, overrides))
        if kind == "sasrec":
            gaps = {**overrides, "model.events.time_gap": True}
            found.append(Contender("sasrec with time gaps", gaps, "sasrec"))
            calendar = {"model.events.hour": True, "model.events.weekday": True}
            if set(calendar) <= set(field_names(ExperimentConfig)):
                found.append(Contender("sasrec with time gaps, hour and weekday", {**gaps, **calendar}, "sasrec"))
    return found


def fill(name: str, chosen: Sequence[Contender], *, changes: Row, results: Path) -> list[str]:
    """Train, judge and compare the contenders of one shop that have no row yet; what failed, in words."""
    shop = SHOPS[name]
    overrides = {one.name: {**shop.overrides, **one.overrides, **changes} for one in contenders()}
    experiments = {model: experiment(shop.configuration, changed) for model, changed in overrides.items()}
    dataset, directory = shop_dataset(shop)
    keys = {model: (name, model, made.digest, dataset.fingerprint) for model, made in experiments.items()}
    missing = [one for one in chosen if keys[one.name] not in map(key_of, read_rows(results))]
    failed: list[str] = []
    if missing:
        names = dict.fromkeys(part for one in missing for part in (one.without_time, one.name) if part)
        configs = {part: experiments[part].config for part in names}
        trained, failed = train_all(configs, directory=directory)
        protocol = configs[missing[0].name].evaluation
        cases = evaluation_cases(
            dataset.sequences,
            dataset.split,
            stage="test",
            num_items=dataset.num_items,
            targets=protocol.targets,
            min_history=protocol.min_history,
        )
        words = "".join(f" --{field} {value}" for field, value in changes.items())
        about = {
            **describe_cases(name, shop, dataset, cases, protocol),
            **circumstances(f"python benchmarks/timeline.py {name}{words}"),
        }
        rows = [{**about, **row} for row in judge_all(missing, trained, dataset, cases, protocol)]
        for row in rows:
            is_model = row["kind"] == "model"
            row["overrides"] = overrides[row["model"]] if is_model else {}
            row["digest"] = experiments[row["model"]].digest if is_model else BASELINE
        write_rows(results, rows, keys=KEYS)
    now = {*keys.values(), *((name, row["model"], BASELINE, dataset.fingerprint) for row in read_rows(results))}
    rows = corrected([row for row in read_rows(results) if key_of(row) in now])
    write_rows(results, rows, keys=KEYS)
    print_table(rows)
    return failed


def key_of(row: Row) -> tuple[str, ...]:
    """What tells rows apart."""
    return tuple(row[name] for name in KEYS)


def train_all(configs: dict[str, ExperimentConfig], *, directory: str) -> tuple[dict[str, Trained], list[str]]:
    """The runs by name, and what diverged, in words."""
    trained, failed = {}, []
    for name, config in configs.items():
        config = replace(config, data=replace(config.data, directory=directory))
        print(f"{Path(directory).name}: training {name} in {RUNS / config.name}", flush=True)
        try:
            trained[name] = train_apart(config, runs=RUNS)
        except DivergenceError as error:
            failed.append(f"{directory}, {name}: {error}")
    return trained, failed


def shop_dataset(shop: Shop) -> tuple[Dataset, str]:
    """The prepared dataset that all contenders share, made now where it does not exist, and where it lies."""
    config = experiment(shop.configuration, {}).config
    if not shop.sessions:
        return dataset_of(config), config.dataset_directory
    directory = f"{config.dataset_directory}_sessions"
    if not Path(directory).exists():
        dataset = pipeline.prepare(replace(config, data=replace(config.data, directory=directory)))
        split = replace(dataset.split, parts=last_of_part(dataset))
        write_dataset(replace(dataset, split=split), directory, overwrite=True)
    return read_dataset(directory), directory


def last_of_part(dataset: Dataset) -> np.ndarray:
    """`[N]` parts in which of each user's held-out events only the last target of a part stays held out."""
    given, users = dataset.split.parts, dataset.sequences.users_of_events
    targets = np.flatnonzero((given != TRAIN) & dataset.split.targets)
    last = np.append((np.diff(users[targets]) != 0) | (np.diff(given[targets]) != 0), True)
    parts = np.where(given == TRAIN, TRAIN, HISTORY).astype(np.int8)
    parts[targets[last]] = given[targets[last]]
    return parts


def judge_all(
    missing: Sequence[Contender],
    trained: dict[str, Trained],
    dataset: Dataset,
    cases: EvaluationCases,
    protocol: EvaluationConfig,
) -> list[Row]:
    """Rows of the baselines and of the missing contenders that were trained, all on the same cases."""
    # what a shop knows when it recommends, also the events that only validated the models
    known = dataset.sequences.select_events(dataset.sequences.timestamps < dataset.split.cuts["test_start"])
    rankers = baseline_rankers(known, num_items=dataset.num_items, time_kind=dataset.time_kind)
    baselines = [judge(ranker, cases, config=protocol) for ranker in rankers]
    best = max(baselines, key=lambda judged: float(judged.per_user[protocol.metric].mean()))
    rows = [{"kind": "baseline", **figures(judged, protocol)} for judged in baselines]
    models = {name: judge(named(run, name), cases, config=protocol) for name, run in trained.items()}
    for one in missing:
        if one.name not in models:
            continue
        against = {BEST_BASELINE: best, WITHOUT_TIME: models.get(one.without_time or "")}
        rows.append(
            {
                "kind": "model",
                **figures(models[one.name], protocol),
                "comparisons": {
                    role: compare(models[one.name], other, protocol) for role, other in against.items() if other
                },
                "training": trained[one.name].facts,
            }
        )
    return rows


def named(run: Trained, name: str) -> Ranker:
    """The best checkpoint of a run under the name of its contender."""
    recommender = Recommender.load(run.directory)
    recommender.name = name
    return recommender


def describe_cases(name: str, shop: Shop, dataset: Dataset, cases: EvaluationCases, protocol: EvaluationConfig) -> Row:
    """What the rows of a shop have in common."""
    last = "; of each session in a held-out part the last event is predicted, from all before it"
    return {
        "data": name,
        "fingerprint": dataset.fingerprint,
        "configuration": shop.configuration,
        "split": dataset.split.describe() + (last if shop.sessions else ""),
        "seen_items": protocol.seen_items,
        "users": len(cases.users),
        "targets": len(cases.target_items),
        "candidates": int(cases.candidates.sum()),
    }


def figures(judged: Judged, protocol: EvaluationConfig) -> Row:
    """Means and 95 % intervals over users, and how fast users were served."""
    names = list(dict.fromkeys([protocol.metric, *FIGURES]))
    interval = bootstrap_means(judged.per_user[names], num_resamples=protocol.num_resamples, seed=protocol.seed)
    values = zip(names, interval.mean, interval.low, interval.high, strict=True)
    return {
        "model": judged.name,
        "metric": protocol.metric,
        "figures": {name: {"mean": mean, "low": low, "high": high} for name, mean, low, high in values},
        "users_per_second": round(len(judged.per_user) / judged.seconds),
    }


def compare(judged: Judged, other: Judged, protocol: EvaluationConfig) -> Row:
    """One system minus another on the deciding metric, user by user."""
    found = paired_differences(
        judged.per_user[[protocol.metric]],
        other.per_user[[protocol.metric]],
        num_resamples=protocol.num_resamples,
        seed=protocol.seed,
    )
    return {
        "against": other.name,
        "difference": float(found.mean[0]),
        "low": float(found.low[0]),
        "high": float(found.high[0]),
        "p_value": float(found.p_value[0]),
    }


def corrected(rows: list[Row]) -> list[Row]:
    """The rows of a shop with p_holm, corrected over the models that are compared in the same role."""
    for role in (BEST_BASELINE, WITHOUT_TIME):
        found = [row["comparisons"][role] for row in rows if role in row.get("comparisons", {})]
        adjusted = holm_correction(np.array([comparison["p_value"] for comparison in found]))
        for comparison, p_holm in zip(found, adjusted, strict=True):
            comparison["p_holm"] = float(p_holm)
    return rows


def print_table(rows: list[Row]) -> None:
    """A shop's systems, the best first, then what they gain over the strongest baseline and by the time."""
    rows = sorted(rows, key=lambda row: -row["figures"][row["metric"]]["mean"])
    print(f"\n{rows[0]['data']}: {rows[0]['users']:,} users, {rows[0]['targets']:,} targets; {rows[0]['split']}")
    print(f"{'':<40} {FIGURES[0]:<26} {FIGURES[1]:<26} {'train s':>7} {'epochs':>6} {'MiB':>6}")
    for row in rows:
        cells = [figure_text(row["figures"][name]) for name in FIGURES]
        cost = ""
        if training := row.get("training"):
            memory = training["peak_memory_bytes"] / 2**20
            cost = f"{training['seconds']:7.0f} {training['epochs']:6} {memory:6,.0f}"
        print(f"{row['model']:<40} {cells[0]:<26} {cells[1]:<26} {cost}".rstrip())
    for role in (BEST_BASELINE, WITHOUT_TIME):
        compared = [row for row in rows if role in row.get("comparisons", {})]
        if compared:
            print(f"minus {role}, {compared[0]['metric']}, paired by user, p corrected by Holm:")
        for row in compared:
            found = row["comparisons"][role]
            interval = f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
            print(f"{row['model']:<40} {interval:<28} p = {found['p_holm']:.4f}  {found['against']}")


def figure_text(figure: Row) -> str:
    """Mean and interval."""
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


if __name__ == "__main__":
    main()

"""Will they buy within a week, will they come back within two: `python benchmarks/outcomes.py`.

Trains configs/outcomes.yaml, makes rows of users at weekly moments (seqrec_jax.data.outcomes), fits heads to those of
the training's time and judges them on those of the test's: AUC, log loss and calibration with intervals over users,
beside one rate for all, a logistic regression of recency and frequency, and the optimum. Whether a user comes back
follows from the shop's own law exactly (seqrec_jax.data.shop.returns). Whether one buys does not in closed form: there
the optimum is the share of FUTURES in which the user does, drawn from the shop from all that the exact filter of the
history knows. Asked are users who were there in the last two weeks. Which category comes next is asked of all for whom
an event follows, beside the filter's exact probabilities. Figures go to benchmarks/results/outcomes.json.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from advertising import sigmoid
from records import circumstances, dataset_of, experiment, train_apart
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.moments import histories_before
from seqrec_jax.data.outcomes import next_value_rows, outcome_rows
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.bayes_filter import BayesFilter, Belief
from seqrec_jax.data.shop.returns import return_probabilities
from seqrec_jax.data.shop.steps import (
    FUNNEL,
    NEVER,
    ORGANIC,
    PAGE,
    REPEAT,
    State,
    init_shop,
    logging_policy,
    step,
    users_due,
)
from seqrec_jax.data.shop.world import (
    BEHAVIORS,
    DAY_SECONDS,
    HOUR_PROBABILITIES,
    SESSION_GAP_SECONDS,
    START,
    World,
    cumulative_rows,
    draw_rows,
)
from seqrec_jax.evaluation.forecasts import judge_forecasts
from seqrec_jax.heads.fitting import HeadTrainingConfig
from seqrec_jax.reporting.sections import plain
from seqrec_jax.statistics import bootstrap_means, paired_differences

CONFIGURATION = "configs/outcomes.yaml"
RESULTS = Path("benchmarks/results/outcomes.json")
QUESTIONS: dict[str, dict[str, Any]] = {
    "buys within 7 days": {"days": 7, "behaviors": ["purchase"]},
    "comes back within 14 days": {"days": 14},
}
ACTIVE_DAYS = 14
FITTING = HeadTrainingConfig(learning_rate=5e-3)
"""Of five that were tried, that with the least validation losses of the questions about days, added up."""
PRIOR_EVENTS = 5
FUTURES, USERS_AT_A_TIME = 500, 200_000
RATE, REGRESSION = "one rate for all", "recency and frequency, logistic regression"
HEAD, UNTOLD, OPTIMUM = "head", "head that is not told the time since the last event", "optimum"


def main() -> None:
    """Train, make rows, fit, judge, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/outcomes"))
    arguments = parser.parse_args()
    config = experiment(CONFIGURATION, {}).config
    dataset = dataset_of(config)
    trained = train_apart(config, runs=arguments.runs)
    world, _ = init_shop(config.data.shop, config.data.shop_seed)
    result = {**circumstances("python benchmarks/outcomes.py"), "training": trained.facts, "active_days": ACTIVE_DAYS}
    result["fitting"] = asdict(FITTING)
    result["questions"] = {name: answers(name, trained.directory, dataset, world) for name in QUESTIONS}
    result["questions"]["category of the next event"] = next_category(trained.directory, dataset, world)
    RESULTS.write_text(json.dumps(plain(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(result)


def answers(question: str, run: Path, dataset: Dataset, world: World) -> dict[str, Any]:
    """Figures of every forecast on the rows of the test's time."""
    moments = START + DAY_SECONDS * np.arange(15, world.config.num_days, 7)
    options = QUESTIONS[question]
    found = outcome_rows(dataset, moments, active_days=ACTIVE_DAYS, until=world.end, **options)
    test = found.rows["timestamp"] >= dataset.split.cuts["test_start"]
    known, later = (found.rows[side].reset_index(drop=True) for side in (~test, test))
    forecasts = {RATE: np.full(len(later), known["label"].mean())}
    inputs = [recency_and_frequency(dataset, rows) for rows in (known, later)]
    regression = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs[0], known["label"])
    forecasts[REGRESSION] = regression.predict_proba(inputs[1])[:, 1]
    heads = {}
    for name, since_last in ((UNTOLD, False), (HEAD, True)):
        started = time.monotonic()
        report = pipeline.fit_head(
            run,
            known,
            name=f"{question.partition(' ')[0]}{'' if since_last else '_untold'}",
            config=replace(FITTING, since_last=since_last),
            dataset=dataset,
        )
        rows, states = pipeline.label_examples(report.head, dataset, later)
        forecasts[name] = sigmoid(report.head.row_logits(states, rows)[:, 0])
        heads[name] = {
            "notes": report.notes,
            "passes": len(report.fitted.losses),
            "validation_loss": min(value for _, value in report.fitted.losses),
            "seconds": round(time.monotonic() - started, 1),
        }
    histories, times = histories_of(dataset, later), later["timestamp"].to_numpy()
    if "behaviors" in options:
        forecasts[OPTIMUM] = purchase_probabilities(world, dataset, histories, times, days=options["days"])
    else:
        last_times = histories.timestamps[histories.offsets[1:] - 1]
        forecasts[OPTIMUM] = return_probabilities(world.config, last_times, times, days=options["days"])
    judged = judge_forecasts(
        forecasts, later["label"].to_numpy() == 1, pd.factorize(later["user_id"])[0], reference=HEAD
    )
    return {"rows": found.notes, "heads": heads, "forecasts": judged._asdict()}


def next_category(run: Path, dataset: Dataset, world: World) -> dict[str, Any]:
    """Figures of P(category of the next event) at the start of the test, for whom one follows before the end."""
    test_start = dataset.split.cuts["test_start"]
    moments = START + DAY_SECONDS * np.arange(15, world.config.num_days, 7)
    rows = next_value_rows(dataset, moments, column="category").rows
    known = rows[rows["timestamp"] < test_start].reset_index(drop=True)
    later = rows[rows["timestamp"] == test_start].reset_index(drop=True)
    report = pipeline.fit_head(run, known, name="category", config=FITTING, dataset=dataset)
    labelled, states = pipeline.label_examples(report.head, dataset, later)
    logits, classes = report.head.row_logits(states, labelled).astype(np.float64), list(report.head.classes)
    places = pd.Index(classes).get_indexer(dataset.items["category"])
    of_items = np.eye(len(classes))[places]  # [V, K]
    histories = histories_of(dataset, later)
    counts = np.zeros((len(later), len(classes)))
    np.add.at(counts, (histories.users_of_events, places[histories.item_ids - 1]), 1)
    shares = known["label"].value_counts(normalize=True).reindex(classes).to_numpy()
    scores = np.array(report.head.recommender.scores(histories), dtype=np.float64)[:, 1:]
    bayes = BayesFilter(world, list(dataset.items["item_id"]))
    best = bayes.scores(histories, behaviors=dataset.behaviors, after=test_start)[:, 1:] @ of_items
    forecasts = {
        RATE: np.tile(shares, (len(later), 1)),
        "the user's own rates": counts + PRIOR_EVENTS * shares,
        "scores of the items, summed": np.exp(scores - scores.max(axis=1, keepdims=True)) @ of_items,
        HEAD: np.exp(logits - logits.max(axis=1, keepdims=True)),
        OPTIMUM: best,
    }
    told = pd.Index(classes).get_indexer(later["label"])
    tables = {}
    for name, chances in forecasts.items():
        chances = chances / chances.sum(axis=1, keepdims=True)
        log_loss, hit = -np.log(chances[np.arange(len(told)), told]), chances.argmax(axis=1) == told
        tables[name] = pd.DataFrame({"log_loss": log_loss, "accuracy": hit.astype(float)})
    figures = {name: with_interval(bootstrap_means(table), table.columns) for name, table in tables.items()}
    differences = {
        name: with_interval(paired_differences(table, tables[HEAD]), table.columns)
        for name, table in tables.items()
        if name != HEAD
    }
    heads = {HEAD: {"notes": report.notes, "passes": len(report.fitted.losses)}}
    counted = {"rows": len(later), "users": len(later), "categories": len(classes)}
    return {"heads": heads, "forecasts": {"figures": figures, "differences": differences, "rows": counted}, "rows": []}


def with_interval(found: Any, names: Any) -> dict[str, dict[str, float]]:
    """A metric's mean with low and high, by name."""
    return {name: {"value": found.mean[i], "low": found.low[i], "high": found.high[i]} for i, name in enumerate(names)}


def histories_of(dataset: Dataset, rows: pd.DataFrame) -> Sequences:
    """What was known of the user of each row."""
    users = pd.Index(dataset.sequences.user_ids).get_indexer(pd.Index(rows["user_id"]))
    return histories_before(dataset.sequences, users, rows["timestamp"].to_numpy())


def recency_and_frequency(dataset: Dataset, rows: pd.DataFrame) -> np.ndarray:
    """`[N, 6]` days since the last event and their log, days since the first, events, events of a week, purchases."""
    histories, times = histories_of(dataset, rows), rows["timestamp"].to_numpy()
    users, count = histories.users_of_events, len(rows)
    since = (times - histories.timestamps[histories.offsets[1:] - 1]) / DAY_SECONDS
    first = (times - histories.timestamps[histories.offsets[:-1]]) / DAY_SECONDS
    recent = histories.timestamps >= times[users] - 7 * DAY_SECONDS
    bought = histories.behaviors == dataset.behaviors.index("purchase")
    counts = [np.bincount(users[where], minlength=count) for where in (slice(None), recent, bought)]
    return np.stack([since, np.log1p(since), np.log1p(first), *map(np.log1p, counts)], axis=1)


def purchase_probabilities(
    world: World, dataset: Dataset, histories: Sequences, times: np.ndarray, *, days: int
) -> np.ndarray:
    """`[M]` the share of FUTURES in which each user purchases within so many days of a midnight."""
    belief = BayesFilter(world, list(dataset.items["item_id"])).beliefs(histories, behaviors=dataset.behaviors)
    rng, chances, came = np.random.default_rng(0), np.zeros(len(times)), 0
    for moment in np.unique(times):
        rows = np.flatnonzero(times == moment)
        for part in np.array_split(rows, -(-len(rows) * FUTURES // USERS_AT_A_TIME)):
            users = np.repeat(part, FUTURES)
            drawn = Belief(*(column[users] for column in belief))
            state = drawn_state(world, drawn, int(moment), days=days, rng=rng)
            bought, there = np.zeros((2, len(users)), dtype=bool)
            while len(users_due(state)):
                state, seen = step(world, state, logging_policy(world, state, rng), rng)
                state, there[seen.users] = state._replace(log=()), True
                bought[seen.users[seen.behaviors == BEHAVIORS.index("purchase")]] = True
            came += int(there.sum())
            chances[part] = (bought.reshape(len(part), FUTURES).sum(axis=1) + 0.5) / (FUTURES + 1)
    last_times = histories.timestamps[histories.offsets[1:] - 1]
    by_law = return_probabilities(world.config, last_times, times, days=days).mean()
    if abs(came / (FUTURES * len(times)) - by_law) > 0.002:
        raise AssertionError(f"of the futures {came / (FUTURES * len(times)):.4f} come back, by the law {by_law:.4f}")
    return chances


def drawn_state(world: World, belief: Belief, moment: int, *, days: int, rng: np.random.Generator) -> State:
    """Where users may stand at a midnight, given their histories and that nothing came since."""
    config, count = world.config, len(belief.tastes)
    assert (moment - START) % DAY_SECONDS == 0
    tastes = draw_rows(cumulative_rows(belief.tastes), np.arange(count), rng)
    silent = moment - belief.last_times
    rest = np.exp(-np.clip(silent - 1, 0, SESSION_GAP_SECONDS) / config.gap_seconds)  # of gaps, P(gap >= silent)
    least = np.exp(-SESSION_GAP_SECONDS / config.gap_seconds)
    over = (moment - START) // DAY_SECONDS - (belief.last_times - START) // DAY_SECONDS - 1  # days without a session
    weights = np.stack(
        [
            (1 - config.session_end) * (rest - least) / (1 - least),
            config.session_end * (1 - config.churn) * (1 - config.return_per_day) ** over,
            np.full(count, config.session_end * config.churn),
        ],
        axis=1,
    )
    case = draw_rows(cumulative_rows(weights), np.arange(count), rng)
    gaps = np.ceil(-config.gap_seconds * np.log(rest - rng.random(count) * (rest - least)))
    later = moment + (rng.geometric(config.return_per_day, count) - 1) * DAY_SECONDS
    hours = draw_rows(cumulative_rows(HOUR_PROBABILITIES[None]), np.zeros(count, dtype=np.int64), rng)
    later += hours * 3600 + rng.integers(0, 3600, count)
    moved = draw_rows(cumulative_rows(world.transitions), tastes, rng)
    stages = np.clip(belief.last_behaviors, 0, 2)
    goes_on = (case == 0) & (belief.last_behaviors < 3)
    goes_on &= rng.random(count) < world.continuation[stages, tastes, belief.last_items]
    returns = (rng.random(count) < config.repeat) & (belief.memory[:, 0] >= 0)
    paged = rng.random(count) < config.page
    return State(
        next_times=np.select([case == 0, case == 1], [belief.last_times + gaps.astype(np.int64), later], NEVER),
        sources=np.select([goes_on, returns, paged], [FUNNEL, REPEAT, PAGE], ORGANIC).astype(np.int8),
        tastes=np.where(case == 0, tastes, moved),
        sessions=np.zeros(count, dtype=np.int64),
        last_items=belief.last_items,
        last_behaviors=belief.last_behaviors.astype(np.int8),
        memory=belief.memory,
        until=moment + days * DAY_SECONDS,
        log=(),
    )


def show(result: dict[str, Any]) -> None:
    for question, found in result["questions"].items():
        print(question, found["forecasts"]["rows"], *found["rows"], sep="\n  ")
        for name, figures in found["forecasts"]["figures"].items():
            print(f"  {name:52}", *(f"{figure} {one['value']:.4f}" for figure, one in figures.items()))


if __name__ == "__main__":
    main()

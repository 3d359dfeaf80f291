"""Clicks, conversions and what a page of advertisements is worth: `python benchmarks/advertising.py`.

Trains configs/advertising.yaml, fits a head for clicks and for purchases after them to the impressions that the shop
logged, and judges it on later ones: how good the probabilities are, beside simple rates and beside what the shop's own
truth says, and what pages are worth that are filled by them. A click is an impression that was viewed; a conversion is
the purchase of the item without anything in between; it is worth the item's price. Since the shop is simulated, the
value of any page is known exactly: nobody needs to have been shown it. Figures with intervals over users go to
benchmarks/results/advertising.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from records import circumstances, dataset_of, experiment, train_apart

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.moments import histories_before
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.bayes_filter import BayesFilter, tastes_at, world_items
from seqrec_jax.data.shop.simulator import SimulatedShop, simulate
from seqrec_jax.data.shop.world import BEHAVIORS, SESSION_GAP_SECONDS, World
from seqrec_jax.evaluation.forecasts import judge_forecasts
from seqrec_jax.reporting.sections import plain
from seqrec_jax.retrieval import RunHead
from seqrec_jax.statistics import bootstrap_means, paired_differences

CONFIGURATION = "configs/advertising.yaml"
RESULTS = Path("benchmarks/results/advertising.json")
HEAD, RAW, BLIND = "head, calibrated", "head, before calibration", "head that is not told the place"
OPTIMUM, TASTE = "optimum (Bayes filter)", "told the hidden taste"
SMOOTHING = 20.0  # impressions, or clicks, of the average item


def logged_impressions(shop: SimulatedShop) -> pd.DataFrame:
    """The impressions with `click` and `conversion`: whether the item was purchased in the three events that follow."""
    events = shop.events.sort_values(["user_id", "timestamp"], kind="stable").reset_index(drop=True)
    codes = np.array([BEHAVIORS.index(name) for name in events["behavior"]])
    users = events["user_id"].to_numpy()
    bought = np.zeros(len(events), dtype=bool)
    funnel = np.stack([codes[place : len(codes) - 3 + place] for place in range(4)], axis=1)
    bought[:-3] = np.all(funnel == np.arange(4), axis=1) & (users[:-3] == users[3:])
    places = pd.MultiIndex.from_frame(events[["user_id", "timestamp"]])
    shown = shop.impressions.rename(columns={"response": "click"})
    found = places.get_indexer(pd.MultiIndex.from_frame(shown[["user_id", "timestamp"]]))
    return shown.assign(conversion=((shown["click"] == 1) & (found >= 0) & bought[found]).astype(int))


class Truth:
    """What the shop knows of moments: P(click | looked at) and P(click and conversion | looked at) of every item."""

    def __init__(self, shop: SimulatedShop, dataset: Dataset):
        self.world: World = shop.world
        self.shop, self.dataset = shop, dataset
        self.columns = world_items(shop.world, list(dataset.items["item_id"]))
        stages = (1 - shop.world.config.session_end) * shop.world.continuation
        attraction = shop.world.attraction[:, self.columns]
        self.clicks = attraction
        self.both = attraction * np.prod(stages, axis=0)[:, self.columns]

    def of_tastes(self, histories: Sequences, times: np.ndarray) -> np.ndarray:
        """`[M, S]` one where the hidden taste of the moment is."""
        tastes = tastes_at(self.shop.truth, histories.user_ids, times)
        return np.eye(self.world.config.num_tastes)[tastes]

    def of_histories(self, histories: Sequences, times: np.ndarray) -> np.ndarray:
        """`[M, S]` P(taste | history, and that a page is opened now)."""
        bayes = BayesFilter(self.world, list(self.dataset.items["item_id"]))
        belief = bayes.beliefs(histories, behaviors=self.dataset.behaviors)
        stage = np.clip(belief.last_behaviors, 0, 2)
        may = (belief.last_behaviors >= 0) & (belief.last_behaviors < 3)
        left = belief.tastes * (1 - may[:, None] * self.world.continuation[stage, :, belief.last_items])
        new = (belief.last_items >= 0) & (times - belief.last_times > SESSION_GAP_SECONDS)
        left /= left.sum(axis=1, keepdims=True)
        return np.where(new[:, None], belief.tastes @ self.world.transitions, left)


def rates(rows: pd.DataFrame, by: str, wanted: pd.Series, *, outcome: str) -> np.ndarray:
    """How often an outcome was seen for each value of a column, drawn towards the average."""
    mean = rows[outcome].mean()
    groups = rows.groupby(by)[outcome]
    smoothed = (groups.sum() + SMOOTHING * mean) / (groups.count() + SMOOTHING)
    return smoothed.reindex(wanted).fillna(mean).to_numpy()


def forecasts(
    head: RunHead,
    blind: RunHead,
    truth: Truth,
    *,
    known: pd.DataFrame,
    later: pd.DataFrame,
    histories: Sequences,
    times: np.ndarray,
) -> dict[str, Any]:
    """Figures of clicks on later impressions, and of conversions among their clicks."""
    rows, states = pipeline.label_examples(head, truth.dataset, later, label="click", conversion="conversion")
    raw, calibrated = (sigmoid(head.row_logits(states, rows, calibrated=one)) for one in (False, True))
    without = sigmoid(blind.row_logits(states, rows._replace(positions=None)))
    click, conversion = {}, {}
    items = numbers_of(truth.dataset.items["item_id"], later["item_id"]) - 1
    looked_at = truth.world.examination[later["position"].to_numpy() - 1]
    for name, tastes in ((OPTIMUM, truth.of_histories(histories, times)), (TASTE, truth.of_tastes(histories, times))):
        chances = (tastes @ truth.clicks)[rows.moments, items]
        click[name] = looked_at * chances
        conversion[name] = (tastes @ truth.both)[rows.moments, items] / chances
    share = known["click"].mean()
    of_place = rates(known, "position", later["position"], outcome="click")
    of_item = rates(known, "item_id", later["item_id"], outcome="click")
    click |= {
        "one rate for all": np.full(len(later), share),
        "rate of the item": of_item,
        "rate of the place": of_place,
        "rates of place and item": np.clip(of_place * of_item / share, 0, 1),
        BLIND: without[:, 0],
        RAW: raw[:, 0],
        HEAD: calibrated[:, 0],
    }
    clicked, known_clicks = later["click"].to_numpy() == 1, known[known["click"] == 1]
    conversion |= {
        "one rate for all": np.full(len(later), known_clicks["conversion"].mean()),
        "rate of the item": rates(known_clicks, "item_id", later["item_id"], outcome="conversion"),
        RAW: raw[:, 1],
        HEAD: calibrated[:, 1],
    }
    users = pd.factorize(later["user_id"])[0]
    return {
        "click": judge_forecasts(click, clicked, users, reference=HEAD)._asdict(),
        "conversion after a click": judge_forecasts(
            {name: chances[clicked] for name, chances in conversion.items()},
            later["conversion"].to_numpy()[clicked] == 1,
            users[clicked],
            reference=HEAD,
        )._asdict(),
    }


def pages(
    head: RunHead,
    blind: RunHead,
    truth: Truth,
    *,
    known: pd.DataFrame,
    later: pd.DataFrame,
) -> dict[str, Any]:
    """What a page is worth that each system fills from all items there are, for the first later page of each user."""
    dataset, world = truth.dataset, truth.world
    first = later.groupby("user_id", sort=True).head(world.config.num_slots)
    one = first.iloc[:: world.config.num_slots]
    times = one["timestamp"].to_numpy()
    users = pd.Index(dataset.sequences.user_ids).get_indexer(pd.Index(one["user_id"]))
    whole = histories_before(dataset.sequences, users, times)
    whole = replace(whole, user_ids=one["user_id"].to_numpy())
    arrived = (world.item_epochs[None] <= world.epochs(times)[:, None])[:, truth.columns]
    prices = dataset.items["price"].to_numpy(dtype=np.float32)
    values = np.concatenate([[0.0], prices])
    candidates = np.broadcast_to(np.arange(1, len(prices) + 1), arrived.shape)
    chances = head.probabilities(whole, candidates)
    unplaced = blind.probabilities(whole, candidates)
    clicks = known[known["click"] == 1]
    items = dataset.items["item_id"]
    click_rate, sale_rate = (
        rates(rows, "item_id", items, outcome=outcome) for rows, outcome in ((known, "click"), (clicks, "conversion"))
    )
    tastes, guessed = truth.of_tastes(whole, times), truth.of_histories(whole, times)
    scores = {
        "relevance of the sequence model": np.asarray(head.recommender.scores(whole))[:, 1:],
        "click rate of the item": click_rate[None],
        "rates of click and conversion × price": (click_rate * sale_rate * prices)[None],
        "head: click": chances[..., 0],
        "head: click × conversion": chances[..., 0] * chances[..., 1],
        "head: click × conversion × price": chances[..., 0] * chances[..., 1] * prices,
        "head not told the place: click × conversion × price": unplaced[..., 0] * unplaced[..., 1] * prices,
        OPTIMUM: guessed @ (truth.both * prices),
        TASTE: tastes @ (truth.both * prices),
    }
    lists = {"the page that was shown": numbers_of(items, first["item_id"]).reshape(len(one), -1)}
    for name, table in scores.items():
        order = np.argsort(np.where(arrived, -table, np.inf), axis=1, kind="stable")
        lists[name] = order[:, : world.config.num_slots] + 1
    ranking = head.rank_by_value(whole, np.where(arrived, candidates, 0), values=values)  # the library's own call
    agrees = np.mean(np.asarray(ranking.item_ids)[:, 0] == lists["head: click × conversion × price"][:, 0])
    if agrees < 0.999:
        raise AssertionError(f"expected-value lists differ from their own formula in {1 - agrees:.1%} of the users")
    tables = {name: page_worth(truth, tastes, found, values=values) for name, found in lists.items()}
    return {"users": len(one), **in_figures(tables, reference="head: click × conversion × price")}


def page_worth(truth: Truth, tastes: np.ndarray, lists: np.ndarray, *, values: np.ndarray) -> pd.DataFrame:
    """What is to be expected of each page under the truth: clicks, conversions, value."""
    looked_at = truth.world.examination
    clicks = np.take_along_axis(tastes @ truth.clicks, lists - 1, axis=1)
    both = np.take_along_axis(tastes @ truth.both, lists - 1, axis=1)
    return pd.DataFrame(
        {"clicks": clicks @ looked_at, "conversions": both @ looked_at, "value": (both * values[lists]) @ looked_at}
    )


def in_figures(tables: dict[str, pd.DataFrame], *, reference: str) -> dict[str, Any]:
    """Means a page with intervals over users, and the reference minus each."""
    found: dict[str, Any] = {"systems": {}, "reference": reference, "reference_minus": {}}
    for name, table in tables.items():
        interval = bootstrap_means(table)
        found["systems"][name] = {
            figure: {"value": interval.mean[i], "low": interval.low[i], "high": interval.high[i]}
            for i, figure in enumerate(table.columns)
        }
        if name != reference:
            paired = paired_differences(tables[reference], table)
            found["reference_minus"][name] = {
                figure: {"value": paired.mean[i], "low": paired.low[i], "high": paired.high[i]}
                for i, figure in enumerate(table.columns)
            }
    return found


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def numbers_of(items: pd.Series, raw: pd.Series) -> np.ndarray:
    return pd.Index(items).get_indexer(pd.Index(raw)) + 1


def main() -> None:
    """Train, fit, judge, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/advertising"))
    arguments = parser.parse_args()
    config = experiment(CONFIGURATION, {}).config
    dataset = dataset_of(config)
    trained = train_apart(config, runs=arguments.runs)
    shop = simulate(config.data.shop, config.data.shop_seed)
    impressions = logged_impressions(shop)
    cut = dataset.split.cuts["test_start"]
    known, later = (
        impressions[side].reset_index(drop=True)
        for side in (impressions["timestamp"] < cut, impressions["timestamp"] >= cut)
    )
    options: dict[str, Any] = {"label": "click", "conversion": "conversion", "dataset": dataset}
    report = pipeline.fit_head(trained.directory, known, name="click", **options)
    blind = pipeline.fit_head(trained.directory, known.drop(columns="position"), name="click_without_place", **options)
    print(*report.notes, sep="\n")
    truth = Truth(shop, dataset)
    moments = later.drop_duplicates(["user_id", "timestamp"])
    users = pd.Index(dataset.sequences.user_ids).get_indexer(pd.Index(moments["user_id"]))
    # in the order of the head's moments, which is by user and time
    order = np.lexsort((moments["timestamp"].to_numpy(), users))
    times = moments["timestamp"].to_numpy()[order]
    histories = histories_before(dataset.sequences, users[order], times)
    result = {
        **circumstances("python benchmarks/advertising.py"),
        "training": trained.facts,
        "head": {
            "notes": report.notes,
            "passes": len(report.fitted.losses),
            "calibrations": [one._asdict() for one in report.fitted.calibrations],
            "looked_at": {
                "learnt": looked_at(report.head),
                "true": (shop.world.examination / shop.world.examination[0]),
            },
        },
        "forecasts": forecasts(
            report.head, blind.head, truth, known=known, later=later, histories=histories, times=times
        ),
        "pages": pages(report.head, blind.head, truth, known=known, later=later),
    }
    RESULTS.write_text(json.dumps(plain(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(result)


def looked_at(head: RunHead) -> np.ndarray:
    """`[P]` how often each place is looked at as the head has learnt it, of the first place."""
    chances = sigmoid(np.asarray(head.params["examination"]["logits"]))[1:]
    return chances / chances[0]


def show(result: dict[str, Any]) -> None:
    for outcome, found in result["forecasts"].items():
        print(outcome, found["rows"])
        for name, figures in found["figures"].items():
            print(f"  {name:32}", *(f"{figure} {one['value']:.4f}" for figure, one in figures.items()))
    for name, figures in result["pages"]["systems"].items():
        print(f"  {name:56}", *(f"{figure} {one['value']:.4f}" for figure, one in figures.items()))


if __name__ == "__main__":
    main()

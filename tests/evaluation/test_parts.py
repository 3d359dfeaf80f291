"""Each part of the report on a small simulated shop: asked for by name, and left out where nothing can be said."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import pandas as pd
import pytest
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker, baseline_rankers
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.judging import Judged, judge, judge_lists
from seqrec_jax.evaluation.parts import SAMPLED_NEGATIVES, report_parts, similarity_section
from seqrec_jax.evaluation.protocol import EvaluationConfig, Part
from seqrec_jax.evaluation.systems import System
from seqrec_jax.evaluation.users.attributes import user_table
from seqrec_jax.retrieval import Recommender

QUESTIONS = ["cold_start", "long_tail", "freshness", "personalisation"]
KEYS = {
    "audit": [],  # stands in the result, not among the sections
    "questions": QUESTIONS,
    "segments": ["worst_segments"],
    "beyond_accuracy": ["beyond_accuracy"],
    "representation": ["representation"],
    "robustness": ["robustness"],
    "exposure": ["exposure_correction"],
    "sampled": ["sampled"],
    "modalities": ["modalities"],
    "cost": ["cost"],
}
OF_RANKERS = ("representation", "robustness", "cost")


class Shop(NamedTuple):
    dataset: Dataset
    cases: EvaluationCases
    users: pd.DataFrame
    model: Recommender
    popular: FunctionRanker
    judged: list[Judged]
    config: EvaluationConfig


def untrained(config: Any, dataset: Dataset, *, seed: int) -> Recommender:
    model, item_table = pipeline.build_model(config, dataset)
    params = model.init(jax.random.key(seed))
    return Recommender.for_dataset(dataset, model, params, item_table, length=10, name=f"untrained {seed}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    """Of 250 users and 130 items, so that 100 negatives can be drawn, with an untrained model and two baselines."""
    folder = tmp_path_factory.mktemp("parts")
    words = ["--data.shop.num_users", "250", "--data.shop.num_items", "130", "--data.split.rule", "leave_one_out"]
    config = tiny_config(folder, *words)
    dataset = pipeline.prepare(config)
    protocol = replace(config.evaluation, num_resamples=100, cutoffs=(5, 10), parts=())
    cases = pipeline.cases_of(dataset, protocol)
    model = untrained(config, dataset, seed=0)
    rankers = baseline_rankers(pipeline.known_events(dataset, "test"), num_items=130, time_kind="seconds")
    named = {ranker.name: ranker for ranker in rankers}
    chosen = [model, named["most popular"], named["last item again"]]
    judged = [judge(ranker, cases, config=protocol) for ranker in chosen]
    return Shop(dataset, cases, user_table(dataset, cases), model, named["most popular"], judged, protocol)


def parts_of(shop: Shop, *names: str, judged=None, rankers=None, **changes) -> list[dict]:
    judged = shop.judged if judged is None else judged
    rankers = [shop.model, shop.popular, None] if rankers is None else rankers
    config = replace(shop.config, parts=names, **changes)
    systems = [System(one, "model", ranker) for one, ranker in zip(judged, rankers, strict=True)]
    return report_parts(systems, shop.dataset, shop.cases, shop.users, config=config)


def test_every_part_of_the_configuration_is_tried_here():
    assert set(KEYS) == set(get_args(Part))


def test_nothing_is_shown_that_was_not_asked_for(shop):
    assert parts_of(shop) == parts_of(shop, "audit") == []


@pytest.mark.parametrize("part", [part for part in KEYS if KEYS[part]])
def test_a_part_that_is_named_gives_its_sections_and_no_other(shop, part):
    sections = parts_of(shop, part)
    assert [section["key"] for section in sections] == KEYS[part]
    assert json.loads(json.dumps(sections, allow_nan=False)) == sections
    for section in sections:
        assert set(section) == {"key", "title", "summary", "blocks"}
        assert section["title"] and section["summary"].endswith(".") and section["blocks"]
        assert "nan" not in section["summary"].split()
        for block in section["blocks"]:
            assert block["kind"] in ("table", "bars", "curve", "points") and block["title"]
    # a figure beside the model's name, or the model would not be what the section is about
    assert shop.model.name in json.dumps(sections) or part == "representation"


def test_sections_come_in_the_reports_order_however_they_are_asked_for(shop):
    asked = ("sampled", "exposure", "beyond_accuracy", "segments", "questions")
    found = [section["key"] for section in parts_of(shop, *asked)]
    assert found == [*QUESTIONS, "worst_segments", "beyond_accuracy", "exposure_correction", "sampled"]


def test_systems_of_which_only_lists_are_known_have_all_parts_that_lists_allow(shop):
    lists = [judge_lists(f"theirs {n}", one.lists, shop.cases, config=shop.config) for n, one in enumerate(shop.judged)]
    nobody = [None] * len(lists)
    found = parts_of(shop, *get_args(Part), judged=lists, rankers=nobody)
    keys = [section["key"] for section in found]
    # where ranks end with the list, what needs the whole ranking is left out as well
    assert set(keys) >= {*QUESTIONS, "worst_segments", "beyond_accuracy", "exposure_correction"}
    assert not {"representation", "robustness", "modalities", "cost"} & set(keys)
    assert "theirs 0" in json.dumps(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_lists_beside_a_model_cost_nothing_that_is_known(shop):
    lists = judge_lists("theirs", shop.judged[1].lists, shop.cases, config=shop.config)
    (cost,) = parts_of(shop, "cost", judged=[shop.judged[0], lists], rankers=[shop.model, None])
    table = cost["blocks"][0]
    assert [row[0] for row in table["rows"]] == [shop.model.name]
    leaves = jax.tree.leaves(shop.model.params)
    assert table["rows"][0][table["columns"].index("parameters")] == sum(leaf.size for leaf in leaves)
    # a callable without parameters is timed all the same
    (cost,) = parts_of(shop, "cost", judged=shop.judged[:2], rankers=[shop.model, shop.popular])
    assert cost["blocks"][0]["rows"][1][:3] == [
        "most popular",
        {"mean": pytest.approx(shop.judged[1].per_user["ndcg@10"].mean(), abs=1e-6), "low": None, "high": None},
        None,
    ]


def test_a_ranker_without_vectors_has_no_representation(shop):
    assert parts_of(shop, "representation", judged=shop.judged[1:2], rankers=[shop.popular]) == []


def test_one_system_alone_has_the_parts_that_need_no_other(shop):
    found = parts_of(shop, "questions", "segments", "beyond_accuracy", judged=shop.judged[:1], rankers=[shop.model])
    assert [section["key"] for section in found] == [*QUESTIONS, "worst_segments", "beyond_accuracy"]


@pytest.mark.parametrize("metric", ["auc", "accuracy@1"])
def test_without_a_metric_of_a_lists_first_places_nothing_is_sampled(shop, metric):
    judged = [judge(ranker, shop.cases, config=replace(shop.config, metric=metric)) for ranker in [shop.popular] * 2]
    assert parts_of(shop, "sampled", judged=judged, rankers=[None, None], metric=metric) == []


def test_a_small_catalogue_is_not_sampled_from(shop):
    few = shop.cases.candidates.copy()
    few[SAMPLED_NEGATIVES + 1 :] = False  # as many candidates as negatives, of which one is the target
    cases = replace(shop.cases, candidates=few)
    config = replace(shop.config, parts=("sampled",))
    judged = [judge(shop.popular, cases, config=config)._replace(name=name) for name in ("a", "b")]
    systems = [System(one, "model", None) for one in judged]
    assert report_parts(systems, shop.dataset, cases, shop.users, config=config) == []


def test_the_other_system_of_the_segments_is_the_strongest(shop):
    (section,) = parts_of(shop, "segments")
    means = {one.name: one.per_user["ndcg@10"].mean() for one in shop.judged[1:]}
    assert section["blocks"][1]["title"] == (
        f"Where {shop.model.name} gains least over {max(means, key=means.get)}, or loses"
    )


def test_models_are_compared_by_their_vectors(shop, tmp_path):
    other = untrained(tiny_config(tmp_path), shop.dataset, seed=1)
    same = shop.model.with_params(shop.model.params)
    same.name = "the same"
    section = similarity_section([shop.model, other, same], shop.cases, seed=0)
    assert section["key"] == "similarity"
    rows = {(row[0], row[1]): row[2:] for row in section["blocks"][0]["rows"]}
    alike, chance = rows["the same", "common neighbours"]
    assert alike == pytest.approx(1.0) and chance < 0.3
    assert rows["untrained 1", "common neighbours"][0] < 0.9
    assert "the same shares 100% of each user's nearest users with untrained 0" in section["summary"]
    assert len(np.unique([row[0] for row in section["blocks"][0]["rows"]])) == 2

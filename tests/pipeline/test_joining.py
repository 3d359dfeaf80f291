"""Several prepared domains to one dataset: ids, events, items and their content, and slices by domain."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax import cli, pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import prepare_dataset, read_dataset, write_dataset
from seqrec_jax.data.item_content import ItemContent, ItemEdges, ItemFeature
from seqrec_jax.data.splits import TEST, SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.users.attributes import user_table
from seqrec_jax.evaluation.users.slices import user_bins
from seqrec_jax.pipeline.joining import join_datasets
from seqrec_jax.settings import parse_config
from seqrec_jax.training.adapters.paths import flat_params

LEAVE_ONE_OUT = SplitConfig("leave_one_out")


def domain(name, behaviors, *, start=0, split=LEAVE_ONE_OUT, time_kind="seconds", width=3, columns=None, queries=False):
    """Twelve users, each of whom visits the items a to d once; two of these have a vector, and some are related."""
    rng = np.random.default_rng(len(name))
    items = np.concatenate([rng.permutation(list("abcd")) for _ in range(12)])
    events = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{number}" for number in range(12)], 4),
            "item_id": items,
            "timestamp": start + 2 * np.arange(48),
            "behavior": np.resize(behaviors, 48),
            "value": np.arange(48.0),
        }
    )
    if queries:
        events["query"] = np.resize(["pen", ""], 48)
    table = pd.DataFrame(columns or {"item_id": list("abcd"), "colour": ["red", "blue", "red", "green"]})
    attributes = AttributeConfig(categorical=tuple(column for column in table if column == "colour"))
    dataset = prepare_dataset(events, name=name, split=split, items=table, attributes=attributes, time_kind=time_kind)
    vectors = rng.normal(size=(2, width)).astype(np.float32)
    content = ItemContent(
        {"picture": ItemFeature(np.array([2, 4], dtype=np.int32), vectors, 1.0)},
        {"with": ItemEdges(np.array([[1, 2], [3, 1]], dtype=np.int32))},
    )
    return events, replace(dataset, content=content)


def raw_events(dataset):
    """Every event as user, item, time, behaviour, value and query in words, user by user."""
    sequences = dataset.sequences
    items = ["", *dataset.items["item_id"]]
    queries = np.zeros(len(sequences.item_ids), int) if sequences.query_ids is None else sequences.query_ids
    texts = [""] if sequences.queries is None else sequences.queries
    return [
        (sequences.user_ids[user], items[item], int(time), dataset.behaviors[behavior], float(value), texts[query])
        for user, item, time, behavior, value, query in zip(
            sequences.users_of_events, sequences.item_ids, sequences.timestamps, sequences.behaviors,
            sequences.values, queries, strict=True,
        )
    ]  # fmt: skip


def test_every_event_is_there_under_the_domain_s_name():
    (first, shop), (second, news) = (
        domain("shop", ["view", "buy"], start=100),
        domain("news", ["read", "view"], queries=True),
    )
    joined = join_datasets({"shop": shop, "news": news}, name="joint")
    assert joined.behaviors == ("buy", "view", "read") and joined.time_kind == "seconds"
    assert list(joined.items["item_id"]) == [f"{name}:{item}" for name in ("news", "shop") for item in "abcd"]
    expected = [
        (f"{name}:{row.user_id}", f"{name}:{row.item_id}", row.timestamp, row.behavior, row.value,
         getattr(row, "query", ""))
        for name, log in (("news", second), ("shop", first))
        for row in log.itertuples()
    ]  # fmt: skip
    assert sorted(raw_events(joined)) == sorted(expected)
    assert joined.content.notes[0] == "shop: 12 users, 4 items, 48 events of buy, view"
    assert set(joined.source["domains"]) == {"shop", "news"}
    # leave one out is each user's own, so that joining moves no target
    targets = {event[:3] for event, part in zip(raw_events(joined), joined.split.parts, strict=True) if part == TEST}
    for name, one in (("shop", shop), ("news", news)):
        alone = [event for event, part in zip(raw_events(one), one.split.parts, strict=True) if part == TEST]
        assert {(f"{name}:{user}", f"{name}:{item}", when) for user, item, when, *_ in alone} <= targets
    assert len(targets) == 24


def test_shared_users_have_one_sequence_in_order_of_time():
    (_, shop), (_, news) = domain("shop", ["view"], start=1), domain("news", ["view"])
    joined = join_datasets({"shop": shop, "news": news}, name="joint", shared_users=True)
    assert joined.sequences.num_users == 12 and set(joined.sequences.lengths) == {8}
    users = joined.sequences.users_of_events
    assert np.all((np.diff(joined.sequences.timestamps) > 0) | (np.diff(users) > 0))
    first = [item.partition(":")[0] for user, item, *_ in raw_events(joined) if user == "u0"]
    assert first == ["news", "shop"] * 4
    assert "users: 12 in all, 12 fewer than one by one" in joined.content.notes


def test_items_keep_what_describes_them_and_say_their_domain():
    (_, shop), (_, news) = domain("shop", ["view"]), domain("news", ["view"], columns={"item_id": list("abcd")})
    joined = join_datasets({"shop": shop, "news": news}, name="joint")
    assert list(joined.attributes.categorical) == ["domain", "colour"]
    assert joined.attributes.categorical["domain"] == ("news", "shop")
    assert list(joined.items["domain"]) == ["news"] * 4 + ["shop"] * 4
    assert (
        list(joined.items["colour"][4:]) == ["red", "blue", "red", "green"] and joined.items["colour"][:4].isna().all()
    )
    feature, edges = joined.content.features["picture"], joined.content.edges["with"]
    assert feature.item_ids.tolist() == [2, 4, 6, 8]
    parts = [one.content.features["picture"].vectors for one in (news, shop)]
    np.testing.assert_array_equal(feature.vectors, np.concatenate(parts))
    assert edges.pairs.tolist() == [[1, 2], [3, 1], [5, 6], [7, 5]]


def test_figures_are_cut_by_the_domain_of_the_target():
    (_, shop), (_, news) = domain("shop", ["view"]), domain("news", ["view"])
    joined = join_datasets({"shop": shop, "news": news}, name="joint")
    cases = evaluation_cases(joined.sequences, joined.split, stage="test", num_items=joined.num_items)
    users = user_table(joined, cases)
    assert [raw.partition(":")[0] for raw in users["user_id"]] == list(users["target_domain"])
    bins = user_bins(users, fewest=1)["target_domain"]
    assert sorted(bins.labels) == ["news", "shop"] and np.bincount(bins.codes).tolist() == [12, 12]


def test_the_domain_is_part_of_every_item_s_vector_and_the_verb_joins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("shop", "news"):
        write_dataset(domain(name, ["view"])[1], f"data/{name}")
    words = ["join", "--output", "data/joint", "shop=data/shop", "news=data/news"]
    assert cli.run(words) == 0
    lines = capsys.readouterr().out.splitlines()
    joined = read_dataset("data/joint")
    assert joined.name == "joint" and lines[-1] == f"joined     data/joint (fingerprint {joined.fingerprint})"
    assert any("shop: 12 users, 4 items, 48 events of view" in line for line in lines)
    assert cli.run(words) == 2 and "--overwrite" in capsys.readouterr().err
    assert cli.run(["join", "--output", "x", "shop=data/shop", "shop=data/news"]) == 2
    assert "domains name 'shop' twice" in capsys.readouterr().err
    model = {
        "encoder": {"kind": "sasrec", "width": 8, "num_layers": 1, "num_heads": 1, "max_length": 4},
        "items": {"width": 8, "attributes": ["domain"], "ids": False},
    }
    config = parse_config(ExperimentConfig, values={"data": {"directory": "data/joint"}, "model": model})
    model, params, table, _ = pipeline.start_model(config, joined)
    assert flat_params(params)["items/attributes/domain/embedding"].shape[0] == 3
    vectors = np.asarray(model.item_vectors(params, table))[1:]
    assert len(np.unique(vectors.round(6), axis=0)) == 2


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        ({"time_kind": "order"}, {}, "shop has times of seconds and news of order"),
        ({"split": SplitConfig("user_holdout")}, {}, "shop has a split of SplitConfig"),
        ({"width": 5}, {}, "feature picture has 3 numbers in shop, 5 numbers in news"),
        (
            {"columns": {"item_id": list("abcd"), "domain": "x"}},
            {},
            "the item table of news has a column 'domain' already",
        ),
    ],
)
def test_domains_that_do_not_fit_are_refused(other, options, message):
    shop, news = domain("shop", ["view"])[1], domain("news", ["view"], **other)[1]
    with pytest.raises(DataError, match=message):
        join_datasets({"shop": shop, "news": news}, name="joint", **options)


def test_other_kinds_of_an_attribute_orders_without_times_and_single_domains_are_refused():
    shop, news = domain("shop", ["view"])[1], domain("news", ["view"], time_kind="order")[1]
    with pytest.raises(DataError, match="shared users need real times"):
        join_datasets({"a": news, "b": news}, name="joint", shared_users=True)
    numbers = domain("news", ["view"], columns={"item_id": list("abcd"), "colour": [1, 2, 3, 4]})[0]
    table = pd.DataFrame({"item_id": list("abcd"), "colour": [1, 2, 3, 4]})
    attributes = AttributeConfig(numeric=("colour",))
    numeric = prepare_dataset(numbers, name="n", split=LEAVE_ONE_OUT, items=table, attributes=attributes)
    with pytest.raises(DataError, match="attribute colour is numeric in n and categorical in another domain"):
        join_datasets({"shop": shop, "n": numeric}, name="joint")
    for names in ({"shop": shop}, {"a:b": shop, "c": shop}):
        with pytest.raises(ConfigError, match="two or more domains"):
            join_datasets(names, name="joint")

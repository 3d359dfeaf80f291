"""Live histories are numbered as the log of a dataset is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.live import LogVocabulary, read_histories
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import DataError

VOCABULARY = LogVocabulary(pd.Index(["001", "hat", "shoe"]), ("buy", "search", "view"), 1000, "search")


def test_the_frames_of_a_log_give_the_sequences_of_its_dataset():
    rng = np.random.default_rng(0)
    size = 200
    log = pd.DataFrame(
        {
            "user_id": rng.choice(["a", "b", "ü"], size),
            "item_id": rng.choice(["007", "7", "NA", ""], size),
            "timestamp": rng.integers(0, 50, size),
            "behavior": rng.choice(["view", "buy"], size),
            "query": rng.choice(["red hat", "shoe"], size),
        }
    )
    log.loc[log["item_id"] == "", "behavior"] = "search"
    log = log.sort_values(["user_id", "timestamp"], kind="stable", ignore_index=True)
    dataset = prepare_dataset(log, name="log", split=SplitConfig("leave_one_out"))
    vocabulary = LogVocabulary(
        pd.Index(dataset.items["item_id"]), dataset.behaviors, dataset.first_timestamp, dataset.query_behavior
    )
    frames = [frame.drop(columns="user_id") for _, frame in log.groupby("user_id")]
    found, unknown = read_histories(frames, ["a", "b", "ü"], vocabulary)
    assert unknown == []
    expected = dataset.sequences
    assert found.queries.tolist() == expected.queries.tolist()
    for name in ("user_ids", "offsets", "item_ids", "timestamps", "behaviors", "values", "query_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name


def test_unknown_items_are_left_out_and_named():
    frames = [pd.DataFrame({"item_id": items}, dtype=object) for items in (["sock", "hat"], [], ["tie", "", "sock"])]
    found, unknown = read_histories(frames, ["u", "v", "w"], VOCABULARY)
    assert unknown == ["", "sock", "tie"]
    assert found.offsets.tolist() == [0, 1, 1, 1]
    assert found.user_ids.tolist() == ["u", "v", "w"]
    assert found.item_ids.tolist() == [2]
    # without columns for them: the first behaviour, at the time of the dataset's first event, without value or query
    assert (found.behaviors.tolist(), found.timestamps.tolist()) == ([0], [1000])
    assert np.isnan(found.values).all()
    assert found.query_ids is None


def test_no_frames_give_no_users():
    found, unknown = read_histories([], [], VOCABULARY)
    assert (found.num_users, len(found.item_ids), unknown) == (0, 0, [])


def test_a_query_without_item_is_a_search():
    frame = pd.DataFrame({"item_id": [None, "hat", None], "query": ["red hat", "red hat", None]})
    found, unknown = read_histories([frame], ["u"], VOCABULARY)
    assert unknown == [""]  # neither item nor query
    assert found.item_ids.tolist() == [0, 2]
    assert found.behaviors.tolist() == [1, 0]
    assert found.queries[found.query_ids].tolist() == ["red hat", "red hat"]
    # a model that reads no queries has no such behaviour, and a frame with behaviours names them itself
    found, _ = read_histories([frame], ["u"], VOCABULARY._replace(query_behavior=None))
    assert found.behaviors.tolist() == [0, 0]
    found, _ = read_histories([frame.assign(behavior=["view", "buy", "view"])], ["u"], VOCABULARY)
    assert found.behaviors.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"item": ["hat"]}, r"a history needs the column item_id, found \['item'\]"),
        ({"item_id": ["hat"], "behavior": ["wish"]}, "behaviour 'wish' is unknown to the model; it knows"),
        ({"item_id": ["hat"], "timestamp": [0.5]}, "whole seconds UTC, found 0.5"),
        ({"item_id": ["hat"], "timestamp": ["soon"]}, "whole seconds UTC, found soon"),
        ({"item_id": ["hat"], "timestamp": pd.to_datetime(["2024-01-01"])}, "whole seconds UTC, found datetime64"),
        ({"item_id": ["hat", "hat"], "timestamp": [20, 10]}, "in order of time, found 20 before 10"),
    ],
)
def test_what_cannot_be_read_is_refused(frame, message):
    with pytest.raises(DataError, match=message):
        read_histories([pd.DataFrame(frame)], ["u"], VOCABULARY)


def test_times_may_fall_from_one_user_to_the_next():
    frames = [
        pd.DataFrame({"item_id": ["hat"] * len(times), "timestamp": times}) for times in ([5, 9], [], [2, 2], [1, 1])
    ]
    found, _ = read_histories(frames, list("abcd"), VOCABULARY)
    assert found.timestamps.tolist() == [5, 9, 2, 2, 1, 1]

"""The main job from files to files: preparing, training on, warm starts, evaluation, and what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from tiny import VALUES, TinyRun, tiny_config

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.data.shop.simulator import simulate
from seqrec_jax.data.splits import TRAIN, VALIDATION, evaluation_cases
from seqrec_jax.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.training.log import read_log

COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "when", "behavior": "what"}


def csv_config(folder: Path, *, name: str = "log", **data: Any) -> ExperimentConfig:
    values = {"source": str(folder / "log.csv"), "columns": COLUMNS, "directory": str(folder / "data")}
    return parse_config(ExperimentConfig, values={"name": name, "data": {**values, **data}})


def write_log(folder: Path, rows: list[tuple]) -> None:
    pd.DataFrame(rows, columns=list(COLUMNS.values())).to_csv(folder / "log.csv", index=False)


LOG = [
    ("Zoë", "001", "2024-01-02 10:00:00", "view"),
    ("Zoë", "tea, green", "2024-01-02 09:00:00", "view"),
    ("Zoë", "NA", "2024-01-03T00:00:00+01:00", "purchase"),
    ("0 7", "001", "2024-01-01", "view"),
    ("0 7", "NA", "2024-01-05", "purchase"),
    ("0 7", "001", "2024-01-06", "view"),
    ("0 7", "001", "2024-01-06", "view"),
    ("0 7", None, "2024-01-06", "view"),
    ("0 7", "001", "soon", "view"),
]


def test_a_csv_log_and_a_csv_of_items_become_a_dataset(tmp_path):
    write_log(tmp_path, LOG)
    items = {"code": ["001", "never seen"], "title": ["Löffel", "Gabel"], "kind": ["a", "b"], "eur": [2.5, None]}
    pd.DataFrame(items).to_csv(tmp_path / "items.csv", index=False)
    config = csv_config(
        tmp_path,
        items={"path": str(tmp_path / "items.csv"), "item_id": "code"},
        attributes={"categorical": ["kind"], "numeric": ["eur"]},
        split={"rule": "leave_one_out"},
    )
    prepared = pipeline.prepare(config)
    dataset = read_dataset(tmp_path / "data", fingerprint=prepared.fingerprint)
    assert dataset.items["item_id"].tolist() == ["001", "NA", "never seen", "tea, green"]
    assert dataset.items["title"].fillna("-").tolist() == ["Löffel", "-", "Gabel", "-"]
    assert dataset.items["training_events"].tolist() == [1, 0, 0, 1]
    assert list(dataset.attributes.categorical["kind"]) == ["a", "b"]
    assert dataset.behaviors == ("purchase", "view")
    sequences = dataset.sequences
    assert sequences.user_ids.tolist() == ["0 7", "Zoë"]
    assert sequences.item_ids.tolist() == [1, 2, 1, 4, 1, 2]
    assert sequences.behaviors.tolist() == [1, 0, 1, 1, 1, 0]
    assert sequences.timestamps[5] == pd.Timestamp("2024-01-02 23:00").timestamp()
    assert dataset.cleaning["dropped"] == {"missing item id": 1, "unparsable time": 1, "exact duplicate": 1}
    assert dataset.cleaning["rows_read"] == 9 and dataset.cleaning["rows_kept"] == 6
    assert dataset.source["path"] == "log.csv" and len(dataset.source["fingerprint"]) == 64


def test_strict_preparation_allows_no_dropped_row(tmp_path):
    write_log(tmp_path, LOG)
    config = csv_config(tmp_path, split={"rule": "leave_one_out"})
    with pytest.raises(DataError, match="strict cleaning allows no dropped rows, 3 were"):
        pipeline.prepare(config, strict=True)
    assert not (tmp_path / "data").exists()
    write_log(tmp_path, LOG[:6])
    assert pipeline.prepare(config, strict=True).cleaning["dropped"] == {}


def test_the_same_log_gives_the_same_bytes_and_another_seed_others(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, "001", strict=True):
        pipeline.prepare(tiny_config(folder, "--data.shop_seed", seed))
    files = [{path.name: path.read_bytes() for path in (folder / "data/tiny").iterdir()} for folder in folders]
    assert set(files[0]) == {"dataset.json", "items.parquet", "sequences.parquet"}
    assert files[0] == files[1]
    assert files[0]["sequences.parquet"] != files[2]["sequences.parquet"]


def test_a_prepared_dataset_is_replaced_only_where_asked(tmp_path):
    config = tiny_config(tmp_path)
    pipeline.prepare(config)
    with pytest.raises(DataError) as raised:
        pipeline.prepare(config)
    directory = tmp_path / "data" / "tiny"
    assert str(raised.value) == f"{directory} exists; add --overwrite to prepare it anew, or set data.directory"
    other = tiny_config(tmp_path, "--data.shop_seed", "3")
    assert pipeline.prepare(other, overwrite=True).fingerprint == read_dataset(directory).fingerprint
    broken = tiny_config(tmp_path, "--data.split.rule", "global_timeline", "--data.split.validation_start=2030-01-01",
                         "--data.split.test_start=2031-01-01")  # fmt: skip
    before = (directory / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="the timeline's cuts must lie in order within the log"):
        pipeline.prepare(broken, overwrite=True)
    assert (directory / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "data.source is not set; give the path of the log, or data.reader simulator"),
        ({"reader": "movielens_1m"}, "data.source is not set; give where movielens_1m lies"),
        ({"reader": "beauty"}, "data.reader 'beauty' is unknown; there are amazon_beauty_bert4rec, "),
        ({"reader": "simulator", "source": "x"}, "data.reader simulator makes its own log; leave data.source out"),
        (
            {"reader": "movielens_1m", "source": "x", "columns": {"user_id": "u"}},
            "data.reader movielens_1m knows its own columns and items; leave out data.columns, data.separator and "
            "data.items.path, or data.reader",
        ),
    ],
)
def test_where_the_log_comes_from_must_be_clear(data, message, tmp_path):
    with pytest.raises(ConfigError) as raised:
        values = {"data": {"directory": str(tmp_path / "data"), **data}}
        pipeline.prepare(parse_config(ExperimentConfig, values=values))
    assert str(raised.value).removeprefix("the configuration: ").startswith(message)


def test_a_wrong_vocabulary_is_told_before_the_log_is_read(tmp_path):
    config = csv_config(tmp_path, vocabulary_from=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"none is not a prepared dataset: it has no dataset\.json"):
        pipeline.prepare(config)


def timeline_log(folder: Path, available_from: list[Any]) -> ExperimentConfig:
    rows = [(f"u{n % 7}", f"i{n % 5}", f"2024-01-{1 + n // 2:02}", "view") for n in range(40)]
    write_log(folder, rows)
    items = pd.DataFrame({"sku": ["new", "old"], "available_from": available_from})
    items.to_csv(folder / "items.csv", index=False)
    return csv_config(folder, items={"path": str(folder / "items.csv"), "item_id": "sku"})


def test_the_item_table_can_say_from_when_an_item_could_be_recommended(tmp_path):
    dataset = pipeline.prepare(timeline_log(tmp_path, ["2024-01-18", "1700000000"]))
    ids = dataset.item_index(["new", "old", "i0"])
    for stage, new in (("validation", False), ("test", True)):
        cases = evaluation_cases(
            dataset.sequences, dataset.split, stage=stage, **pipeline.case_options(EvaluationConfig(), dataset)
        )
        assert cases.candidates[ids].tolist() == [new, True, True]
    day = pd.Timestamp("2024-01-18").timestamp()
    assert dataset.split.cuts["validation_start"] < day < dataset.split.cuts["test_start"]


def test_a_wrong_available_from_is_refused_before_training(tmp_path):
    with pytest.raises(DataError) as raised:
        pipeline.prepare(timeline_log(tmp_path, ["spring", None]))
    assert str(raised.value) == (
        "the item table's column available_from has 'spring', which is no time; it says from when an item can be "
        "recommended: use seconds or ISO times, or name the column otherwise"
    )
    assert not (tmp_path / "data").exists()


def test_training_and_evaluation_leave_what_the_readme_promises(tiny_run: TinyRun):
    found = {path.name for path in tiny_run.run.iterdir()}
    assert {"config.yaml", "dataset.json", "checkpoints", "log.jsonl", "tensorboard"} <= found
    assert {"metrics.json", "per_user.parquet", "report.html"} <= found
    kinds = [row["kind"] for row in read_log(tiny_run.run)]
    assert kinds.count("validation") == 2 and kinds[-1] == "end"
    result = json.loads((tiny_run.run / "metrics.json").read_text(encoding="utf-8"))
    assert [system["kind"] for system in result["systems"]] == ["model", *["baseline"] * 5, "ceiling"]
    assert result["run"] == "tiny" and result["config"]["evaluation"]["num_resamples"] == 200
    assert result["model"]["parameters"] == sum(
        leaf.size for leaf in jax.tree.leaves(Recommender.load(tiny_run.run).params)
    )
    table = pd.read_parquet(tiny_run.run / "per_user.parquet")
    for system in result["systems"]:
        rows = table[table["system"] == system["name"]]
        assert len(rows) == result["protocol"]["users"]
        for name, figure in system["metrics"].items():
            if name == "calibration_error":  # of all users together
                assert (figure["mean"] is not None) == (system["kind"] == "model")
                assert figure["mean"] is None or 0 < figure["mean"] < 1
            elif figure["mean"] is None:  # only the model's scores are logits
                assert name in ("log_loss", "confidence") and system["kind"] != "model" and rows[name].isna().all()
            else:
                assert figure["mean"] == pytest.approx(rows[name].astype(float).mean(), abs=1e-12)
    assert {"log_loss", "calibration_error"} <= set(result["systems"][0]["metrics"])
    assert {finding["severity"] for finding in result["audit"]} <= {"info", "warning"}
    assert result["model_card"]["data"].startswith("tiny: 150 users, 60 items, ")


def copy_of(tiny_run: TinyRun, folder: Path) -> Path:
    shutil.copytree(tiny_run.run, folder / "run")
    return folder / "run"


def test_the_validation_figure_of_the_log_is_what_evaluating_that_stage_gives(tiny_run, tmp_path):
    run = copy_of(tiny_run, tmp_path)
    config = parse_config(EvaluationConfig, values=VALUES["evaluation"] | {"stage": "validation"})
    evaluation, reason = pipeline.evaluate(run, config)
    assert reason is None
    best = max((row for row in read_log(run) if row["kind"] == "validation"), key=lambda row: row["ndcg@10"])
    metrics = evaluation.result["systems"][0]["metrics"]
    for name in ("ndcg@10", "auc", "mean_rank"):
        assert metrics[name]["mean"] == pytest.approx(best[name], rel=1e-6)
    # the page states the protocol that was used, not the one the run was trained with
    assert evaluation.result["config"]["evaluation"]["stage"] == evaluation.result["stage"] == "validation"


def test_baselines_know_what_a_shop_would_know_at_that_stage(tiny_run):
    dataset = read_dataset(tiny_run.dataset)
    parts = dataset.split.parts
    for stage, known in (("validation", parts == TRAIN), ("test", np.isin(parts, [TRAIN, VALIDATION]))):
        events = pipeline.known_events(dataset, stage)
        assert events.item_ids.tolist() == dataset.sequences.item_ids[known].tolist()


def test_another_dataset_of_the_same_items_can_be_evaluated_on(tiny_run, tmp_path):
    other = pipeline.prepare(tiny_config(tmp_path, "--data.shop_seed", "5"))
    run = copy_of(tiny_run, tmp_path)
    evaluation, _ = pipeline.evaluate(run, tiny_run.config.evaluation, dataset=str(tmp_path / "data/tiny"))
    assert evaluation.result["protocol"]["fingerprint"] == other.fingerprint
    assert set(evaluation.per_user["user_id"]) <= set(other.sequences.user_ids)

    shutil.rmtree(tmp_path / "data")
    pipeline.prepare(tiny_config(tmp_path, "--data.shop.num_items", "61"))
    with pytest.raises(CheckpointError) as raised:
        pipeline.evaluate(run, tiny_run.config.evaluation, dataset=str(tmp_path / "data/tiny"))
    assert str(raised.value) == (
        f"tiny numbers its 61 items differently from the 60 of {run} (60 in common); prepare it with "
        f"--data.vocabulary_from {run}, and train on it with training.warm_start {run} if it has new items"
    )
    shutil.rmtree(tmp_path / "data")
    pipeline.prepare(tiny_config(tmp_path, "--data.cleaning.behaviors", "[click, view, cart, purchase]"))
    with pytest.raises(CheckpointError) as raised:
        pipeline.evaluate(run, tiny_run.config.evaluation, dataset=str(tmp_path / "data/tiny"))
    assert str(raised.value) == (
        f"{run} was trained with the behaviours ['view', 'click', 'cart', 'purchase'], the dataset has ['click', "
        "'view', 'cart', 'purchase']; set data.cleaning.behaviors to the former"
    )


def moved_run(tiny_run: TinyRun, folder: Path) -> tuple[Path, Path]:
    """A copy of the run and of its dataset, so that the latter can be changed."""
    run, data = copy_of(tiny_run, folder), folder / "dataset"
    shutil.copytree(tiny_run.dataset, data)
    facts = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
    (run / "dataset.json").write_text(json.dumps({**facts, "directory": str(data)}), encoding="utf-8")
    return run, data


def test_a_dataset_that_changed_after_training_is_refused(tiny_run, tmp_path):
    run, data = moved_run(tiny_run, tmp_path)
    assert pipeline.user_histories(run, None).num_users == 150
    old = read_dataset(data).fingerprint
    config = tiny_config(tmp_path, "--data.split.test_fraction", "0.2", "--data.directory", str(data))
    new = pipeline.prepare(config, overwrite=True).fingerprint
    for use in (
        lambda: pipeline.evaluate(run, tiny_run.config.evaluation),
        lambda: pipeline.embed(run, tmp_path / "vectors"),
        lambda: pipeline.user_histories(run, None),
    ):
        with pytest.raises(DataError) as raised:
            use()
        assert str(raised.value).startswith(f"{data} has fingerprint {new}, {old} was expected: it is another dataset")
    shutil.rmtree(data)
    with pytest.raises(DataError, match=r"is not a prepared dataset: it has no dataset\.json"):
        pipeline.evaluate(run, tiny_run.config.evaluation)
    assert not (tmp_path / "vectors").exists()


def test_training_on_nothing_prepared_or_on_unknown_behaviours_is_refused(tiny_run, tmp_path):
    with pytest.raises(
        DataError, match=r"is not a prepared dataset: it has no dataset\.json; run `seqrec prepare` first"
    ):
        pipeline.train(tiny_config(tmp_path), runs=tmp_path)
    words = ["--training.behavior_weights", "{buy: 2.0}", "--data.directory", str(tiny_run.dataset)]
    with pytest.raises(ConfigError) as raised:
        pipeline.train(tiny_config(tmp_path, *words), runs=tmp_path)
    assert str(raised.value) == (
        "training.behavior_weights names ['buy'], the log has ['view', 'click', 'cart', 'purchase']"
    )
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_the_dataset_does_not_have_are_refused(tiny_run):
    dataset = read_dataset(tiny_run.dataset)
    words = ["--model.target_behavior", "true"]
    with pytest.raises(
        ConfigError, match=r"needs one behaviour to predict, but split\.target_behaviors of tiny is \[\]"
    ):
        pipeline.build_model(tiny_config(tiny_run.folder, *words), dataset)
    ordered = replace(dataset, time_kind="order")
    with pytest.raises(ConfigError, match=r"hour and weekday need real times, but the log of tiny has only an order"):
        pipeline.build_model(tiny_config(tiny_run.folder, "--model.events.hour", "true"), ordered)


def test_weights_of_targets_are_those_of_the_configuration(tmp_path):
    config = tiny_config(
        tmp_path,
        "--data.split.target_behaviors", "[purchase, cart]",
        "--training.behavior_weights", "{purchase: 3.0, view: 2.0}",
    )  # fmt: skip
    dataset = pipeline.prepare(config)
    assert pipeline.behavior_weights(config, dataset).tolist() == [2.0, 1.0, 1.0, 3.0]


# -- tomorrow's log --


@pytest.fixture(scope="module")
def tomorrow(tiny_run: TinyRun, tmp_path_factory) -> tuple[ExperimentConfig, Path]:
    """The tiny shop's log as CSV with two new items, one before the old ones in string order, and new users."""
    folder = tmp_path_factory.mktemp("tomorrow")
    shop = simulate(tiny_run.config.data.shop, tiny_run.config.data.shop_seed)
    middle, last = (int(shop.events["timestamp"].quantile(share)) for share in (0.5, 1.0))
    new = pd.DataFrame(
        {
            "user_id": np.repeat(["a newcomer", "zoe", "user-000001"], 4),
            "item_id": ["a new item", "sku-00001", "zz", "a new item"] * 3,
            "timestamp": [*(middle + 60 * np.arange(8)), *(last + 60 * np.arange(1, 5))],
            "behavior": "view",
        }
    )
    names = {"user_id": "customer", "item_id": "sku", "timestamp": "when", "behavior": "what"}
    log = pd.concat([shop.events[list(names)], new]).rename(columns=names)
    log.to_csv(folder / "log.csv", index=False)
    items = pd.concat([shop.items, pd.DataFrame({"item_id": ["zz"], "category": ["shoes"], "price": [9.5]})])
    items.rename(columns={"item_id": "sku"}).to_csv(folder / "items.csv", index=False)
    values = {
        **VALUES,
        "name": "tomorrow",
        "data": {
            "source": str(folder / "log.csv"),
            "columns": names,
            "items": {"path": str(folder / "items.csv"), "item_id": "sku"},
            "attributes": VALUES["data"]["attributes"],
            "cleaning": VALUES["data"]["cleaning"],
            "vocabulary_from": str(tiny_run.run),
            "directory": str(folder / "data"),
        },
        "training": VALUES["training"] | {"warm_start": str(tiny_run.run), "max_epochs": 1},
    }
    config = parse_config(ExperimentConfig, values=values)
    pipeline.prepare(config)
    return config, folder


def test_tomorrows_dataset_keeps_yesterdays_numbers(tomorrow, tiny_run):
    config, _ = tomorrow
    dataset, before = read_dataset(config.dataset_directory), read_dataset(tiny_run.dataset)
    assert dataset.items["item_id"].tolist() == [*before.items["item_id"], "a new item", "zz"]
    assert dataset.behaviors == before.behaviors
    assert dataset.attributes.to_dict() == before.attributes.to_dict()
    assert set(dataset.sequences.user_ids) - set(before.sequences.user_ids) == {"a newcomer", "zoe"}
    user = dataset.user_index(["user-000001"])[0]
    old = before.sequences.select_users(before.user_index(["user-000001"])).item_ids
    assert dataset.sequences.select_users(np.array([user])).item_ids.tolist() == [*old, 61, 2, 62, 61]


def test_a_warm_start_moves_no_old_parameter_and_training_goes_on_from_there(tomorrow, tiny_run):
    config, folder = tomorrow
    dataset = read_dataset(config.dataset_directory)
    model, _ = pipeline.build_model(config, dataset)
    cold = model.init(jax.random.key(0))
    params = pipeline.warm_start_params(str(tiny_run.run), dataset, like=cold, seed=0)
    old = Recommender.load(tiny_run.run).params
    rows = params["items"]["ids"]["embedding"]
    np.testing.assert_array_equal(rows[:61], old["items"]["ids"]["embedding"])
    assert rows.shape == (63, 8) and np.abs(rows[61:]).min(axis=1).min() > 0
    for tree in (params, old):
        tree["items"]["ids"]["embedding"] = 0
    jax.tree.map(np.testing.assert_array_equal, params, old)

    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        run, progress = pipeline.train(config, show_progress=False, runs=folder / "runs")
    assert progress.finished and progress.epoch == 1
    losses = [[row["loss"] for row in read_log(path) if row["kind"] == "train"] for path in (run, tiny_run.run)]
    assert losses[0][0] < losses[1][0] - 0.1  # it begins where yesterday's run ended
    recommender = Recommender.load(run)
    result = recommender.recommend(["a new item", "zz"], 62)
    assert {"a new item", "zz"} <= set(result.table["item_id"]) and result.unknown_items == []
    evaluation, _ = pipeline.evaluate(run, config.evaluation)
    assert "of 62 items: items that were available before " in evaluation.result["protocol"]["candidates"]
    assert "user-000001" in set(evaluation.per_user["user_id"])
    with pytest.raises(CheckpointError, match="tomorrow numbers its 62 items differently from the 60 of "):
        pipeline.evaluate(tiny_run.run, config.evaluation, dataset=config.dataset_directory)


def test_a_warm_start_that_does_not_fit_is_refused(tomorrow, tiny_run, tmp_path):
    config, _ = tomorrow
    dataset = read_dataset(config.dataset_directory)
    model, _ = pipeline.build_model(config, dataset)
    like = model.init(jax.random.key(0))
    run = str(tiny_run.run)

    def refused(dataset, like=like) -> str:
        with pytest.raises(CheckpointError) as raised:
            pipeline.warm_start_params(run, dataset, like=like, seed=0)
        return str(raised.value)

    other = pipeline.prepare(tiny_config(tmp_path, "--data.shop.num_items", "59"))
    assert refused(other) == (
        f"the dataset does not begin with the 60 items of {run}; prepare it with --data.vocabulary_from {run}"
    )
    words = ["--data.cleaning.behaviors", "[click, view, cart, purchase]"]
    assert "was trained with the behaviours" in refused(pipeline.prepare(tiny_config(tmp_path / "b", *words)))
    del like["bilinear"]["weight"]
    assert refused(dataset, like) == (
        f"the model of {run} has other parameters than this configuration; use its model section"
    )


# -- what is written --


def test_metrics_are_written_also_where_the_report_cannot_be_drawn(tiny_run, tmp_path, monkeypatch):
    run = copy_of(tiny_run, tmp_path)
    for name in ("metrics.json", "per_user.parquet", "report.html"):
        (run / name).unlink()

    def missing(*_, **__):
        raise MissingExtraError("matplotlib is not installed")

    monkeypatch.setattr(pipeline.writing, "render_report", missing)
    evaluation, reason = pipeline.evaluate(run, tiny_run.config.evaluation)
    assert reason == "matplotlib is not installed"
    written = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(evaluation.result))
    pd.testing.assert_frame_equal(pd.read_parquet(run / "per_user.parquet"), evaluation.per_user, check_dtype=False)
    assert not (run / "report.html").exists()


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told(tiny_run, tmp_path, monkeypatch):
    run = copy_of(tiny_run, tmp_path)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full_disk)
    with pytest.raises(CheckpointError) as raised:
        pipeline.evaluate(run, tiny_run.config.evaluation)
    assert str(raised.value) == f"cannot write the evaluation to {run}: No space left on device"
    with pytest.raises(DataError) as refused:
        pipeline.embed(run, tmp_path / "vectors")
    assert str(refused.value) == f"cannot write vectors to {tmp_path / 'vectors'}: No space left on device"
    with pytest.raises(DataError, match=r"cannot write .*lists\.parquet: No space left on device"):
        pipeline.write_table(pd.DataFrame({"a": [1]}), tmp_path / "lists.parquet")
    monkeypatch.setattr("pyarrow.parquet.write_table", full_disk)
    with pytest.raises(DataError) as refused:
        pipeline.prepare(tiny_config(tmp_path))
    directory = tmp_path / "data" / "tiny"
    assert str(refused.value) == f"cannot write the dataset to {directory}: No space left on device"
    assert list((tmp_path / "data").iterdir()) == []


def test_tables_keep_ids_as_text(tmp_path):
    table = pd.DataFrame({"user_id": ["007", "Zoë"], "rank": [1, 1], "score": np.float32([0.5, -1])})
    for name in ("deep/er/lists.csv", "lists.parquet"):
        pipeline.write_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "lists.parquet"), table, check_dtype=False)
    assert (tmp_path / "deep/er/lists.csv").read_text(encoding="utf-8").splitlines()[1] == "007,1,0.5"
    with pytest.raises(DataError, match=r"lists\.xlsx must end in \.parquet or \.csv"):
        pipeline.write_table(table, tmp_path / "lists.xlsx")
    with pytest.raises(DataError, match=r"cannot write .*: (Not a directory|File exists)"):
        pipeline.write_table(table, tmp_path / "lists.parquet" / "more.csv")


def test_histories_of_users_come_in_the_order_asked_and_unknown_ones_are_empty(tiny_run):
    dataset = read_dataset(tiny_run.dataset)
    asked = ["user-000009", "nobody", "user-000002", "user-000009"]
    found = pipeline.user_histories(tiny_run.run, asked)
    assert found.user_ids.tolist() == asked
    rows = dataset.user_index(asked)
    lengths = [0 if row < 0 else dataset.sequences.lengths[row] for row in rows]
    assert found.lengths.tolist() == lengths and lengths[1] == 0 < lengths[0]
    start = dataset.sequences.offsets[rows[2]]
    items = found.item_ids[found.offsets[2] : found.offsets[3]]
    assert items.tolist() == dataset.sequences.item_ids[start : start + lengths[2]].tolist()

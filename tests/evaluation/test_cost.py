"""What costs are measured with a clock that is known, and who is on the front."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.beyond.cost import cost_section, joules_between, measure_cost, pareto_front, read_counters

HISTORIES = make_sequences([[1, 2], [3], [2, 2, 1]])


class Clock:
    """A clock on which a user takes a millisecond, and the first call for as many users a second more."""

    def __init__(self):
        self.now, self.seen, self.calls = 0.0, set(), []

    def __call__(self) -> float:
        return self.now

    def scores(self, histories):
        key = tuple(histories.user_ids)
        self.now += 1e-3 * len(key) + (key not in self.seen)
        self.seen.add(key)
        self.calls.append(len(key))
        return jnp.zeros((len(key), 4))


def write_counter(folder, name: str, so_far: int, largest: int = 1_000_000) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{so_far}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{largest}\n")


def test_first_calls_do_not_count_and_parameters_are_those_of_the_tree(tmp_path):
    clock = Clock()
    params = {"w": jnp.zeros((3, 4), dtype=jnp.float32), "b": [np.zeros(5, dtype=np.float16), 1.0]}
    cost = measure_cost(
        FunctionRanker("gru", clock.scores), HISTORIES, params=params, training_seconds=7.0, calls=10, batch_size=8,
        counters=tmp_path, clock=clock,
    )  # fmt: skip
    assert clock.calls == [1] * 3 + [1] * 10 + [8] * 4
    assert (cost["name"], cost["parameters"], cost["bytes"], cost["training_seconds"]) == ("gru", 18, 48 + 10 + 8, 7.0)
    assert (cost["latency_ms"], cost["latency_p95_ms"]) == pytest.approx((1.0, 1.0))
    assert cost["users_per_second"] == pytest.approx(1000)
    assert cost["joules_per_user"] is None
    assert measure_cost(FunctionRanker("pop", clock.scores), HISTORIES, clock=clock, counters=tmp_path)["bytes"] is None


def test_energy_is_that_of_the_packages_and_a_counter_may_start_again(tmp_path):
    write_counter(tmp_path, "intel-rapl:0", 900_000)
    write_counter(tmp_path, "intel-rapl:1", 10)
    write_counter(tmp_path, "intel-rapl:0:0", 5)
    before = read_counters(tmp_path)
    assert before == {"intel-rapl:0": (900_000, 1_000_000), "intel-rapl:1": (10, 1_000_000)}
    write_counter(tmp_path, "intel-rapl:0", 400_000)
    write_counter(tmp_path, "intel-rapl:1", 100_010)
    assert joules_between(before, read_counters(tmp_path)) == pytest.approx(0.6)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("none")
    assert list(read_counters(tmp_path)) == ["intel-rapl:0"]
    assert joules_between(before, read_counters(tmp_path)) is None
    write_counter(tmp_path, "intel-rapl:1", 0)
    count = itertools.count(1)

    def scores(histories):
        write_counter(tmp_path, "intel-rapl:1", 1_000 * next(count))
        return np.zeros((histories.num_users, 4))

    cost = measure_cost(FunctionRanker("x", scores), HISTORIES, calls=2, batch_size=5, counters=tmp_path)
    assert cost["joules_per_user"] == pytest.approx(3 * 1e-3 / 15)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_front_equals_its_definition(systems):
    table = np.array(systems, dtype=float)
    front = pareto_front(table[:, :2], table[:, 2])
    for place, (one, two, worth) in enumerate(systems):
        beaten = any(a <= one and b <= two and c >= worth and (a, b, c) != (one, two, worth) for a, b, c in systems)
        assert front[place] == (not beaten)
    assert front.any()


def test_what_is_unknown_is_not_on_the_front_and_beats_nobody():
    assert pareto_front([1.0, np.nan, 3.0], [0.1, 0.9, np.nan]).tolist() == [True, False, False]
    assert pareto_front([], []).tolist() == []
    with pytest.raises(ShapeError, match=r"costs have shape \(2,\) and figures \(3,\)"):
        pareto_front([1, 2], [1, 2, 3])


def make_row(name: str, mean: float, latency: float, size: int | None) -> dict:
    return {
        "name": name, "figure": {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}, "latency_ms": latency,
        "bytes": size, "joules_per_user": None,
    }  # fmt: skip


def test_the_section_names_who_is_on_the_front():
    rows = [make_row("gru", 0.3, 5.0, 2**20), make_row("big", 0.29, 9.0, 2**22), make_row("pop", 0.1, 1.0, None)]
    section = cost_section(rows, metric="ndcg@10")
    assert "no other system is as cheap and as good as gru and pop." in section["summary"]
    table, latency, size = section["blocks"]
    assert [row[0] for row in table["rows"]] == ["gru", "big", "pop"]
    assert table["rows"][0][3] == 1.0 and table["rows"][2][-1] == "not available here"
    assert {group["name"]: group["labels"] for group in latency["groups"]} == {
        "on the front": ["gru", "pop"],
        "beaten": ["big"],
    }
    assert size["note"] == "Not shown, since unknown: pop."
    with pytest.raises(DataError, match="each with the system's figure under 'figure'"):
        cost_section([{"name": "gru"}], metric="ndcg@10")


def test_wrong_input_is_refused():
    ranker = FunctionRanker("x", lambda histories: np.zeros((histories.num_users, 4)))
    with pytest.raises(DataError, match="there are no histories to time x with"):
        measure_cost(ranker, make_sequences([]))
    for options in ({"calls": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} must be at least 1, got 0"):
            measure_cost(ranker, HISTORIES, **options)

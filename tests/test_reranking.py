"""Re-ranking against loops over users and places, and cases worked by hand."""

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.reranking import RerankConfig, load_rules, make_reranker, matching_items, open_rules

ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{j}" for j in range(1, 9)],
        "category": ["red", "red", "blue", None, "blue", "green", "red", "blue"],
        "tags": [["a", "b"], ["a"], ["b", "c"], [], None, ["c"], ["a", "b", "c"], ["d"]],
        "price": [5.0, 20.0, 10.0, 7.5, np.nan, 30.0, 1.0, 10.0],
        "in_stock": [True, False, True, True, True, True, True, False],
    }
)
NUM_ITEMS = len(ITEMS)
VECTORS = np.random.default_rng(0).normal(size=(NUM_ITEMS + 1, 3)).astype(np.float32)


def values_of(column, item):
    value = ITEMS[column].iloc[item - 1]
    if isinstance(value, list):
        return set(value)
    return set() if value is None or value != value else {value}


def similarity(one, other, columns):
    if not columns:
        a, b = VECTORS[one].astype(float), VECTORS[other].astype(float)
        return max(0.0, float(a @ b / math.sqrt((a @ a) * (b @ b))))
    total = 0.0
    for column in columns:
        a, b = values_of(column, one), values_of(column, other)
        total += len(a & b) / len(a | b) if a | b else 0.0
    return total / len(columns)


def brute_force(candidates, scores, history, *, config, k, rules=()):
    """One user's list by loops, straight from the description; rules are (action, predicate, number)."""
    history = [item for item in history if item]
    recent = history[-config.recent_events :]
    given_scores = [score for item, score in zip(candidates, scores, strict=True) if item]
    mean = math.fsum(given_scores) / len(given_scores) if given_scores else 0.0
    deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in given_scores) / max(1, len(given_scores)))
    deviation = deviation if len(set(given_scores)) > 1 else 1.0
    pool = []
    for item, score in zip(candidates, scores, strict=True):
        if not item or any(action == "filter" and matches(item) for action, matches, _ in rules):
            continue
        boost = 0.0
        if config.attribute_affinity and recent:
            own = values_of(config.affinity_attribute, item)
            shares = [sum(v in values_of(config.affinity_attribute, h) for h in recent) / len(recent) for v in own]
            boost += config.attribute_affinity * (sum(shares) / len(shares) if shares else 0.0)
        if item in history:
            age = history[::-1].index(item)
            boost += config.repeat_boost + config.recency_boost * 0.5 ** (age / config.recency_half_life)
        for action, matches, number in rules:
            if action in ("boost", "bury") and matches(item):
                boost += number if action == "boost" else -number
        pool.append((item, score + deviation * boost))
    pool.sort(key=lambda pair: -pair[1])
    pinned, taken = {}, set()
    for action, matches, number in rules:
        if action == "pin":
            chosen = next((i for i, (item, _) in enumerate(pool) if i not in taken and matches(item)), None)
            if chosen is not None:
                while number in pinned:
                    number += 1
                pinned[number] = chosen
                taken.add(chosen)
    chosen_order, free = [], [i for i in range(len(pool)) if i not in taken]
    place = 1
    while free or pinned:
        if place in pinned:
            chosen_order.append(pinned.pop(place))
        elif free:

            def relevance(i):
                penalty = max(
                    [0.0] + [similarity(pool[i][0], pool[j][0], config.diversity_attributes) for j in chosen_order]
                )
                return (1 - config.diversity) * (pool[i][1] - pool[0][1]) / deviation - config.diversity * penalty

            best = max(free, key=relevance) if config.diversity else free[0]
            chosen_order.append(best)
            free.remove(best)
        place += 1
    listed = [pool[i] for i in chosen_order][:k]
    return listed + [(0, -math.inf)] * (k - len(listed))


@st.composite
def requests(draw):
    """Candidates with distinct well-separated scores, some empty places, and histories, for 1 to 4 users."""
    num_users, width = draw(st.integers(1, 4)), draw(st.integers(1, NUM_ITEMS))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    ids = np.stack([rng.permutation(np.arange(1, NUM_ITEMS + 1))[:width] for _ in range(num_users)])
    filled = rng.integers(0, width + 1, num_users)
    ids = np.where(np.arange(width) < filled[:, None], ids, 0).astype(np.int32)
    scores = -np.sort(-rng.normal(size=ids.shape) * 3, axis=1).astype(np.float32)
    histories = draw(st.lists(st.lists(st.integers(0, NUM_ITEMS), max_size=7), min_size=num_users, max_size=num_users))
    return ids, np.where(ids > 0, scores, -np.inf).astype(np.float32), histories


def assert_same_lists(got, expected):
    np.testing.assert_array_equal(got.item_ids, [[item for item, _ in row] for row in expected])
    np.testing.assert_allclose(got.scores, [[score for _, score in row] for row in expected], rtol=1e-5, atol=1e-5)
    assert got.item_ids.dtype == np.int32
    assert got.scores.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(requests(), st.integers(1, 10))
def test_by_default_the_first_k_come_out_as_they_went_in(request_, k):
    ids, scores, histories = request_
    got = make_reranker(RerankConfig())(ids, scores, histories=make_sequences(histories), k=k)
    width = min(k, ids.shape[1])
    np.testing.assert_array_equal(got.item_ids[:, :width], ids[:, :width])
    np.testing.assert_array_equal(got.scores[:, :width], scores[:, :width])
    assert not got.item_ids[:, width:].any()


def test_equal_scores_keep_their_order():
    ids = np.random.default_rng(3).permutation(np.arange(1, 101, dtype=np.int32))[None, :]
    for config in (RerankConfig(), RerankConfig(diversity=0.5)):
        rerank = make_reranker(config, item_vectors=np.eye(101, dtype=np.float32))
        got = rerank(ids, np.full((1, 100), 0.1, np.float32), histories=make_sequences([[]]), k=100)
        np.testing.assert_array_equal(got.item_ids, ids)


@settings(max_examples=120, deadline=None)
@given(
    requests(),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from(["category", "tags"]),
    st.sampled_from([0.0, 0.4, -0.3]),
    st.sampled_from([0.0, 1.1]),
    st.sampled_from([0.0, 0.3, 0.8]),
    st.sampled_from([(), ("category",), ("tags", "category")]),
)
def test_preferences_and_diversity_equal_brute_force(
    request_, k, affinity, attribute, repeat, recency, diversity, columns
):
    ids, scores, histories = request_
    config = RerankConfig(
        attribute_affinity=affinity,
        affinity_attribute=attribute,
        recent_events=3,
        repeat_boost=repeat,
        recency_boost=recency,
        recency_half_life=2.0,
        diversity=diversity,
        diversity_attributes=columns,
    )
    got = make_reranker(config, items=ITEMS, item_vectors=VECTORS)(
        ids, scores, histories=make_sequences(histories), k=k
    )
    expected = [
        brute_force(*user, config=config, k=k) for user in zip(ids.tolist(), scores.tolist(), histories, strict=True)
    ]
    assert_same_lists(got, expected)


RULES = """
- {action: filter, where: {in_stock: false}}
- {action: boost, where: {category: [red, green]}, amount: 0.8}
- {action: bury, where: {price: {min: 6, max: 10}, tags: b}, amount: 0.5}
- {action: pin, where: {category: blue}, position: 2}
- {action: pin, where: {item_id: i7}, position: 2}
- {action: pin, where: {item_id: [i4, nothing]}, position: 7}
"""
PREDICATES = (
    ("filter", lambda j: not ITEMS["in_stock"].iloc[j - 1], 0),
    ("boost", lambda j: bool(values_of("category", j) & {"red", "green"}), 0.8),
    ("bury", lambda j: 6 <= ITEMS["price"].iloc[j - 1] <= 10 and "b" in values_of("tags", j), 0.5),
    ("pin", lambda j: values_of("category", j) == {"blue"}, 2),
    ("pin", lambda j: j == 7, 2),
    ("pin", lambda j: j == 4, 7),
)


@settings(max_examples=40, deadline=None)
@given(requests(), st.sampled_from([1, 4, 9]), st.sampled_from([0.0, 0.6]))
def test_rules_equal_brute_force(tmp_path_factory, request_, k, diversity):
    ids, scores, histories = request_
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(RULES)
    config = RerankConfig(rules=str(path), diversity=diversity)
    got = make_reranker(config, items=ITEMS, item_vectors=VECTORS)(
        ids, scores, histories=make_sequences(histories), k=k
    )
    expected = [
        brute_force(*user, config=config, k=k, rules=PREDICATES)
        for user in zip(ids.tolist(), scores.tolist(), histories, strict=True)
    ]
    assert_same_lists(got, expected)


def test_boosts_by_hand():
    # scores 3, 2, 1 have standard deviation sqrt(2/3); item 5 came last, item 1 two events before
    ids, scores = np.array([[3, 1, 5]], dtype=np.int32), np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    config = RerankConfig(repeat_boost=1.0, recency_boost=2.0, recency_half_life=2.0)
    got = make_reranker(config)(ids, scores, histories=make_sequences([[1, 0, 5, 2, 5]]), k=3)
    step = math.sqrt(2 / 3)
    expected = {5: 1 + step * 3, 1: 2 + step * (1 + 2 * 2 ** (-3 / 2)), 3: 3.0}
    assert got.item_ids.tolist() == [sorted(expected, key=expected.get, reverse=True)]
    np.testing.assert_allclose(got.scores[0], sorted(expected.values(), reverse=True), rtol=1e-6)


def test_weights_mean_the_same_for_scores_of_another_scale():
    rng = np.random.default_rng(1)
    ids = np.stack([rng.permutation(np.arange(1, NUM_ITEMS + 1)) for _ in range(5)]).astype(np.int32)
    scores = -np.sort(-rng.normal(size=ids.shape), axis=1)
    histories = make_sequences([[1, 2], [3], [], [8, 7, 1], [5, 5]])
    config = RerankConfig(attribute_affinity=1.0, affinity_attribute="category", repeat_boost=0.5, diversity=0.4)
    rerank = make_reranker(config, items=ITEMS, item_vectors=VECTORS)
    plain = rerank(ids, scores, histories=histories, k=6)
    scaled = rerank(ids, 1000 * scores - 7, histories=histories, k=6)
    np.testing.assert_array_equal(plain.item_ids, scaled.item_ids)
    assert (plain.item_ids != ids[:, :6]).any()


def test_diversity_alternates_categories():
    table = pd.DataFrame({"category": ["x", "x", "x", "y", "y"]})
    ids, scores = np.array([[1, 2, 3, 4, 5]], dtype=np.int32), np.array([[5.0, 4.0, 3.0, 2.0, 1.0]])
    config = RerankConfig(diversity=0.9, diversity_attributes=("category",))
    got = make_reranker(config, items=table)(ids, scores, histories=make_sequences([[]]), k=5)
    assert got.item_ids.tolist() == [[1, 4, 2, 3, 5]]


def test_overlap_of_several_values_is_the_jaccard_index():
    # after item 1 (a, b): item 2 (a, b, c, d) shares 2 of 4, item 3 (a) 1 of 2, item 4 (a, c, d) 1 of 4
    table = pd.DataFrame({"tags": ["a|b", "a|b|c|d", "a", "a|c|d"]})
    ids, scores = np.array([[1, 2, 3, 4]], dtype=np.int32), np.array([[9.0, 0.0, 0.0, 0.0]])
    # with λ = ½ item 4 overtakes another one when that is ahead by less than ¼ in standard deviations
    for lead, expected in [(0.24, [1, 4]), (0.26, [1, 2])]:
        for _ in range(50):  # the scores decide their own deviation: a fixed point
            scores[0, 1:3] = lead * np.std(scores)
        config = RerankConfig(diversity=0.5, diversity_attributes=("tags",))
        got = make_reranker(config, items=table)(ids, scores, histories=make_sequences([[]]), k=2)
        assert got.item_ids.tolist() == [expected]


def test_rules_hold_for_their_time_only(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        "- {action: filter, where: {item_id: i1}, from: 2024-03-01, until: 2024-03-02T12:00:00+02:00}\n"
        "- {action: filter, where: {item_id: i2}, until: '2024-03-01T06:00'}\n"
    )
    rerank = make_reranker(RerankConfig(rules=str(path)), items=ITEMS)
    ids, scores = np.array([[1, 2, 3]], dtype=np.int32), np.array([[3.0, 2.0, 1.0]])

    def listed(*moment):
        now = int(datetime(*moment, tzinfo=UTC).timestamp())
        return rerank(ids, scores, histories=make_sequences([[]]), k=3, now=now).item_ids[0].tolist()

    assert listed(2024, 2, 29, 23, 59) == [1, 3, 0]
    assert listed(2024, 3, 1) == [3, 0, 0]
    assert listed(2024, 3, 1, 6) == [2, 3, 0]
    assert listed(2024, 3, 2, 9, 59) == [2, 3, 0]
    assert listed(2024, 3, 2, 10) == [1, 2, 3]
    with pytest.raises(ConfigError, match=r"rules\.yaml: rule 1 holds for a time only"):
        rerank(ids, scores, histories=make_sequences([[]]), k=3)


def test_matching_items_may_be_none(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("- {action: filter, where: {category: reed}}\n- {action: filter, where: {price: 10}}\n")
    misspelt, price = load_rules(path)
    assert not matching_items(misspelt, ITEMS).any()
    np.testing.assert_array_equal(np.flatnonzero(matching_items(price, ITEMS)), [3, 8])
    path.write_text("# nothing yet\n")
    assert load_rules(path) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("action: filter", "must hold a list of rules"),
        ("- [filter", "not valid YAML"),
        ("- filter", "rule 1 must have keys"),
        ("- {action: filtre, where: {price: 1}}", "did you mean 'filter'"),
        ("- {where: {price: 1}}", r"action must be of .* got None"),
        ("- {action: filter}", "where must name item columns"),
        ("- {action: filter, where: {price: 1}, amount: 2}", r"a filter rule has the keys .*not 'amount'"),
        ("- {action: pin, where: {price: 1}, positon: 2}", "did you mean 'position'"),
        ("- {action: filter, where: {a: 1}}\n- {action: boost, where: {a: 1}}", "rule 2: a boost rule needs"),
        ("- {action: bury, where: {price: 1}, amount: -1}", "positive number, got -1"),
        ("- {action: boost, where: {price: 1}, amount: much}", "positive number, got 'much'"),
        ("- {action: boost, where: {price: 1}, amount: .nan}", "positive number, got nan"),
        ("- {action: pin, where: {price: 1}}", "needs position"),
        ("- {action: pin, where: {price: 1}, position: 0}", "needs position"),
        ("- {action: filter, where: {price: {mn: 1}}}", "a range is numbers"),
        ("- {action: filter, where: {price: {min: low}}}", "a range is numbers"),
        ("- {action: filter, where: {price: []}}", "expected a value"),
        ("- {action: filter, where: {price: [[1]]}}", "expected a value"),
        ("- {action: filter, where: {price: 1}, from: tomorrow}", r"from must be an ISO time .*'tomorrow'"),
        ("- {action: filter, where: {price: 1}, from: 2024-02-30}", "not valid YAML"),
        ("- {action: filter, where: {price: 1}, from: 2025-01-01, until: 2024-01-01}", "never holds"),
        ("- {action: filter, where: {pric: 1}}", r"rule 1: items have no column 'pric'.*mean 'price'"),
        ("- {action: filter, where: {category: {min: 1}}}", "column 'category' is not numeric"),
    ],
)  # fmt: skip
def test_wrong_rules_are_refused(tmp_path, text, message):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        make_reranker(RerankConfig(rules=str(path)), items=ITEMS)
    assert str(path) in str(caught.value)


def test_wrong_configurations_are_refused(tmp_path):
    for values, message in [
        ({"diversity": 1.5}, "diversity"),
        ({"recent_events": 0}, "recent_events"),
        ({"recency_half_life": 0.0}, "recency_half_life"),
        ({"attribute_affinity": 1.0}, "affinity_attribute"),
    ]:
        with pytest.raises(ConfigError, match=message):
            RerankConfig(**values)
    with pytest.raises(ConfigError, match="there is no rules file"):
        make_reranker(RerankConfig(rules=str(tmp_path / "none.yaml")), items=ITEMS)
    affinity = RerankConfig(attribute_affinity=1.0, affinity_attribute="categry")
    with pytest.raises(ConfigError, match="need the item table"):
        make_reranker(affinity)
    with pytest.raises(ConfigError, match="did you mean 'category'"):
        make_reranker(affinity, items=ITEMS)
    with pytest.raises(ConfigError, match="diversity_attributes or item_vectors"):
        make_reranker(RerankConfig(diversity=0.5), items=ITEMS)
    with pytest.raises(ShapeError, match="8 items and 8 rows"):
        make_reranker(RerankConfig(diversity=0.5), items=ITEMS, item_vectors=VECTORS[1:])


def test_wrong_candidates_are_refused():
    rerank = make_reranker(RerankConfig(), items=ITEMS)
    ids, scores = np.array([[1, 2]], dtype=np.int32), np.array([[2.0, 1.0]], dtype=np.float32)
    history = make_sequences([[1]])
    with pytest.raises(ConfigError, match="k must be"):
        rerank(ids, scores, histories=history, k=0)
    for wrong in (scores[:, :1], scores[0]):
        with pytest.raises(ShapeError, match="item_ids and scores"):
            rerank(ids, wrong, histories=history, k=1)
    with pytest.raises(ShapeError, match="2 users"):
        rerank(ids, scores, histories=make_sequences([[], []]), k=1)
    with pytest.raises(ShapeError, match="C at least 1"):
        rerank(ids[:, :0], scores[:, :0], histories=history, k=1)
    with pytest.raises(DataError, match="candidates run from 1 to 9, expected 0 to 8"):
        rerank(np.array([[1, 9]]), scores, histories=history, k=1)
    with pytest.raises(DataError, match="histories run from 9 to 9"):
        rerank(ids, scores, histories=make_sequences([[9]]), k=1)
    with pytest.raises(DataError, match="score of item 2 of user 0 is nan"):
        rerank(ids, np.array([[1.0, np.nan]]), histories=history, k=1)


def test_rules_are_a_mask_over_the_items_and_soft_terms(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES + "- {action: filter, where: {item_id: i1}, from: 2024-03-01}\n")
    rules = open_rules(path, ITEMS)
    before, after = (int(datetime(2024, month, 1, tzinfo=UTC).timestamp()) for month in (2, 4))
    assert np.flatnonzero(rules.eligible_items(before)).tolist() == [1, 3, 4, 5, 6, 7]
    assert np.flatnonzero(rules.eligible_items(after)).tolist() == [3, 4, 5, 6, 7]
    soft = rules.soft_rules(None)
    boosts = [(amount, np.flatnonzero(matches).tolist()) for amount, matches in soft.boosts]
    assert boosts == [(0.8, [1, 2, 6, 7]), (-0.5, [3])]
    assert [(position, np.flatnonzero(matches).tolist()) for position, matches in soft.pins] == [
        (2, [3, 5, 8]),
        (2, [7]),
        (7, [4]),
    ]
    with pytest.raises(ConfigError, match=r"rules\.yaml: rule 7 holds for a time only"):
        rules.eligible_items(None)
    assert open_rules(None, ITEMS).eligible_items(None) is None

"""The section of the report on vectors: spread, spectrum, neighbours, probes, sensitivity and a map."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ShapeError
from seqrec_jax.evaluation.representation import vectors as representation
from seqrec_jax.evaluation.representation.probe_tasks import ProbeTasks, item_categories, probe_tasks
from seqrec_jax.evaluation.representation.probes import probe_table
from seqrec_jax.evaluation.representation.similarity import evenly
from seqrec_jax.reporting.sections import Block, Section, bars, curve, points, section, table
from seqrec_jax.reporting.wording import format_count, format_percent
from seqrec_jax.statistics import bootstrap_means

LEAST_USERS = 50
_SHOWN_POINTS = 500
_SHOWN_GROUPS = 6
_NEIGHBOURS = 10
_METRICS = {"accuracy": "accuracy", "auc": "AUC", "r2": "R²"}


class _Spread(NamedTuple):
    """Figures of one set of vectors, without those that compare it with another."""

    effective_rank: Array
    isoscore: Array
    mean_cosine: Array
    uniformity: Array
    dead_dimensions: Array
    explained: Array


_READINGS = {
    "effective_rank": ("effective rank", "how many equally used directions would be as diverse"),
    "isoscore": ("isotropy (IsoScore)", "1 = the variance is the same in all directions, 0 = it is in one"),
    "mean_cosine": ("mean cosine of any two", "near 1: all point the same way"),
    "uniformity": ("uniformity", "less is more even on the sphere; 0 = all point the same way"),
    "dead_dimensions": ("dead dimensions", "coordinates that are the same for all"),
}


def representation_section(
    v_x: Float[np.ndarray, "U D"],
    v_y: Float[np.ndarray, "V1 E"],
    projected: Float[np.ndarray, "U E"],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    attributes: pd.DataFrame | None = None,
    sensitivities: pd.DataFrame | None = None,
    most: int = 5000,
    num_permutations: int = 20,
    seed: int = 0,
) -> Section:
    """The section on the vectors of users and items: geometry and probes, each figure beside that of chance.

    Args:
      v_x: `[U, D]` vectors of the evaluated users; zero vectors, as of users without history, are left out.
      v_y: `[V+1, E]` vectors of the items; items with a zero vector cannot be ranked and are left out.
      projected: `[U, E]` vectors v_xᵀ W, in the space of the items.
      dataset: where the cases come from.
      cases: the evaluated users.
      attributes: further attributes of users, see `probe_tasks`.
      sensitivities: from `sensitivity` for some of these users; None leaves them out.
      most: largest number of users, and of items, that are measured; they are taken evenly.
      num_permutations: number of permutations of the labels of each probe.
      seed: of permutations, folds, resamples and Gaussian vectors.

    Returns:
      The section; without blocks where fewer than 50 users have a vector.

    Raises:
      ShapeError: vectors that are not one a user or item, or have fewer than two dimensions.
    """
    v_x, v_y, projected = (np.asarray(v) for v in (v_x, v_y, projected))
    _check_shapes(v_x, v_y, projected, dataset, cases)
    real, rankable = np.flatnonzero(np.any(v_x != 0, axis=1)), np.flatnonzero(np.any(v_y != 0, axis=1))
    if len(real) < LEAST_USERS or len(rankable) < 2:
        summary = f"Only {len(real)} users and {len(rankable)} items have a vector: too few to measure."
        return section("representation", "What the vectors know", summary, [])
    users, items = real[evenly(len(real), most=most)], rankable[evenly(len(rankable), most=most)]
    key = jax.random.key(seed)
    spreads = [_spread(v) for v in (v_x[users], _like(v_x[users], key), v_y[items], _like(v_y[items], key))]
    tasks = probe_tasks(dataset, cases, users=users, attributes=attributes)
    options = {"num_permutations": num_permutations, "seed": seed}
    probes = probe_table(v_x[users], tasks.labels, types=tasks.types, **options)
    next_items = cases.target_items[cases.target_offsets[users]]
    pairs = _pair_figures(projected[users], v_y[next_items])
    found = item_categories(dataset)
    categories = None if found is None else pd.Series(found[1][items])
    blocks = [
        _spread_table(spreads, v_x.shape[1], v_y.shape[1]),
        _pair_table(pairs),
        _neighbour_table(v_x[users], v_y[items], tasks, categories, seed=seed),
        _spectrum_curve(spreads),
        *_probe_blocks(probes, tasks),
        *([] if sensitivities is None else [_sensitivity_table(sensitivities, spreads[0], seed=seed)]),
        _map("Map of users by their next category", v_x[users], tasks.labels.get("next category")),
        _map("Map of items by category", v_y[items], categories, names=dataset.items["item_id"].to_numpy()[items - 1]),
    ]
    summary = " ".join([_spread_words(spreads, v_x.shape[1]), _pair_words(pairs), _probe_words(probes)])
    summary += f" From {format_count(len(users))} users and {format_count(len(items))} items."
    return section("representation", "What the vectors know", summary, blocks)


def _check_shapes(
    v_x: np.ndarray, v_y: np.ndarray, projected: np.ndarray, dataset: Dataset, cases: EvaluationCases
) -> None:
    for name, array, rows in (
        ("v_x", v_x, len(cases.users)),
        ("v_y", v_y, dataset.num_items + 1),
        ("projected", projected, len(cases.users)),
    ):
        if array.ndim != 2 or len(array) != rows or array.shape[1] < 2:
            raise ShapeError(f"{name} has shape {array.shape}, expected ({rows}, 2 or more)")
    if projected.shape[1] != v_y.shape[1]:
        raise ShapeError(f"projected has shape {projected.shape} and v_y {v_y.shape}, expected the same width")


def _like(v: np.ndarray, key: Array) -> np.ndarray:
    return np.asarray(representation.gaussian_like(jnp.asarray(v), key=key))


def _spread(v: np.ndarray) -> _Spread:
    spread: _Spread = jax.tree.map(np.asarray, _device_spread(v))
    return spread


@jax.jit
def _device_spread(v: Array) -> _Spread:
    return _Spread(
        effective_rank=representation.effective_rank(v),
        isoscore=representation.isoscore(v),
        mean_cosine=representation.mean_cosine(v),
        uniformity=representation.uniformity(v),
        dead_dimensions=representation.dead_dimensions(v),
        explained=representation.spectrum(v).explained,
    )


def _spread_table(spreads: list[_Spread], user_width: int, item_width: int) -> Block:
    rows: list[list[Any]] = [["dimensions", user_width, user_width, item_width, item_width, ""]]
    for field, (name, reading) in _READINGS.items():
        rows.append([name, *(getattr(spread, field).item() for spread in spreads), reading])
    columns = ["figure", "users", "users, no structure", "items", "items, no structure", "reading"]
    note = "no structure: Gaussian vectors of the same number and width"
    return table("How the vectors spread", columns, rows, note=note)


class _Pairs(NamedTuple):
    """Alignment of users with their next items, and with randomly reassigned items."""

    number: int
    alignment: float
    shuffled: float


def _pair_figures(users: np.ndarray, next_items: np.ndarray) -> _Pairs:
    both = np.any(users != 0, axis=1) & np.any(next_items != 0, axis=1)
    if not both.any():
        return _Pairs(0, float("nan"), float("nan"))
    arrays = jnp.asarray(users[both]), jnp.asarray(next_items[both])
    figures = representation.alignment(*arrays), representation.shuffled_alignment(*arrays)
    return _Pairs(int(both.sum()), *(float(figure) for figure in figures))


def _pair_table(pairs: _Pairs) -> Block:
    rows = [
        ["mean cosine", 1 - pairs.alignment / 2, 1 - pairs.shuffled / 2, pairs.number],
        ["alignment (mean squared distance)", pairs.alignment, pairs.shuffled, pairs.number],
    ]
    columns = ["figure", "own next item", "another user's next item", "pairs"]
    note = "between projected users and items at length 1; the scores of the model also depend on the lengths"
    return table("Users and the items that came next", columns, rows, note=note)


def _neighbour_table(
    users: np.ndarray, items: np.ndarray, tasks: ProbeTasks, categories: pd.Series | None, *, seed: int
) -> Block:
    compared = [("users", name, users, tasks.labels.get(name)) for name in ("last category", "next category")]
    rows = []
    for whose, name, vectors, labels in [*compared, ("items", "category", items, categories)]:
        known = np.zeros(0, dtype=bool) if labels is None else labels.notna().to_numpy()
        if known.sum() <= _NEIGHBOURS:
            continue
        codes = pd.factorize(labels[known])[0].astype(np.int32)
        shares = representation.neighbourhood_consistency(
            jnp.asarray(vectors[known]), jnp.asarray(codes), k=_NEIGHBOURS
        )
        interval = bootstrap_means(np.asarray(shares)[:, None], seed=seed, num_resamples=1000)
        cell = {name: float(values[0]) for name, values in interval._asdict().items()}
        rows.append(
            [whose, name, cell, float(representation.shuffled_consistency(jnp.asarray(codes))), int(known.sum())]
        )
    columns = ["vectors", "label", "share of neighbours with the same", "shuffled labels", "vectors with a label"]
    note = f"of the {_NEIGHBOURS} nearest by cosine" if rows else "items have no category"
    return table("Whether neighbours are of a kind", columns, rows, note=note)


def _spectrum_curve(spreads: list[_Spread]) -> Block:
    series = [
        {"name": name, "x": np.arange(1, len(spread.explained) + 1), "y": np.cumsum(spread.explained)}
        for name, spread in zip(("users", "users, no structure", "items", "items, no structure"), spreads, strict=True)
    ]
    return curve(
        "Spectrum",
        x_label="directions, the widest first",
        y_label="share of the variance",
        series=series,
        note="the faster a line rises, the fewer directions carry the vectors",
    )


def _probe_blocks(probes: pd.DataFrame, tasks: ProbeTasks) -> list[Block]:
    rows, gains = [], []
    for task, probe in probes.iterrows():
        chance = max(probe["constant"], probe["permuted"])
        cell = {"mean": probe["value"], "low": probe["low"], "high": probe["high"]}
        figures = [probe[name] for name in ("constant", "permuted", "control", "selectivity", "gain")]
        rows.append([task, _METRICS[probe["metric"]], cell, *figures, probe["examples"], probe["classes"] or "number"])
        gains.append({"name": task, **{name: (value - chance) / (1 - chance) for name, value in cell.items()}})
    columns = [
        "task", "figure", "probe", "no vectors", "permuted labels", "control task", "selectivity", "gain", "users",
        "classes",
    ]  # fmt: skip
    note = (
        "Linear probes, cross-validated. Control task: a random label for each last item, which a probe can only "
        "memorise; selectivity is the figure minus that of the control task. Gain: the share of the distance between "
        "chance and perfection."
    )
    if tasks.left_out:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in tasks.left_out.items())
        note += f" Left out: {reasons}."
    blocks = [table("What a linear probe predicts from v_x", columns, rows, note=note)]
    if gains:
        label = "gain: 0 = chance, 1 = everything"
        blocks.append(bars("What v_x knows", label, sorted(gains, key=lambda row: -row["mean"])))
    return blocks


def _sensitivity_table(sensitivities: pd.DataFrame, users: _Spread, *, seed: int) -> Block:
    interval = bootstrap_means(sensitivities, seed=seed, num_resamples=1000)
    apart = 1 - users.mean_cosine.item()
    rows = []
    for name, mean, low, high in zip(sensitivities.columns, *interval, strict=True):
        cell = {"mean": mean, "low": low, "high": high}
        rows.append([name, cell, mean / apart if apart > 0 else None, int(sensitivities[name].notna().sum())])
    columns = ["change", "cosine distance of v_x before and after", "as a share of that of two users", "users"]
    note = f"two users are {apart:.3f} apart on average"
    return table("How far a changed history moves v_x", columns, rows, note=note)


def _map(title: str, vectors: np.ndarray, labels: pd.Series | None, *, names: np.ndarray | None = None) -> Block:
    """At most 500 of the vectors on their first two principal components, the most frequent labels as groups."""
    plane = representation.two_dimensional_map(jnp.asarray(vectors))
    shown = evenly(len(vectors), most=_SHOWN_POINTS)
    places, explained = np.asarray(plane.points)[shown], np.asarray(plane.explained)
    if labels is None:
        title, labels = title.partition(" by ")[0], pd.Series(["all"] * len(vectors))
    texts = labels.astype(object).iloc[shown].reset_index(drop=True)
    largest = list(texts.value_counts().index[:_SHOWN_GROUPS])
    texts = texts.where(texts.isin(largest), "other or none").astype(str)
    groups = []
    for name in [*map(str, largest), "other or none"]:
        member = (texts == name).to_numpy()
        if member.any():
            group = {"name": name, "x": places[member, 0], "y": places[member, 1]}
            groups.append(group if names is None else {**group, "labels": names[shown][member]})
    x_label, y_label = (
        f"component {place} ({format_percent(share)} of the variance)"
        for place, share in enumerate(explained.tolist(), start=1)
    )
    note = f"{len(shown)} of {format_count(len(vectors))}, principal components of all of them"
    return points(title, x_label=x_label, y_label=y_label, groups=groups, note=note)


def _spread_words(spreads: list[_Spread], width: int) -> str:
    users, chance = spreads[:2]
    dead = users.dead_dimensions.item()
    words = (
        f"The {width} dimensions of v_x are used like {users.effective_rank.item():.0f} equal ones "
        f"({chance.effective_rank.item():.0f} without structure)"
    )
    return words + (f", {dead} of them are dead." if dead else ", none is dead.")


def _pair_words(pairs: _Pairs) -> str:
    if not pairs.number:
        return "No user has a next item that the model can rank."
    own, other = 1 - pairs.alignment / 2, 1 - pairs.shuffled / 2
    return f"A user and their own next item have a cosine of {own:.2f}, a user and another user's one of {other:.2f}."


def _probe_words(probes: pd.DataFrame) -> str:
    if not len(probes):
        return "No linear probe of v_x had enough labels."
    chance = probes[["constant", "permuted"]].max(axis=1)
    above = int((probes["low"] > chance).sum())
    words = f"A linear probe of v_x predicts {above} of {len(probes)} labels better than chance"
    if not above:
        return words + "."
    best = probes.loc[probes["gain"].idxmax()]
    return (
        f"{words}, best of all {best.name}: {_METRICS[best['metric']]} {best['value']:.2f} against "
        f"{best['constant']:.2f} without vectors and {best['permuted']:.2f} with permuted labels."
    )

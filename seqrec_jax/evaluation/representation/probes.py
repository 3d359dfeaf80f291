"""Linear probes: how well a linear function of v_x predicts a property of the user, compared with chance.

A probe is fitted in closed form on some users and judged on the others: linear discriminant analysis for classes,
ridge regression for numbers. (Regression onto one-hot classes would hide classes that lie between others, such as a
middle price band.) Each figure comes with that of a constant guess, that of permuted labels, and that of a control task
with a random label for each type, such as the user's last item, which measures what a probe can memorise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.settings import check_value

_BLOCK_ELEMENTS = 2**21
"""Entries of one block of resamples × examples."""

Figure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(truth `[N]`, predicted `[N]`, weights `[R, N]`) to `[R]` figures."""


class Probe(NamedTuple):
    """Cross-validated figures of a probe.

    Attributes:
      metric: "accuracy" (three classes and more), "auc" (two classes) or "r2" (a number).
      value: the figure over all examples, each predicted by a probe that was fitted without its fold.
      low: lower end of the bootstrap interval over the examples, with the fitted probes unchanged.
      high: upper end.
      constant: figure of the best constant guess: the share of the most frequent class, 0.5 or 0.
      permuted: mean figure of the same procedure with labels permuted within the folds.
      p_value: share of the permutations that reach the value, the data counted as one of them.
      control: figure of the control task; nan without types.
      examples: N, number of examples.
      classes: number of classes, 0 for a number.
    """

    metric: str
    value: float
    low: float
    high: float
    constant: float
    permuted: float
    p_value: float
    control: float
    examples: int
    classes: int

    @property
    def selectivity(self) -> float:
        """Value minus control: the part of the figure that memorising types does not explain."""
        return self.value - self.control


def fit_probe(
    vectors: Float[np.ndarray, "N D"],
    labels: Shaped[np.ndarray, " N"],
    *,
    types: Shaped[np.ndarray, " N"] | None = None,
    folds: int = 5,
    ridge: float = 0.01,
    num_permutations: int = 20,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Probe:
    """Cross-validated figure of a linear probe.

    Inputs are standardised by the examples that the probe is fitted on. Folds are stratified by class, or by the range
    of a number. Time grows with `folds · (num_permutations + 2) · N · D · classes`, so draw a few thousand examples
    from a larger set.

    Args:
      vectors: `[N, D]` floating point.
      labels: `[N]` floats are numbers, all other dtypes are classes. None may be missing.
      types: `[N]` values, each of which gets a random label in the control task; None for no control task.
      folds: number of parts that are predicted in turn, at least 2.
      ridge: above 0, added to the variances of the inputs, which are 1 after standardising.
      num_permutations: number of permutations of the labels, at least 1.
      num_resamples: number of resamples of the examples for the interval, at least 100.
      confidence: level of the interval, in (0, 1).
      seed: of folds, permutations, control labels and resamples.

    Returns:
      The probe's figures.

    Raises:
      ShapeError: shapes that do not match.
      DataError: fewer than 2 · folds examples, values that are not finite, or labels that are all the same.
      ConfigError: an option out of range.

    Source:
      Alain and Bengio (2017), Understanding intermediate layers using linear classifier probes; Hewitt and Liang
      (2019), Designing and interpreting probes with control tasks.

    >>> labels = np.arange(40) > 15
    >>> probe = fit_probe(labels[:, None].astype(float), labels)
    >>> probe.metric, probe.value, probe.constant
    ('auc', 1.0, 0.5)
    """
    check_value("folds", folds, "[2, inf)")
    check_value("ridge", ridge, "(0, inf)")
    check_value("num_permutations", num_permutations, "[1, inf)")
    check_value("num_resamples", num_resamples, "[100, inf)")
    check_value("confidence", confidence, "(0, 1)")
    check_value("seed", seed, "[0, inf)")
    vectors, truth, classes = _checked(vectors, labels, folds)
    metric = {0: "r2", 2: "auc"}.get(classes, "accuracy")
    random = np.random.default_rng(seed)
    in_fold = _folds(truth, folds, random)
    labellings = [truth, *(_permuted(truth, in_fold, random) for _ in range(num_permutations))]
    if types is not None:
        if np.shape(types) != truth.shape:
            raise ShapeError(f"types have shape {np.shape(types)}, labels {truth.shape}; expected one an example")
        codes, distinct = pd.factorize(np.asarray(types))
        labellings.append(random.choice(truth, size=len(distinct) + 1)[codes])
    predicted = _predictions(vectors, np.stack(labellings), in_fold, classes=classes, ridge=ridge)
    figure, everybody = _FIGURES[metric], np.ones((1, len(truth)))
    values = np.array([figure(*pair, everybody)[0] for pair in zip(labellings, predicted, strict=True)])
    permuted = values[1 : 1 + num_permutations]
    resampled = [figure(truth, predicted[0], counts) for counts in _resamples(len(truth), num_resamples, random)]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.concatenate(resampled), [tail, 1 - tail])
    return Probe(
        metric=metric,
        value=float(values[0]),
        low=float(low),
        high=float(high),
        constant={0: 0.0, 2: 0.5}.get(classes, float(np.unique(truth, return_counts=True)[1].max() / len(truth))),
        permuted=float(permuted.mean()),
        p_value=float((1 + np.sum(permuted >= values[0])) / (1 + num_permutations)),
        control=float("nan") if types is None else float(values[-1]),
        examples=len(truth),
        classes=classes,
    )


def probe_table(
    vectors: Float[np.ndarray, "N D"], labels: pd.DataFrame, *, types: np.ndarray | None = None, **options: Any
) -> pd.DataFrame:
    """A probe for each column of labels; examples without a label in a column are left out for that column.

    With labels of another task or shop (the age of users, whether they came back) it measures how well the frozen
    vectors transfer.

    Args:
      vectors: `[N, D]` floating point.
      labels: N rows in the order of the vectors; columns of numbers are numbers, all others (categories, texts, truth
        values) are classes.
      types: `[N]` for the control task, see `fit_probe`.
      **options: of `fit_probe`.

    Returns:
      One row a column (index `task`): the fields of `Probe`, `selectivity`, and `gain`, the share of the distance
      between chance and perfection: (value - chance) / (1 - chance), with chance the larger of `constant` and
      `permuted`.

    Raises:
      ShapeError: labels that are not one row a vector.
      DataError: a column whose labels `fit_probe` refuses; the message names it.
    """
    if len(labels) != len(vectors):
        raise ShapeError(f"there are labels for {len(labels)} examples and {len(vectors)} vectors; expected a row each")
    rows = {}
    for name in labels.columns:
        known = labels[name].notna().to_numpy()
        values = labels[name][known]
        if is_number(values):
            values = values.to_numpy(dtype=np.float64)
        else:
            values = values.astype(str).to_numpy(dtype=object)
        try:
            probe = fit_probe(vectors[known], values, types=None if types is None else types[known], **options)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        chance = max(probe.constant, probe.permuted)
        gain = (probe.value - chance) / (1 - chance)
        rows[name] = {**probe._asdict(), "selectivity": probe.selectivity, "gain": gain}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*Probe._fields, "selectivity", "gain"])
    return table.rename_axis("task")


def is_number(values: pd.Series) -> bool:
    """Whether a probe treats labels as numbers; truth values are classes."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _checked(vectors: np.ndarray, labels: np.ndarray, folds: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Vectors in float64, labels as numbers or as codes, and the number of classes (0 for numbers)."""
    vectors, labels = np.asarray(vectors, dtype=np.float64), np.asarray(labels)
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise ShapeError(f"vectors have shape {vectors.shape} and labels {labels.shape}, expected [N, D] and [N]")
    if len(labels) < 2 * folds:
        raise DataError(f"there are {len(labels)} examples, at least {2 * folds} are needed for {folds} folds")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise DataError(f"vector {row} has values that are not finite; leave such examples out")
    missing = pd.isna(labels) | (np.isinf(labels) if labels.dtype.kind == "f" else False)
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(f"label {row} is {labels[row]!r}, expected one for each example; leave the others out")
    if labels.dtype.kind == "f":
        if labels.min() == labels.max():
            raise DataError(f"all labels are {labels[0]!r}; there is nothing to distinguish")
        return vectors, labels.astype(np.float64), 0
    codes, distinct = pd.factorize(labels, sort=True)
    if len(distinct) < 2:
        raise DataError(f"all labels are {distinct[0]!r}; there is nothing to distinguish")
    return vectors, codes.astype(np.int64), len(distinct)


def _folds(truth: np.ndarray, folds: int, random: np.random.Generator) -> Int[np.ndarray, " N"]:
    """The fold of each example; neighbours in the order of the labels get different folds, at random."""
    order = random.permutation(len(truth))
    order = order[np.argsort(truth[order], kind="stable")]
    rounds = random.permuted(np.tile(np.arange(folds), (-(-len(truth) // folds), 1)), axis=1).ravel()
    in_fold = np.empty(len(truth), dtype=np.int64)
    in_fold[order] = rounds[: len(truth)]
    return in_fold


def _permuted(truth: np.ndarray, in_fold: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The labels in random order within each fold, which keeps the folds stratified.

    Otherwise a fold with more examples of a class would be predicted by a probe that was fitted on fewer of them, and
    the figure of chance would be too low.
    """
    permuted = np.empty_like(truth)
    permuted[np.argsort(in_fold, kind="stable")] = truth[np.lexsort((random.random(len(truth)), in_fold))]
    return permuted


def _predictions(
    vectors: np.ndarray, labellings: np.ndarray, in_fold: np.ndarray, *, classes: int, ridge: float
) -> Float[np.ndarray, "M N"]:
    """Predictions for each example by probes fitted without its fold, under each of M labellings.

    A prediction is a number, the score of class 1 minus that of class 0 for two classes, or a class.
    """
    predicted = np.empty(labellings.shape)
    for fold in range(in_fold.max() + 1):
        held_out = in_fold == fold
        mean, deviation = vectors[~held_out].mean(axis=0), vectors[~held_out].std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        fitted, tested = (vectors[~held_out] - mean) / scale, (vectors[held_out] - mean) / scale
        variances = fitted.T @ fitted / len(fitted)
        penalty = ridge * np.eye(len(variances))
        if classes:
            for row, labels in enumerate(labellings[:, ~held_out]):
                scores = _class_scores(fitted, labels, tested, variances, penalty, classes)
                predicted[row, held_out] = scores[:, 1] - scores[:, 0] if classes == 2 else scores.argmax(axis=1)
        else:
            numbers = labellings[:, ~held_out]
            centers = numbers.mean(axis=1, keepdims=True)
            weights = np.linalg.solve(variances + penalty, fitted.T @ (numbers - centers).T / len(fitted))
            predicted[:, held_out] = centers + (tested @ weights).T
    return predicted


def _class_scores(
    fitted: np.ndarray, labels: np.ndarray, tested: np.ndarray, variances: np.ndarray, penalty: np.ndarray, classes: int
) -> Float[np.ndarray, "N C"]:
    """Linear discriminant analysis: log posterior of each class up to a constant, -inf for one without examples."""
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    member = np.zeros((classes, len(fitted)))
    member[labels.astype(np.int64), np.arange(len(fitted))] = 1.0
    means = member @ fitted / np.maximum(counts, 1)[:, None]
    shares = counts / len(fitted)
    within = variances - (means * shares[:, None]).T @ means
    weights = np.linalg.solve(within + penalty, means.T)
    log_shares = np.log(shares, out=np.full(classes, -np.inf), where=shares > 0)
    return tested @ weights + (log_shares - 0.5 * np.sum(means * weights.T, axis=1))


def _accuracy(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ (truth == predicted) / weights.sum(axis=1))


def _r2(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(1 - weights @ (truth - predicted) ** 2 / (weights @ (truth - truth.mean()) ** 2))


def _auc(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the pairs of both classes in the right order, equal scores half; nan where a class has no weight."""
    order = np.argsort(predicted, kind="stable")
    ordered = predicted[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    is_one, weights = truth[order] == 1, weights[:, order]
    ones = np.add.reduceat(weights * is_one, starts, axis=1)
    zeros = np.add.reduceat(weights * ~is_one, starts, axis=1)
    won = np.sum(ones * (np.cumsum(zeros, axis=1) - zeros / 2), axis=1)
    pairs = ones.sum(axis=1) * zeros.sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0))


_FIGURES: dict[str, Figure] = {"accuracy": _accuracy, "auc": _auc, "r2": _r2}


def _resamples(count: int, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks `[R, N]` of the number of times that each example is drawn; their R add up to `resamples`."""
    rows = max(1, min(resamples, _BLOCK_ELEMENTS // count))
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = random.integers(0, count, size=(block, count)) + count * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * count).reshape(block, count).astype(np.float64)

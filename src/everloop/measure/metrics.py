"""Scores, losses per row and influence functions. Knows nothing of margins, versions or frames.

Classification: ``truth`` int64 class indexes [n], ``prediction`` float64 probabilities [n, classes], or int64 decisions
[n] where a metric needs no more (accuracy, F1). Regression: both float64 [n]. Several classes: F1, area and average
precision are means over the classes, each against the rest.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everloop.measure import ranking
from everloop.spec.metric import (
    F1,
    Accuracy,
    AveragePrecision,
    Brier,
    Custom,
    LogLoss,
    MeanAbsoluteError,
    Metric,
    RocAuc,
    RootMeanSquaredError,
    SquaredError,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SMALLEST_PROBABILITY = 1e-7
"""Log loss clips here: answers are 32-bit, so a 0 may be any smaller number. No row costs more than 16.1."""


def score(
    metric: Metric,
    truth: ArrayLike,
    prediction: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    rows: Any = None,
    positive: int = 1,
) -> float:
    """The metric on these rows; NaN where it is not defined (no positive rows for an area).

    ``positive`` is the class that F1, area and average precision look for when there are two. ``rows`` goes to a
    `Custom` function as it is. Sources: the usual definitions; Brier is half the squared distance of the probability
    vectors, (p − y)² for two classes.
    """
    y, p = np.asarray(truth), np.asarray(prediction)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(y) == 0:
        return float("nan")
    match metric:
        case Custom():
            return float(metric.function(y, p, rows))
        case F1():
            return float(np.mean([_f1(*_hits(y, p, k), w) for k in _classes(y, p, positive)]))
        case RocAuc() | AveragePrecision():
            of = ranking.area if isinstance(metric, RocAuc) else ranking.average_precision
            found = [of(y == k, _probabilities(p, k), w) for k in _classes(y, p, positive)]
            told = [each for each in found if not np.isnan(each)]
            return float(np.mean(told)) if told else float("nan")
        case RootMeanSquaredError():
            return float(np.sqrt(np.average(row_loss(metric.companion, y, p), weights=w)))
        case Accuracy():
            return float(1 - np.average(row_loss(metric, y, p), weights=w))
        case _:
            return float(np.average(row_loss(metric, y, p), weights=w))


def row_loss(metric: Metric, truth: ArrayLike, prediction: ArrayLike) -> Floats:
    """The loss of each row, [n], smaller is better: what a metric's ``companion`` is the mean of.

    Log loss in nats, Brier in [0, 1], 0/1 for accuracy (1 = wrong), squared or absolute error in the label's units.
    """
    y, p = np.asarray(truth), np.asarray(prediction)
    losses: Floats
    match metric:
        case LogLoss():
            known = (y >= 0) & (y < p.shape[1])
            chance = np.where(known, p[np.arange(len(y)), np.where(known, y, 0)], 0.0)
            losses = -np.log(np.clip(chance, SMALLEST_PROBABILITY, 1.0))
        case Brier():
            wanted = (np.arange(p.shape[1]) == y[:, None]).astype(np.float64)
            losses = np.sum((p - wanted) ** 2, axis=1) / 2
        case Accuracy():
            losses = (decisions(p) != y).astype(np.float64)
        case SquaredError():
            losses = (_flat(p) - y.astype(np.float64)) ** 2
        case MeanAbsoluteError():
            losses = np.abs(_flat(p) - y.astype(np.float64))
        case _:
            raise ValueError(f"{metric.name} is no mean over rows; use its companion, {metric.companion.name}.")
    return losses


def influence(metric: Metric, truth: ArrayLike, prediction: ArrayLike, *, positive: int = 1) -> Floats:
    """How each row moves the score, [n], summing to 0: n times the derivative by the row's weight.

    sd(influence)/√n is the standard error of the score. Formulas: means loss_i − mean; RMSE (e² − MSE)/(2 RMSE); F1
    (2tp − F·(2tp+fp+fn))/mean(2tp+fp+fn); areas after DeLong. A `Custom` metric has none: bootstrap it.
    """
    y, p = np.asarray(truth), np.asarray(prediction)
    match metric:
        case Custom():
            raise ValueError(f"{metric.name} is a user's function and has no influence; use the bootstrap.")
        case F1():
            parts = [_f1_influence(*_hits(y, p, k)) for k in _classes(y, p, positive)]
        case RocAuc() | AveragePrecision():
            of = ranking.area_influence if isinstance(metric, RocAuc) else ranking.average_precision_influence
            kept = [k for k in _classes(y, p, positive) if not np.isnan(score(metric, y == k, _one_against(p, k)))]
            parts = [of(y == k, _probabilities(p, k)) for k in kept] or [np.zeros(len(y))]
        case RootMeanSquaredError():
            squares = row_loss(metric.companion, y, p)
            mean = float(squares.mean())
            parts = [(squares - mean) / (2 * np.sqrt(mean)) if mean > 0 else np.zeros(len(y))]
        case Accuracy():
            losses = row_loss(metric, y, p)
            parts = [losses.mean() - losses]
        case _:
            losses = row_loss(metric, y, p)
            parts = [losses - losses.mean()]
    mean_of_classes: Floats = np.mean(parts, axis=0)
    return mean_of_classes


def decisions(prediction: ArrayLike) -> Integers:
    """The class decided on for each row, int64 [n]: the most probable, or the decisions themselves."""
    p = np.asarray(prediction)
    decided: Integers = p.astype(np.int64) if p.ndim == 1 else np.argmax(p, axis=1).astype(np.int64)
    return decided


def _classes(y: NDArray[Any], p: NDArray[Any], positive: int) -> list[int]:
    """The classes to look for: the positive one of two, every one of several that occurs."""
    width = p.shape[1] if p.ndim == 2 else int(max(y.max(initial=1), p.max(initial=1))) + 1
    return [positive] if width <= 2 else [k for k in range(width) if np.any(y == k)]


def _probabilities(p: NDArray[Any], k: int) -> Floats:
    chances: Floats = (p[:, k] if p.ndim == 2 else p == k).astype(np.float64)
    return chances


def _one_against(p: NDArray[Any], k: int) -> Floats:
    one = _probabilities(p, k)
    return np.stack([1 - one, one], axis=1)


def _hits(y: NDArray[Any], p: NDArray[Any], k: int) -> tuple[Floats, Floats]:
    """2tp and 2tp + fp + fn of each row."""
    found, wanted = decisions(p) == k, y == k
    twice = 2.0 * (found & wanted)
    return twice, twice + (found ^ wanted)


def _f1(twice: Floats, total: Floats, weights: Floats) -> float:
    below = float(np.sum(weights * total))
    return float(np.sum(weights * twice)) / below if below > 0 else 0.0


def _f1_influence(twice: Floats, total: Floats) -> Floats:
    mean = float(total.mean())
    if mean == 0:
        return np.zeros(len(total))
    influence: Floats = (twice - float(twice.sum() / total.sum()) * total) / mean
    return influence


def _flat(p: NDArray[Any]) -> Floats:
    flat: Floats = (p[:, 0] if p.ndim == 2 else p).astype(np.float64)
    return flat

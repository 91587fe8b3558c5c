"""How good some answers are: the score, the mean loss, and how often they were wrong by kind. Knows no fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.result import Cell
from everloop.measure import metrics
from everloop.spec.metric import Accuracy, AveragePrecision, Metric, RocAuc, RootMeanSquaredError
from everloop.spec.resolve import Resolved

Array = npt.NDArray[Any]


def cell(
    resolved: Resolved, truth: Array, prediction: Array, *, rows: Any = None, threshold: float | None = None
) -> Cell:
    """Of labelled rows: ``truth`` and ``prediction`` as the metrics take them. ``rows`` go to a user's own metric."""
    if not len(truth):
        return Cell(rows=0, score=None, loss=0.0)
    metric = resolved.score
    loss = float(metrics.row_loss(metric.companion, truth, prediction).mean())
    figure = added_up(metric, loss, len(truth))
    if figure is None:
        figure = scored(metric, truth, prediction, rows=rows, positive=positive(resolved))
    return Cell(
        rows=len(truth),
        score=figure if figure is not None and math.isfinite(figure) else None,
        loss=loss,
        errors=errors(resolved, truth, prediction, threshold=threshold),
    )


def scored(metric: Metric, truth: Array, prediction: Array, *, rows: Any = None, positive: int = 1) -> float | None:
    """The declared metric; None where it is not defined."""
    if not len(truth) or (isinstance(metric, RocAuc | AveragePrecision) and len(np.unique(truth)) < 2):
        return None
    value = metrics.score(metric, truth, prediction, rows=rows, positive=positive)
    return float(value) if math.isfinite(value) else None


def added_up(metric: Metric, loss: float, rows: int) -> float | None:
    """The metric of rows with that mean loss; None where it is no function of it."""
    if not rows or (
        metric.companion is not metric and metric.companion != metric and not isinstance(metric, RootMeanSquaredError)
    ):
        return None
    if isinstance(metric, RootMeanSquaredError):
        return math.sqrt(loss)
    return 1 - loss if isinstance(metric, Accuracy) else loss


def moves(metric: Metric, parts: Sequence[tuple[float, int]]) -> list[float]:
    """How each part moves the score of all: the sum of its rows' influences (`measure.metrics.influence`).

    ``parts``: mean loss and rows of each; for a metric that `added_up` knows.
    """
    count = sum(rows for _, rows in parts)
    mean = sum(rows * loss for loss, rows in parts) / max(count, 1)
    apart = [rows * (loss - mean) for loss, rows in parts]
    if isinstance(metric, RootMeanSquaredError):
        return [each / (2 * math.sqrt(mean)) if mean > 0 else 0.0 for each in apart]
    return [-each for each in apart] if isinstance(metric, Accuracy) else apart


def errors(
    resolved: Resolved, truth: Array, prediction: Array, *, threshold: float | None = None
) -> Mapping[str, float]:
    """By kind, as `Cell.errors` says. ``threshold``: from which probability on a row is decided positive."""
    if resolved.task == "regression":
        return {"absolute": float(np.abs(prediction.reshape(-1) - truth).sum())}
    yes = resolved.positive
    if yes is not None and threshold is not None:
        decided = np.where(prediction[:, yes] >= threshold, yes, 1 - yes)
    else:
        decided = metrics.decisions(prediction)
    wrong = decided != truth
    count = float(np.count_nonzero(wrong))
    if yes is None:
        return {"wrong": count}
    missed = float(np.count_nonzero(wrong & (truth == yes)))
    return {"wrong": count, "missed": missed, "false alarm": count - missed}


def together(cells: list[Cell]) -> tuple[float, int, dict[str, float]]:
    """Mean loss, rows and errors of several cells as one."""
    count = sum(each.rows for each in cells)
    total = sum(each.rows * each.loss for each in cells)
    kinds = dict.fromkeys(kind for each in cells for kind in each.errors)
    return total / max(count, 1), count, {kind: sum(each.errors.get(kind, 0.0) for each in cells) for kind in kinds}


def positive(resolved: Resolved) -> int:
    return 1 if resolved.positive is None else resolved.positive

"""How good some answers are: the score, the mean loss, and how often they were wrong by kind. Knows no fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    losses = metrics.row_loss(metric.companion, truth, prediction)
    return Cell(
        rows=len(truth),
        score=scored(metric, truth, prediction, rows=rows, positive=positive(resolved)),
        loss=float(losses.mean()),
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


def errors(
    resolved: Resolved, truth: Array, prediction: Array, *, threshold: float | None = None
) -> Mapping[str, float]:
    """By kind, as `Cell.errors` says. ``threshold``: from which probability on a row is decided positive."""
    if resolved.task == "regression":
        return {"absolute": float(np.abs(prediction.reshape(-1) - truth).sum())}
    decided = metrics.decisions(prediction)
    if resolved.positive is None:
        return {"wrong": float((decided != truth).sum())}
    yes = resolved.positive
    if threshold is not None:
        decided = np.where(prediction[:, yes] >= threshold, yes, 1 - yes)
    missed = float(((truth == yes) & (decided != yes)).sum())
    alarm = float(((truth != yes) & (decided == yes)).sum())
    return {"wrong": missed + alarm, "missed": missed, "false alarm": alarm}


def together(cells: list[Cell]) -> tuple[float, int, dict[str, float]]:
    """Mean loss, rows and errors of several cells as one."""
    count = sum(each.rows for each in cells)
    total = sum(each.rows * each.loss for each in cells)
    kinds = dict.fromkeys(kind for each in cells for kind in each.errors)
    return total / max(count, 1), count, {kind: sum(each.errors.get(kind, 0.0) for each in cells) for kind in kinds}


def positive(resolved: Resolved) -> int:
    return 1 if resolved.positive is None else resolved.positive

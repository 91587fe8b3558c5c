"""What a version was worth on live rows: its loss beside that of the champion it was held against, on rows both answered.

Labels go on coming after a release, so the figure does too. Knows no gates and no policies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from everloop.measure import metrics
from everloop.spec.metric import Metric
from everloop.store.lake import PREDICTIONS, Lake
from everloop.watch.labels import Class, Truth, answers, matured, truths
from everloop.watch.score import DAY_MICROSECONDS, LEAST_BLOCKS

Z = 1.645
LEAST_PAIRS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Loss of the champion of then − loss of the version, mean over the rows: above 0 it was better."""

    loss: str
    value: float
    standard_error: float
    rows: int

    @property
    def shown(self) -> bool:
        return self.value > Z * self.standard_error


def gain(
    lake: Lake,
    truth: Truth,
    metric: Metric,
    *,
    version: int,
    now: datetime,
    classes: Mapping[int, tuple[Class, ...]],
) -> Gain | None:
    """From the version's shadow; None for fewer than a hundred labelled rows that both have answered."""
    if not lake.exists(PREDICTIONS):
        return None
    its = matured(lake, truth, since=None, until=now, arms=("shadow",), versions=[version])
    if its.is_empty():
        return None
    its = its.filter(pl.col("truth").is_not_null()).unique("id", keep="first", maintain_order=True)
    others = [number for number in classes if number != version]
    mine = matured(lake, truth, since=None, until=now, arms=("champion",), versions=others)
    mine = mine.join(its.select("id"), on="id", how="semi").unique("id", keep="first", maintain_order=True)
    its = mine.select("id").join(its, on="id", how="left", maintain_order="left")
    if len(its) < LEAST_PAIRS:
        return None
    y, loss = truths(its, truth), metric.companion
    better = metrics.row_loss(loss, y, answers(mine, truth, classes)) - metrics.row_loss(
        loss, y, answers(its, truth, classes)
    )
    n, off = len(better), better - better.mean()
    error = float(better.std()) / math.sqrt(n)
    days = its["event_time"].dt.epoch("us").to_numpy() // DAY_MICROSECONDS
    blocks = np.bincount(np.unique(days, return_inverse=True)[1], weights=off)
    if len(blocks) >= LEAST_BLOCKS:  # rows of one day are alike
        error = max(error, math.sqrt(len(blocks) / (len(blocks) - 1) * float(np.sum(blocks**2))) / n)
    return Gain(loss=loss.name, value=float(better.mean()), standard_error=error, rows=n)

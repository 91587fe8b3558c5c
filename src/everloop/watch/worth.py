"""What a version was worth on live rows: its loss beside another's on rows that both answered.

Twice: in its own shadow before the release, beside the champion of then; and since the release, beside the champion of
before, which stays in shadow for a while. The first figure is what the release was decided by, and so flatters; the
second is not. Labels go on coming, so both go on changing. Knows no gates and no policies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure import metrics
from everloop.measure.truth import Class
from everloop.spec.metric import Metric
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch.labels import Truth, answers, matured, truths
from everloop.watch.score import DAY_MICROSECONDS, LEAST_BLOCKS

Z = 1.645
LEAST_PAIRS = 100
ASIDE = ("shadow", "former")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Loss of the other − loss of the version, mean over the rows: above 0 it was better."""

    loss: str
    value: float
    standard_error: float
    rows: int

    @property
    def shown(self) -> bool:
        return self.value > Z * self.standard_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Labelled rows of those that answered aside (arms "shadow" and "former"), and of the champion on the same ids."""

    aside: pl.DataFrame
    answered: pl.DataFrame

    def both(
        self, arm: str, aside: int, champions: Sequence[int], since: datetime | None = None
    ) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """The same rows in the same order: of ``aside`` in that arm, and of the champions; None for fewer than a hundred."""
        if self.aside.is_empty() or self.answered.is_empty():
            return None
        its = self.aside.filter((pl.col("arm") == arm) & (pl.col("version") == aside))
        if since is not None:
            its = its.filter(pl.col("event_time") >= moment(since))
        its = its.unique("id", keep="first", maintain_order=True)
        mine = self.answered.filter(pl.col("version").is_in(list(champions)))
        mine = mine.join(its.select("id"), on="id", how="semi").unique("id", keep="first", maintain_order=True)
        its = mine.select("id").join(its, on="id", how="left", maintain_order="left")
        return None if len(its) < LEAST_PAIRS else (its, mine)


def read(lake: Lake, truth: Truth, *, since: datetime | None, now: datetime) -> Rows:
    """Once for all versions. ``since``: rows whose label was due before are left out."""
    nothing = Rows(aside=pl.DataFrame(), answered=pl.DataFrame())
    if not lake.exists(PREDICTIONS):
        return nothing
    aside = matured(lake, truth, since=since, until=now, arms=ASIDE)
    if aside.is_empty():
        return nothing
    aside = aside.filter(pl.col("truth").is_not_null())
    first = aside["event_time"].min()
    if not isinstance(first, datetime):
        return nothing
    due = first + truth.delay - timedelta(microseconds=1)
    answered = matured(lake, truth, since=due, until=now, arms=("champion",))
    if not answered.is_empty():
        answered = answered.join(aside.select("id"), on="id", how="semi")
    return Rows(aside=aside, answered=answered)


def gain(
    rows: Rows, truth: Truth, metric: Metric, *, version: int, classes: Mapping[int, tuple[Class, ...]]
) -> Gain | None:
    """From the version's own shadow; None for fewer than a hundred labelled rows that both have answered."""
    found = rows.both("shadow", version, [number for number in classes if number != version])
    if found is None:
        return None
    its, mine = found
    return _gain(metric, truth, classes, better=its, worse=mine)


def realised(
    rows: Rows,
    truth: Truth,
    metric: Metric,
    *,
    version: int,
    former: int,
    since: datetime,
    classes: Mapping[int, tuple[Class, ...]],
) -> Gain | None:
    """Since the version became champion, beside the ``former`` one in shadow; None for fewer than a hundred such rows."""
    found = rows.both("former", former, [version], since)
    if found is None:
        return None
    its, mine = found
    return _gain(metric, truth, classes, better=mine, worse=its)


def _gain(
    metric: Metric,
    truth: Truth,
    classes: Mapping[int, tuple[Class, ...]],
    *,
    better: pl.DataFrame,
    worse: pl.DataFrame,
) -> Gain:
    y, loss = truths(better, truth), metric.companion
    gained = metrics.row_loss(loss, y, answers(worse, truth, classes)) - metrics.row_loss(
        loss, y, answers(better, truth, classes)
    )
    days = better["event_time"].dt.epoch("us").to_numpy() // DAY_MICROSECONDS
    return Gain(loss=loss.name, value=float(gained.mean()), standard_error=_error(gained, days), rows=len(gained))


def _error(gained: npt.NDArray[np.float64], days: npt.NDArray[np.int64]) -> float:
    n, off = len(gained), gained - gained.mean()
    error = float(gained.std()) / math.sqrt(n)
    blocks = np.bincount(np.unique(days, return_inverse=True)[1], weights=off)
    if len(blocks) >= LEAST_BLOCKS:  # rows of one day are alike
        error = max(error, math.sqrt(len(blocks) / (len(blocks) - 1) * float(np.sum(blocks**2))) / n)
    return error

"""What can be said of a champion beyond its score: how far labels cover its rows, which rows they miss, what the score is
likely to be where labels are not due yet. Advice for people; nothing is decided on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure import estimate, metrics
from everloop.measure.estimate import Calibration, Estimate
from everloop.measure.truth import Class, class_name
from everloop.spec.metric import Metric
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch.labels import DRAWN, Truth, answers, matured, truths, unfit_labels
from everloop.watch.recent import newest

REACH = timedelta(days=28)
MOST_ROWS = 20_000
SPARSE = 0.5
"""Below this share of labelled rows, coverage is said aloud."""
SELECTED, SELECTED_Z = 1.2, 4.0
"""From so many times as often on, and beyond chance, labelled rows are called a selection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """``words`` hold all of it in sentences."""

    version: int
    unfit: int = 0
    """Labels that were reported and are none: neither of two classes, or no number where one is predicted."""
    coverage: float | None = None
    """The share of the rows that are due that have a label."""
    selected: dict[str, float] = field(default_factory=dict)
    """What was decided → how many times as often it stands among the labelled rows as among all that are due."""
    calibration: Calibration | None = None
    estimated: Estimate | None = None
    """The score of the newest rows whose label is not due yet, were the probabilities true."""
    words: tuple[str, ...] = ()


def advise(
    lake: Lake,
    truth: Truth,
    metric: Metric,
    *,
    version: int,
    since: datetime,
    now: datetime,
    positive: int = 1,
    classes: tuple[Class, ...] = (),
) -> Advice:
    """Of the champion ``version`` since it serves, at most four weeks back."""
    begin = max(since, now - REACH - truth.delay)
    order = {version: classes or truth.classes}
    due = matured(lake, truth, since=begin + truth.delay, until=now, versions=[version])
    words: list[str] = []
    unfit = unfit_labels(lake, truth, since=begin, now=now)
    if unfit:
        wanted = " nor ".join(class_name(each) for each in truth.classes)
        words.append(
            f"{unfit:,} reported value{'s' if unfit > 1 else ''} of {truth.column!r} "
            f"{'are' if unfit > 1 else 'is'} {f'neither {wanted}' if wanted else 'no number'} and counted for nothing; report "
            "them again as they should be"
        )
    coverage: float | None = None
    found: dict[str, float] = {}
    held: Calibration | None = None
    score: float | None = None
    if len(due):
        labelled = due.filter(pl.col("truth").is_not_null())
        coverage = len(labelled) / len(due)
        if coverage < SPARSE:
            words.append(f"labels cover {coverage:.0%} of the {len(due):,} rows that are due")
        found = _selected(due, labelled, truth, order)
        words += [
            f"of the labelled, predicted {name} is {_often(times)}: the score may not be that of all rows"
            for name, times in found.items()
        ]
        if len(labelled) and truth.task != "regression":
            y, p = truths(labelled, truth), answers(labelled, truth, order)
            held = estimate.calibration(y, p)
            score = metrics.score(metric, y, p, positive=positive)
    estimated = None
    if truth.task != "regression":
        waiting = _waiting(lake, truth, order, version=version, since=max(begin, now - truth.delay), now=now)
        estimated = None if waiting is None else estimate.expected(metric, waiting, positive=positive)
    if estimated is not None and held is not None:
        if held.holds:
            beside = f", {score:.4g} where labels came" if score is not None else ""
            words.append(
                f"estimated without labels: {metric.name} {estimated.value:.4g} ± {estimated.standard_error:.2g} on "
                f"{estimated.rows:,} rows that are not due yet{beside}; an estimate decides nothing"
            )
        else:
            estimated = None
            words.append(
                f"no estimate without labels: probabilities are off by {held.gap:.1%} on {held.rows:,} labelled rows"
            )
    elif estimated is not None:
        estimated = None  # nobody knows whether the probabilities hold
    return Advice(
        version=version,
        unfit=unfit,
        coverage=coverage,
        selected=found,
        calibration=held,
        estimated=estimated,
        words=tuple(words),
    )


def _often(times: float) -> str:
    return f"over-represented {times:.1f}×" if times > 1 else f"under-represented, {times:.2f} of its share"


def _selected(due: pl.DataFrame, labelled: pl.DataFrame, truth: Truth, order: Any) -> dict[str, float]:
    """What was decided and stands among the labelled rows far more or less often than among all."""
    if truth.task == "regression" or not len(labelled) or len(labelled) == len(due):
        return {}
    all_, some = (answers(each, truth, order).argmax(axis=1) for each in (due, labelled))
    # Of two classes one says it all: that of which there are more than there should be.
    told = {}
    for place, name in enumerate(truth.classes):
        times, z = estimate.over_represented(some == place, all_ == place)
        if abs(z) >= SELECTED_Z and (times >= SELECTED or times <= 1 / SELECTED):
            told[str(name).lower() if isinstance(name, bool) else str(name)] = times
    if len(truth.classes) == 2 and len(told) == 2:
        first = max(told, key=lambda each: told[each])
        return {first: told[first]}
    return told


def _waiting(
    lake: Lake, truth: Truth, order: Any, *, version: int, since: datetime, now: datetime
) -> npt.NDArray[np.float64] | None:
    """The probabilities of rows whose label is not due yet, the newest ones."""
    known = [name for name in lake.schema(PREDICTIONS) if name.startswith("p_") and name[2:].isdigit()]
    if not known:
        return None
    where = (
        (pl.col("event_time") > moment(since))
        & (pl.col("event_time") <= moment(now))
        & (pl.col("version") == version)
        & pl.col("arm").is_in(list(DRAWN))
        & ~pl.col("error")
    )
    rows = newest(lake, PREDICTIONS, since=since, columns=["event_time", "version", *known], where=where).collect()
    return answers(rows.sort("event_time").tail(MOST_ROWS), truth, order)

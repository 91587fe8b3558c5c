"""Is the champion worse than it was? Its score on matured labels against what it once reached. Knows no triggers.

Only worsening counts, and only worsening that chance does not explain: the difference must reach the declared ``by``
and stay above zero by several of its own standard errors. A fresh fall shows in few rows, a slow one only in many: so
the newest rows are looked at in four windows, each half as long as the one before, and the share of false alarms is
divided among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.clock import instant
from everloop.measure import metrics
from everloop.spec.metric import AveragePrecision, Custom, Metric, RocAuc

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ALPHA = 0.001
"""The chance that one look at an unchanged champion says "worse" for noise alone, over all its windows: looks are many.
"""
BEST_ALPHA = 0.01
REFERENCE_ALPHA = 0.05
"""The reference's own noise is one draw for as long as the champion serves: it is not asked anew at every look."""
WINDOWS = 4
LEAST_ROWS = 100
"""Fewer labelled rows than this say nothing about a score."""
LEAST_BLOCKS = 7
DAY_MICROSECONDS = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A score with its uncertainty. Instants are the first and last event time of its rows."""

    value: float
    standard_error: float
    rows: int
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the champion once reached. ``rows`` behind it; None: a bound that already allows for its own noise."""

    value: float
    rows: int | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The window in which the champion looks worst. ``difference`` is positive when it is worse."""

    score: float
    reference: float
    difference: float
    standard_error: float
    noise: float
    """What the difference must exceed to be more than chance."""
    by: float
    """The least difference that counts, in the score's own units."""
    rows: int
    since: datetime
    until: datetime
    worse: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Labelled rows of one version, oldest first: truth and prediction as the metrics take them, times in µs."""

    truth: npt.NDArray[Any]
    prediction: Floats
    times: Integers

    def newest(self, rows: int) -> Judged:
        return Judged(truth=self.truth[-rows:], prediction=self.prediction[-rows:], times=self.times[-rows:])

    def __len__(self) -> int:
        return len(self.truth)


def score(metric: Metric, judged: Judged, *, positive: int = 1) -> Scored | None:
    """The score of these rows; None for fewer than a hundred or where the metric is not defined.

    The standard error is the larger one of rows taken as independent and, from seven days on, of days taken as
    blocks: √(G/(G−1)·Σ_days(Σψ)²)/n (docs/statistics.md).
    """
    if len(judged) < LEAST_ROWS:
        return None
    if isinstance(metric, RocAuc | AveragePrecision) and len(np.unique(judged.truth)) < 2:
        return None
    value = metrics.score(metric, judged.truth, judged.prediction, positive=positive)
    if not math.isfinite(value):
        return None
    return Scored(
        value=value,
        standard_error=_standard_error(metric, judged, positive),
        rows=len(judged),
        since=instant(int(judged.times[0])),
        until=instant(int(judged.times[-1])),
    )


def _standard_error(metric: Metric, judged: Judged, positive: int) -> float:
    n = len(judged)
    if isinstance(metric, Custom):
        return _bootstrapped(metric, judged)
    influence = metrics.influence(metric, judged.truth, judged.prediction, positive=positive)
    error = float(influence.std()) / math.sqrt(n)
    days = judged.times // DAY_MICROSECONDS
    blocks = np.bincount(days - days[0], weights=influence)
    count = len(np.unique(days))
    if count >= LEAST_BLOCKS:
        error = max(error, math.sqrt(count / (count - 1) * float(np.sum(blocks**2))) / n)
    return error


def _bootstrapped(metric: Metric, judged: Judged, draws: int = 100) -> float:
    random = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        chosen = random.integers(0, len(judged), len(judged))
        found.append(metrics.score(metric, judged.truth[chosen], judged.prediction[chosen]))
    return float(np.std(found, ddof=1))


def bound(metric: Metric, scored: Scored) -> float:
    """A value that the true score is no worse than, but for one chance in a hundred."""
    slack = NormalDist().inv_cdf(1 - BEST_ALPHA) * scored.standard_error
    return scored.value - slack if metric.greater_is_better else scored.value + slack


def better(metric: Metric, one: float, other: float) -> float:
    return max(one, other) if metric.greater_is_better else min(one, other)


def said(metric: Metric, scored: Scored | None, reference: Reference) -> str:
    """Whether the score is hurt, in words, as far as labels have matured: by more than two standard errors."""
    if scored is None:
        return "too few labels have matured to say whether the score is hurt"
    fall = (reference.value - scored.value) * (1 if metric.greater_is_better else -1)
    word = "is hurt" if fall > 2 * scored.standard_error else "is not hurt so far"
    labels = f"{scored.rows:,} labels of rows until {scored.until:%Y-%m-%d %H:%M}"
    return f"the score {word}: {metric.name} {scored.value:.4g} on {labels}, {reference.value:.4g} {reference.source}"


def degradation(
    metric: Metric, judged: Judged, reference: Reference, *, by: float, positive: int = 1
) -> Degradation | None:
    """The champion's newest rows against the reference; None while there are too few rows to say anything."""
    whole = score(metric, judged, positive=positive)
    if whole is None:
        return None
    z = NormalDist().inv_cdf(1 - ALPHA / WINDOWS)
    spread = whole.standard_error * math.sqrt(whole.rows)
    # No more rows than it takes to see a difference of ``by``: older ones only dilute what is new.
    longest = min(len(judged), max(2 * LEAST_ROWS, math.ceil((z * spread / by) ** 2)))
    worst: Degradation | None = None
    margin = -math.inf
    for part in range(WINDOWS):
        scored = score(metric, judged.newest(max(longest >> part, 1)), positive=positive)
        if scored is None:
            continue
        found = _compared(metric, scored, reference, by, spread, z)
        if found.difference - found.noise > margin:
            worst, margin = found, found.difference - found.noise
    return worst


def _compared(metric: Metric, scored: Scored, reference: Reference, by: float, spread: float, z: float) -> Degradation:
    fall = reference.value - scored.value
    difference = fall if metric.greater_is_better else -fall
    of_reference = 0.0 if reference.rows is None else spread / math.sqrt(max(reference.rows, 1))
    noise = math.hypot(z * scored.standard_error, NormalDist().inv_cdf(1 - REFERENCE_ALPHA) * of_reference)
    worse = difference >= by and difference > noise
    verdict = "is worse than" if worse else "holds against"
    because = (
        f"{metric.name} {scored.value:.4g} on {scored.rows:,} matured rows {verdict} {reference.value:.4g} "
        f"({reference.source}): {abs(difference):.3g} {'worse' if difference > 0 else 'better'}, "
        f"noise {noise:.2g}, limit {by:.3g}"
    )
    return Degradation(
        score=scored.value,
        reference=reference.value,
        difference=difference,
        standard_error=math.hypot(scored.standard_error, of_reference),
        noise=noise,
        by=by,
        rows=scored.rows,
        since=scored.since,
        until=scored.until,
        worse=worse,
        because=because,
    )

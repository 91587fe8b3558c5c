"""When has a column moved further than chance and habit explain? Thresholds from an alarm budget, never from folklore.

Knows nothing of where profiles come from or what follows an alarm. The budget is one false alarm day in
``false_alarm_every``, shared by all columns and windows. With fewer than 28 quiet days the thresholds are analytic,
true for independent rows only, with a high floor, and marked uncalibrated; from 28 days on they come from the history
itself (docs/statistics.md). Not covered: trends, holidays, changes of the mix between columns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, kolmogi, ndtri, stdtrit

from everloop.measure.distance import ks, psi
from everloop.measure.profile import ColumnComparison, Profile, compare

__all__ = [
    "Calibration",
    "ColumnAlarm",
    "alarms",
    "calibrate",
    "false_alarm_chance",
    "ks",
    "ks_threshold",
    "psi",
    "psi_threshold",
    "share_threshold",
]

CALIBRATION_DAYS = 28
"""Quiet days, counted before they are split into halves, from which thresholds may be calibrated."""
FLOOR = 0.1
"""The least debiased PSI worth an alarm, about a third of a standard deviation."""
FLOOR_UNCALIBRATED = 0.2
FLOOR_SHARE = 0.05
"""The least rise of a missing or new share worth an alarm: five points."""
DAY = timedelta(days=1)
EULER = 0.5772156649015329


def false_alarm_chance(false_alarm_every: timedelta, windows_per_day: float, signals: int) -> float:
    """What each signal of each window may spend, so that all of them together keep the budget."""
    days = false_alarm_every / DAY
    return min(0.5, 1.0 / max(days * windows_per_day * signals, 2.0))


def psi_threshold(chance: float, bins: int, rows: int, reference_rows: int) -> float:
    """χ²_{bins−1}(1 − chance)·(1/n + 1/m), for independent rows; at least thirty rows a bin.

    >>> round(psi_threshold(1 / (90 * 10 * 30), 10, 1_000, 10**9), 3)
    0.036
    """
    return float(chdtri(max(bins - 1, 1), chance)) * _noise(rows, reference_rows)


def ks_threshold(chance: float, rows: int, reference_rows: int) -> float:
    """Kolmogorov(1 − chance)·√(1/n + 1/m), for independent rows.

    >>> round(ks_threshold(1 / (90 * 10 * 30), 1_000, 10**9), 3)
    0.074
    """
    return float(kolmogi(chance)) * math.sqrt(_noise(rows, reference_rows))


def share_threshold(chance: float, share: float, rows: int, reference_rows: int) -> float:
    """The rise of a share (missing, new values) that independent rows exceed with ``chance``."""
    pooled = max(share, 1.0 / max(rows, 1))
    return float(-ndtri(chance)) * math.sqrt(pooled * (1 - min(pooled, 1.0)) * _noise(rows, reference_rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What quiet history says about each column's restlessness. JSON through `everloop.records.encode`."""

    scales: dict[str, float]
    """Mean PSI of each column on quiet days, shrunk halfway to the mean of all."""
    threshold: float
    """Alarm when PSI / scale is above it in both of two consecutive windows."""
    days: int


def calibrate(
    quiet: ArrayLike, columns: Sequence[str], *, windows_per_day: int, false_alarm_every: timedelta
) -> Calibration | None:
    """Thresholds from quiet history: PSI [windows, columns] of the later half against a reference of the earlier half.

    None below 14 days (half of 28). Scales are fitted on other days than the maxima they scale (odd against even):
    the same days for both give many times the budget. The threshold is a Gumbel quantile of the logarithms of the
    daily maxima widened by Student's t, or with enough days simply the largest.
    """
    x = np.asarray(quiet, dtype=np.float64)
    days = len(x) // windows_per_day
    if days < CALIBRATION_DAYS // 2 or x.shape[1] == 0:
        return None
    x = x[len(x) - days * windows_per_day :]
    # Two consecutive windows must both be over, so the smaller of the two is what is calibrated.
    pairs = np.minimum(x, np.vstack([x[:1], x[:-1]])).reshape(days, windows_per_day, -1)
    by_day = x.reshape(days, windows_per_day, -1)
    odd = np.arange(days) % 2 == 1
    maxima = np.empty(days)
    for fold in (odd, ~odd):
        maxima[fold] = np.max(pairs[fold] / _scales(by_day[~fold]), axis=(1, 2))
    budget = false_alarm_every / DAY
    if days >= budget - 1:
        threshold = float(np.max(maxima))
    else:
        logs = np.log(np.maximum(maxima, 1e-12))
        gumbel = (-math.log(-math.log(1 - 1 / budget)) - EULER) / (math.pi / math.sqrt(6))
        widened = float(stdtrit(days - 1, 1 - 1 / budget)) / float(ndtri(1 - 1 / budget)) * math.sqrt(1 + 1 / days)
        threshold = math.exp(float(logs.mean()) + float(logs.std(ddof=1)) * gumbel * widened)
    return Calibration(
        scales=dict(zip(columns, _scales(by_day).tolist(), strict=True)), threshold=threshold, days=2 * days
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnAlarm:
    column: str
    signal: Literal["distribution", "missing", "new values"]
    value: float
    limit: float
    calibrated: bool
    because: str


def alarms(
    reference: Profile,
    windows: Sequence[Profile],
    *,
    false_alarm_every: timedelta,
    windows_per_day: float,
    calibration: Calibration | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[ColumnAlarm, ...]:
    """The columns that are over their limit in both of the last two windows, furthest first.

    ``windows`` are profiles built `like` the reference, oldest first; fewer than two raise no alarm. ``columns``
    restricts the watch, and with it the number of signals that share the budget.
    """
    if len(windows) < 2:
        return ()
    before, now = ({each.column: each for each in compare(reference, window)} for window in windows[-2:])
    watched = [name for name in now if name in before and (columns is None or name in columns)]
    signals = sum(2 if now[name].kind == "number" else 3 for name in watched)
    # Both windows must be over: each may spend the root of what the pair may.
    chance = math.sqrt(false_alarm_chance(false_alarm_every, windows_per_day, max(signals, 1)))
    raised: list[ColumnAlarm] = []
    for name in watched:
        earlier = {alarm.signal for alarm in _over(before[name], chance, calibration)}
        raised += [alarm for alarm in _over(now[name], chance, calibration) if alarm.signal in earlier]
    return tuple(sorted(raised, key=lambda each: each.limit / max(each.value, 1e-12)))


def _over(seen: ColumnComparison, chance: float, calibration: Calibration | None) -> list[ColumnAlarm]:
    """Every signal of one column in one window that is over its limit."""
    found: list[ColumnAlarm] = []
    if seen.rows > 0 and seen.bins > 1:
        limit, calibrated = _psi_limit(seen, chance, calibration)
        if seen.psi > limit:
            distance = "" if seen.ks is None else f", KS {seen.ks:.3f}"
            habit = "" if calibrated else ", uncalibrated"
            found.append(
                ColumnAlarm(
                    column=seen.column,
                    signal="distribution",
                    value=seen.psi,
                    limit=limit,
                    calibrated=calibrated,
                    because=f"{seen.column} moved: PSI {seen.psi:.3f} (limit {limit:.3f}{habit}{distance})",
                )
            )
    shares: tuple[tuple[Literal["missing", "new values"], float, float], ...] = (
        ("missing", seen.missing, seen.reference_missing),
        ("new values", seen.new, seen.reference_new),
    )
    for signal, share, usual in shares:
        limit = usual + max(FLOOR_SHARE, share_threshold(chance, usual, max(seen.rows, 1), seen.reference_rows))
        if share > limit:
            found.append(
                ColumnAlarm(
                    column=seen.column,
                    signal=signal,
                    value=share,
                    limit=limit,
                    calibrated=False,
                    because=f"{seen.column}: {share:.1%} {signal}, {usual:.1%} in training (limit {limit:.1%})",
                )
            )
    return found


def _psi_limit(seen: ColumnComparison, chance: float, calibration: Calibration | None) -> tuple[float, bool]:
    expected = (seen.bins - 1) * _noise(seen.rows, seen.reference_rows)
    if calibration is not None and seen.column in calibration.scales:
        return max(calibration.threshold * calibration.scales[seen.column], FLOOR + expected), True
    analytic = psi_threshold(chance, seen.bins, seen.rows, seen.reference_rows)
    return max(analytic, FLOOR_UNCALIBRATED + expected), False


def _scales(by_day: NDArray[np.float64]) -> NDArray[np.float64]:
    means = by_day.mean(axis=(0, 1))
    scales: NDArray[np.float64] = np.maximum((means + means.mean()) / 2, 1e-9)
    return scales


def _noise(rows: int, reference_rows: int) -> float:
    return 1 / max(rows, 1) + 1 / max(reference_rows, 1)

"""When has a column moved further than chance and habit explain? Thresholds from an alarm budget, never from folklore.

Knows nothing of where profiles come from or what follows an alarm. The budget is one false alarm day in
``false_alarm_every``, shared by all columns and windows. Without 28 quiet days the thresholds are analytic, true for
independent rows only, with a high floor, and marked uncalibrated; with them they come from the history itself
(`measure.calibration`, docs/statistics.md). Not covered: trends, holidays, changes of the mix between columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from scipy.special import chdtri, kolmogi, ndtri

from everloop.measure.calibration import DAY, Calibration, calibrate
from everloop.measure.comparison import ColumnComparison, compare
from everloop.measure.distance import ks, psi
from everloop.measure.profile import NOVEL, Profile

__all__ = [
    "Calibration",
    "ColumnAlarm",
    "Signal",
    "alarms",
    "calibrate",
    "expected_psi",
    "false_alarm_chance",
    "ks",
    "ks_threshold",
    "over",
    "psi",
    "psi_threshold",
    "share_threshold",
    "signals",
]

CALIBRATION_DAYS = 28
"""Quiet days from which thresholds may be calibrated."""
FLOOR = 0.1
"""The least debiased PSI worth an alarm, about a third of a standard deviation."""
FLOOR_UNCALIBRATED = 0.2
FLOOR_SHARE = 0.05
"""The least rise of a missing or new share worth an alarm: five points."""
USUAL_OUTLIERS = 0.005
"""What lies beyond a quarter of a percent at either end, when nothing has changed."""
FLOOR_NOVEL = 0.02
"""The least rise of the share of rows that are unlike anything in training: two points are news."""
Kind = Literal["distribution", "missing", "new values", "outliers", "novel rows"]


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
class ColumnAlarm:
    column: str
    signal: Kind
    value: float
    limit: float
    calibrated: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One thing that is watched of one column, in one window. JSON through `everloop.records.encode`."""

    column: str
    kind: Kind
    psi: float
    """Of the distribution; of missing against present, of new against known. 0 where a share fell: no harm in that."""
    bins: int
    rows: int
    reference_rows: int
    share: float = 0.0
    usual: float = 0.0
    ks: float | None = None
    jensen_shannon: float = 0.0
    wasserstein: float | None = None
    chi_square: float = 0.0
    freedom: int = 0
    clumping: float = 1.0
    """How many rows count as one, at least 1."""

    @property
    def name(self) -> str:
        """How calibrations know it: the column, or the column with what is counted of it."""
        return self.column if self.kind == "distribution" else f"{self.column} ({self.kind})"


def signals(
    compared: Sequence[ColumnComparison],
    *,
    columns: Sequence[str] | None = None,
    clumping: Mapping[str, float] | None = None,
    missing_clumping: Mapping[str, float] | None = None,
) -> tuple[Signal, ...]:
    """Everything that is watched in one window; ``columns`` restricts it.

    ``clumping``: how many rows of a column count as one (1 where it is not named), for its values and for whether they are
    there.
    """
    of_values, of_missing = clumping or {}, missing_clumping or {}
    found: list[Signal] = []
    for seen in compared:
        if columns is not None and (seen.of or seen.column) not in columns:
            continue
        rows, then = seen.rows, seen.reference_rows
        moved = seen.psi if rows > 0 and seen.bins > 1 else 0.0
        found.append(
            Signal(
                column=seen.column,
                kind="distribution",
                psi=moved,
                bins=seen.bins,
                rows=rows,
                reference_rows=then,
                ks=seen.ks,
                jensen_shannon=seen.jensen_shannon,
                wasserstein=seen.wasserstein,
                chi_square=seen.chi_square,
                freedom=seen.freedom,
                clumping=of_values.get(seen.column, 1.0),
            )
        )
        shares: list[tuple[Kind, float, float]] = [("missing", seen.missing, seen.reference_missing)]
        if seen.kind == "category":
            shares.append(("new values", seen.new, seen.reference_new))
        elif seen.novel is not None:
            shares.append(("novel rows", seen.novel, NOVEL))
        elif rows:
            shares.append(("outliers", seen.outliers, USUAL_OUTLIERS))
        for kind, share, usual in shares:
            of = max(seen.total if kind == "missing" else rows, 1)
            risen = psi([usual * then, (1 - usual) * then], [share * of, (1 - share) * of]) if share > usual else 0.0
            found.append(
                Signal(
                    column=seen.column,
                    kind=kind,
                    psi=risen,
                    bins=2,
                    rows=of,
                    reference_rows=then,
                    share=share,
                    usual=usual,
                    clumping=(of_missing if kind == "missing" else of_values).get(seen.column, 1.0),
                )
            )
    return tuple(found)


def expected_psi(seen: Signal) -> float:
    """What independent rows without any change give on average."""
    return (seen.bins - 1) * _noise(seen.rows, seen.reference_rows)


def smallest_shift(seen: Signal, calibration: Calibration | None) -> float | None:
    """By how many standard deviations a number must move so that a window says so 95 times in 100; None where unknown.

    PSI of a normal number that moves by δ is about δ². What days do by themselves, √(habit − noise), is on the alarm's side
    or against it: the limit must be passed with 1.64 of that to spare. So a restless column can be told nothing small, by
    whatever rule: thousands of rows of a day are one draw of its mood.
    """
    if calibration is None or seen.kind != "distribution" or seen.ks is None or seen.name not in calibration.scales:
        return None
    noise, habit = expected_psi(seen), calibration.scales[seen.name]
    limit = max(calibration.threshold * habit, FLOOR + noise)
    return math.sqrt(limit - noise) + 1.645 * math.sqrt(max(0.0, habit - noise))


def over(seen: Signal, chance: float, calibration: Calibration | None) -> ColumnAlarm | None:
    """The alarm of one signal in one window, if it is over its limit."""
    habit = calibration.scales.get(seen.name) if calibration is not None else None
    if seen.kind == "distribution":
        expected = expected_psi(seen)
        if calibration is not None and habit is not None:
            limit = max(calibration.threshold * habit, FLOOR + expected)
        else:
            analytic = psi_threshold(chance, max(seen.bins, 2), seen.rows, seen.reference_rows) * seen.clumping
            limit = max(analytic, FLOOR_UNCALIBRATED + expected * seen.clumping)
        size = seen.psi
        distance = "" if seen.ks is None else f", KS {seen.ks:.3f}"
        if seen.wasserstein is not None:
            distance += f", {seen.wasserstein:.2f} standard deviations on average"
        marked = "" if habit is not None else ", uncalibrated"
        because = f"{seen.column} moved: PSI {seen.psi:.3f} (limit {limit:.3f}{marked}{distance})"
    else:
        floor = FLOOR_NOVEL if seen.kind == "novel rows" else FLOOR_SHARE
        if calibration is not None and habit is not None:
            rise = floor if seen.psi > calibration.threshold * habit else 1.0
        else:
            rise = share_threshold(chance, seen.usual, seen.rows, seen.reference_rows) * math.sqrt(seen.clumping)
        size, limit = seen.share, seen.usual + max(floor, rise)
        because = f"{seen.column}: {size:.1%} {seen.kind}, {seen.usual:.1%} in training (limit {limit:.1%})"
    if size <= limit:
        return None
    return ColumnAlarm(
        column=seen.column,
        signal=seen.kind,
        value=size,
        limit=limit,
        calibrated=habit is not None,
        because=because,
    )


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
    before, now = (signals(compare(reference, window), columns=columns) for window in windows[-2:])
    # Both windows must be over: each may spend the root of what the pair may.
    chance = math.sqrt(false_alarm_chance(false_alarm_every, windows_per_day, max(len(now), 1)))
    return in_both(before, now, chance, calibration)


def in_both(
    before: Sequence[Signal], now: Sequence[Signal], chance: float, calibration: Calibration | None
) -> tuple[ColumnAlarm, ...]:
    """What is over its limit in two windows running, furthest first. ``chance``: what each window may spend."""
    earlier = {each.name for each in before if over(each, chance, calibration) is not None}
    raised = [found for each in now if each.name in earlier and (found := over(each, chance, calibration)) is not None]
    return tuple(sorted(raised, key=lambda each: each.limit / max(each.value, 1e-12)))


def _noise(rows: int, reference_rows: int) -> float:
    return 1 / max(rows, 1) + 1 / max(reference_rows, 1)

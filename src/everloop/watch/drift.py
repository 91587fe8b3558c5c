"""Do requests still look like the rows the champion learned from? Windows of requests against its profile.

A window is a whole week unless the declaration says otherwise, because weekdays differ by nature, and longer where it
brings too few rows. Two windows running must agree. The limits come from an alarm budget (``measure.drift``): from the
loop's own quiet windows as soon as there are 28 days of them (``watch.history``), before that from formulas that allow
for columns that clump: the rain of a day is one draw, however many rows of that day carry it. Knows no triggers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np

from everloop.measure import drift as measure
from everloop.measure import habit, season
from everloop.measure.calibration import Calibration
from everloop.measure.carried import Carried, carried
from everloop.measure.comparison import compare
from everloop.measure.drift import ColumnAlarm, Signal
from everloop.measure.profile import ColumnProfile, Profile
from everloop.records import Signature
from everloop.spec.policy import span
from everloop.spec.retrain import Drift
from everloop.store.lake import Lake
from everloop.watch import history, windows
from everloop.watch.history import History
from everloop.watch.observed import Observed, observe
from everloop.watch.windows import Window

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftedColumn:
    column: str
    measure: str
    """distribution (PSI), or the share of missing, new values or outliers."""
    size: float
    limit: float
    because: str
    calibrated: bool = False
    carried: tuple[Carried, ...] = ()
    """The rows that carry it: shares of bins or values then and now."""
    distances: dict[str, float] = field(default_factory=dict)
    """The same change by other measures: ks, jensen_shannon (bits), wasserstein (standard deviations), chi_square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """What two windows running say. ``columns`` is empty when nothing drifted."""

    columns: tuple[DriftedColumn, ...]
    since: datetime
    until: datetime
    rows: int
    """In the newer of the two windows."""
    score: str = ""
    """What the matured labels of that time say, in words."""
    limits: str = ""
    """How the limits came about, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """Of one trigger: where the present window began, the two last full ones, what was seen in the newest."""

    opened: datetime
    closed: tuple[Window, ...] = ()
    signals: tuple[Signal, ...] = ()
    """Of the newest of them, against the profile of the version ``compared``."""
    largest: float = 0.0
    column: str | None = None
    compared: int | None = None
    """The version whose profile the closed windows were last held against."""
    season: str = ""
    """The season of that profile, if it is allowed for."""
    found: Drifted | None = None
    """What the last two windows said; holds until the next window closes."""
    history: History = field(default_factory=History)
    borrowed: int | None = None
    """The version whose training days stand in ``history``."""
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()
    """What is to be said of how the newest window was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """Whom requests are held against: the champion's number, columns and profile."""

    version: int
    signature: Signature
    profile: Profile
    trained_until: datetime | None = None
    """Windows that began before are its own training rows in part, and no evidence of how restless columns are."""


class Requests(Protocol):
    """What came to be answered, in windows: from the log of servers, from their sketches, from a replayed history."""

    def closed(self, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
        """As `windows.closed`."""
        ...

    def observed(self, window: Window, against: Against, reference: Profile) -> Observed:
        """As `observed.observe`, with the champion's own answers."""
        ...

    def signals(self, seen: Observed, reference: Profile, trigger: Drift) -> tuple[Signal, ...]:
        """As `signals_of`, of what `observed` has given."""
        ...


@dataclass(frozen=True, slots=True)
class Logged:
    """Requests as servers logged them."""

    lake: Lake

    def closed(self, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
        return windows.closed(self.lake, opened, length, now)

    def observed(self, window: Window, against: Against, reference: Profile) -> Observed:
        return observe(self.lake, window, against.signature, reference, champion=against.version)

    def signals(self, seen: Observed, reference: Profile, trigger: Drift) -> tuple[Signal, ...]:
        return signals_of(reference, seen, trigger)


def advance(requests: Requests, trigger: Drift, state: DriftState, against: Against, now: datetime) -> DriftState:
    """Close every window that is full by ``now``, and say what each two running say. Costs the new rows alone."""
    fresh = requests.closed(state.opened, trigger.window, now)
    changed = state.compared != against.version
    if not fresh and not (changed and state.closed):
        return state
    reference = against.profile
    if trigger.season == "none" or (trigger.season != "detect" and trigger.season != reference.season):
        reference = replace(reference, season="")
    seen = state.signals
    observed: Observed | None = None

    def measured(window: Window) -> tuple[Signal, ...]:
        nonlocal observed, state
        observed = requests.observed(window, against, reference)
        found = requests.signals(observed, reference, trigger)
        moved = [each for each in found if each.kind == "distribution"]
        top = max(moved, key=lambda each: each.psi, default=None)
        state = replace(
            state, largest=top.psi if top else 0.0, column=top.column if top else None, notes=observed.notes
        )
        return found

    kept = state.history
    if state.season != reference.season:
        kept = History()  # Numbers against another kind of reference say nothing of these.
        state = replace(state, borrowed=None)
    if changed:
        kept = history.answered(kept)
        here = [measured(each) for each in state.closed]
        state = replace(state, found=None)
        if len(here) == 2:
            state = replace(state, found=_said(trigger, state, here[0], here[1], state.closed, reference, observed))
        seen = here[-1] if here else ()
    raised: Drifted | None = None
    for window in fresh:
        following = measured(window)
        if state.borrowed != against.version and observed is not None:
            kept = _with_trained(kept, reference, window, observed.profile.rows)
            made = history.calibrated(kept, false_alarm_every=trigger.false_alarm_every)
            state = replace(state, borrowed=against.version, calibration=made)
        if state.calibration is None:
            following = history.allowed(kept, following)
        both = (*state.closed, window)[-2:]
        said = _said(trigger, state, seen, following, both, reference, observed) if len(both) == 2 else None
        raised = said if said is not None and (said.columns or raised is None or not raised.columns) else raised
        if against.trained_until is None or window.since >= against.trained_until:
            alarmed = said is not None and bool(said.columns)
            days = len(kept.days)
            kept = history.added(
                kept, window, following, seen, alarmed=alarmed, false_alarm_every=trigger.false_alarm_every
            )
            if len(kept.days) != days or not state.calibration:
                made = history.calibrated(kept, false_alarm_every=trigger.false_alarm_every)
                state = replace(state, calibration=made)
        seen = following
        state = replace(state, closed=both, opened=window.until)
    return replace(
        state,
        signals=seen,
        history=kept,
        compared=against.version,
        season=reference.season,
        found=raised if fresh and raised is not None else state.found,
    )


def _with_trained(kept: History, reference: Profile, window: Window, rows: int) -> History:
    """The history with what windows like this one would have shown on the champion's training days."""
    length = max(window.until - window.since, timedelta(microseconds=1))
    until = int(window.since.timestamp() // DAY.total_seconds())
    found = habit.blocks(reference, rows=rows, a_day=DAY / length, until=until)
    if found is None:
        return history.begun(kept, (), np.zeros((0, 0)), np.zeros((0, 0)), ())
    days = [EPOCH + day * DAY for day in found.days]
    return history.begun(kept, found.signals, found.means, found.peaks, days)


def _said(
    trigger: Drift,
    state: DriftState,
    before: Sequence[Signal],
    now: Sequence[Signal],
    both: Sequence[Window],
    reference: Profile,
    observed: Observed | None,
) -> Drifted:
    """What two windows running say about one trigger."""
    per_day = timedelta(days=1) / max(both[-1].until - both[-1].since, timedelta(microseconds=1))
    # Not the root of it for each of the two: without a history nobody knows how much the two resemble each other.
    chance = measure.false_alarm_chance(trigger.false_alarm_every, per_day, max(len(now), 1))
    assert observed is not None
    alarms = measure.in_both(before, now, chance, state.calibration)
    named = {each.column: reference.columns[each.column] for each in alarms}
    then = season.expected(replace(reference, columns=named), observed.weights).columns if alarms else {}
    known = {(each.column, each.kind): each for each in now}
    return Drifted(
        columns=tuple(_column(alarm, known[alarm.column, alarm.signal], then, observed) for alarm in alarms),
        since=both[0].since,
        until=both[-1].until,
        rows=observed.profile.rows,
        limits=limits(trigger, state),
    )


def _column(alarm: ColumnAlarm, signal: Signal, then: Mapping[str, ColumnProfile], observed: Observed) -> DriftedColumn:
    """An alarm with the rows that carry it."""
    rows: tuple[Carried, ...] = ()
    distances: dict[str, float] = {}
    before, now = then[alarm.column], observed.profile.columns[alarm.column]
    if alarm.signal in ("distribution", "new values"):
        rows = carried(before, now, observed.newcomers.get(alarm.column, ()))
    if alarm.signal == "distribution":
        given = {
            "ks": signal.ks,
            "jensen_shannon": signal.jensen_shannon,
            "wasserstein": signal.wasserstein,
            "chi_square": signal.chi_square,
            "degrees_of_freedom": float(signal.freedom),
        }
        distances = {name: round(value, 6) for name, value in given.items() if value is not None}
    by = f"; {', '.join(map(str, rows))}" if rows else ""
    return DriftedColumn(
        column=alarm.column,
        measure=alarm.signal,
        size=alarm.value,
        limit=alarm.limit,
        because=alarm.because + by,
        calibrated=alarm.calibrated,
        carried=rows,
        distances=distances,
    )


def signals_of(reference: Profile, seen: Observed, trigger: Drift) -> tuple[Signal, ...]:
    """Everything that a trigger watches in one window, against the reference for the window's hours."""
    compared = compare(season.expected(reference, seen.weights), seen.profile)
    return measure.signals(compared, columns=trigger.columns, clumping=seen.values, missing_clumping=seen.missing)


def limits(trigger: Drift, state: DriftState) -> str:
    """How the limits of a trigger came about, in words."""
    budget = f"at most one false alarm in {trigger.false_alarm_every / timedelta(days=1):g} days"
    apart = history.left_out(state.history)
    without = f", {apart} left out because they alarmed" if apart else ""
    if state.calibration is None:
        more = history.needed(state.history)
        return f"uncalibrated, {more} more quiet days are needed{without}; meant for {budget}"
    held = f" of the same {'hour' if state.season == 'day' else 'hour and weekday'}" if state.season else ""
    trained = history.trained(state.history)
    own = f"{state.calibration.days - trained} quiet windows or days of its own"
    days = f"{own} and {trained} that it was trained on" if trained else own
    return f"from {days}{without}, held against rows{held}; {budget}"


def _finds(state: DriftState) -> str | None:
    """How small a shift of its numbers the limits can tell from the moods of days, in words; None before they are known."""
    sizes = [(size, each.column) for each in state.signals if (size := measure.smallest_shift(each, state.calibration))]
    if not sizes:
        return None
    (least, calm), (most, restless) = min(sizes), max(sizes)
    if len(sizes) == 1:
        return f"a shift of {calm} from {least:.2f} standard deviations on is found"
    return f"shifts are found from {least:.2f} ({calm}) to {most:.2f} ({restless}) standard deviations on"


def described(trigger: Drift, state: DriftState) -> dict[str, Any]:
    """The monitor's state for people and machines: windows, limits and where they come from."""
    chosen = state.calibration
    nearest = sorted(
        (
            {
                "signal": each.name,
                "size": each.psi,
                "limit": chosen.threshold * chosen.scales[each.name] if chosen and each.name in chosen.scales else None,
                "finds": measure.smallest_shift(each, chosen),
            }
            for each in state.signals
        ),
        key=lambda each: -float(str(each["size"])),
    )
    return {
        "window": span(trigger.window) if isinstance(trigger.window, timedelta) else f"{trigger.window:,} rows",
        "season": state.season or None,
        "closed": state.closed[-1].until.isoformat() if state.closed else None,
        "calibrated": chosen is not None,
        "quiet_days": len(history.quiet(state.history)) - history.trained(state.history),
        "trained_days": history.trained(state.history),
        "left_out": history.left_out(state.history),
        "threshold": chosen.threshold if chosen else None,
        "limits": limits(trigger, state),
        "finds": _finds(state),
        "largest": nearest[:5],
        "notes": list(state.notes),
        "alarms": [each.because for each in state.found.columns] if state.found else [],
    }

"""When a turn is due. Pure: signals, state and time in, a reason out. Knows nothing of how signals are measured.

A condition uses up what it fired on: a schedule its slot, drift and degradation the rows they were seen in, a row
count the rows it counted. So the same evidence never starts two turns, and a condition that goes on holding fires
again only on rows that came since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from everloop.durable.schedules import ticks
from everloop.records import Evidence
from everloop.spec.retrain import AllOf, AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger
from everloop.watch.drift import Drifted
from everloop.watch.score import Degradation

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """Why a turn should start now. ``because`` is one sentence for a person."""

    because: str
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known at one look. A trigger whose signal is absent does not hold."""

    rows: int = 0
    """Labelled rows that came so far, ever."""
    drift: Mapping[Drift, Drifted] = field(default_factory=dict)
    degraded: Mapping[Degraded, Degradation] = field(default_factory=dict)
    asked: str | None = None
    """Who asked for a turn, if somebody did."""
    busy: bool = False
    """A turn or a release is under way: a schedule that makes up for every missed slot waits for its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerState:
    """What the triggers of one loop remember between looks. JSON through ``records.encode``."""

    began: datetime
    """Schedules count from here."""
    looked: datetime
    rows: int = 0
    """The row count when a turn was last started."""
    used: dict[str, datetime] = field(default_factory=dict)
    """Place of a trigger in the declaration → until when its slots or its evidence are used up."""
    fired: datetime | None = None


def begin(now: datetime, *, rows: int = 0) -> TriggerState:
    """The state before the first look."""
    return TriggerState(began=now, looked=now, rows=rows)


def fired(
    trigger: Trigger,
    signals: Signals,
    state: TriggerState,
    now: datetime,
    *,
    cooldown: timedelta = timedelta(0),
) -> tuple[Fired | None, TriggerState]:
    """What fires at this look, and the state for the next one.

    Within ``cooldown`` after it last fired nothing fires and nothing is used up.
    """
    looked = replace(state, looked=now)
    if state.fired is not None and now < state.fired + cooldown:
        return None, looked
    used = _passed_over(trigger, state, now)
    held = _held(trigger, "", signals, state, now)
    if held is None:
        return None, replace(looked, used=used)
    evidence, using = held
    used |= {place: max(until, used.get(place, until)) for place, until in using.items()}
    because = "; ".join(str(each.detail["because"]) for each in evidence)
    return Fired(because=because, evidence=evidence), replace(looked, rows=signals.rows, used=used, fired=now)


def placed(trigger: Trigger, place: str = "") -> Iterator[tuple[str, Every | Drift | Degraded | Rows | Manual]]:
    """Every single condition with its place, such as "0.1": second part of the first part."""
    if isinstance(trigger, AnyOf | AllOf):
        for index, each in enumerate(trigger.triggers):
            yield from placed(each, f"{place}.{index}" if place else str(index))
    else:
        yield place, trigger


Held = tuple[tuple[Evidence, ...], dict[str, datetime]]


def _held(trigger: Trigger, place: str, signals: Signals, state: TriggerState, now: datetime) -> Held | None:
    match trigger:
        case AnyOf() | AllOf():
            parts = [
                _held(each, f"{place}.{index}" if place else str(index), signals, state, now)
                for index, each in enumerate(trigger.triggers)
            ]
            holding = [part for part in parts if part is not None]
            if not holding or (isinstance(trigger, AllOf) and len(holding) < len(parts)):
                return None
            return (
                tuple(each for evidence, _ in holding for each in evidence),
                {key: until for _, used in holding for key, until in used.items()},
            )
        case Every():
            return _every(trigger, place, signals, state, now)
        case Drift():
            return _drift(signals.drift.get(trigger), place, state)
        case Degraded():
            return _degraded(signals.degraded.get(trigger), place, state)
        case Rows():
            new = signals.rows - state.rows
            if new < trigger.count:
                return None
            return (_said("rows", f"{new:,} new labelled rows came", new, trigger.count),), {}
        case Manual():
            if signals.asked is None:
                return None
            return (_said("asked", f"asked for by {signals.asked}", signals.asked),), {}


def _said(name: str, because: str, value: object, limit: object = None, **detail: object) -> Evidence:
    return Evidence(name=name, value=value, limit=limit, detail={"because": because, **detail})


# Schedules


def _every(trigger: Every, place: str, signals: Signals, state: TriggerState, now: datetime) -> Held | None:
    due = _due(trigger, place, state, now)
    if not due or (trigger.catch_up == "all" and signals.busy):
        return None
    slot = due[0] if trigger.catch_up == "all" else due[-1]
    local = slot.astimezone(ZoneInfo(trigger.time_zone))
    because = f"every {_duration(trigger.period)}: {local:%Y-%m-%d %H:%M} {trigger.time_zone} is due"
    if len(due) > 1:
        others = "one turn for each" if trigger.catch_up == "all" else "one turn for all"
        because += f", {len(due)} slots were missed, {others}"
    return (_said("schedule", because, slot.isoformat(), missed=len(due) - 1),), {place: slot}


def _due(trigger: Every, place: str, state: TriggerState, now: datetime) -> list[datetime]:
    """The slots that are due and not used up, oldest first."""
    due = ticks(trigger, state.used.get(place, state.began), now)
    return [slot for slot in due if slot <= state.looked] if _away(trigger, state, now) else due


def _away(trigger: Every, state: TriggerState, now: datetime) -> bool:
    """Nobody looked for longer than a period, and what was missed meanwhile shall be skipped."""
    return trigger.catch_up == "skip" and now - state.looked > trigger.period


def _passed_over(trigger: Trigger, state: TriggerState, now: datetime) -> dict[str, datetime]:
    """The used-up marks, with the slots that are skipped taken out of the way."""
    used = dict(state.used)
    for place, each in placed(trigger):
        if isinstance(each, Every) and _away(each, state, now):
            used[place] = max([used.get(place, state.began), *ticks(each, state.looked, now)])
    return used


def _duration(period: timedelta) -> str:
    for unit, name in ((DAY, "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if period >= unit and period % unit == timedelta(0):
            count = period // unit
            return f"{name}" if count == 1 else f"{count} {name}s"
    return f"{period.total_seconds():g} seconds"


# Conditions on measured signals


def _drift(found: Drifted | None, place: str, state: TriggerState) -> Held | None:
    if found is None or not found.columns or found.since < state.used.get(place, found.since):
        return None
    evidence = tuple(
        _said(
            "drift",
            f"{each.because}, in two windows running" + (f"; {found.score}" if found.score and later == 0 else ""),
            each.size,
            each.limit,
            column=each.column,
            measure=each.measure,
            rows=found.rows,
            since=found.since.isoformat(),
            until=found.until.isoformat(),
            calibrated=each.calibrated,
            carried=[{"rows": one.rows, "then": round(one.then, 6), "now": round(one.now, 6)} for one in each.carried],
            distances=each.distances,
            score=found.score,
            limits=found.limits,
        )
        for later, each in enumerate(reversed(found.columns))
    )[::-1]
    return evidence, {place: found.until}


def _degraded(found: Degradation | None, place: str, state: TriggerState) -> Held | None:
    if found is None or not found.worse or found.since < state.used.get(place, found.since):
        return None
    return (
        _said(
            "degraded",
            found.because,
            found.difference,
            found.by,
            score=found.score,
            reference=found.reference,
            standard_error=found.standard_error,
            rows=found.rows,
            since=found.since.isoformat(),
            until=found.until.isoformat(),
        ),
    ), {place: found.until}

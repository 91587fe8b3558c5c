"""Which threshold gives a stated budget of false alarms, found by replaying triggers over the history. Pure of rows.

An alarm is false when what it started was of no use: the gate turned the new model back, or the model that it replaced
would have done as well over the windows that the new one served. The first windows are a warm-up and count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from everloop.loop.backtest.result import PolicyRun
from everloop.loop.backtest.run import Backtest
from everloop.spec.detector import Adwin, Ddm, PageHinkley
from everloop.spec.policy import Policy, span, spelled
from everloop.spec.retrain import Degraded, Drift, Trigger, leaves

WARM_UP = 0.15
"""The first part of the windows in which alarms are not counted."""
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One threshold and what came of it."""

    value: float
    alarms: int
    false: int
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One kind of trigger: every threshold that was tried, and the most sensitive one that keeps the budget."""

    name: str
    """Of the threshold, such as ``Degraded.by``."""
    tried: tuple[Tried, ...]
    chosen: float | None
    policy: Policy | None
    words: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "chosen": self.chosen,
            "words": self.words,
            "retrain": None if self.policy is None else spelled(self.policy.retrain),
            "tried": [
                {"value": each.value, "alarms": each.alarms, "false": each.false, "score": each.score}
                for each in self.tried
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    name: str
    values: tuple[float, ...]
    """The most sensitive first."""
    make: Callable[[float], Trigger]


def calibrated(
    running: Backtest, present: Policy, *, budget: timedelta, warm_up: float = WARM_UP
) -> tuple[Calibrated, ...]:
    """Of each kind of trigger with a threshold: those that the loop declares, and the usual ones.

    ``budget``: at most one false alarm in this time, after the warm-up.
    """
    kinds = _kinds(running, present)
    policies = [
        replace(present, retrain=kind.make(value), cooldown=timedelta(0)) for kind in kinds for value in kind.values
    ]
    runs = {each.digest: each for each in running.run(policies)}
    first = int(len(running.grid) * warm_up)
    watched = running.grid.windows[-1].until - running.grid.windows[first].since
    allowed = int(watched / budget)
    found: list[Calibrated] = []
    for kind in kinds:
        made = [replace(present, retrain=kind.make(value), cooldown=timedelta(0)) for value in kind.values]
        tried = tuple(
            _tried(value, runs[policy.digest], first) for value, policy in zip(kind.values, made, strict=True)
        )
        place = _first_that_keeps(tried, allowed)
        found.append(
            Calibrated(
                name=kind.name,
                tried=tried,
                chosen=None if place is None else kind.values[place],
                policy=None if place is None else made[place],
                words=_words(kind.name, tried, place, budget, watched, first),
            )
        )
    return tuple(found)


def _first_that_keeps(tried: Sequence[Tried], allowed: int) -> int | None:
    """The most sensitive from which on, however dull it gets, the budget is kept."""
    kept = None
    for place in reversed(range(len(tried))):
        if tried[place].false > allowed:
            break
        kept = place
    return kept


def _tried(value: float, run: PolicyRun, first: int) -> Tried:
    turns = [each for each in run.retrains if each.window >= first]
    false = sum(each.live is None or (each.paid is not None and each.paid <= 0) for each in turns)
    return Tried(value=value, alarms=len(turns), false=false, score=run.score)


def _words(
    name: str, tried: Sequence[Tried], place: int | None, budget: timedelta, watched: timedelta, first: int
) -> str:
    days = watched / DAY
    said = f"{name}: at most one false alarm in {span(budget)}, counted over {days:,.0f} days after {first} windows of warm-up"
    if place is None:
        last = tried[-1]
        return f"{said}: not kept even at {last.value:g} ({last.false} false of {last.alarms} alarms)"
    chosen = tried[place]
    return f"{said}: {chosen.value:g} ({chosen.false} false of {chosen.alarms} alarms)"


def _kinds(running: Backtest, present: Policy) -> list[_Kind]:
    usual = next(each for policy in running.policies() for each in leaves(policy.retrain) if isinstance(each, Degraded))
    declared = next((each for each in leaves(present.retrain) if isinstance(each, Degraded)), usual)
    by = declared.by
    steps = tuple(float(f"{by * times:.2g}") for times in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0))
    drift = next((each for each in leaves(present.retrain) if isinstance(each, Drift)), Drift())
    days = (7, 14, 28, 56, 112, 224, 448)
    kinds = [
        _Kind(name="Degraded.by", values=steps, make=lambda value: replace(declared, by=value)),
        _Kind(
            name="Drift.false_alarm_every (days)",
            values=tuple(float(each) for each in days),
            make=lambda value: replace(drift, false_alarm_every=timedelta(days=value)),
        ),
    ]
    match declared.detector:
        case Adwin():
            deltas = (0.2, 0.05, 0.02, 0.005, 0.001, 0.0001)
            kinds.append(
                _Kind(name="Adwin.delta", values=deltas, make=lambda v: replace(declared, detector=Adwin(delta=v)))
            )
        case PageHinkley():
            limits = (25.0, 50.0, 75.0, 150.0, 300.0)
            slack = declared.detector.slack
            kinds.append(
                _Kind(
                    name="PageHinkley.threshold",
                    values=limits,
                    make=lambda v: replace(declared, detector=PageHinkley(threshold=v, slack=slack)),
                )
            )
        case Ddm():
            levels = (2.0, 3.0, 4.0, 6.0, 9.0)
            kinds.append(
                _Kind(name="Ddm.level", values=levels, make=lambda v: replace(declared, detector=Ddm(level=v)))
            )
        case _:
            pass
    return kinds

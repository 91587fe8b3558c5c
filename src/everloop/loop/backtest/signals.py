"""What one policy sees at a look, from the labels and rows that are there by then; and whether its trigger fires.

What `watch.look` reads from the lake for production, read from a history: the same scores, bounds and drift states.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime

import numpy as np

from everloop.clock import instant, microseconds
from everloop.loop.backtest.asks import Ask, AskProfile, SeasonAsked
from everloop.loop.backtest.sketches import Replayed
from everloop.loop.backtest.versions import Version
from everloop.loop.backtest.world import MICROSECOND, World
from everloop.loop.fit_job import signature_of
from everloop.spec.policy import Policy
from everloop.spec.retrain import Degraded, Drift, Rows, leaves
from everloop.watch import concept, drift, score, triggers
from everloop.watch.drift import Against, Drifted, DriftState
from everloop.watch.look import LONGEST
from everloop.watch.score import Degradation, Reference
from everloop.watch.triggers import Fired, Signals, TriggerState, placed


class Signalling:
    """The triggers of one policy, and all that they remember."""

    def __init__(self, policy: Policy, world: World) -> None:
        self._policy, self._world = policy, world
        self._trigger = policy.retrain
        self._drifts = [each for each in dict.fromkeys(leaves(self._trigger)) if isinstance(each, Drift)]
        self._degraded = [(place, each) for place, each in placed(self._trigger) if isinstance(each, Degraded)]
        self._counts = any(isinstance(each, Rows) for each in leaves(self._trigger))
        self._state = TriggerState(began=instant(0), looked=instant(0))
        self._states: dict[Drift, DriftState] = {}
        self._best: float | None = None
        self._against: Against | None = None
        self._requests: Replayed | None = None

    def begin(self, start: int) -> None:
        """Schedules, windows and counts begin here."""
        now = instant(start)
        self._state = triggers.begin(now, rows=self._world.due(start) if self._counts else 0)
        self._states = {each: DriftState(opened=now) for each in self._drifts}

    @property
    def _season(self) -> SeasonAsked:
        seasons = {each.season for each in self._drifts} - {"none", "detect"}
        return "detect" if len(seasons) != 1 else "week" if "week" in seasons else "day"

    def wanted(self, fit: str) -> tuple[Ask, ...]:
        """What will be asked about a fit when it serves."""
        return (AskProfile(fit=fit, season=self._season),) if self._drifts else ()

    def champion(self, version: Version, now: int) -> Generator[tuple[Ask, ...], None, None]:
        """A new champion: its own best, and its own training rows to hold requests against."""
        self._best = None
        if not self._drifts:
            return
        yield self.wanted(version.fit)
        wanted = self._season
        self._against = Against(
            version=version.number,
            signature=signature_of(self._world.resolved),
            profile=self._world.fits.profile(version.fit, wanted),
            trained_until=instant(version.fitted_until),
        )
        self._requests = Replayed(self._world.sketches, version.fit, self._world.timeline.place(now))

    def look(self, champion: Version, now: int, *, busy: bool) -> Signals:
        """Everything that the trigger asks about, as known at ``now``: fits were asked when they served."""
        found: dict[Drift, Drifted] = {}
        for each in self._drifts:
            assert self._against is not None
            assert self._requests is not None
            state = drift.advance(self._requests, each, self._states[each], self._against, instant(now))
            self._states[each] = state
            if state.found is not None:
                found[each] = state.found
        worse = self._worse(champion, now) if self._degraded else {}
        return Signals(
            rows=self._world.due(now) if self._counts else 0, drift=found, degraded=worse, busy=busy
        )  # fmt: skip

    def fired(self, signals: Signals, now: int) -> Fired | None:
        fired, self._state = triggers.fired(
            self._trigger, signals, self._state, instant(now), cooldown=self._policy.cooldown
        )
        return fired

    def _worse(self, champion: Version, now: int) -> dict[Degraded, Degradation]:
        """As `watch.look` judges the champion's newest labels."""
        world = self._world
        metric = world.resolved.score
        span = max(each.over or LONGEST for _, each in self._degraded)
        delay = world.delay // MICROSECOND
        until = world.due(now)
        low = self._first(max(now - delay - span // MICROSECOND, champion.since))
        if until > low:
            world.honest(int(world.known_times[until - 1]), now)
        scored = world.scored(champion.fit, low, until) if until > low else None
        if scored is None:
            return {}
        reference = Reference(value=champion.score, rows=champion.taken.test_rows, source="at its gate")
        if self._best is not None and score.better(metric, self._best, champion.score) != champion.score:
            reference = Reference(value=self._best, rows=None, source="reached since its release")
        found: dict[Degraded, Degradation] = {}
        for place, each in self._degraded:
            over = (each.over or LONGEST) // MICROSECOND
            used = self._state.used.get(place)
            after = max(now - delay - over, champion.since if used is None else microseconds(used))
            own = max(low, self._first(after + 1))
            worse = world.degradation(champion.fit, own, until, reference, each.by) if until > own else None
            if (worse is None or not worse.worse) and each.detector is not None:
                worse = self._changed(champion, each, used, now, until) or worse
            if worse is not None:
                found[each] = worse
        bound = score.bound(metric, scored)
        self._best = bound if self._best is None else score.better(metric, self._best, bound)
        return found

    def _changed(
        self, champion: Version, trigger: Degraded, used: datetime | None, now: int, until: int
    ) -> Degradation | None:
        """What a declared detector finds."""
        assert trigger.detector is not None
        world, detector = self._world, trigger.detector
        delay = world.delay
        start = concept.beginning(instant(champion.since), instant(now) - delay, trigger.over or LONGEST)
        low = self._first(microseconds(max(start, used or start)))
        if low >= until:
            return None
        key = ("detector", detector, champion.fit, low, until, trigger.by)
        found: Degradation | None = world.remembered(
            key,
            lambda: concept.degradation(
                world.resolved.score, world.judged(champion.fit, low, until), detector, by=trigger.by
            ),
        )
        return found

    def _first(self, moment: int) -> int:
        """The first known label of an event at or after an instant."""
        return int(np.searchsorted(self._world.known_times, moment, side="left"))

"""One look at a loop: new rows in, signals and release evidence out. Reads the lake; decides nothing.

What a look remembers is small and JSON (`WatchState`). Old rows are not looked at again but for three bounded windows:
the newest month of labels for the score, a day of labels that may still come, and a drift window at the moment it
closes; with a `Recent` for a lake these stay in memory and only what is new is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import polars as pl

from everloop.measure.profile import Profile
from everloop.measure.truth import Class
from everloop.records import Release, ReleaseEvidence, Signature
from everloop.spec.metric import Metric
from everloop.spec.retrain import Degraded, Drift, Rows, Trigger
from everloop.spec.rollout import Canary
from everloop.store.lake import PREDICTIONS, Lake
from everloop.watch import concept, counted, drift, releasing, score
from everloop.watch.drift import Against, Drifted, DriftState, Requests
from everloop.watch.labels import Truth, answers, matured, truths
from everloop.watch.releasing import ReleaseWatch
from everloop.watch.score import Degradation, Judged, Reference, Scored
from everloop.watch.triggers import Signals, TriggerState, placed

LONGEST = timedelta(days=28)
"""How far back a score looks when the declaration names no window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """Who is watched. ``since``: when it became champion; ``score`` and ``test_rows`` are its gate's."""

    version: int
    since: datetime
    score: float
    test_rows: int
    signature: Signature
    profile: Profile
    trained_until: datetime | None = None
    """The end of the rows it has seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What does not change from look to look."""

    truth: Truth
    metric: Metric
    trigger: Trigger
    positive: int = 1
    rollout: Canary | None = None
    """None: released at once, there is nothing to judge."""
    shadow_margin: float | None = None
    classes: Mapping[int, tuple[Class, ...]] = field(default_factory=dict)
    """Version → its order of classes, where it is not ``truth.classes``."""
    also: tuple[tuple[str, Drift | Degraded], ...] = ()
    """What else is asked at each look, by names of its own: for those who are told and start nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """All that looks remember. JSON through ``records.encode``; losing it costs time, not truth."""

    triggers: TriggerState
    drifts: dict[str, DriftState] = field(default_factory=dict)
    """A trigger as it is declared → its windows: declared otherwise, it begins anew."""
    began: datetime | None = None
    """Windows count from here."""
    labelled: int = 0
    """Labelled rows so far; counted where a trigger asks for them."""
    counted: dict[str, int] = field(default_factory=dict)
    """Table → its version up to which they are counted."""
    best: float | None = None
    """What the champion has reached since its release, less its noise."""
    best_of: int | None = None
    release: ReleaseWatch | None = None
    retrain: str = ""
    """The triggers as they were declared at the last look: ``triggers`` knows them by their places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look saw. ``signals`` go to the triggers, ``evidence`` to the judge."""

    signals: Signals
    evidence: ReleaseEvidence | None = None
    score: Scored | None = None
    """The champion's score over the newest month, or the longest declared window."""
    coverage: float | None = None
    """The share of its due rows that have a label."""
    largest_drift: float = 0.0
    """The largest PSI of a column in the last full window."""
    drifted_column: str | None = None
    due: int = 0
    """The champion's rows whose label is due."""
    drift_sizes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Column and what of it (distribution, missing, new) → its PSI in the last full window."""
    also: Mapping[str, Drifted | Degradation] = field(default_factory=dict)
    """What there is to say to ``Watched.also``."""


def begin(now: datetime) -> WatchState:
    """The state before the first look: schedules and windows count from ``now``."""
    return WatchState(triggers=TriggerState(began=now, looked=now), began=now)


def look(
    lake: Lake,
    watched: Watched,
    champion: Champion | None,
    release: Release,
    state: WatchState,
    *,
    now: datetime,
    asked: str | None = None,
    busy: bool = False,
    requests: Requests | None = None,
) -> tuple[Seen, WatchState]:
    """Look once, after `fold.fold`. Pure but for reading the lake: the same state and tables give the same answer.

    ``requests``: where those lie that drift is seen in; None: in the lake.

    The triggers themselves are asked afterwards, with ``triggers.fired(watched.trigger, seen.signals, …)``.
    """
    if any(isinstance(each, Rows) for _, each in placed(watched.trigger)):
        rows, tables = counted.labelled(lake, watched.truth.column, state.labelled, state.counted)
        state = replace(state, labelled=rows, counted=tables)
    signals = Signals(rows=state.labelled, asked=asked, busy=busy)
    seen = Seen(signals=signals)
    logged = lake.exists(PREDICTIONS)
    if champion is not None and (logged or requests is not None):
        drifts, state = _drifts(requests or drift.Logged(lake), watched, champion, state, now)
        widest = max(state.drifts.values(), key=lambda each: each.largest)
        judged = _scores(lake, watched, champion, state, now) if logged else _Scores(state=state)
        degradations, scored, coverage, state = judged.worse, judged.scored, judged.coverage, judged.state
        also: dict[str, Drifted | Degradation] = dict(judged.also)
        for name, asked_also in watched.also:
            if isinstance(asked_also, Drift) and (found := state.drifts[repr(asked_also)].found) is not None:
                also[name] = found
        # A drift stands beside what it has done to the score, as far as labels have matured.
        said = score.said(watched.metric, scored, _reference(watched.metric, champion, state))
        seen = Seen(
            signals=replace(
                signals,
                drift={each: replace(found, score=said) if found.columns else found for each, found in drifts.items()},
                degraded=degradations,
            ),
            score=scored,
            coverage=coverage,
            largest_drift=widest.largest,
            drifted_column=widest.column,
            due=judged.due,
            drift_sizes={(each.column, each.kind): each.psi for one in state.drifts.values() for each in one.signals},
            also=also,
        )
    here, evidence = state.release, None
    if watched.rollout is None:
        here = None
    else:
        told = releasing.Told(
            rollout=watched.rollout,
            truth=watched.truth,
            metric=watched.metric,
            shadow_margin=watched.shadow_margin,
            classes=watched.classes,
        )
        evidence, here = releasing.evidence(lake, told, release, here, now)
    state = replace(state, release=here)
    return replace(seen, evidence=evidence), state


def _drifts(
    requests: Requests, watched: Watched, champion: Champion, state: WatchState, now: datetime
) -> tuple[dict[Drift, Drifted], WatchState]:
    triggers = [each for _, each in placed(watched.trigger) if isinstance(each, Drift)]
    asked = dict.fromkeys([*triggers, *(each for _, each in watched.also if isinstance(each, Drift))])
    against = Against(
        version=champion.version,
        signature=champion.signature,
        profile=champion.profile,
        trained_until=champion.trained_until,
    )
    began = DriftState(opened=state.began or state.triggers.began)
    # Without a trigger the weeks are watched all the same: people want to see how far inputs have moved.
    states = {
        repr(each): drift.advance(requests, each, state.drifts.get(repr(each), began), against, now)
        for each in asked or [Drift()]
    }
    said = {each: found for each in triggers if (found := states[repr(each)].found) is not None}
    return said, replace(state, drifts=states)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    """What the labels say: to the triggers, and to those who ask also."""

    state: WatchState
    worse: dict[Degraded, Degradation] = field(default_factory=dict)
    scored: Scored | None = None
    coverage: float | None = None
    due: int = 0
    also: dict[str, Degradation] = field(default_factory=dict)


def _scores(lake: Lake, watched: Watched, champion: Champion, state: WatchState, now: datetime) -> _Scores:
    triggers = [(place, each) for place, each in placed(watched.trigger) if isinstance(each, Degraded)]
    asked = [(name, each) for name, each in watched.also if isinstance(each, Degraded)]
    span = max([each.over or LONGEST for _, each in (*triggers, *asked)], default=LONGEST)
    delay = watched.truth.delay
    rows = matured(
        lake,
        watched.truth,
        since=max(now - span, champion.since + delay),
        until=now,
        versions=[champion.version],
    )
    if rows.is_empty():
        return _Scores(state=state)
    labelled = rows.filter(pl.col("truth").is_not_null())
    coverage = len(labelled) / len(rows)
    judged = _judged(labelled, watched)
    scored = score.score(watched.metric, judged, positive=watched.positive)
    if scored is None:
        return _Scores(state=state, coverage=coverage, due=len(rows))
    reference = _reference(watched.metric, champion, state)
    found: dict[Degraded, Degradation] = {}
    for place, each in placed(watched.trigger):
        if isinstance(each, Degraded):
            after = max(now - delay - (each.over or LONGEST), state.triggers.used.get(place, champion.since))
            # What this trigger fired on before is used up: it looks only at rows that came since.
            own = _judged(labelled.filter(pl.col("event_time") > after), watched)
            worse = score.degradation(watched.metric, own, reference, by=each.by, positive=watched.positive)
            if (worse is None or not worse.worse) and each.detector is not None:
                worse = _changed(lake, watched, champion, each, after=state.triggers.used.get(place), now=now) or worse
            if worse is not None:
                found[each] = worse
    also: dict[str, Degradation] = {}
    for name, each in asked:
        own = _judged(labelled.filter(pl.col("event_time") > now - delay - (each.over or LONGEST)), watched)
        worse = score.degradation(watched.metric, own, reference, by=each.by, positive=watched.positive)
        if worse is not None:
            also[name] = worse
    bound = score.bound(watched.metric, scored)
    known = state.best if state.best_of == champion.version else None
    best = bound if known is None else score.better(watched.metric, known, bound)
    return _Scores(
        state=replace(state, best=best, best_of=champion.version),
        worse=found,
        scored=scored,
        coverage=coverage,
        due=len(rows),
        also=also,
    )


def _changed(
    lake: Lake, watched: Watched, champion: Champion, trigger: Degraded, *, after: datetime | None, now: datetime
) -> Degradation | None:
    """What a declared detector finds in the champion's labels."""
    assert trigger.detector is not None
    delay = watched.truth.delay
    start = concept.beginning(champion.since, now - delay, trigger.over or LONGEST)
    rows = matured(
        lake, watched.truth, since=max(start, after or start) + delay, until=now, versions=[champion.version]
    )
    if rows.is_empty():
        return None
    judged = _judged(rows.filter(pl.col("truth").is_not_null()), watched)
    return concept.degradation(watched.metric, judged, trigger.detector, by=trigger.by)


def _judged(labelled: pl.DataFrame, watched: Watched) -> Judged:
    return Judged(
        truth=truths(labelled, watched.truth),
        prediction=answers(labelled, watched.truth, watched.classes),
        times=labelled["event_time"].dt.epoch("us").to_numpy(),
    )


def _reference(metric: Metric, champion: Champion, state: WatchState) -> Reference:
    """The better one of its gate's score and the best it reached since."""
    at_gate = Reference(value=champion.score, rows=champion.test_rows, source="at its gate")
    if state.best is None or state.best_of != champion.version:
        return at_gate
    if score.better(metric, state.best, champion.score) == champion.score:
        return at_gate
    return Reference(value=state.best, rows=None, source="reached since its release")

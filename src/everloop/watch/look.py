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
from everloop.records import Release, ReleaseEvidence, Signature
from everloop.spec.metric import Metric
from everloop.spec.retrain import Degraded, Drift, Rows, Trigger
from everloop.spec.rollout import Canary
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch import concept, counted, drift, score, service
from everloop.watch.drift import Against, Drifted, DriftState
from everloop.watch.labels import Class, Truth, answers, matured, truths
from everloop.watch.score import Degradation, Judged, Reference, Scored
from everloop.watch.triggers import Signals, TriggerState, placed

LONGEST = timedelta(days=28)
"""How far back a score looks when the declaration names no window."""
GRACE = timedelta(days=1)
"""How long after its due time a label of a shadow pair may still come."""


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
class ReleaseWatch:
    """The counts of the release under way. Frozen baseline, tallies and pairs up to where they are closed."""

    started: datetime
    challenger: int
    baseline: service.Baseline
    folded: int
    """The version of the predictions table up to which tallies are counted."""
    tallies: tuple[service.Tally, ...] = ()
    pairs: service.Pairs = field(default_factory=service.Pairs)
    closed: datetime | None = None
    """Labels due until then are in ``pairs`` for good."""
    counting: str = ""
    """What is counted: where the declaration comes to ask for something else, all of it is counted anew."""


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
) -> tuple[Seen, WatchState]:
    """Look once, after `fold.fold`. Pure but for reading the lake: the same state and tables give the same answer.

    The triggers themselves are asked afterwards, with ``triggers.fired(watched.trigger, seen.signals, …)``.
    """
    if any(isinstance(each, Rows) for _, each in placed(watched.trigger)):
        rows, tables = counted.labelled(lake, watched.truth.column, state.labelled, state.counted)
        state = replace(state, labelled=rows, counted=tables)
    signals = Signals(rows=state.labelled, asked=asked, busy=busy)
    seen = Seen(signals=signals)
    if champion is not None and lake.exists(PREDICTIONS):
        drifts, state = _drifts(lake, watched, champion, state, now)
        widest = max(state.drifts.values(), key=lambda each: each.largest)
        judged = _scores(lake, watched, champion, state, now)
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
    evidence, state = _evidence(lake, watched, release, state, now)
    return replace(seen, evidence=evidence), state


def _drifts(
    lake: Lake, watched: Watched, champion: Champion, state: WatchState, now: datetime
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
    requests = drift.Logged(lake)
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


def _evidence(
    lake: Lake, watched: Watched, release: Release, state: WatchState, now: datetime
) -> tuple[ReleaseEvidence | None, WatchState]:
    rollout = watched.rollout
    if rollout is None or release.challenger is None or release.champion is None or release.started is None:
        return None, replace(state, release=None)
    here = state.release
    counting = _counting(rollout, watched.metric)
    if (
        here is None
        or here.challenger != release.challenger
        or here.started != release.started
        or here.counting != counting
    ):
        here = ReleaseWatch(
            started=release.started,
            challenger=release.challenger,
            baseline=service.baseline(lake, release.champion, rollout.guards, before=release.started),
            folded=-1,
            counting=counting,
        )
    here = _counted(lake, rollout, release, here)
    pairs, here = _paired(lake, watched, release, here, now)
    guards = service.guard_evidence(rollout.guards, here.baseline, here.tallies)
    if rollout.shadow:
        ours, theirs = service.failed_in_shadow(lake, release, since=here.started)
        guards = tuple(
            replace(each, only_challenger_failed=ours, only_champion_failed=theirs) if each.guard == "errors" else each
            for each in guards
        )
    evidence = ReleaseEvidence(
        guards=guards,
        shadow=pairs.counts(watched.metric) if rollout.shadow else None,
        shadow_margin=watched.shadow_margin,
        requests=sum(each.challenger_units for each in here.tallies),
    )
    return evidence, replace(state, release=here)


def _counting(rollout: Canary, metric: Metric) -> str:
    guards = ", ".join(service.guard_name(each) for each in rollout.guards)
    unit = f"{rollout.unit} ({rollout.sticky})" if rollout.unit is not None else "requests"
    return f"{guards} of {unit}; {metric.companion.name}"


def _counted(lake: Lake, rollout: Canary, release: Release, here: ReleaseWatch) -> ReleaseWatch:
    newest = lake.version(PREDICTIONS)
    if newest <= here.folded:
        return here
    fresh = here.folded < 0
    since = pl.col("at") >= moment(here.started)
    if fresh or rollout.unit is not None:
        # A unit's first request may have come looks ago; a release's rows are few enough to be read again.
        # At that version: what another controller folds meanwhile comes with the next difference.
        shared = since & (pl.col("share") > 0)
        rows = lake.read(PREDICTIONS, version=newest, columns=service.COLUMNS, where=shared)
        before: tuple[service.Tally, ...] = ()
    else:
        rows = lake.diff(PREDICTIONS, here.folded, newest).filter(since)
        before = here.tallies
    tallies = service.tally(
        rows, release, rollout.guards, here.baseline, unit=rollout.unit is not None, sticky=rollout.sticky
    )
    return replace(here, folded=newest, tallies=service.merged(before, tallies))


def _paired(
    lake: Lake, watched: Watched, release: Release, here: ReleaseWatch, now: datetime
) -> tuple[service.Pairs, ReleaseWatch]:
    """All pairs so far; those whose labels are a day overdue are closed and never read again."""
    assert release.champion is not None
    assert release.challenger is not None
    delay = watched.truth.delay
    rows = matured(
        lake,
        watched.truth,
        since=here.closed or here.started - GRACE,
        until=now,
        arms=("champion", "shadow"),
        versions=[release.champion, release.challenger],
    )
    if rows.is_empty():
        return here.pairs, here
    closing = now - GRACE
    old = pl.col("event_time") + delay <= closing

    def paired(part: pl.DataFrame) -> service.Pairs:
        return service.pairs(
            part,
            watched.metric,
            watched.truth,
            champion=release.champion or 0,
            challenger=release.challenger or 0,
            classes=watched.classes,
        )

    closed = here.pairs + paired(rows.filter(old))
    here = replace(here, pairs=closed, closed=max(closing, here.closed or closing))
    return closed + paired(rows.filter(~old)), here

"""The counts of a release under way: what challenger and champion did, for the judge. Reads the lake; judges nothing.

What is remembered is small: a baseline frozen before, tallies by share epoch, pairs and outcomes up to where they are
closed; losing it costs time, not truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import polars as pl

from everloop.measure.truth import Class
from everloop.records import Release, ReleaseEvidence
from everloop.spec.guard import Outcome
from everloop.spec.metric import Metric
from everloop.spec.rollout import Canary
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch import guarded, service
from everloop.watch.labels import Truth, matured

GRACE = timedelta(days=1)
"""How long after its due time a label of a shadow pair may still come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is declared of a release, as far as counting needs it; ``classes`` as in `labels.answers`."""

    rollout: Canary
    truth: Truth
    metric: Metric
    shadow_margin: float | None = None
    classes: Mapping[int, tuple[Class, ...]] = field(default_factory=dict)


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
    outcomes: dict[str, guarded.Watched] = field(default_factory=dict)
    """Of each guarded outcome by its name."""
    counting: str = ""
    """What is counted: where the declaration comes to ask for something else, all of it is counted anew."""


def evidence(
    lake: Lake, told: Told, release: Release, before: ReleaseWatch | None, now: datetime
) -> tuple[ReleaseEvidence | None, ReleaseWatch | None]:
    """What the judge takes, and what is to be remembered; nothing where no release is under way."""
    rollout = told.rollout
    if release.challenger is None or release.champion is None or release.started is None:
        return None, None
    counting = _counting(rollout, told.metric)
    here = before
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
    here = _matured(lake, rollout, release, here, now)
    pairs, here = _paired(lake, told, release, here, now)
    of_requests = iter(service.guard_evidence(rollout.guards, here.baseline, here.tallies))
    guards = tuple(
        guarded.evidence(each, here.outcomes.get(each.name)) if isinstance(each, Outcome) else next(of_requests)
        for each in rollout.guards
    )
    if rollout.shadow:
        ours, theirs = service.failed_in_shadow(lake, release, since=here.started)
        guards = tuple(
            replace(each, only_challenger_failed=ours, only_champion_failed=theirs) if each.guard == "errors" else each
            for each in guards
        )
    found = ReleaseEvidence(
        guards=guards,
        shadow=pairs.counts(told.metric) if rollout.shadow else None,
        shadow_margin=told.shadow_margin,
        requests=sum(each.challenger_units for each in here.tallies),
    )
    return found, here


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


def _matured(lake: Lake, rollout: Canary, release: Release, here: ReleaseWatch, now: datetime) -> ReleaseWatch:
    """The guarded outcomes of the rows that have come of age."""
    asked = [each for each in rollout.guards if isinstance(each, Outcome)]
    if not asked or release.stage != "canary":
        return here
    outcomes = dict(here.outcomes)
    for each in asked:
        known = outcomes.get(each.name) or guarded.begin(lake, each, release)
        outcomes[each.name] = guarded.advance(
            lake,
            each,
            release,
            known,
            since=here.started,
            now=now,
            unit=rollout.unit is not None,
            sticky=rollout.sticky,
        )
    return replace(here, outcomes=outcomes)


def _paired(
    lake: Lake, told: Told, release: Release, here: ReleaseWatch, now: datetime
) -> tuple[service.Pairs, ReleaseWatch]:
    """All pairs so far; those whose labels are a day overdue are closed and never read again."""
    assert release.champion is not None
    assert release.challenger is not None
    delay = told.truth.delay
    rows = matured(
        lake,
        told.truth,
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
            told.metric,
            told.truth,
            champion=release.champion or 0,
            challenger=release.challenger or 0,
            classes=told.classes,
        )

    closed = here.pairs + paired(rows.filter(old))
    here = replace(here, pairs=closed, closed=max(closing, here.closed or closing))
    return closed + paired(rows.filter(~old)), here

"""A user's own outcome in both arms of a canary, such as conversion or revenue. Knows no limits and no alpha.

A request counts once, when it has come to the declared age, with the outcome that was known at that age: an arm whose
outcomes come sooner, or are corrected later, looks no different for it. What was randomised is the unit, as everywhere.
Outcomes are scaled to [0, 1], 1 the worst there is, and told as what the judge's bets have won on them: sums over
requests, so that nothing else need be kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure import eprocess
from everloop.records import ArmCounts, GuardEvidence, Release
from everloop.spec.guard import Outcome
from everloop.store.lake import OUTCOMES, PREDICTIONS, Lake, moment
from everloop.watch import service
from everloop.watch.recent import newest

SETTLE = timedelta(minutes=5)
"""Rows and outcomes may lie in segments for so long before they are folded."""
REACH = timedelta(days=28)
"""How old outcomes may be from which a baseline is taken."""
EARLY = timedelta(days=1)
"""An outcome may be known before the event it is about, though hardly by more."""
SILENCE = 7.0
"""So many reported outcomes are expected where none is: chance leaves that once in a thousand times."""
COLUMNS = ("id", "at", "event_time", "version", "arm", "epoch", "share", "unit")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """``asked``: requests of age, ``told``: those of them with an outcome."""

    epoch: int
    counts: ArmCounts
    asked: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """``rate`` and ``variance``: of the champion's scaled outcomes before the canary, frozen."""

    rate: float
    variance: float
    rows: int
    """Behind them."""
    told: int = 0
    """Of these rows so many had an outcome."""
    until: datetime | None = None
    """Rows that came of age until then are counted."""
    epochs: tuple[Epoch, ...] = ()


def begin(lake: Lake, guard: Outcome, release: Release) -> Watched:
    """Freeze what the champion reached in requests from before any canary share: of its newest 20,000 of age."""
    assert release.since is not None
    if not lake.exists(PREDICTIONS):
        return Watched(rate=0.5, variance=0.25, rows=0)
    where = (pl.col("arm") == "champion") & (pl.col("version") == release.champion) & (pl.col("share") == 0)
    rows = _of_age(lake, guard, where, since=release.since - REACH, until=release.since)
    rows = rows.sort("at").tail(service.BASELINE_ROWS)
    worse = _worse(rows, guard) if len(rows) else np.zeros(0)
    if not len(worse):
        return Watched(rate=0.5, variance=0.25, rows=0)
    rate = eprocess.frozen_baseline(float(worse.sum()), len(worse))
    variance = eprocess.frozen_variance(worse, rate)
    return Watched(rate=rate, variance=variance, rows=len(worse), told=int(rows["told"].sum()))


def advance(
    lake: Lake,
    guard: Outcome,
    release: Release,
    before: Watched,
    *,
    since: datetime,
    now: datetime,
    unit: bool = False,
    sticky: str = "hour",
) -> Watched:
    """Count the requests that have come of age since the last look; those of a unit from the beginning.

    Where the rollout names a unit its first request counts, and that may have come looks ago.
    """
    until = now - SETTLE
    where = (
        (pl.col("at") >= moment(since))
        & (pl.col("share") > 0)
        & (
            ((pl.col("arm") == "challenger") & (pl.col("version") == release.challenger))
            | ((pl.col("arm") == "champion") & (pl.col("version") == release.champion))
        )
    )
    fresh = replace(before, epochs=(), until=None) if unit else before
    if fresh.until is not None and until <= fresh.until:
        return before
    rows = _of_age(lake, guard, where, since=fresh.until or since - EARLY, until=until, sticky=sticky if unit else None)
    epochs = {each.epoch: each for each in fresh.epochs}
    for (number,), part in rows.group_by("epoch") if len(rows) else ():
        counts = _counts(part.filter(pl.col("value").is_not_null()), guard, before, share=float(part["share"][0]))
        made = Epoch(epoch=int(str(number)), counts=counts, asked=len(part), told=int(part["told"].sum()))
        known = epochs.get(made.epoch)
        epochs[made.epoch] = made if known is None else _together(known, made)
    return replace(fresh, until=until, epochs=tuple(epochs[each] for each in sorted(epochs)))


def evidence(guard: Outcome, watched: Watched | None) -> GuardEvidence:
    """What the judge takes; nothing yet while the release has no share."""
    low, high = guard.between
    known = watched or Watched(rate=0.5, variance=0.25, rows=0)
    return GuardEvidence(
        guard=service.guard_name(guard),
        baseline=known.rate,
        margin=guard.margin / (high - low),
        epochs=tuple(each.counts for each in known.epochs),
        scale=(high, low) if guard.better == "higher" else (low, high),
        variance=known.variance,
        silent=_silent(guard, known),
    )


def _silent(guard: Outcome, watched: Watched) -> str:
    """In words, that no outcome comes: a name that nobody reports, or reports that have stopped.

    Where no news counts as an answer both arms would look alike, and a guard that hears nothing would pass.
    """
    asked = sum(each.asked for each in watched.epochs)
    if not asked or any(each.told for each in watched.epochs):
        return ""
    none = f"no outcome {guard.name!r} that is a number, true or false has been reported for any of {asked:,} requests of age"
    if not watched.told:
        return none + ", nor before: is that its name?"
    before = watched.told / watched.rows
    return f"{none}, where {before:.1%} had one before" if asked * before >= SILENCE else ""


def _of_age(
    lake: Lake, guard: Outcome, where: pl.Expr, *, since: datetime, until: datetime, sticky: str | None = None
) -> pl.DataFrame:
    """Rows that came of age in (``since``, ``until``], and their ``value`` as it was known at that age; null: none.

    ``told``: whether there was an outcome, or ``value`` is what a missing one counts as.

    A row is as old as the later one of its event and its request. ``sticky``: only the first row of each unit.
    """
    earliest = since - guard.delay
    begun = pl.max_horizontal("at", "event_time")
    of_age = begun.is_between(moment(earliest), moment(until - guard.delay), closed="right")
    asked = where & (begun > moment(earliest)) if sticky else where & of_age
    rows = newest(lake, PREDICTIONS, since=earliest, columns=list(COLUMNS), where=asked)
    if sticky is not None:
        rows = service.first_requests(rows.collect(), sticky).lazy().filter(of_age)
    rows = rows.with_columns(due=begun + guard.delay)
    absent = pl.lit(guard.absent, pl.Float64())
    if not lake.exists(OUTCOMES):
        return rows.with_columns(value=absent, told=pl.lit(value=False)).collect()
    first = earliest - EARLY
    told = (pl.col("name") == guard.name) & pl.col("at").is_between(moment(first), moment(until))
    text = pl.col("value_text").str.to_lowercase()
    written = pl.when(text == "true").then(1.0).when(text == "false").then(0.0)
    reported = newest(lake, OUTCOMES, since=first, columns=["id", "at", "value_text", "value_number"], where=told)
    reported = reported.select("id", told_at="at", value=pl.coalesce("value_number", written))
    latest = (
        rows.select("id", "due")
        .unique("id")
        .join(reported, on="id")
        .filter(pl.col("told_at") <= pl.col("due"))
        .sort("told_at", maintain_order=True)
        .unique("id", keep="last", maintain_order=True)
        .filter(pl.col("value").is_finite())  # the latest may have taken it back
        .select("id", "value")
    )
    joined = rows.join(latest, on="id", how="left", maintain_order="left")
    known = pl.col("value")
    return joined.with_columns(value=known.fill_null(absent), told=known.is_not_null()).collect()


def _worse(rows: pl.DataFrame, guard: Outcome) -> Floats:
    """From 0, the best there is, to 1, the worst."""
    low, high = guard.between
    values = rows["value"].drop_nulls().to_numpy().astype(np.float64)
    part: Floats = (np.clip(values, low, high) - low) / (high - low)
    return 1 - part if guard.better == "higher" else part


def _counts(rows: pl.DataFrame, guard: Outcome, frozen: Watched, *, share: float) -> ArmCounts:
    """Of one epoch."""
    low, high = guard.between
    arm = (rows["arm"] == "challenger").to_numpy()
    worse = _worse(rows, guard)
    told = 0.0 < share < 1.0
    return ArmCounts(
        share=share,
        challenger_events=float(worse[arm].sum()),
        challenger_units=float(arm.sum()),
        champion_events=float(worse[~arm].sum()),
        champion_units=float((~arm).sum()),
        log_worse=tuple(
            eprocess.rollback_bounded(arm, worse, share, frozen.rate, variance=frozen.variance).tolist() if told else ()
        ),
        log_not_worse=tuple(
            eprocess.promotion_bounded(
                arm, worse, share, frozen.rate, guard.margin / (high - low), variance=frozen.variance
            ).tolist()
            if told
            else ()
        ),
    )


def _together(one: Epoch, other: Epoch) -> Epoch:
    counts = _sum(one.counts, other.counts)
    return Epoch(epoch=one.epoch, counts=counts, asked=one.asked + other.asked, told=one.told + other.told)


def _sum(one: ArmCounts, other: ArmCounts) -> ArmCounts:
    return ArmCounts(
        share=one.share,
        challenger_events=one.challenger_events + other.challenger_events,
        challenger_units=one.challenger_units + other.challenger_units,
        champion_events=one.champion_events + other.champion_events,
        champion_units=one.champion_units + other.champion_units,
        log_worse=tuple(a + b for a, b in zip(one.log_worse, other.log_worse, strict=True)),
        log_not_worse=tuple(a + b for a, b in zip(one.log_not_worse, other.log_not_worse, strict=True)),
    )

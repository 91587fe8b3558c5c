"""Reads the alert rules of one loop: from the last look, the log, the ledger and the machine. Tells nobody.

What varies by chance must exceed its limit by more than chance: the exact binomial for shares, the standard error for
means. So a rule does not fire on the third failure of a quiet night, and goes on while the share itself is too large.
"""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import psutil

from everloop.durable import runs
from everloop.loop.installation import Installation
from everloop.loop.refusals import Refusals
from everloop.measure.unusual import surprise
from everloop.records import Release
from everloop.spec import alert
from everloop.spec.alert import LEVELS, Rule, name_of
from everloop.spec.retrain import Degraded, Drift
from everloop.store.home import Home
from everloop.store.lake import OUTCOMES, PREDICTIONS, Lake, moment
from everloop.store.ledger import releases
from everloop.watch import machine
from everloop.watch.alerts import Reading
from everloop.watch.drift import Drifted
from everloop.watch.look import Seen
from everloop.watch.recent import newest
from everloop.watch.score import LEAST_ROWS, Degradation
from everloop.watch.windows import LIVE

CHANCE = 1e-4
"""How often one look at a rate that is just at its limit may say that it is above it."""
SLACK = 0.02
"""A disk or a memory that was too full is too full until it is so much below its limit."""

MOST_LOOKS = 2_000
FIVE, REACH = timedelta(minutes=5), timedelta(days=8)
A_DAY = timedelta(days=1) // FIVE
LATE = timedelta(minutes=1)
LEAST_SLOTS = 12 * 12
"""Half a day of five minutes, before anything is called unusual."""

State = Literal["fires", "holds", "quiet", "unknown"]


def also(rules: tuple[Rule, ...]) -> tuple[tuple[str, Drift | Degraded], ...]:
    """What the rules ask of each look, under their names."""
    found: list[tuple[str, Drift | Degraded]] = []
    for rule in rules:
        if isinstance(rule, alert.DriftFound):
            found.append((place(rule), rule.asked))
        elif isinstance(rule, alert.Score):
            found.append((place(rule), Degraded(by=rule.by)))
    return tuple(found)


def place(rule: Rule) -> str:
    return f"alert {name_of(rule)} {rule.severity}"


@dataclass(slots=True)
class Reader:
    """Reads all rules of one loop. Remembers only since when no server answers."""

    installation: Installation
    silent_since: datetime | None = None
    machine: machine.Machine | None = field(default=None)
    """As it was at the last look."""
    _busy: deque[tuple[datetime, float]] = field(default_factory=lambda: deque(maxlen=MOST_LOOKS))
    """When it was looked at, and the processor seconds used until then."""
    _refusals: Refusals = field(default_factory=Refusals)
    _slots: tuple[datetime, dict[str, npt.NDArray[np.float64]]] | None = None
    """Until when, and of each signal its five minutes."""

    def read(self, seen: Seen | None, release: Release, now: datetime) -> tuple[Reading, ...]:
        """Every rule once. ``seen``: the last look; None when there was none."""
        home = self.installation.home
        servers = [("server", int(each.stem)) for each in home.servers.glob("*.json") if each.stem.isdigit()]
        self.machine = machine.look(home.root, [("controller", os.getpid()), *servers])
        self._busy.append((now, self.machine.processor_seconds))
        self._refusals.look(home, now)
        return tuple(self._one(rule, seen, release, now) for rule in self.installation.loop.watched_alerts)

    def _one(self, rule: Rule, seen: Seen | None, release: Release, now: datetime) -> Reading:
        assert self.machine is not None
        match rule:
            case alert.DiskFull():
                share = self.machine.disk_share
                free = (self.machine.disk_size - self.machine.disk_used) / 1e9
                because = f"the disk of {self.installation.home.root} is {share:.1%} full, {free:.1f} GB are left"
                return _reading(rule, _full(share, rule.above), because, share, rule.above)
            case alert.MemoryFull():
                share = self.machine.memory_share
                because = f"{share:.1%} of {self.machine.memory_limit / 1e9:.1f} GB of memory are used"
                return _reading(rule, _full(share, rule.above), because, share, rule.above)
            case alert.ProcessorFull():
                return self._processor(rule, now)
            case alert.GpuFull():
                return _gpus(rule, self.machine)
            case alert.Unusual():
                return self._unusual(rule, now)
            case alert.NotServing():
                return self._not_serving(rule, release, now)
            case alert.Errors():
                return self._errors(rule, now)
            case alert.Latency():
                return self._latency(rule, now)
            case alert.Refused():
                return self._refused(rule, now)
            case alert.DriftFound():
                return _drift(rule, seen)
            case alert.LabelCoverage():
                return _coverage(rule, seen)
            case alert.Stale():
                return self._stale(rule, release, now)
            case alert.Score():
                return _score(rule, seen)
            case alert.Outcome():
                return self._outcome(rule, now)
            case alert.RunFailed():
                return self._run_failed(rule)
            case alert.ReleaseStuck():
                return _stuck(rule, release, now)

    def _processor(self, rule: alert.ProcessorFull, now: datetime) -> Reading:
        assert self.machine is not None
        before = [each for each in self._busy if now - each[0] >= rule.within]
        if not before:
            return _reading(rule, "unknown", f"not looked at for {rule.within} yet", None, rule.above)
        at, used = before[-1]
        cores = max(self.machine.cores, 1e-9)
        share = max(0.0, self.machine.processor_seconds - used) / (cores * (now - at).total_seconds())
        because = f"{share:.1%} of {cores:g} cores were used in {now - at}"
        return _reading(rule, _full(share, rule.above), because, share, rule.above)

    def _unusual(self, rule: alert.Unusual, now: datetime) -> Reading:
        # Rows lie in the log's table some seconds after they were answered.
        late = now - LATE
        until = late.replace(minute=late.minute // 5 * 5, second=0, microsecond=0)
        if self._slots is None or self._slots[0] != until:
            self._slots = until, _five_minutes(self.installation.lake, until)
        series = self._slots[1].get(rule.signal)
        known = 0 if series is None else int(np.isfinite(series).sum())
        if series is None or known < LEAST_SLOTS:
            return _reading(
                rule, "unknown", f"{known} times five minutes are known, {LEAST_SLOTS} are needed", None, rule.above
            )
        if not np.isfinite(series[-1]):
            return _reading(rule, "quiet", "nothing was asked in five minutes", None, rule.above)
        far = float(surprise(series, period=A_DAY)[-1])
        usual = float(np.nanmedian(series[-A_DAY:]))
        what = {"rate": "requests in five minutes", "latency": "ms is the p99", "errors": "of requests failed"}[
            rule.signal
        ]
        said = f"{series[-1]:.1%}" if rule.signal == "errors" else f"{series[-1]:,.4g}"
        around = f"{usual:.1%}" if rule.signal == "errors" else f"{usual:,.4g}"
        because = f"{said} {what}, {far:.1f} standard deviations from what is usual at this time (the day's median is {around})"
        return _reading(rule, "fires" if far > rule.above else "quiet", because, far, rule.above)

    def _not_serving(self, rule: alert.NotServing, release: Release, now: datetime) -> Reading:
        each = self.installation
        answers = release.champion is None or _served(each.home, each.name)
        self.silent_since = None if answers else self.silent_since or now
        silent = timedelta(0) if self.silent_since is None else now - self.silent_since
        state: State = "quiet" if answers else "fires" if silent >= rule.after else "holds"
        because = "a server answers" if answers else f"no server has answered for {silent}"
        return _reading(rule, state, because, silent.total_seconds(), rule.after.total_seconds())

    def _answers(self, within: timedelta, now: datetime) -> pl.DataFrame | None:
        lake, since = self.installation.lake, now - within
        if not lake.exists(PREDICTIONS):
            return None
        where = (pl.col("at") >= moment(since)) & pl.col("arm").is_in(LIVE)
        return newest(lake, PREDICTIONS, since=since, columns=["error", "latency_us"], where=where).collect()

    def _errors(self, rule: alert.Errors, now: datetime) -> Reading:
        rows = self._answers(rule.within, now)
        if rows is None or rows.is_empty():
            return _reading(rule, "quiet", f"no request in {rule.within}", None, rule.above)
        failed, count = int(rows["error"].sum()), len(rows)
        because = f"{failed:,} of {count:,} rows failed in {rule.within} ({failed / count:.2%}, limit {rule.above:.2%})"
        return _reading(rule, _beyond(failed, count, rule.above), because, failed / count, rule.above)

    def _latency(self, rule: alert.Latency, now: datetime) -> Reading:
        rows, limit = self._answers(rule.within, now), rule.above.total_seconds()
        if rows is None or rows.is_empty():
            return _reading(rule, "quiet", f"no request in {rule.within}", None, limit)
        took = rows["latency_us"].drop_nulls()
        slow = int((took > limit * 1e6).sum())
        value = float(took.quantile(rule.quantile, interpolation="higher") or 0.0) / 1e6
        because = (
            f"the {rule.quantile:g} quantile of {len(took):,} answers in {rule.within} is {value * 1e3:.1f} ms "
            f"(limit {limit * 1e3:g} ms)"
        )
        return _reading(rule, _beyond(slow, len(took), 1 - rule.quantile), because, value, limit)

    def _refused(self, rule: alert.Refused, now: datetime) -> Reading:
        asked, found = self._refusals.within(rule.within, now)
        counted = {each: count for each, count in found.items() if each in (rule.reasons or alert.REASONS)}
        refused = sum(counted.values())
        if not asked:
            return _reading(rule, "quiet", f"no request in {rule.within}", None, rule.above)
        why = ", ".join(f"{each} {count:,}" for each, count in sorted(counted.items(), key=lambda each: -each[1]))
        because = (
            f"{refused:,} of {asked:,} requests were refused in {rule.within} "
            f"({refused / asked:.2%}, limit {rule.above:.2%}){f': {why}' if why else ''}"
        )
        return _reading(rule, _beyond(refused, asked, rule.above), because, refused / asked, rule.above)

    def _stale(self, rule: alert.Stale, release: Release, now: datetime) -> Reading:
        each = self.installation
        if release.champion is None:
            return _reading(rule, "quiet", "nothing is released", None, rule.after.total_seconds())
        with each.ledger.read() as connection:
            history = releases.history(connection, each.name)
        since = now
        for one in reversed(history):
            if one.champion != release.champion:
                break
            since = one.since or since
        age = now - since
        because = f"version {release.champion} has been champion for {age.days} days"
        state: State = "fires" if age > rule.after else "quiet"
        return _reading(rule, state, because, age.total_seconds(), rule.after.total_seconds())

    def _outcome(self, rule: alert.Outcome, now: datetime) -> Reading:
        limit = rule.below if rule.below is not None else rule.above
        assert limit is not None
        lake, since = self.installation.lake, now - rule.within
        where = (pl.col("at") >= moment(since)) & (pl.col("name") == rule.name) & pl.col("value_number").is_not_null()
        if lake.exists(OUTCOMES):
            values = newest(lake, OUTCOMES, since=since, columns=["value_number"], where=where).collect()[
                "value_number"
            ]
        else:
            values = pl.Series("value_number", [], dtype=pl.Float64())
        if len(values) < 2:
            return _reading(rule, "unknown", f"{len(values)} outcomes {rule.name!r} in {rule.within}", None, limit)
        mean, spread = float(values.mean()), float(values.std() or 0.0)  # type: ignore[arg-type]
        beyond = limit - mean if rule.below is not None else mean - limit
        noise = NormalDist().inv_cdf(1 - CHANCE) * spread / len(values) ** 0.5
        state: State = "quiet" if beyond <= 0 else "fires" if beyond > noise else "holds"
        side = "below" if rule.below is not None else "above"
        because = (
            f"the mean of {len(values):,} outcomes {rule.name!r} in {rule.within} is {mean:.4g} "
            f"(not {side} {limit:g}; noise {noise:.2g})"
        )
        return _reading(rule, state, because, mean, limit)

    def _run_failed(self, rule: alert.RunFailed) -> Reading:
        each = self.installation
        with each.ledger.read() as connection:
            latest = runs.of(connection, each.name, name="turn", newest=1)
            undecided = runs.of(connection, each.name, name="turn", status="needs-decision", newest=1)
        broken = [run for run in (*undecided, *latest) if run.status in ("failed", "needs-decision")]
        if not broken:
            under_way = bool(latest) and latest[-1].status not in ("done", "cancelled")
            return _reading(rule, "unknown" if under_way else "quiet", "no turn has failed", 0, 0)
        run = broken[0]
        return _reading(rule, "fires", f"the turn {run.id} is {run.status}: {run.because}", 1, 0)


def _gpus(rule: alert.GpuFull, seen: machine.Machine) -> Reading:
    told = [each for each in seen.gpus if each.memory_used is not None and each.memory_size]
    if not told:
        return _reading(rule, "quiet", "no GPU tells of its memory", None, rule.above)
    shares = {each.index: (each.memory_used or 0) / (each.memory_size or 1) for each in told}
    worst = max(shares, key=lambda each: shares[each])
    because = f"{shares[worst]:.1%} of the memory of GPU {worst} are used"
    return _reading(rule, _full(shares[worst], rule.above), because, shares[worst], rule.above)


def _five_minutes(lake: Lake, until: datetime) -> dict[str, npt.NDArray[np.float64]]:
    """Requests, p99 in ms and share of errors of each five minutes of the last eight days; empty without a log."""
    since = until - REACH
    count = REACH // FIVE
    if not lake.exists(PREDICTIONS):
        return {}
    where = (pl.col("at") >= moment(since)) & (pl.col("at") < moment(until)) & pl.col("arm").is_in(LIVE)
    rows = newest(lake, PREDICTIONS, since=since, columns=["at", "error", "latency_us"], where=where).collect()
    if rows.is_empty():
        return {}
    slot = (pl.col("at") - moment(since)).dt.total_minutes() // 5
    found = (
        rows.group_by(slot.alias("slot"))
        .agg(
            pl.len().alias("rate"),
            (pl.col("latency_us").quantile(0.99) / 1e3).alias("latency"),
            pl.col("error").mean().alias("errors"),
        )
        .sort("slot")
    )
    places = found["slot"].to_numpy().astype(np.int64)
    made = {name: np.full(count, np.nan) for name in ("rate", "latency", "errors")}
    for name, values in made.items():
        values[places] = found[name].cast(pl.Float64()).fill_null(float("nan")).to_numpy()
    # Before the first request there was no service; after it five minutes without one are a rate of 0.
    made["rate"][places[0] :] = np.nan_to_num(made["rate"][places[0] :])
    return made


def _served(home: Home, loop: str) -> bool:
    """Whether a process that lives says of itself that it is ready and serves the loop."""
    for file in home.servers.glob("*.json"):
        with suppress(OSError, ValueError):
            status = json.loads(file.read_bytes())
            if status.get("ready") and status.get("loops", {}).get(loop, -1) > 0 and psutil.pid_exists(int(file.stem)):
                return True
    return False


def _stuck(rule: alert.ReleaseStuck, release: Release, now: datetime) -> Reading:
    limit = rule.after.total_seconds()
    if release.challenger is None or release.started is None:
        return _reading(rule, "quiet", "no release is under way", None, limit)
    age = now - release.started
    because = f"version {release.challenger} has been in {release.stage} or before it for {age.days} days"
    return _reading(rule, "fires" if age > rule.after else "quiet", because, age.total_seconds(), limit)


def _drift(rule: alert.DriftFound, seen: Seen | None) -> Reading:
    found = None if seen is None else seen.also.get(place(rule))
    if not isinstance(found, Drifted):
        return _reading(rule, "unknown", "two windows have not been seen yet", None, None)
    if not found.columns:
        return _reading(rule, "quiet", "no column has drifted", 0, None)
    largest = max(found.columns, key=lambda each: each.size / max(each.limit, 1e-9))
    because = "; ".join(each.because for each in found.columns)
    return _reading(rule, "fires", f"{because}, in two windows running", largest.size, largest.limit)


def _coverage(rule: alert.LabelCoverage, seen: Seen | None) -> Reading:
    if seen is None or seen.coverage is None:
        return _reading(rule, "unknown", "no label is due yet", None, rule.below)
    missing = round(seen.due * (1 - seen.coverage))
    because = f"{seen.coverage:.1%} of {seen.due:,} answers whose label is due have one (limit {rule.below:.1%})"
    state = _beyond(missing, seen.due, 1 - rule.below)
    if seen.due < LEAST_ROWS and state == "fires":
        state = "holds"
    return _reading(rule, state, because, seen.coverage, rule.below)


def _score(rule: alert.Score, seen: Seen | None) -> Reading:
    found = None if seen is None else seen.also.get(place(rule))
    if not isinstance(found, Degradation):
        return _reading(rule, "unknown", "too few labels to say", None, rule.by)
    state: State = "fires" if found.worse else "holds" if found.difference >= rule.by else "quiet"
    return _reading(rule, state, found.because, found.difference, rule.by)


def _reading(rule: Rule, state: State, because: str, value: float | None, limit: float | None) -> Reading:
    return Reading(
        rule=name_of(rule),
        level=LEVELS[type(rule)],
        severity=rule.severity,
        state=state,
        because=because,
        value=value,
        limit=limit,
    )


def _full(share: float, above: float) -> State:
    return "fires" if share > above else "holds" if share > above - SLACK else "quiet"


def _beyond(events: int, count: int, limit: float) -> State:
    """Whether a share is above its limit, and whether chance explains it (the exact binomial test, one-sided)."""
    if count == 0 or events <= limit * count:
        return "quiet"
    from scipy.stats import binom

    return "fires" if float(binom.sf(events - 1, count, limit)) < CHANCE else "holds"

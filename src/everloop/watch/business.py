"""The user's own business metrics day by day, beside what the service and the data did on those days. Decides nothing.

A business metric is any reported outcome that is a number and not the label. What goes with it is said by
``measure.association``: of surprises, with intervals that hold for all signals together; that one causes the other is
never said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure.association import LEAST, Association, associations
from everloop.store.lake import OUTCOMES, PREDICTIONS, Lake, moment
from everloop.watch.drift import DriftState
from everloop.watch.recent import newest
from everloop.watch.windows import LIVE

Floats = npt.NDArray[np.float64]
DAY = timedelta(days=1)
MOST_DAYS = 730
MOST_COLUMNS = 20
"""Drifting columns that are held against a metric: each more costs all others width of their intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfVersion:
    """What was reported of one version's answers. ``half``: half of a 95 % interval of the mean."""

    version: int
    arm: str
    mean: float
    half: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Business:
    """One metric. ``mean`` [days], NaN where nothing was reported; the first day is ``since``."""

    name: str
    since: datetime
    mean: tuple[float, ...]
    count: int
    by_version: tuple[OfVersion, ...] = ()
    associated: tuple[Association, ...] = ()
    words: tuple[str, ...] = ()
    signals: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What it was held against, by day."""


def names(lake: Lake, label: str) -> tuple[str, ...]:
    """Outcomes that are numbers and not the label, those with most reports first."""
    if not lake.exists(OUTCOMES):
        return ()
    rows = lake.read(OUTCOMES, columns=["name", "value_number"], where=pl.col("value_number").is_not_null())
    counted = rows.filter(pl.col("name") != label).group_by("name").len().sort("len", "name", descending=[True, False])
    return tuple(counted["name"].to_list())


def business(lake: Lake, name: str, drifts: Mapping[str, DriftState], *, now: datetime, days: int = 90) -> Business:
    """One metric over whole days up to ``now`` (UTC), what it was by version, and what it goes with."""
    days = max(1, min(days, MOST_DAYS))
    until = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = until - days * DAY
    reported = _reported(lake, name, since, until)
    mean, count = _by_day(reported.rename({"value_number": "x"}), since, days, pl.col("x").mean())
    signals = {**_service(lake, since, until, days), **_data(drifts, since, days)}
    found = associations(mean, signals) if np.isfinite(mean).sum() >= LEAST else ()
    return Business(
        name=name,
        since=since,
        mean=tuple(mean.tolist()),
        count=int(count.sum()),
        by_version=_by_version(lake, reported, since),
        associated=found,
        words=_words(name, mean, signals, found),
        signals={each: tuple(values.tolist()) for each, values in signals.items()},
    )


def _reported(lake: Lake, name: str, since: datetime, until: datetime) -> pl.DataFrame:
    """The latest value of each id."""
    empty = pl.DataFrame(schema={"id": pl.String(), "at": pl.Datetime("us", "UTC"), "value_number": pl.Float64()})
    if not lake.exists(OUTCOMES):
        return empty
    where = (
        (pl.col("name") == name)
        & (pl.col("at") >= moment(since))
        & (pl.col("at") < moment(until))
        & pl.col("value_number").is_finite()
    )
    rows = newest(lake, OUTCOMES, since=since, columns=["id", "at", "value_number"], where=where).collect()
    return rows.sort("at", maintain_order=True).unique("id", keep="last", maintain_order=True) if len(rows) else empty


def _by_day(rows: pl.DataFrame, since: datetime, days: int, what: pl.Expr) -> tuple[Floats, Floats]:
    """A figure [days], NaN where there are no rows, and the rows."""
    made, count = np.full(days, np.nan), np.zeros(days)
    if len(rows):
        day = (pl.col("at") - moment(since)).dt.total_days().alias("day")
        found = (
            rows.group_by(day)
            .agg(what.alias("figure"), pl.len().alias("rows"))
            .filter(pl.col("day").is_between(0, days - 1))
        )
        places = found["day"].to_numpy().astype(np.int64)
        made[places] = found["figure"].cast(pl.Float64()).fill_null(float("nan")).to_numpy()
        count[places] = found["rows"].to_numpy()
    return made, count


def _service(lake: Lake, since: datetime, until: datetime, days: int) -> dict[str, Floats]:
    if not lake.exists(PREDICTIONS):
        return {}
    where = (pl.col("at") >= moment(since)) & (pl.col("at") < moment(until)) & pl.col("arm").is_in(LIVE)
    rows = newest(lake, PREDICTIONS, since=since, columns=["at", "error", "latency_us"], where=where).collect()
    asked = {
        "requests": pl.len(),
        "share of errors": pl.col("error").mean(),
        "latency p50": pl.col("latency_us").median(),
        "latency p99": pl.col("latency_us").quantile(0.99),
    }
    return {name: _by_day(rows, since, days, what)[0] for name, what in asked.items()}


def _data(drifts: Mapping[str, DriftState], since: datetime, days: int) -> dict[str, Floats]:
    """PSI by day of the signals that move most, of the trigger that remembers most."""
    known = max(drifts.values(), key=lambda each: len(each.history.days), default=None)
    if known is None or not known.history.days:
        return {}
    signals, made = known.history.signals, {}
    table = np.full((len(signals), days), np.nan)
    for day in known.history.days:
        place = (day.since - since) // DAY
        if 0 <= place < days:
            row = np.frombuffer(day.mean, dtype="<f2").astype(np.float64)
            table[: len(row), place] = row
    spread = np.array([np.nanstd(row) if np.isfinite(row).sum() > 1 else 0.0 for row in table])
    for place in np.argsort(-spread, kind="stable")[:MOST_COLUMNS].tolist():
        if spread[place] > 0:
            made[f"drift of {signals[place]}"] = table[place]
    return made


def _by_version(lake: Lake, reported: pl.DataFrame, since: datetime) -> tuple[OfVersion, ...]:
    if not len(reported) or not lake.exists(PREDICTIONS):
        return ()
    # An outcome may be of a request that is older than the first day.
    begin = since - 30 * DAY
    where = (pl.col("at") >= moment(begin)) & pl.col("arm").is_in(LIVE)
    rows = newest(lake, PREDICTIONS, since=begin, columns=["id", "version", "arm"], where=where).collect()
    joined = reported.join(rows.unique("id", keep="last"), on="id", how="inner")
    found = (
        joined.group_by("version", "arm")
        .agg(
            pl.col("value_number").mean().alias("mean"),
            pl.col("value_number").std().alias("spread"),
            pl.len().alias("count"),
        )
        .sort("version", "arm")
    )
    return tuple(
        OfVersion(
            version=row["version"],
            arm=row["arm"],
            mean=row["mean"],
            half=1.96 * (row["spread"] or 0.0) / row["count"] ** 0.5 if row["count"] > 1 else float("inf"),
            count=row["count"],
        )
        for row in found.iter_rows(named=True)
    )


def _words(name: str, mean: Floats, signals: Mapping[str, Floats], found: tuple[Association, ...]) -> tuple[str, ...]:
    known = int(np.isfinite(mean).sum())
    if known < LEAST:
        return (f"{name} was reported on {known} days; from {LEAST} days on it can be said what it goes with",)
    if not found:
        return (f"{name}: nothing else was recorded on enough of its {known} days to be held against it",)
    shown = [each for each in found if each.shown]
    if not shown:
        asked = len({each.signal for each in found})
        return (f"{name} goes with none of {asked} signals beyond what chance explains; every interval holds 0",)
    told = []
    for each in shown:
        side = "high" if each.correlation > 0 else "low"
        when = "on days" if each.lag == 0 else "on the day after days"
        told.append(
            f"{name} is unusually {side} {when} with an unusually high {each.signal}: correlation {each.correlation:+.2f} "
            f"({each.low:+.2f} to {each.high:+.2f}, {each.days} days){_levels(mean, signals[each.signal], each.lag)}; "
            "they go together, which of them causes what is not said"
        )
    return tuple(told)


def _levels(mean: Floats, signal: Floats, lag: int) -> str:
    """The metric where the signal is in its highest tenth, and elsewhere."""
    moved = np.concatenate([np.full(lag, np.nan), signal[: len(signal) - lag]])
    both = np.isfinite(mean) & np.isfinite(moved)
    high = moved[both] >= np.quantile(moved[both], 0.9)
    if not high.any() or high.all():
        return ""
    return f"; {mean[both][high].mean():.4g} on the {int(high.sum())} days where it is highest, {mean[both][~high].mean():.4g} on the others"

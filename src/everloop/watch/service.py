"""How challenger and champion serve, as counts that the judge can use. Knows neither limits nor what follows.

Counts are kept per share epoch and never pooled over epochs. The unit that is counted is what was drawn: a request,
or, where the rollout names a unit, what its salt was drawn for, by its first request: the unit in one hour at one share,
or once in a whole release where it stays on its side for good; counting its requests would take one caller's habits for
evidence. A row that the champion answered for a failed challenger (``fallback``) counts once, as the challenger's
failure. What testers sent to a version by name, and what an experiment or a route answered, is nothing of a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from everloop.measure import metrics
from everloop.measure.truth import Class
from everloop.records import ArmCounts, GuardEvidence, PairedCounts, Release
from everloop.spec.guard import Errors, Guard, Latency, Outcome
from everloop.spec.metric import Accuracy, Brier, Metric
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch.labels import Truth, answers

COLUMNS = ("id", "at", "version", "arm", "epoch", "share", "unit", "latency_us", "error")
BASELINE_ROWS = 20_000
"""The newest rows before a release that its baseline is taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The champion before the challenger came: frozen for the whole release."""

    rows: int
    error_rate: float
    limits: dict[str, float] = field(default_factory=dict)
    """Quantile → latency in µs."""
    rates: dict[str, float] = field(default_factory=dict)
    """Quantile → share of the champion's requests above that latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One epoch's counts. Events are in the order of the rollout's guards; none of an outcome, which comes later."""

    epoch: int
    share: float
    challenger_units: int = 0
    champion_units: int = 0
    challenger_events: tuple[int, ...] = ()
    champion_events: tuple[int, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            epoch=self.epoch,
            share=self.share,
            challenger_units=self.challenger_units + other.challenger_units,
            champion_units=self.champion_units + other.champion_units,
            challenger_events=_added(self.challenger_events, other.challenger_events),
            champion_events=_added(self.champion_events, other.champion_events),
        )


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def baseline(lake: Lake, champion: int, guards: tuple[Guard, ...], *, before: datetime) -> Baseline:
    """What the champion did before ``before``: (k+½)/(n+1) for each guard, so that none is ever 0."""
    where = (pl.col("arm") == "champion") & (pl.col("version") == champion) & (pl.col("at") < moment(before))
    rows = lake.read(PREDICTIONS, columns=["at", "latency_us", "error"], where=where)
    rows = rows.sort("at").tail(BASELINE_ROWS) if len(rows) else rows
    count = len(rows)
    if count == 0:
        return Baseline(rows=0, error_rate=0.5, limits={}, rates={})
    limits: dict[str, float] = {}
    rates: dict[str, float] = {}
    answered = rows.filter(~pl.col("error"))["latency_us"].to_numpy()
    for guard in guards:
        if isinstance(guard, Latency) and len(answered):
            limit = float(np.quantile(answered, guard.quantile))
            limits[str(guard.quantile)] = limit
            rates[str(guard.quantile)] = (float(np.sum(answered > limit)) + 0.5) / (len(answered) + 1)
    return Baseline(rows=count, error_rate=(int(rows["error"].sum()) + 0.5) / (count + 1), limits=limits, rates=rates)


def tally(
    rows: pl.DataFrame,
    release: Release,
    guards: tuple[Guard, ...],
    frozen: Baseline,
    *,
    unit: bool = False,
    sticky: str = "hour",
) -> tuple[Tally, ...]:
    """Count these rows of the predictions table, one entry per epoch in which the challenger had a share.

    With ``unit`` all rows of the release must be here at once: a unit's first request is found among them.
    """
    if rows.is_empty() or release.challenger is None:
        return ()
    counted = rows.filter(
        (pl.col("share") > 0)
        & (
            ((pl.col("arm") == "challenger") & (pl.col("version") == release.challenger))
            | ((pl.col("arm") == "champion") & (pl.col("version") == release.champion))
        )
    )
    if unit and len(counted):
        counted = first_requests(counted, sticky)
    events = [_event(guard, frozen).alias(f"event_{index}") for index, guard in enumerate(guards)]
    grouped = (
        counted.select("epoch", "share", (pl.col("arm") == "challenger").alias("challenger"), *events)
        .group_by("epoch", "challenger")
        .agg(pl.col("share").first(), pl.len().alias("units"), pl.col("^event_.*$").sum())
        .sort("epoch")
    )
    found: dict[int, Tally] = {}
    for row in grouped.iter_rows(named=True):
        happened = tuple(int(row[f"event_{index}"]) for index in range(len(guards)))
        nothing = (0,) * len(guards)
        here = Tally(
            epoch=row["epoch"],
            share=row["share"],
            challenger_units=row["units"] if row["challenger"] else 0,
            champion_units=0 if row["challenger"] else row["units"],
            challenger_events=happened if row["challenger"] else nothing,
            champion_events=nothing if row["challenger"] else happened,
        )
        found[here.epoch] = found[here.epoch] + here if here.epoch in found else here
    return tuple(found.values())


def first_requests(rows: pl.DataFrame, sticky: str) -> pl.DataFrame:
    named = pl.col("unit").is_not_null() & (pl.col("unit") != "")
    # A row without a unit was drawn for itself.
    key = pl.when(named).then("u:" + pl.col("unit")).otherwise("r:" + pl.col("id"))
    rows = rows.with_columns(_key=key, _hour=pl.col("at").dt.truncate("1h")).sort("at", maintain_order=True)
    # Who stays for good has one draw: counted again at the next share, it would bring the same habits to the same arm.
    drawn = ["epoch", "_key", "_hour"] if sticky == "hour" else ["_key"]
    return rows.unique(drawn, keep="first", maintain_order=True)


def _event(guard: Guard, frozen: Baseline) -> pl.Expr:
    if isinstance(guard, Errors):
        return pl.col("error").cast(pl.Int64)
    if isinstance(guard, Outcome):
        return pl.lit(0, pl.Int64())
    limit = frozen.limits.get(str(guard.quantile))
    if limit is None:
        return pl.lit(0, pl.Int64())
    return (~pl.col("error") & (pl.col("latency_us") > limit)).cast(pl.Int64)


def merged(before: tuple[Tally, ...], new: tuple[Tally, ...]) -> tuple[Tally, ...]:
    by_epoch = {each.epoch: each for each in before}
    for each in new:
        by_epoch[each.epoch] = by_epoch[each.epoch] + each if each.epoch in by_epoch else each
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))


def guard_evidence(
    guards: tuple[Guard, ...], frozen: Baseline, tallies: tuple[Tally, ...]
) -> tuple[GuardEvidence, ...]:
    """One entry per guard of requests, in the rollout's order."""
    found = []
    for index, guard in enumerate(guards):
        if isinstance(guard, Outcome):
            continue
        rate = frozen.error_rate
        if isinstance(guard, Latency):
            rate = frozen.rates.get(str(guard.quantile), 1 - guard.quantile)
        epochs = tuple(
            ArmCounts(
                share=each.share,
                challenger_events=each.challenger_events[index],
                challenger_units=each.challenger_units,
                champion_events=each.champion_events[index],
                champion_units=each.champion_units,
            )
            for each in tallies
        )
        found.append(
            GuardEvidence(
                guard=guard_name(guard), baseline=rate, margin=guard.margin, epochs=epochs, counted=_counted(guard)
            )
        )
    return tuple(found)


def failed_in_shadow(lake: Lake, release: Release, *, since: datetime) -> tuple[int, int]:
    """Of the rows that both were asked, on how many the challenger alone failed in shadow, and the champion alone."""
    where = (
        (pl.col("at") >= moment(since))
        & pl.col("error")
        & (
            ((pl.col("arm") == "shadow") & (pl.col("version") == release.challenger))
            | ((pl.col("arm") == "champion") & (pl.col("version") == release.champion) & (pl.col("share") == 0))
        )
    )
    rows = lake.read(PREDICTIONS, columns=["id", "arm"], where=where)
    if rows.is_empty():  # and without a column, where nobody has ever asked anything
        return 0, 0
    ours = set(rows.filter(pl.col("arm") == "shadow")["id"].to_list())
    theirs = set(rows.filter(pl.col("arm") == "champion")["id"].to_list())
    return len(ours - theirs), len(theirs - ours)


def guard_name(guard: Guard) -> str:
    if isinstance(guard, Outcome):
        return f"outcome {guard.name}"
    return "errors" if isinstance(guard, Errors) else f"latency {_quantile(guard)}"


def _counted(guard: Guard) -> str:
    if not isinstance(guard, Latency):
        return ""
    return f"answers slower than the champion's {_quantile(guard)} before the release:"


def _quantile(guard: Latency) -> str:
    return f"p{guard.quantile * 100:g}"


# Paired shadow answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Sums over rows that both have answered. ``even`` rows have no label and need none: both said the same."""

    labelled: int = 0
    even: int = 0
    differing: int = 0
    """Rows on which the answers differ, labelled or not."""
    differing_labelled: int = 0
    total: float = 0.0
    squares: float = 0.0
    only_challenger_wrong: int = 0
    only_champion_wrong: int = 0

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    @property
    def coverage(self) -> float:
        """The share of differing rows that have a label."""
        return self.differing_labelled / self.differing if self.differing else 1.0

    def counts(self, metric: Metric) -> PairedCounts:
        """What the judge takes.

        Even rows without a label count at the rate at which differing rows have one: counted in full while labels are
        still missing, they would water the difference down.
        """
        return PairedCounts(
            pairs=self.labelled + int(self.even * self.coverage),
            total=self.total,
            squares=self.squares,
            only_challenger_wrong=self.only_challenger_wrong,
            only_champion_wrong=self.only_champion_wrong,
            bounded=isinstance(metric.companion, Accuracy | Brier),
        )


def pairs(
    rows: pl.DataFrame,
    metric: Metric,
    truth: Truth,
    *,
    champion: int,
    challenger: int,
    classes: Mapping[int, tuple[Class, ...]] | None = None,
) -> Pairs:
    """Compare the two on rows both have answered: champion and shadow rows as `labels.matured` gives them."""
    if rows.is_empty():
        return Pairs()
    mine = rows.filter((pl.col("arm") == "champion") & (pl.col("version") == champion))
    its = rows.filter((pl.col("arm") == "shadow") & (pl.col("version") == challenger))
    mine, its = (each.unique("id", keep="first", maintain_order=True) for each in (mine, its))
    both = its.select("id").join(mine.select("id"), on="id", how="inner", maintain_order="left")
    if both.is_empty():
        return Pairs()
    mine = both.join(mine, on="id", how="left", maintain_order="left")
    its = both.join(its, on="id", how="left", maintain_order="left")
    one, other = answers(mine, truth, classes), answers(its, truth, classes)
    loss = metric.companion
    if isinstance(loss, Accuracy):
        same = metrics.decisions(one) == metrics.decisions(other)
    else:
        same = one == other if one.ndim == 1 else np.all(one == other, axis=1)
    known = mine["truth"].is_not_null().to_numpy()
    label: Any = mine["truth"].fill_null(0).to_numpy()
    label = label.astype(np.float64 if truth.task == "regression" else np.int64)
    difference = np.zeros(len(both))
    if known.any():
        difference[known] = metrics.row_loss(loss, label[known], other[known]) - metrics.row_loss(
            loss, label[known], one[known]
        )
    zero_one = isinstance(loss, Accuracy)
    return Pairs(
        labelled=int(known.sum()),
        even=int((~known & same).sum()),
        differing=int((~same).sum()),
        differing_labelled=int((~same & known).sum()),
        total=float(difference.sum()),
        squares=float((difference**2).sum()),
        only_challenger_wrong=int((difference > 0).sum()) if zero_one else 0,
        only_champion_wrong=int((difference < 0).sum()) if zero_one else 0,
    )

"""What the units of an experiment did: assigned rows, joined with outcomes by id, summed by unit. Judges nothing.

A row counts under the arm that it was assigned to, also where the arm failed and the champion answered: left out, an arm
could win by failing on what is hard. It counts once it has a fixed age, the same for every arm; of several values of one
outcome the latest counts. What never came is missing to a mean, and 0 to a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
import polars as pl

from everloop.errors import NotFound
from everloop.measure import metrics
from everloop.measure.experiment import Units
from everloop.measure.truth import Class
from everloop.records import Experiment
from everloop.spec.metric import Metric
from everloop.store.lake import OUTCOMES, PREDICTIONS, RAW, Lake, moment
from everloop.watch.fold import INPUT
from everloop.watch.labels import Truth, answers, matured, truths

REQUESTS, UNITS = "requests", "units"
"""What a ratio may be taken over besides an outcome."""
SCORE, ERRORS, LATENCY = "score", "errors", "latency"
"""What the log itself knows of a row."""
NUMBER = pl.Float64()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Σ numerator / Σ denominator. Without a denominator: the mean over the rows that have a value."""

    numerator: str
    denominator: str | None = None

    @property
    def name(self) -> str:
        return self.numerator if self.denominator is None else f"{self.numerator}/{self.denominator}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How the loop's label is read and scored; ``classes`` as in `labels.answers`."""

    truth: Truth
    metric: Metric
    late: Sequence[str] = ()
    """Columns of the source, besides the label, that are known only after the event."""
    positive: int = 1
    classes: Mapping[int, tuple[Class, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """The rows of an experiment that are old enough, one for each id, oldest first.

    Columns: id, at, unit, arm (its place, −1 for a name that the experiment does not have), error, latency_us.
    """

    rows: pl.DataFrame
    columns: tuple[str, ...]
    """The request's columns that a covariate may name."""


def entered(lake: Lake, experiment: Experiment, *, until: datetime) -> Entered:
    """The rows whose event time is at most ``until``. Empty while there is none."""
    schema = lake.schema(PREDICTIONS)
    if "experiment" not in schema:
        return Entered(rows=pl.DataFrame(), columns=())
    inputs = [name for name in schema if name.startswith(INPUT)]
    old = pl.col("event_time") <= moment(until)
    rows = lake.read(
        PREDICTIONS,
        columns=["id", "at", "unit", "variant", "arm", "error", "latency_us", *inputs],
        where=(pl.col("experiment") == experiment.name) & (pl.col("at") >= moment(experiment.started)) & old,
    )
    if rows.is_empty():
        return Entered(rows=rows, columns=())
    names = [each.name for each in experiment.arms]
    failed = (pl.col("error") | (pl.col("arm") == "fallback")).any().over("id")
    # A row that failed stands there twice, a request that was repeated as often as it came.
    rows = (
        rows.with_columns(error=failed, unit=unit_key(experiment.sticky))
        .sort("at", maintain_order=True)
        .unique("id", keep="first", maintain_order=True)
        .with_columns(
            arm=pl.col("variant").replace_strict(names, list(range(len(names))), default=-1, return_dtype=pl.Int64)
        )
    )
    return Entered(rows=rows, columns=tuple(name.removeprefix(INPUT) for name in inputs))


def unit_key(sticky: Literal["hour", "always"]) -> pl.Expr:
    """What was drawn for: the unit or, without one, the row; where it is drawn anew every hour, in that hour."""
    named = pl.col("unit").is_not_null() & (pl.col("unit") != "")
    key = pl.when(named).then("u:" + pl.col("unit")).otherwise("r:" + pl.col("id"))
    return key if sticky == "always" else key + "@" + pl.col("at").dt.truncate("1h").to_physical().cast(pl.String)


def values(lake: Lake, name: str, judging: Judging, *, now: datetime) -> pl.DataFrame:
    """The latest value of an outcome for each id: columns id and value (float64); booleans are 1 and 0.

    Raises NotFound when nobody ever reported one, or only texts, naming those that there are.
    """
    truth = judging.truth
    parts: list[pl.DataFrame] = []
    raw = lake.schema(RAW)
    if name in (truth.column, *judging.late) and name in raw and "_key" in raw:
        rows = lake.read(RAW, columns=["_key", "_event_time", name], where=pl.col(name).is_not_null())
        parts.append(
            rows.select(
                id="_key",
                at=pl.col("_event_time") + truth.delay,
                text=pl.col(name).cast(pl.String),
                number=pl.col(name).cast(NUMBER, strict=False),
            )
        )
    if lake.exists(OUTCOMES):
        where = (pl.col("name") == name) & (pl.col("at") <= moment(now))
        rows = lake.read(OUTCOMES, columns=["id", "at", "value_text", "value_number"], where=where)
        parts.append(rows.select("id", "at", text="value_text", number="value_number"))
    told = pl.concat(parts) if parts else pl.DataFrame()
    if told.is_empty():
        raise NotFound(f"No outcome is named {name!r}; there are: {', '.join(known(lake, judging)) or 'none'}.")
    found = told.sort("at", maintain_order=True).unique("id", keep="last", maintain_order=True)
    found = found.select("id", value=_number(name, judging)).filter(pl.col("value").is_finite())
    if found.is_empty():
        raise NotFound(
            f"The outcome {name!r} is never a number, true or false: it has no mean. Report a number for it."
        )
    return found


def known(lake: Lake, judging: Judging) -> list[str]:
    """The names that a measure may use."""
    raw = lake.schema(RAW)
    late = [name for name in (judging.truth.column, *judging.late) if name in raw]
    reported = lake.read(OUTCOMES, columns=["name"])["name"].unique().to_list() if lake.exists(OUTCOMES) else []
    return [*sorted({*late, *reported}), SCORE, ERRORS, LATENCY]


def _number(name: str, judging: Judging) -> pl.Expr:
    truth, text = judging.truth, pl.col("text").str.to_lowercase()
    written = pl.when(text == "true").then(1.0).when(text == "false").then(0.0)
    number = pl.coalesce("number", written, pl.col("text").cast(NUMBER, strict=False))
    if name == truth.column and truth.task == "binary" and isinstance(truth.classes[judging.positive], str):
        return pl.when(pl.col("text").is_not_null()).then(
            (pl.col("text") == truth.classes[judging.positive]).cast(NUMBER)
        )
    return number


def losses(lake: Lake, judging: Judging, ids: pl.Series, *, now: datetime) -> pl.DataFrame:
    """The declared score's loss of each row that has its label, by who answered it: columns id and value."""
    truth = judging.truth
    rows = matured(lake, truth, since=None, until=now, arms=("experiment", "fallback"))
    if rows.is_empty():
        return pl.DataFrame(schema={"id": pl.String(), "value": NUMBER})
    rows = rows.filter(pl.col("truth").is_not_null() & pl.col("id").is_in(ids.implode()))
    rows = rows.unique("id", keep="first", maintain_order=True)
    lost = metrics.row_loss(judging.metric.companion, truths(rows, truth), answers(rows, truth, judging.classes))
    return rows.select("id").with_columns(value=pl.Series(lost, dtype=NUMBER))


def units(
    lake: Lake, seen: Entered, experiment: Experiment, measure: Measure, judging: Judging, *, now: datetime
) -> tuple[Units, pl.DataFrame]:
    """Each unit's two sums, in the order of its first row; and the units themselves: unit, at, arm, rows, told.

    ``told``: rows of the unit that the measure has a value for. Raises NotFound for a name that nothing is known under.
    """
    rows = seen.rows.select("id", "at", "unit", "arm", "error", "latency_us").filter(pl.col("arm") >= 0)
    rows = _with(lake, rows, measure.numerator, "numerator", judging, now)
    if measure.denominator is None:
        rows = rows.with_columns(denominator=pl.col("numerator").is_not_null().cast(NUMBER))
    elif measure.denominator == REQUESTS:
        rows = rows.with_columns(denominator=pl.lit(1.0))
    elif measure.denominator != UNITS:
        rows = _with(lake, rows, measure.denominator, "denominator", judging, now)
    else:
        rows = rows.with_columns(denominator=pl.lit(None, NUMBER))
    asked = "numerator" if measure.denominator in (None, UNITS, REQUESTS) else "denominator"
    found = (
        rows.group_by("unit", maintain_order=True)
        .agg(
            pl.col("at").first(),
            pl.col("arm").first(),
            pl.col("arm").n_unique().alias("arms"),
            pl.len().alias("rows"),
            pl.col(asked).is_not_null().sum().alias("told"),
            pl.col("numerator").sum(),
            pl.col("denominator").sum(),
        )
        .sort("at", maintain_order=True)
    )
    if measure.denominator == UNITS:
        found = found.with_columns(denominator=pl.lit(1.0))
    return Units(
        arm=found["arm"].to_numpy().astype(np.int64),
        numerator=found["numerator"].to_numpy().astype(np.float64),
        denominator=found["denominator"].to_numpy().astype(np.float64),
    ), found


def _with(lake: Lake, rows: pl.DataFrame, name: str, column: str, judging: Judging, now: datetime) -> pl.DataFrame:
    if name == ERRORS:
        return rows.with_columns(pl.col("error").cast(NUMBER).alias(column))
    if name == LATENCY:
        return rows.with_columns((pl.col("latency_us") / 1e6).alias(column))
    found = losses(lake, judging, rows["id"], now=now) if name == SCORE else values(lake, name, judging, now=now)
    return rows.join(found.rename({"value": column}), on="id", how="left", maintain_order="left")


# Covariates: only what was known before a unit was assigned


def covariate(
    lake: Lake, seen: Entered, experiment: Experiment, of: pl.DataFrame, name: str, judging: Judging
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One number for each of the units ``of``, NaN where none is known.

    A column of the request as the unit first brought it; or, for the name of an outcome, the unit's mean of it before
    the experiment began. Raises NotFound for what is neither, or is no number.
    """
    if name in seen.columns:
        column = pl.col(f"{INPUT}{name}")
        kind = seen.rows.schema[f"{INPUT}{name}"]
        if not (kind.is_numeric() or kind == pl.Boolean()):
            raise NotFound(f"The column {name!r} holds {kind}; a covariate is a number or true and false.")
        first = seen.rows.group_by("unit", maintain_order=True).agg(column.first().cast(NUMBER).alias("covariate"))
    elif experiment.unit is None:
        raise NotFound(
            f"{name!r} is no column of the request, and a single request has no history; columns: {', '.join(seen.columns)}."
        )
    else:
        first = _history(lake, experiment, name, judging)
        of = of.select(pl.col("unit").str.replace(r"@\d+$", "")) if experiment.sticky == "hour" else of
    joined = of.select("unit").join(first, on="unit", how="left", maintain_order="left")
    return joined["covariate"].to_numpy().astype(np.float64)


def _history(lake: Lake, experiment: Experiment, name: str, judging: Judging) -> pl.DataFrame:
    """Each unit's deviation from the mean over its rows before the experiment: Σx − R·n, by unit."""
    schema = lake.schema(PREDICTIONS)
    column = f"{INPUT}{experiment.unit}"
    before = (pl.col("at") < moment(experiment.started)) & ~pl.col("arm").is_in(["shadow", "former", "override"])
    wanted = ["id", "at", "unit", *([column] if column in schema else [])]
    rows = lake.read(PREDICTIONS, columns=wanted, where=before)
    if column in schema:
        rows = rows.with_columns(unit=pl.coalesce("unit", pl.col(column).cast(pl.String)))
    rows = rows.filter(pl.col("unit").is_not_null() & (pl.col("unit") != "")).unique("id", keep="first")
    told = values(lake, name, judging, now=experiment.started)
    rows = rows.join(told, on="id", how="inner").with_columns(unit="u:" + pl.col("unit"))
    off = (pl.col("value") - pl.col("value").mean()).alias("covariate")
    return rows.with_columns(off).group_by("unit").agg(pl.col("covariate").sum())

"""A year of a simulated parcel service: will this parcel arrive late? Seeded, and honest about what it did when.

Nothing here is measured in the world: people, carriers and weather are drawn. What is real is that the label comes
three days late, that the world changes underneath the model, and that one batch of old rows is imported with wrong
labels. What happened on which day is written beside the data, in truth.json, so that what a loop noticed can be held
against it.
Knows nothing of loops, models or servers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.clock import microseconds
from everloop.errors import DataError

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

START = datetime(2024, 1, 1, tzinfo=UTC)
LABEL_DELAY = timedelta(days=3)
IMPORT_FACTOR = 3
"""The imported company ships three times as many parcels as ours: enough to spoil a month of training rows."""
CARRIERS = ("heron", "osprey", "plover", "swift", "kestrel")
"""The last one opens for business late in the year: no model before has seen it."""
SERVICES = ("economy", "standard", "express")
REGIONS = ("bay", "delta", "fen", "harbour", "hill", "lake", "moor", "plain", "ridge", "valley")


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that was done to the world, from one day to before another (None: for good). Days count from 0."""

    kind: str
    from_day: int
    to_day: int | None
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Where the files lie and what they hold."""

    folder: Path
    """parcels/day-000.parquet …: one file a day, label included, as the service's database would deliver it."""
    poison: Path
    """import.parquet: rows that were never served, delivered once at ``poison_arrives``, their labels inverted."""
    poison_arrives: datetime
    start: datetime
    days: int
    rows: int
    seed: int
    label_delay: timedelta
    happenings: tuple[Happening, ...]
    poisoned_rows: int

    @property
    def end(self) -> datetime:
        return self.start + timedelta(days=self.days)

    def happening(self, kind: str) -> Happening:
        return next(each for each in self.happenings if each.kind == kind)


def simulate(folder: Path, *, seed: int = 0, days: int = 365, rows_per_day: int = 100) -> Simulation:
    """Write the year into ``folder``; the same arguments write the same rows.

    Where in the year things happen scales with ``days``. Raises DataError for a year too short to hold them.
    """
    if days < 60 or rows_per_day < 10:
        raise DataError(
            f"A simulated year of {days} days with {rows_per_day} rows a day is too small; "
            "take at least 60 days and 10 rows."
        )
    happenings = _happenings(days)
    named = {each.kind: each for each in happenings}
    random = np.random.default_rng(seed)
    frame = _rows(random, days, rows_per_day, named)
    parcels = folder / "parcels"
    parcels.mkdir(parents=True, exist_ok=True)
    for (day,), part in frame.partition_by("day", as_dict=True, include_key=False).items():
        part.write_parquet(parcels / f"day-{day:03d}.parquet", compression="uncompressed", statistics=False)
    # The import is of its own: three times a week's parcels of another company, in days that lie well behind.
    others = _rows(random, days, IMPORT_FACTOR * rows_per_day, named)
    week = named["imported week"]
    poison = others.filter(pl.col("day").is_between(week.from_day, week.to_day, closed="left")).with_columns(
        parcel=pl.col("parcel").str.replace("P", "X", literal=True), late=1 - pl.col("late")
    )
    poison.drop("day").write_parquet(folder / "import.parquet")
    made = Simulation(
        folder=folder,
        poison=folder / "import.parquet",
        poison_arrives=START + timedelta(days=named["poison"].from_day),
        start=START,
        days=days,
        rows=len(frame),
        seed=seed,
        label_delay=LABEL_DELAY,
        happenings=happenings,
        poisoned_rows=len(poison),
    )
    (folder / "truth.json").write_bytes(msgspec.json.format(msgspec.json.encode(_truth(made)), indent=2))
    return made


def _happenings(days: int) -> tuple[Happening, ...]:
    def day(share: float) -> int:
        return round(share * days)

    return (
        Happening(
            kind="growth",
            from_day=day(0.25),
            to_day=day(0.85),
            what="customers move outwards: distances grow slowly by a third",
        ),
        Happening(
            kind="concept",
            from_day=day(0.466),
            to_day=None,
            what="two hubs close and the carriers trade routes: who is late, where and when, changes overnight",
        ),
        Happening(
            kind="category",
            from_day=day(0.59),
            to_day=None,
            what="the carrier kestrel opens and takes a fifth of the parcels within a month",
        ),
        Happening(
            kind="imported week",
            from_day=day(0.67),
            to_day=day(0.67) + 7,
            what="the days that the faulty import is about",
        ),
        Happening(
            kind="poison",
            from_day=day(0.67) + 17,
            to_day=day(0.67) + 18,
            what="another company's parcels of an earlier week are imported with their labels the wrong way round",
        ),
    )


def _rows(random: np.random.Generator, days: int, rows_per_day: int, happenings: dict[str, Happening]) -> pl.DataFrame:
    weekday_load = np.array([1.25, 1.1, 1.0, 1.0, 1.05, 0.85, 0.75])
    per_day = random.poisson(rows_per_day * weekday_load[np.arange(days) % 7])
    day: Integers = np.repeat(np.arange(days, dtype=np.int64), per_day)
    n = len(day)
    # Most parcels are posted in the morning or after work; minutes since midnight, in UTC.
    minute = np.where(random.random(n) < 0.55, random.normal(620, 110, n), random.normal(1_060, 120, n))
    minute = np.clip(minute, 0, 1_439)
    seconds = day * 86_400 + (minute * 60).astype(np.int64)
    order = np.argsort(seconds, kind="stable")
    day, seconds, minute = day[order], seconds[order], minute[order]
    year = 2 * np.pi * (day % 365) / 365

    growth = happenings["growth"]
    grown = np.clip((day - growth.from_day) / ((growth.to_day or days) - growth.from_day), 0, 1)
    distance = random.lognormal(5.0, 0.75, n) * (1 + grown / 3)
    weight = random.lognormal(0.6, 0.8, n)
    items = 1 + random.poisson(0.8, n)
    rain = np.maximum(0.0, random.gamma(0.6, 4.0, days)[day] * (1 - 0.4 * np.cos(year)) - 1.0)
    december = np.exp(-(((day % 365) - 350) ** 2) / 200)
    backlog = random.poisson(40 * weekday_load[day % 7] * (1 + 0.15 * np.cos(year) + 0.8 * december))
    region = random.choice(len(REGIONS), n, p=_shares(len(REGIONS)))
    service = random.choice(len(SERVICES), n, p=[0.3, 0.5, 0.2])
    carrier = random.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    opened = happenings["category"].from_day
    carrier = np.where(random.random(n) < 0.2 * np.clip((day - opened) / 30, 0, 1), 4, carrier)

    chance = _chance_late(
        after=day >= happenings["concept"].from_day,
        distance=distance,
        weight=weight,
        rain=rain,
        backlog=backlog,
        evening=minute > 960,
        weekend=day % 7 >= 4,
        region=region,
        service=service,
        carrier=carrier,
    )
    late = (random.random(n) < chance).astype(np.int64)
    hours = np.round(np.where(late == 1, 52, 30) + random.gamma(2.0, 4.0, n), 1)

    frame = pl.DataFrame(
        {
            "day": day,
            "parcel": pl.Series(np.arange(n)).cast(pl.String).str.zfill(7).str.replace("^", "P"),
            "posted": pl.Series(seconds * 1_000_000 + microseconds(START)).cast(pl.Datetime("us", "UTC")),
            "carrier": np.array(CARRIERS)[carrier],
            "service": np.array(SERVICES)[service],
            "region": np.array(REGIONS)[region],
            "distance_km": np.round(distance, 1),
            "weight_kg": np.round(weight, 2),
            "items": items.astype(np.int64),
            "rain_mm": np.round(rain, 1),
            "backlog": backlog.astype(np.int64),
            "insured": random.random(n) < 0.2,
            "late": late,
            "hours_taken": hours,
        }
    )
    # Scales fail, weather stations are silent for hours, some senders leave the service open.
    unknown_weight, unknown_rain, unknown_service = (random.random(n) < share for share in (0.06, 0.03, 0.02))
    return frame.with_columns(
        weight_kg=pl.when(pl.Series(unknown_weight)).then(None).otherwise("weight_kg"),
        rain_mm=pl.when(pl.Series(unknown_rain)).then(None).otherwise("rain_mm"),
        service=pl.when(pl.Series(unknown_service)).then(None).otherwise("service"),
    )


def _shares(count: int) -> Numbers:
    weights: Numbers = 1 / np.arange(2, count + 2)
    shares: Numbers = weights / weights.sum()
    return shares


def _chance_late(
    *,
    after: npt.NDArray[np.bool_],
    distance: Numbers,
    weight: Numbers,
    rain: Numbers,
    backlog: Integers,
    evening: npt.NDArray[np.bool_],
    weekend: npt.NDArray[np.bool_],
    region: Integers,
    service: Integers,
    carrier: Integers,
) -> Numbers:
    """P(late), in two worlds: before and after the concept changes. All arrays [rows]."""
    # Carriers trade places and two regions lose their hub: the same columns mean something else afterwards.
    by_carrier = np.where(
        after,
        np.array([0.9, -0.8, 0.7, -0.4, 0.6])[carrier],
        np.array([-0.7, 0.3, 0.9, 1.3, 0.0])[carrier],
    )
    by_region = np.where(
        after,
        np.array([1.1, 0.9, -0.3, -0.6, 0.2, -0.8, -0.2, 0.3, -0.7, -0.4])[region],
        np.array([-0.6, -0.4, 0.5, 0.9, -0.3, 1.1, 0.3, -0.2, 0.8, 0.6])[region],
    )
    by_service = np.array([0.6, 0.0, -0.9])[service]
    far = np.log(distance / 150)
    at_heart = (
        -1.75
        + by_carrier
        + by_region
        + by_service
        + np.where(after, 0.35, 0.95) * far
        + np.where(after, 0.10, 0.04) * np.minimum(rain, 25)
        + np.where(after, 0.030, 0.012) * (backlog - 40)
        + np.where(after, 0.2, 0.6) * evening
        + np.where(after, -0.3, 0.4) * weekend
        + 0.15 * np.log(weight)
    )
    # Economy parcels over long ways suffer most: an interaction that a linear model has to miss.
    at_heart = at_heart + np.where((service == 0) & (far > 0.5), 0.7, 0.0)
    chance: Numbers = 1 / (1 + np.exp(-at_heart))
    return chance


def _truth(made: Simulation) -> dict[str, Any]:
    return {
        "story": "Simulated: a parcel service, one row a parcel; the label is whether it arrived late.",
        "seed": made.seed,
        "start": made.start,
        "days": made.days,
        "rows": made.rows,
        "label_delay_days": made.label_delay.days,
        "poisoned_rows": made.poisoned_rows,
        "poison_arrives": made.poison_arrives,
        "happenings": [
            {
                **asdict(each),
                "from": made.start + timedelta(days=each.from_day),
                "to": None if each.to_day is None else made.start + timedelta(days=each.to_day),
            }
            for each in made.happenings
        ],
    }

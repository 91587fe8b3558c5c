"""The four sets of ../shared/data as loops, with the protocol under which their baselines were measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from everloop.loop.backtest.setting import Setting
from everloop.spec.load import Declaration, load
from everloop.spec.window import Everything, Last

DATA = Path(__file__).parents[3] / "shared" / "data"
DAY = timedelta(days=1)
WEEK = 7 * DAY
SEQUENCE = datetime(2000, 1, 1, tzinfo=UTC)
"""Where a set without a clock begins: a row a minute."""

ELEC2 = """
from datetime import timedelta as td

from lightgbm import LGBMClassifier

import everloop as el

NAMES = ("day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer")

loop = el.Loop(
    name="elec2",
    source=el.Parquet("rows.parquet", key="ts", event_time="ts", time_zone="UTC"),
    label=el.Label("price_up"),
    features=lambda row: {name: getattr(row, name) for name in NAMES},
    window=el.Last(td(days=56), test=td(days=7), refit=True),
    train=el.Train(LGBMClassifier()),
    score=el.metric.Accuracy(),
    gate=None,
    retrain=el.Every(td(days=28)),
)
"""
BIKE = """
from datetime import timedelta as td

from lightgbm import LGBMRegressor

import everloop as el

NAMES = ("season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed")

loop = el.Loop(
    name="bike",
    source=el.Parquet("rows.parquet", key="ts", event_time="ts", time_zone="UTC", after=["casual", "registered"]),
    label=el.Label("cnt", task="regression"),
    features=lambda row: {name: getattr(row, name) for name in NAMES},
    window=el.Last(td(days=183), test=td(days=14), refit=True),
    train=el.Train(LGBMRegressor()),
    score=el.metric.RootMeanSquaredError(),
    gate=None,
    retrain=el.Every(td(days=28)),
)
"""
HFLIGHTS = """
from datetime import timedelta as td

from lightgbm import LGBMClassifier

import everloop as el

AFTER = ["cancelled", "cancellation_code", "diverted", "dep_delay_min", "arr_delay_min", "taxi_out_min", "taxi_in_min",
         "air_time_min", "actual_elapsed_min"]


def features(row):
    return {
        "day_of_week": row.day_of_week,
        "hour": row.sched_dep_ts.dt.hour(),
        "minute": row.sched_dep_ts.dt.minute(),
        "carrier": row.carrier,
        "origin": row.origin,
        "dest": row.dest,
        "distance": row.distance_mi,
    }


loop = el.Loop(
    name="hflights",
    source=el.Parquet("rows.parquet", key="id", event_time="sched_dep_ts", time_zone="UTC", after=AFTER),
    label=el.Label("dep_delayed_15"),
    features=features,
    window=el.Last(td(days=28), test=td(days=7), refit=True),
    train=el.Train(LGBMClassifier()),
    score=el.metric.Accuracy(),
    gate=None,
    retrain=el.Every(td(days=28)),
)
"""
ENRON = """
from datetime import UTC, datetime
from datetime import timedelta as td

from sklearn.linear_model import LogisticRegression

import everloop as el


def features(row):
    return {"text": row.text.text()}


loop = el.Loop(
    name="enron",
    source=el.Parquet(
        "rows.parquet", key="seq", event_time=el.Fixed("seq", datetime(2000, 1, 1, tzinfo=UTC), td(minutes=1))
    ),
    label=el.Label("is_spam"),
    features=features,
    window=el.Last(4_000, test=1_000, refit=True),
    train=el.Train(LogisticRegression(max_iter=1_000)),
    score=el.metric.Accuracy(),
    gate=None,
    retrain=el.Rows(4_000),
)
"""


@dataclass(frozen=True, kw_only=True)
class Set:
    """One set, and how its baselines were measured."""

    name: str
    declaration: str
    setting: Setting
    length: timedelta | int
    """Of the training window."""
    test: timedelta | int
    step: timedelta | int
    """Of a scored window, as a schedule counts it."""
    published: dict[str, tuple[int, float]]
    """Policy → retrains and score, as ../shared/data/README.md has them."""
    drop: float
    """How far a window's score must fall for a retrain, relative for regression."""
    columns: tuple[str, ...] = ()
    """What PSI and KS looked at."""

    def written(self, folder: Path) -> Declaration:
        """Declaration and rows in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "rows.parquet").exists():
            frame(self.name).write_parquet(folder / "rows.parquet")
        (folder / f"{self.name}.py").write_text(self.declaration, "utf-8")
        return load(folder / f"{self.name}.py")

    def sliding(self, *, refit: bool = True) -> Last:
        return Last(self.length, test=self.test, refit=refit)

    def expanding(self) -> Everything:
        return Everything(test=self.test, refit=True)


def frame(name: str) -> pl.DataFrame:
    if name == "elec2":
        return pl.read_parquet(DATA / "elec2.parquet")
    if name == "bike":
        return pl.read_parquet(DATA / "bike_hourly.parquet")
    if name == "hflights":
        rows = pl.read_parquet(DATA / "hflights.parquet").with_row_index("id")
        return rows.with_columns(pl.col("id").cast(pl.Int64))
    rows = pl.read_parquet(DATA / "enron_spam.parquet").sort("seq")
    text = pl.col("subject").fill_null("") + pl.lit(" ") + pl.col("body").fill_null("")
    return rows.select("seq", text.alias("text"), "is_spam")


def sets() -> tuple[Set, ...]:
    """All four, if their files are here."""
    takes = timedelta(seconds=1)
    elec2 = Set(
        name="elec2",
        declaration=ELEC2,
        setting=Setting(windows=WEEK, start=datetime(1996, 7, 2, tzinfo=UTC), takes=takes),
        length=8 * WEEK,
        test=WEEK,
        step=WEEK,
        drop=0.03,
        columns=("day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"),
        published={
            "never": (0, 0.6060),
            "every-1 sliding": (126, 0.7296),
            "every-4 sliding": (31, 0.7140),
            "every-4 expanding": (31, 0.7051),
            "perf-drop": (35, 0.7218),
            "Page-Hinkley": (16, 0.6932),
            "ADWIN": (26, 0.7031),
            "PSI": (79, 0.7087),
            "KS": (79, 0.7077),
        },
    )
    bike = Set(
        name="bike",
        declaration=BIKE,
        setting=Setting(windows="month", start=datetime(2011, 3, 1, tzinfo=UTC), takes=takes),
        length=183 * DAY,
        test=14 * DAY,
        step=28 * DAY,
        drop=0.15,
        columns=("season", "mnth", "hr", "weathersit", "temp", "atemp", "hum", "windspeed"),
        published={
            "never": (0, 169.0),
            "every-1 sliding": (21, 61.2),
            "every-4 sliding": (5, 82.3),
            "every-4 expanding": (5, 105.4),
            "perf-drop": (7, 71.2),
            "Page-Hinkley": (21, 61.2),
            "ADWIN": (14, 65.4),
            "PSI": (21, 61.2),
            "KS": (21, 61.2),
        },
    )
    hflights = Set(
        name="hflights",
        declaration=HFLIGHTS,
        setting=Setting(windows=WEEK, start=datetime(2011, 1, 29, tzinfo=UTC), takes=takes),
        length=4 * WEEK,
        test=WEEK,
        step=WEEK,
        drop=0.03,
        columns=("day_of_week", "distance_mi"),
        published={
            "never": (0, 0.7929),
            "every-1 sliding": (48, 0.8094),
            "every-4 sliding": (12, 0.8080),
            "perf-drop": (12, 0.8075),
            "Page-Hinkley": (43, 0.8091),
            "ADWIN": (48, 0.8094),
            "PSI": (0, 0.7929),
            "KS": (0, 0.7929),
        },
    )
    enron = Set(
        name="enron",
        declaration=ENRON,
        setting=Setting(windows=1_000, start=SEQUENCE + timedelta(minutes=2_000), takes=takes),
        length=4_000,
        test=1_000,
        step=1_000,
        drop=0.03,
        published={
            "never": (0, 0.8637),
            "every-1 sliding": (31, 0.9773),
            "every-4 sliding": (7, 0.9604),
            "every-4 expanding": (7, 0.9659),
            "perf-drop": (3, 0.9653),
            "Page-Hinkley": (2, 0.9643),
            "ADWIN": (3, 0.9647),
        },
    )
    return (elec2, bike, hflights, enron) if DATA.is_dir() else ()

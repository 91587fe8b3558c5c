"""LightGBM over real rows in their order, judged by boosting round: rentals, late departures, the price of electricity.

bike (rentals an hour), hflights (was the departure late by 15 minutes?) and elec2 (does the price rise?), where the world
moves on and the least fitted model is the best on the newest rows: there a pruner that judges by round is misled by the
learning rate, and the figures say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from bench.search.compared import Ran, searched
from lightgbm import LGBMClassifier, LGBMRegressor

from everloop.measure.encode import apply, learn
from everloop.spec.metric import LogLoss, RootMeanSquaredError
from everloop.spec.train import Integers, LogUniform, Search, Train, Uniform
from everloop.train.judging import Goal, Judging

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TRIALS, FEW = 40, 20
STRUCTURE: dict[str, Any] = {
    "num_leaves": Integers(8, 128),
    "min_child_samples": Integers(5, 200),
    "colsample_bytree": Uniform(0.4, 1.0),
    "reg_lambda": LogUniform(1e-3, 10.0),
}
SPACE = {**STRUCTURE, "learning_rate": LogUniform(0.01, 0.3)}


@dataclass(frozen=True)
class Set:
    file: str
    columns: tuple[str, ...]
    label: str
    rows: int
    space: Mapping[str, Any]
    regression: bool = False


SETS = {
    "bike": Set(
        "bike_hourly.parquet",
        ("season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed"),
        "cnt",
        17_379,
        SPACE,
        regression=True,
    ),
    "hflights, learning rate fixed": Set(
        "hflights.parquet",
        ("month", "day_of_week", "carrier", "origin", "dest", "distance_mi", "hour"),
        "dep_delayed_15",
        30_000,
        STRUCTURE,
    ),
    "elec2": Set(
        "elec2.parquet",
        ("day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"),
        "price_up",
        30_000,
        SPACE,
    ),
}


def there() -> list[str]:
    return [name for name, each in SETS.items() if (DATA / each.file).exists()]


def judging(name: str, train: Train, most: int | None) -> Judging:
    chosen = SETS[name]
    frame = pl.read_parquet(DATA / chosen.file)
    if "sched_dep_ts" in frame.columns:
        frame = frame.with_columns(hour=pl.col("sched_dep_ts").dt.hour())
    frame = frame.drop_nulls(chosen.label).head(most or chosen.rows)
    types = {each: "text" if frame.schema[each] == pl.String else "number" for each in chosen.columns}
    features: dict[str, Any] = {
        each: frame[each].to_numpy() if types[each] == "text" else frame[each].cast(pl.Float64).to_numpy()
        for each in chosen.columns
    }
    kind = pl.Float64 if chosen.regression else pl.Int64
    target = frame[chosen.label].cast(kind).to_numpy()
    at = int(len(target) * 0.8)
    older = {each: values[:at] for each, values in features.items()}
    newer = {each: values[at:] for each, values in features.items()}
    encoding = learn(older, types, native_categories=True, accepts_missing=True)  # type: ignore[arg-type]
    goal = Goal(task="binary", metric=LogLoss(), classes=(0, 1))
    return Judging(
        train=train,
        goal=Goal(task="regression", metric=RootMeanSquaredError(), scale="log1p") if chosen.regression else goal,
        encoding=encoding,
        matrix=apply(encoding, older),
        target=target[:at],
        weights=None,
        held=apply(encoding, newer),
        truth=target[at:],
        columns={},
        threads=1,
    )


def measure(name: str, pruner: str | None, seed: int) -> Ran:
    return searched(_task(name, pruner, seed, rows=None, trials=TRIALS))


def quickly(name: str, pruner: str | None, seed: int) -> Ran:
    return searched(_task(name, pruner, seed, rows=12_000, trials=FEW))


def _task(name: str, pruner: Any, seed: int, *, rows: int | None, trials: int) -> Judging:
    model = LGBMRegressor if SETS[name].regression else LGBMClassifier
    declared = Search(SETS[name].space, trials=trials, pruner=pruner, workers=1)
    return judging(name, Train(model(n_estimators=150), search=declared, seed=seed), rows)

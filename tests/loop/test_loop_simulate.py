from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from everloop.errors import DataError
from everloop.loop.simulate import Simulation, simulate


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(tmp_path_factory.mktemp("year"), seed=3)


def daily(made: Simulation) -> pl.DataFrame:
    files = sorted((made.folder / "parcels").glob("*.parquet"))
    return pl.concat([pl.read_parquet(file).with_columns(day=pl.lit(day)) for day, file in enumerate(files)])


def matrix(frame: pl.DataFrame) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    wide = frame.select(
        pl.col("distance_km").log(),
        pl.col("rain_mm").fill_null(0.0),
        "backlog",
        *[
            (pl.col(name) == value).fill_null(False).cast(pl.Float64).alias(f"{name}={value}")
            for name, values in (
                ("carrier", ("heron", "osprey", "plover", "swift", "kestrel")),
                ("service", ("economy", "standard", "express")),
                ("region", ("bay", "delta", "fen", "harbour", "hill", "lake", "moor", "plain", "ridge", "valley")),
            )
            for value in values
        ],
    )
    return wide.to_numpy().astype(np.float64)


def auc(train: pl.DataFrame, test: pl.DataFrame) -> float:
    model = LogisticRegression(max_iter=2_000).fit(matrix(train), train["late"].to_numpy())
    return float(roc_auc_score(test["late"].to_numpy(), model.predict_proba(matrix(test))[:, 1]))


def test_the_same_seed_writes_the_same_rows(tmp_path: Path) -> None:
    one = simulate(tmp_path / "one", seed=5, days=60, rows_per_day=20)
    two = simulate(tmp_path / "two", seed=5, days=60, rows_per_day=20)
    other = simulate(tmp_path / "other", seed=6, days=60, rows_per_day=20)
    assert daily(one).equals(daily(two))
    assert pl.read_parquet(one.poison).equals(pl.read_parquet(two.poison))
    assert not daily(one).equals(daily(other))


def test_the_year_has_one_file_a_day_and_the_rows_of_its_day(year: Simulation) -> None:
    frame = daily(year)
    assert len(frame) == year.rows
    assert 30_000 < year.rows < 40_000
    assert frame["parcel"].n_unique() == year.rows
    assert ((frame["posted"] - year.start).dt.total_days() == frame["day"]).all()
    assert frame["posted"].is_sorted()


def test_some_values_are_missing_but_never_the_label(year: Simulation) -> None:
    missing = daily(year).null_count().row(0, named=True)
    assert missing["weight_kg"] > 0
    assert missing["rain_mm"] > 0
    assert missing["service"] > 0
    assert missing["late"] == missing["parcel"] == missing["posted"] == 0


def test_the_new_carrier_appears_on_its_day(year: Simulation) -> None:
    opened = year.happening("category").from_day
    kestrel = daily(year).filter(pl.col("carrier") == "kestrel")
    assert opened < min(kestrel["day"].to_list()) < opened + 10
    late = daily(year).filter(pl.col("day") > opened + 40)
    assert 0.15 < (late["carrier"] == "kestrel").mean() < 0.25  # type: ignore[operator]


def test_a_model_from_before_the_change_is_of_no_use_after_it(year: Simulation) -> None:
    frame = daily(year)
    change = year.happening("concept").from_day
    before = frame.filter(pl.col("day") < 60)
    still = frame.filter(pl.col("day").is_between(60, change - 1))
    after = frame.filter(pl.col("day").is_between(change + 60, change + 90))
    again = frame.filter(pl.col("day").is_between(change, change + 59))
    assert auc(before, still) > 0.75
    assert auc(before, after) < 0.55
    assert auc(again, after) > 0.70


def test_the_import_spoils_a_model_that_learns_from_it(year: Simulation) -> None:
    frame = daily(year)
    arrives = year.happening("poison").from_day
    clean = frame.filter(pl.col("day").is_between(arrives - 28, arrives - 8))
    test = frame.filter(pl.col("day").is_between(arrives - 7, arrives))
    poison = pl.read_parquet(year.poison)
    assert (poison["posted"] < year.poison_arrives).all()
    assert not set(poison["parcel"]) & set(frame["parcel"])
    spoiled = pl.concat([clean.drop("day"), poison.select(clean.drop("day").columns)])
    assert auc(clean, test) - auc(spoiled, test) > 0.1


def test_a_year_too_short_for_its_happenings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 60 days"):
        simulate(tmp_path, days=10)

"""The promises of parity on the data the figures are published for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from lightgbm import LGBMClassifier

ELEC2 = ["day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"]


def test_lightgbm_on_elec2_has_no_row_off_and_no_decision_flipped(turn: Callable[..., Any], data: Path) -> None:
    rows = pl.read_parquet(data / "elec2.parquet")
    frame = rows.select(pl.col(ELEC2).cast(pl.Float64))
    turned = turn(LGBMClassifier(), frame, rows["price_up"].cast(pl.Int64).to_numpy(), task="binary")
    expected, answer = turned.trainer(frame), turned.answer(frame)
    assert len(frame) == 45_312
    assert np.count_nonzero(np.abs(answer - expected) > 1e-5 * np.abs(expected)) == 0
    assert np.count_nonzero(turned.decision(frame) != expected.argmax(axis=1)) == 0
    assert turned.built.parity.rows == 45_312


def test_lightgbm_with_native_categories_on_hflights_agrees_on_unseen_and_missing_ones(
    turn: Callable[..., Any], data: Path
) -> None:
    rows = pl.read_parquet(data / "hflights.parquet").drop_nulls("dep_delayed_15").head(60_000)
    frame = rows.select(
        pl.col("carrier", "origin", "dest").cast(pl.String),
        pl.col("distance_mi").cast(pl.Float64),
        pl.col("sched_dep_ts").dt.hour().cast(pl.Int64).alias("hour"),
    )
    strange = frame.head(2_000).with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("ZZZ")).otherwise(pl.col("dest")).alias("dest"),
        pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise(pl.col("carrier")).alias("carrier"),
    )
    test = pl.concat([frame.tail(5_000), strange])
    turned = turn(
        LGBMClassifier(), frame.head(50_000), rows["dep_delayed_15"].cast(pl.Int64).to_numpy()[:50_000],
        task="binary", test=test, threshold=0.3,
    )  # fmt: skip
    assert any(each.category and not each.category.one_hot for each in turned.encoding.features)
    assert np.allclose(turned.answer(test), turned.trainer(test), rtol=1e-12, atol=0.0)
    assert np.array_equal(turned.decision(test), (turned.trainer(test)[:, 1] >= 0.3).astype(int))

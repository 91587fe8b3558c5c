"""A graph that is wrong anywhere is not let through, and the word about it names row, column and size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from lightgbm import LGBMClassifier
from sklearn.linear_model import LogisticRegression, Ridge

from everloop.data.features import render
from everloop.errors import PackageError, ParityError
from everloop.measure import encode
from everloop.package import parity
from everloop.package.build import build, columns_of
from everloop.package.predict import Predictor
from everloop.records import InputColumn, Signature
from everloop.spec.columns import Columns
from everloop.spec.trace import trace
from everloop.spec.train import Train
from everloop.spec.tree import FeatureTree
from everloop.train.fit import fit

Turn = Callable[..., Any]


@pytest.fixture
def turned(turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray) -> Any:
    return turn(
        LGBMClassifier(n_estimators=20), made_rows, (signal > np.median(signal)).astype(np.int64), task="binary"
    )


def test_one_wrong_row_is_found_and_named(turned: Any, made_rows: pl.DataFrame) -> None:
    def off(rows: pl.DataFrame) -> np.ndarray:
        answers: np.ndarray = turned.trainer(rows)
        if len(rows) == len(made_rows):
            answers[77] += [0.01, -0.01]
        return answers

    with pytest.raises(
        ParityError, match=r"1 of 1200 rows: row 77\. Largest at row 77, class 0: graph 0\.\d+, trainer"
    ):
        parity.check(turned.built.onnx, turned.signature, made_rows, off)


def test_a_difference_only_on_missing_values_is_found(turned: Any, made_rows: pl.DataFrame) -> None:
    def off(rows: pl.DataFrame) -> np.ndarray:
        return np.asarray(turned.trainer(rows.with_columns(pl.col("share").fill_null(0.0))))

    whole = made_rows.drop_nulls("share")
    with pytest.raises(ParityError, match="with 'share' missing"):
        parity.check(turned.built.onnx, turned.signature, whole, off)


def test_a_difference_only_on_unseen_texts_is_found(turned: Any, made_rows: pl.DataFrame) -> None:
    def off(rows: pl.DataFrame) -> np.ndarray:
        known = pl.col("city").is_in(["oslo", "bergen", "tromsø", "bodø", "x"])
        city = pl.when(known | pl.col("city").is_null()).then(pl.col("city")).otherwise(pl.lit("oslo"))
        return np.asarray(turned.trainer(rows.with_columns(city)))

    with pytest.raises(ParityError, match=r"with 'city' (empty|unseen)"):
        parity.check(turned.built.onnx, turned.signature, made_rows, off)


def test_a_flipped_decision_is_found_even_where_the_numbers_agree(turned: Any, made_rows: pl.DataFrame) -> None:
    with pytest.raises(ParityError, match="decides otherwise than the trainer on"):
        parity.check(turned.built.onnx, turned.signature, made_rows, turned.trainer, threshold=0.2)


def test_no_rows_prove_nothing(turned: Any, made_rows: pl.DataFrame) -> None:
    with pytest.raises(PackageError, match="got none"):
        parity.check(turned.built.onnx, turned.signature, made_rows.head(0), turned.trainer)


def test_the_floor_of_a_regression_follows_the_size_of_its_predictions(
    turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray
) -> None:
    tiny = turn(Ridge(), made_rows.select("share"), signal * 1e-9, task="regression")

    def off(rows: pl.DataFrame) -> np.ndarray:
        return np.asarray(tiny.trainer(rows) + 1e-12)

    with pytest.raises(ParityError, match="prediction: graph"):
        parity.check(tiny.built.onnx, tiny.signature, made_rows, off)


def test_the_threshold_stands_inside_the_graph(turn: Turn, made_rows: pl.DataFrame, signal: np.ndarray) -> None:
    target = (signal > np.median(signal)).astype(np.int64)
    for threshold in (0.2, 0.5, 0.9):
        made = turn(LogisticRegression(max_iter=2000), made_rows, target, task="binary", threshold=threshold)
        wanted = (made.trainer(made_rows)[:, 1] >= threshold).astype(np.int64)
        assert np.array_equal(made.decision(made_rows), wanted)


def test_a_model_and_a_signature_that_disagree_are_told(turned: Any, made_rows: pl.DataFrame) -> None:
    with pytest.raises(PackageError, match="fit it again"):
        build(
            turned.fitted, turned.encoding, turned.tree, replace(turned.signature, classes=(0, 1, 2)), rows=made_rows,
            features=lambda rows: rows,
        )  # fmt: skip


def features(row: Columns) -> dict[str, Any]:
    return {
        "ratio": row.amount / row.days,
        "log": row.amount.log(),
        "where": row.city,
        "hour": row.at.dt.hour(),
        "young": row.days < 100,
        "one": row.days * 0 + 1,
        "capital": row.city == "oslo",
    }


@pytest.mark.parametrize("estimator", [LGBMClassifier(n_estimators=20), LogisticRegression(max_iter=3000)], ids=str)
def test_computed_features_enter_the_same_graph(estimator: Any, made_rows: pl.DataFrame, signal: np.ndarray) -> None:
    rows = made_rows.with_columns(
        pl.datetime_range(pl.datetime(2026, 3, 1), pl.datetime(2026, 4, 20), "1h", time_zone="UTC", time_unit="us")
        .head(len(made_rows))
        .alias("at")
    )
    inputs = (
        InputColumn(name="amount", type="number", index=0),
        InputColumn(name="days", type="integer", index=0),
        InputColumn(name="at", type="instant", index=1, time_zone="Europe/Oslo"),
        InputColumn(name="city", type="text", index=0),
    )
    tree = FeatureTree(columns=trace(features))
    schema = {each.name: each.type for each in inputs}
    zones = {each.name: each.time_zone for each in inputs}

    def rendered(raw: pl.DataFrame) -> pl.DataFrame:
        return render(tree, raw, schema, zones)

    native = isinstance(estimator, LGBMClassifier)
    columns = columns_of(rendered(rows))
    encoding = encode.learn(columns, tree.types(schema), native_categories=native, accepts_missing=native)
    target = (signal > np.median(signal)).astype(np.int64)
    fitted = fit(Train(estimator), encoding, encode.apply(encoding, columns), target, task="binary", classes=2)
    signature = Signature(inputs=inputs, task="binary", classes=(False, True), positive=1)
    built = build(fitted, encoding, tree, signature, rows=rows, features=rendered, threshold=0.5)
    assert built.parity.worst <= 1.0
    one = Predictor.of(built.onnx, signature).predict({"amount": [1.5], "days": [3], "at": [None], "city": ["oslo"]})
    assert one.prediction.shape == (1, 2)
    assert {"everloop", "onnx", "onnxruntime", "numpy"} <= set(built.requirements)
    assert ("lightgbm" in built.requirements) == native

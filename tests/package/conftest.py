"""Fits an estimator on raw rows, makes its graph and proves it: the way of the loop, without the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.measure import encode
from everloop.package.build import Built, build, columns_of
from everloop.package.predict import Predictor
from everloop.records import ColumnType, Encoding, InputColumn, Signature, Task
from everloop.spec.train import Train
from everloop.spec.tree import FeatureTree, Input
from everloop.train.fit import Fitted, fit, needs

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
KINDS = {"number": "numbers", "text": "texts"}


@dataclass(frozen=True, kw_only=True)
class Turned:
    fitted: Fitted
    encoding: Encoding
    built: Built
    signature: Signature
    tree: FeatureTree

    def answer(self, rows: pl.DataFrame) -> np.ndarray:
        return Predictor.of(self.built.onnx, self.signature).predict(rows).prediction

    def decision(self, rows: pl.DataFrame) -> np.ndarray:
        decision = Predictor.of(self.built.onnx, self.signature).predict(rows).decision
        assert decision is not None
        return decision

    def trainer(self, rows: pl.DataFrame) -> np.ndarray:
        return self.fitted.predict(encode.apply(self.encoding, columns_of(rows.select(self.tree.names))))


def types_of(frame: pl.DataFrame) -> dict[str, ColumnType]:
    kinds: dict[Any, ColumnType] = {
        pl.Float64: "number", pl.Int64: "integer", pl.Boolean: "boolean", pl.String: "text",
    }  # fmt: skip
    return {name: kinds[kind] for name, kind in frame.schema.items()}


def inputs_of(types: dict[str, ColumnType]) -> tuple[InputColumn, ...]:
    places: dict[str, int] = {}
    inputs = []
    for name, kind in types.items():
        packed = KINDS.get(kind, "integers")
        inputs.append(InputColumn(name=name, type=kind, index=places.get(packed, 0)))
        places[packed] = places.get(packed, 0) + 1
    return tuple(inputs)


def turn(
    estimator: Any,
    frame: pl.DataFrame,
    target: np.ndarray,
    *,
    task: Task,
    test: pl.DataFrame | None = None,
    threshold: float | None = None,
    classes: int | None = None,
    **options: Any,
) -> Turned:
    train = Train(estimator)
    types = types_of(frame)
    wants = needs(train)
    encoding = encode.learn(
        columns_of(frame), types, native_categories=wants.native_categories, accepts_missing=wants.accepts_missing
    )
    count = 1 if task == "regression" else classes or int(target.max()) + 1
    fitted = fit(
        train, encoding, encode.apply(encoding, columns_of(frame)), target, task=task, classes=count, **options
    )
    tree = FeatureTree(columns=tuple((name, Input(name)) for name in types))
    signature = Signature(
        inputs=inputs_of(types),
        task=task,
        classes=() if task == "regression" else tuple(range(count)),
        positive=1 if task == "binary" else None,
    )
    built = build(
        fitted, encoding, tree, signature, rows=frame if test is None else test,
        features=lambda raw: raw.select(list(types)), threshold=threshold,
    )  # fmt: skip
    return Turned(fitted=fitted, encoding=encoding, built=built, signature=signature, tree=tree)


@pytest.fixture(name="turn")
def turn_fixture() -> Callable[..., Turned]:
    return turn


@pytest.fixture
def made_rows() -> pl.DataFrame:
    """Numbers, integers, booleans and texts, each missing now and then: 1,200 rows."""
    random = np.random.default_rng(7)
    count = 1200

    def holed(values: list[Any]) -> list[Any]:
        return [None if hole else value for value, hole in zip(values, random.random(count) < 0.05, strict=True)]

    return pl.DataFrame(
        {
            "amount": holed((random.lognormal(size=count) * 100).tolist()),
            "share": holed(random.normal(size=count).tolist()),
            "days": holed(random.integers(0, 400, count).tolist()),
            "member": holed((random.random(count) < 0.4).tolist()),
            "city": holed(
                random.choice(["oslo", "bergen", "tromsø", "bodø", "x"], count, p=[0.4, 0.3, 0.2, 0.09, 0.01]).tolist()
            ),
        },
        schema={"amount": pl.Float64, "share": pl.Float64, "days": pl.Int64, "member": pl.Boolean, "city": pl.String},
    )


@pytest.fixture
def signal(made_rows: pl.DataFrame) -> np.ndarray:
    """What the rows say about the label: float64 [rows]."""
    random = np.random.default_rng(8)
    signal: np.ndarray = (
        made_rows.select(
            pl.col("amount").fill_null(150.0).log()
            + pl.col("share").fill_null(0.0)
            + (pl.col("city") == "oslo").fill_null(False).cast(pl.Float64)
            + pl.col("days").fill_null(0) / 400
        )
        .to_series()
        .to_numpy()
    )
    return signal + random.normal(size=len(signal)) * 0.5


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the real data sets are not at {DATA.name}/ beside the repository")
    return DATA

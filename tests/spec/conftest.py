"""A small declaration that is sound, for tests that change one thing."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import everloop as el
from everloop.records import ColumnType
from everloop.spec.loop import Loop
from everloop.spec.train import Estimator

SCHEMA: dict[str, ColumnType] = {
    "id": "integer",
    "left_at": "instant",
    "carrier": "text",
    "miles": "number",
    "stops": "integer",
    "holiday": "boolean",
    "arrived": "instant",
    "late": "boolean",
}


def make(**changes: Any) -> Loop:
    fields: dict[str, Any] = {
        "name": "flight-delay",
        "source": el.Parquet("flights/*.parquet", key="id", event_time="left_at", after=["arrived"]),
        "label": el.Label("late", delay=timedelta(hours=6)),
        "train": Estimator(path="lightgbm.sklearn.LGBMClassifier", parameters={"n_estimators": 10}),
    }
    return el.Loop(**{**fields, **changes})


@pytest.fixture
def loop() -> Callable[..., Loop]:
    """Makes the loop with some fields changed."""
    return make


@pytest.fixture
def schema() -> dict[str, ColumnType]:
    return dict(SCHEMA)

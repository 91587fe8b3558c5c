"""A declaration meets the columns and labels that there are."""

from collections.abc import Callable
from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import pytest

import everloop as el
from everloop.records import ColumnType
from everloop.spec.label import Value
from everloop.spec.loop import Loop
from everloop.spec.resolve import LabelFacts, resolve
from everloop.spec.train import Estimator

Make = Callable[..., Loop]
Schema = dict[str, ColumnType]


def regret(truth: Any, prediction: Any, rows: Any) -> float:
    return 0.0


def facts(*values: Value, rows: int = 1_000, missing: int = 0) -> LabelFacts:
    return LabelFacts(distinct=values, rows=rows, missing=missing)


BOTH = facts(True, False)
ANY = Estimator(path="sklearn.pipeline.Pipeline", parameters={})
"""An estimator whose name says nothing of classes or numbers."""


def estimator(name: str) -> Estimator:
    return Estimator(path=f"lightgbm.sklearn.{name}", parameters={})


# Mistakes: changes of the loop, changes of the columns, facts, words.
MISTAKES: dict[str, tuple[dict[str, Any], Schema, LabelFacts | None, tuple[str, ...]]] = {
    "a column misspelt": (
        {"features": lambda row: {"a": row.mile}},
        {},
        BOTH,
        ("the feature 'a' names the column 'mile'", "did you mean 'miles'"),
    ),
    "a column that is nothing like any": (
        {"checks": [el.check.NotNull("zzz")]},
        {},
        BOTH,
        ("el.check.NotNull names the column 'zzz'", "it has id, left_at, carrier"),
    ),
    "a key that is not there": (
        {"source": el.Parquet("x", key="idd", event_time="left_at")},
        {},
        BOTH,
        ("source.key", "'idd'", "did you mean 'id'"),
    ),
    "an after that is not there": (
        {"source": el.Parquet("x", key="id", event_time="left_at", after="arived")},
        {},
        BOTH,
        ("source.after", "did you mean 'arrived'"),
    ),
    "a slice that is not there": ({"gate": el.Better(0, slices="carier")}, {}, BOTH, ("gate.slices", "'carrier'")),
    "a unit that is not there": ({"rollout": el.Canary(unit="user")}, {}, BOTH, ("rollout.unit", "'user'")),
    "a label that is not there": (
        {"label": "latte"},
        {},
        None,
        ("label names the column 'latte'", "did you mean 'late'"),
    ),
    "a time that is text": (
        {"source": el.Parquet("x", key="id", event_time="carrier")},
        {},
        BOTH,
        ("'carrier', a column of text", "el.Fixed"),
    ),
    "a counter that is text": (
        {
            "source": el.Parquet(
                "x", key="id", event_time=el.Fixed("carrier", datetime(2024, 1, 1, tzinfo=UTC), td(hours=1))
            )
        },
        {},
        BOTH,
        ("'carrier', a column of text", "integers"),
    ),
    "a feature of a type it cannot take": (
        {"features": lambda row: {"a": row.carrier + 1}},
        {},
        BOTH,
        ("The feature 'a'", "not text"),
    ),
    "a feature that is an instant": (
        {"features": lambda row: {"a": row.left_at}},
        {},
        BOTH,
        ("'a' is an instant", ".dt.hour()"),
    ),
    "bounds on a text": (
        {"checks": [el.check.Between("carrier", 1, 2)]},
        {},
        BOTH,
        ("'carrier', a column of text", "Holds"),
    ),
    "a number among instants": ({"checks": [el.check.Between("left_at", 1, 2)]}, {}, BOTH, ("instant", "holds 1")),
    "a text among numbers": ({"checks": [el.check.OneOf("miles", ["a"])]}, {}, BOTH, ("number", "'a'")),
    "true among numbers": ({"checks": [el.check.OneOf("stops", [True])]}, {}, BOTH, ("integer", "True")),
    "a pattern on a number": (
        {"checks": [el.check.Matches("miles", "a")]},
        {},
        BOTH,
        ("'miles', a column of number", "Between"),
    ),
    "a pattern that looks ahead": (
        {"checks": [el.check.Matches("carrier", "a(?=b)")]},
        {},
        BOTH,
        ("'a(?=b)'", "Holds"),
    ),
    "a check that is a number": (
        {"checks": [el.check.Holds(lambda row: row.miles + 1, "far")]},
        {},
        BOTH,
        ("'far'", "gives number", "a comparison"),
    ),
    "a check of the wrong type": (
        {"checks": [el.check.Holds(lambda row: row.carrier > 1, "big")]},
        {},
        BOTH,
        ("el.check.Holds('big')", "text"),
    ),
    "a constant label": ({}, {}, facts(False), ("'late' is False in all 1,000 rows", "name another column")),
    "an absent label": ({}, {}, facts(missing=1_000), ("missing in all 1,000 rows", "name a column that is known")),
    "a constant number": (
        {"train": estimator("LGBMRegressor")},
        {"late": "number"},
        facts(3.5),
        ("3.5 in all 1,000 rows", "name another column"),
    ),
    "a label that is a time": (
        {"label": "left_out"},
        {"left_out": "instant"},
        BOTH,
        ("'left_out', a column of instants",),
    ),
    "a class that was not declared": (
        {"label": el.Label("carrier", classes=("AA", "BB"))},
        {},
        facts("AA", "CC"),
        ("'CC'", "('AA', 'BB')", "add it"),
    ),
    "a positive class that is not met": (
        {"label": el.Label("carrier", positive="ZZ")},
        {},
        facts("AA", "BB"),
        ("'ZZ'", "('AA', 'BB')"),
    ),
    "three classes of two": (
        {"label": el.Label("carrier", task="binary")},
        {},
        facts("AA", "BB", "CC"),
        ("3 classes", "task='multiclass'"),
    ),
    "too many classes": (
        {"label": "carrier"},
        {},
        facts(*(f"C{each}" for each in range(101))),
        ("101 different values", "task='regression'"),
    ),
    "a text that is to be a number": (
        {"label": el.Label("carrier", task="regression"), "train": ANY},
        {},
        facts("AA", "BB"),
        ("a column of text", "it needs numbers"),
    ),
    "no news of another type": (
        {"label": el.Label("stops", absent="none")},
        {},
        facts(0, 1),
        ("'none'", "a column of integer"),
    ),
    "a logarithm of less than nothing": (
        {"label": el.Label("miles", scale="log1p"), "train": ANY},
        {},
        facts(-2.0, 5.0),
        ("holds -2", "'log1p'", "leave it out"),
    ),
    "a classifier of numbers": (
        {"label": "miles"},
        {},
        facts(1.5, 2.5, 3.5),
        ("LGBMClassifier", "LGBMRegressor", "regression"),
    ),
    "a regressor of classes": (
        {"train": estimator("LGBMRegressor"), "label": el.Label("late")},
        {},
        BOTH,
        ("LGBMRegressor", "LGBMClassifier", "binary"),
    ),
    "a score of the other task": (
        {"score": el.metric.RocAuc(), "label": el.Label("miles"), "train": ANY},
        {},
        facts(1.5, 2.5, 3.5),
        ("roc_auc", "regression (inferred)", "write another score"),
    ),
    "a threshold of many": (
        {"label": "carrier", "decision": el.Threshold(0.5)},
        {},
        facts("AA", "BB", "CC"),
        ("Threshold", "leave it out"),
    ),
    "a weight that is no column": (
        {"train": el.Train(estimator("LGBMClassifier"), weight="wait")},
        {},
        BOTH,
        ("'wait'", "miles, stops"),
    ),
    "a weight of a class that is none": (
        {"train": el.Train(estimator("LGBMClassifier"), weight={"yes": 2})},
        {},
        BOTH,
        ("'yes'", "(False, True)"),
    ),
    "balanced numbers": (
        {"train": el.Train(estimator("LGBMRegressor"), weight="balanced"), "label": "miles"},
        {},
        facts(1.5, 2.5),
        ("'balanced'", "a column of weights"),
    ),
    "drift of what no request brings": (
        {"features": lambda row: {"a": row.miles}, "retrain": el.Drift(columns="stops")},
        {},
        BOTH,
        ("'stops'", "write columns of miles"),
    ),
    "a slice of the label": ({"gate": el.NotWorse(slices="late")}, {}, BOTH, ("'late'", "known only later")),
    "a slice of instants": ({"gate": el.NotWorse(slices="arrived")}, {}, BOTH, ("'arrived'", "groups")),
    "a unit of numbers": (
        {"rollout": el.Canary(unit="miles")},
        {},
        BOTH,
        ("'miles', a column of number", "text or integers"),
    ),
    "outcomes of unknown values": (
        {"label": el.Label("clicked", source=el.Outcomes())},
        {},
        None,
        ("'clicked' comes as outcomes", "classes=(…)"),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_against_the_columns_says_its_value_and_the_remedy(name: str, loop: Make, schema: Schema) -> None:
    changes, columns, found, words = MISTAKES[name]
    with pytest.raises(el.SpecError) as caught:
        resolve(loop(**changes), {**schema, **columns}, found)
    for each in words:
        assert each in str(caught.value), str(caught.value)


# What the label is: its column's type, the values met, further declarations, then task, classes, positive class.
TARGETS: list[tuple[ColumnType, tuple[Value, ...], dict[str, Any], str, tuple[Value, ...], int | None]] = [
    ("boolean", (True, False), {}, "binary", (False, True), 1),
    ("integer", (1, 0), {}, "binary", (0, 1), 1),
    ("integer", (7, 3), {}, "binary", (3, 7), 1),
    ("number", (1.0, 0.0), {}, "binary", (0, 1), 1),
    ("text", ("no", "yes"), {}, "binary", ("no", "yes"), 1),
    ("text", ("yes", "no"), {"positive": "no"}, "binary", ("no", "yes"), 0),
    ("integer", (0, 1), {"classes": (1, 0)}, "binary", (1, 0), 0),
    ("text", ("b", "a", "c"), {}, "multiclass", ("a", "b", "c"), None),
    ("integer", (2, 0, 1), {}, "multiclass", (0, 1, 2), None),
    ("integer", tuple(range(21)), {}, "regression", (), None),
    ("number", (1.5, 2.5), {}, "regression", (), None),
    ("number", (1.0, 2.0, 3.0), {}, "regression", (), None),
    ("integer", (0, 1, 2), {"scale": "log1p"}, "regression", (), None),
    ("integer", (0, 1, 2), {"task": "regression"}, "regression", (), None),
    ("integer", (0, 1), {"task": "multiclass"}, "multiclass", (0, 1), None),
    ("integer", (1,), {"absent": 0}, "binary", (0, 1), 1),
    ("boolean", (True,), {"absent": False}, "binary", (False, True), 1),
    ("text", (), {"classes": ("a", "b")}, "binary", ("a", "b"), 1),
]


@pytest.mark.parametrize(("kind", "values", "declared", "task", "classes", "positive"), TARGETS)
def test_the_task_follows_from_the_values_unless_it_is_declared(
    kind: ColumnType,
    values: tuple[Value, ...],
    declared: dict[str, Any],
    task: str,
    classes: tuple[Value, ...],
    positive: int | None,
    loop: Make,
    schema: Schema,
) -> None:
    found = resolve(loop(label=el.Label("y", **declared), train=ANY), {**schema, "y": kind}, facts(*values))
    assert (found.task, found.classes, found.positive) == (task, classes, positive)
    assert [type(each) for each in found.classes] == [type(each) for each in classes]
    assert found.score == (el.metric.RootMeanSquaredError() if task == "regression" else el.metric.LogLoss())


def test_a_few_whole_numbers_are_amounts_for_a_regressor_and_for_a_regression_score(loop: Make, schema: Schema) -> None:
    few = facts(0, 1, 2)
    assert resolve(loop(label="stops", train=estimator("LGBMRegressor")), schema, few).task == "regression"
    assert (
        resolve(loop(label="stops", train=ANY, score=el.metric.MeanAbsoluteError()), schema, few).task == "regression"
    )
    assert resolve(loop(label="stops"), schema, few).task == "multiclass"


def test_outcomes_need_classes_or_a_task_and_then_no_column(loop: Make, schema: Schema) -> None:
    outcome: dict[str, Any] = {"source": el.Outcomes(), "delay": td(days=3)}
    assert resolve(loop(label=el.Label("paid", classes=("no", "yes"), **outcome)), schema).classes == ("no", "yes")
    assert resolve(loop(label=el.Label("paid", absent=False, **outcome)), schema).classes == (False, True)
    assert resolve(loop(label=el.Label("paid", task="regression", **outcome), train=ANY), schema).task == "regression"


def test_without_features_every_column_known_then_is_one(loop: Make, schema: Schema) -> None:
    found = resolve(loop(), schema, BOTH)
    assert found.features.names == ("carrier", "miles", "stops", "holiday")
    assert found.inputs == ("carrier", "miles", "stops", "holiday")
    assert found.feature_types["carrier"] == "text"


def test_a_weight_and_a_unit_are_no_features_by_themselves(loop: Make, schema: Schema) -> None:
    weighted = loop(train=el.Train(estimator("LGBMClassifier"), weight="miles"), rollout=el.Canary(unit="carrier"))
    assert resolve(weighted, schema, BOTH).features.names == ("stops", "holiday")


def test_no_column_left_is_a_mistake(loop: Make) -> None:
    small: Schema = {"id": "integer", "left_at": "instant", "arrived": "instant", "late": "boolean"}
    with pytest.raises(el.SpecError, match="No column is left for features"):
        resolve(loop(), small, BOTH)


def test_a_key_column_may_be_named_as_a_feature(loop: Make, schema: Schema) -> None:
    assert resolve(loop(features=lambda row: {"id": row.id}), schema, BOTH).inputs == ("id",)


def test_inputs_are_in_the_order_of_the_source(loop: Make, schema: Schema) -> None:
    found = resolve(loop(features=lambda row: {"a": row.stops + row.miles, "b": row.carrier}), schema, BOTH)
    assert found.inputs == ("carrier", "miles", "stops")
    assert found.feature_types == {"a": "number", "b": "text"}


def test_a_score_of_the_users_own_has_the_companion_of_its_task(loop: Make, schema: Schema) -> None:
    classes = resolve(loop(score=regret), schema, BOTH)
    numbers = resolve(loop(score=regret, label="miles", train=ANY), schema, facts(1.5, 2.5))
    assert classes.score.companion == el.metric.Brier()
    assert numbers.score.companion.name == "squared_error"


def test_the_answers_themselves_may_be_watched_for_drift(loop: Make, schema: Schema) -> None:
    resolve(loop(retrain=el.Drift(columns="(prediction)")), schema, BOTH)

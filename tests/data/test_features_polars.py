"""What the training side promises about features, with Python as the second opinion."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

import everloop as el
from everloop.data.features import render
from everloop.errors import DataError, SpecError
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType
from everloop.spec.columns import FeatureTree, trace

SCHEMA: dict[str, ColumnType] = {"x": "number", "i": "integer", "b": "boolean", "s": "text", "t": "instant"}
DTYPES: dict[str, Any] = {
    "x": pl.Float64,
    "i": pl.Int64,
    "b": pl.Boolean,
    "s": pl.String,
    "t": pl.Datetime("us", "UTC"),
}


def values(write: Any, zone: str | None = None, **columns: list[Any]) -> list[Any]:
    tree = FeatureTree(columns=trace(lambda row: {"feature": write(row)}))
    frame = pl.DataFrame({name: pl.Series(given, dtype=DTYPES[name]) for name, given in columns.items()})
    return render(tree, frame, SCHEMA, {"t": zone})["feature"].to_list()


def test_every_type_comes_back_as_itself_and_missing_is_null() -> None:
    tree = FeatureTree(columns=trace(lambda row: {name: row[name] for name in SCHEMA}))
    at = datetime(2024, 2, 29, tzinfo=UTC)
    frame = pl.DataFrame(
        {"x": [1.5, math.nan, math.inf], "i": [1, MISSING_INTEGER, None], "b": [True, None, False], "s": ["a", MISSING_TEXT, None], "t": [at, None, at]},
        schema=DTYPES,
    )  # fmt: skip
    rendered = render(tree, frame, SCHEMA)
    assert dict(rendered.schema) == DTYPES
    assert rendered.rows() == [(1.5, 1, True, "a", at), (None, None, None, None, None), (None, None, False, None, at)]


def test_no_rows_and_one_row_are_frames_too() -> None:
    tree = FeatureTree(
        columns=trace(lambda row: {"a": row.x / 3, "b": el.when(row.b).then("yes"), "c": row.t.dt.hour()})
    )
    row = {"x": 1.0, "b": True, "t": datetime(2024, 1, 1, tzinfo=UTC)}
    for rows in (0, 1):
        frame = pl.DataFrame([row] * rows, schema={name: DTYPES[name] for name in row})
        assert render(tree, frame, SCHEMA, {"t": "Asia/Tokyo"}).shape == (rows, 3)


def test_an_integer_beyond_two_to_the_53_stays_exact_until_it_meets_a_number() -> None:
    big = 2**53 + 1
    assert values(lambda r: r.i + 1, i=[big]) == [big + 1]
    assert values(lambda r: r.i == big, i=[big, big - 1]) == [True, False]
    assert values(lambda r: r.i == float(2**53), i=[big]) == [True]
    assert values(lambda r: r.i * 2, i=[2**62]) == [-(2**63)]  # wraps


def test_division_and_remainder_round_down_as_in_python() -> None:
    for left, right in [(7, 2), (-7, 2), (7, -2), (-7, -2), (-7, -1), (6, 3)]:
        assert values(lambda r, by=right: r.i // by, i=[left]) == [left // right]
        assert values(lambda r, by=right: r.i % by, i=[left]) == [left % right]
    assert values(lambda r: r.i // (r.i - r.i), i=[7]) == [None]
    assert values(lambda r: r.i % 0, i=[7]) == [None]
    assert values(lambda r: r.x / 10, x=[3.0]) == [3.0 / 10]


def test_results_that_are_not_finite_are_missing() -> None:
    assert values(lambda r: r.x / 0, x=[1.0, 0.0, -1.0]) == [None, None, None]
    assert values(lambda r: r.x.log(), x=[0.0, -1.0, 1.0]) == [None, None, 0.0]
    assert values(lambda r: r.x.sqrt(), x=[-1.0, 4.0]) == [None, 2.0]
    assert values(lambda r: r.x * 10, x=[1e308]) == [None]
    assert values(lambda r: r.x.exp(), x=[1000.0]) == [None]


def test_missing_spreads_but_for_what_is_known_without_it() -> None:
    assert values(lambda r: r.x > 1, x=[None, 2.0]) == [None, True]
    assert values(lambda r: (r.x > 1) & r.b, x=[None, None], b=[False, True]) == [False, None]
    assert values(lambda r: (r.x > 1) | r.b, x=[None, None], b=[False, True]) == [None, True]
    assert values(lambda r: el.when(r.b).then(1).otherwise(0), b=[None, True]) == [0, 1]
    assert values(lambda r: r.x**0, x=[None, 3.0]) == [None, 1.0]
    assert values(lambda r: r.x.clip(r.i), x=[1.0, None], i=[None, 1]) == [None, None]
    assert values(lambda r: r.s.map({"a": 1}, default=9), s=["a", "z", None]) == [1, 9, None]
    assert values(lambda r: r.s.is_in(["a"]), s=["a", "z", None]) == [True, False, None]


def test_a_half_is_rounded_to_the_even_neighbour() -> None:
    assert values(lambda r: r.x.round(), x=[0.5, 1.5, 2.5, -0.5, -1.5]) == [0.0, 2.0, 2.0, 0.0, -2.0]
    assert values(lambda r: r.x.round(1), x=[0.25, 1e300]) == [0.2, 1e300]
    assert values(lambda r: r.i.round(-1), i=[25, 35]) == [20.0, 40.0]


def test_text_becomes_a_number_only_when_it_reads_like_one() -> None:
    assert values(lambda r: r.s.to_number(), s=["1.5", "-2e3", ".5", "1e999", "nan", "inf", " 1", "1_0", "", "0x1"]) == [
        1.5, -2000.0, 0.5, None, None, None, None, None, None, None,
    ]  # fmt: skip
    assert values(lambda r: r.s.to_integer(), s=["007", "+5", "-1", "1.0", "9" * 19]) == [7, 5, -1, None, None]
    assert values(lambda r: r.x.to_integer(), x=[1.9, -1.9, 1e19]) == [1, -1, None]


def test_case_changes_letter_by_letter() -> None:
    assert values(lambda r: r.s.str.lower(), s=["ŁÓDŹ", "ΣΟΦΟΣ", "Straße", None]) == ["łódź", "σοφοσ", "straße", None]
    assert values(lambda r: r.s.str.upper(), s=["łódź", "straße"]) == ["ŁÓDŹ", "STRAßE"]
    assert values(lambda r: r.s.str.length(), s=["日本", "\U0001f600", ""]) == [2, 1, 0]


def test_a_pattern_matches_the_whole_text_and_its_classes_are_ascii() -> None:
    assert values(lambda r: r.s.str.matches(r"\d+"), s=["12", "12a", "١٢", ""]) == [True, False, False, False]
    assert values(lambda r: r.s.str.contains("a.b"), s=["xa.bx", "aXb"]) == [True, False]


ZONES = [
    "America/Chicago",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Europe/Dublin",
]


@pytest.mark.parametrize("zone", ZONES)
def test_the_clock_on_the_wall_is_the_one_python_shows(zone: str) -> None:
    instants = [datetime(1935, 1, 1, tzinfo=UTC) + timedelta(hours=53 * n, seconds=n) for n in range(20_000)]
    local = [each.astimezone(ZoneInfo(zone)) for each in instants]
    assert values(lambda r: r.t.dt.hour() * 60 + r.t.dt.minute(), zone, t=instants) == [
        e.hour * 60 + e.minute for e in local
    ]
    assert values(lambda r: r.t.dt.weekday(), zone, t=instants) == [each.isoweekday() for each in local]
    parts = lambda r: r.t.dt.year() * 10_000 + r.t.dt.month() * 100 + r.t.dt.day()  # noqa: E731
    assert values(parts, zone, t=instants) == [e.year * 10_000 + e.month * 100 + e.day for e in local]
    assert values(lambda r: r.t.dt.day_of_year(), zone, t=instants) == [each.timetuple().tm_yday for each in local]


def test_the_hour_that_happens_twice_is_the_same_hour_twice() -> None:
    twice = [datetime(2023, 11, 5, 6, 30, tzinfo=UTC), datetime(2023, 11, 5, 7, 30, tzinfo=UTC)]
    assert values(lambda r: r.t.dt.hour(), "America/Chicago", t=twice) == [1, 1]
    skipped = [datetime(2023, 3, 12, 7, 59, tzinfo=UTC), datetime(2023, 3, 12, 8, 0, tzinfo=UTC)]
    assert values(lambda r: r.t.dt.hour(), "America/Chicago", t=skipped) == [1, 3]


def test_a_deep_feature_costs_what_its_nodes_cost() -> None:
    """Each node is calculated once, though many operations look at their argument twice."""

    def features(row: el.Columns) -> dict[str, el.Column]:
        value = row.x
        for _ in range(8):  # 1,500 nodes
            value = value.clip(1) + value % 3
        return {"deep": value.log1p()}

    tree = FeatureTree(columns=trace(features))
    assert render(tree, pl.DataFrame({"x": [1.0, 100.0]}), SCHEMA)["deep"].null_count() == 0


def test_what_is_not_there_is_named() -> None:
    tree = FeatureTree(columns=trace(lambda row: {"a": row.x + row.i}))
    with pytest.raises(DataError, match="features read i, "):
        render(tree, pl.DataFrame({"x": [1.0]}), SCHEMA)
    with pytest.raises(SpecError, match=r"feature 'a'.*no column 'i'"):
        render(tree, pl.DataFrame({"x": [1.0]}), {"x": "number"})

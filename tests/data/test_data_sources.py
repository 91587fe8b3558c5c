"""Files become typed rows, or an error that names the file."""

import json
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data import sources
from everloop.data.columns import guessed, instants, to_utc
from everloop.errors import DataError, SchemaChanged
from everloop.serve.rows import key_text
from everloop.spec.source import Csv, Fixed, JsonLines, Parquet, Source

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def parquet(**changes: Any) -> Parquet:
    return Parquet(**{"path": "*.parquet", "key": "id", "event_time": "at", **changes})


def rows(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"id": [1, 2], "at": [NOON, NOON + timedelta(hours=1)], **columns})


def test_every_column_comes_as_one_of_six_types(tmp_path: Path) -> None:
    frame = rows(
        small=pl.Series([1, None], dtype=pl.UInt8),
        single=pl.Series([1.5, float("nan")], dtype=pl.Float32),
        exact=pl.Series(["1.25", None]).cast(pl.Decimal(10, 2)),
        kind=pl.Series(["a", None], dtype=pl.Categorical),
        flag=[True, None],
        day=[date(2024, 1, 1), None],
        nano=pl.Series([NOON, None]).dt.cast_time_unit("ns"),
        items=[[1], [2]],
        picture=[b"x", b"y"],
        nothing=[None, None],
    )
    frame.write_parquet(tmp_path / "a.parquet")
    source = parquet(time_zone="UTC")
    schema = sources.schema_of(source, tmp_path)
    assert schema == {
        "id": "integer",
        "at": "instant",
        "small": "integer",
        "single": "number",
        "exact": "number",
        "kind": "text",
        "flag": "boolean",
        "day": "instant",
        "nano": "instant",
        "picture": "bytes",
    }
    got = sources.read(source, tmp_path / "a.parquet", schema)
    assert got["single"].to_list() == [1.5, None], "NaN is missing"
    assert got["exact"].to_list() == [1.25, None]
    assert got["day"].to_list() == [datetime(2024, 1, 1, tzinfo=UTC), None]
    assert got.schema["nano"] == got.schema["at"] == pl.Datetime("us", "UTC")
    assert got.schema["small"] == pl.Int64
    assert got["_batch"].unique().to_list() == [sources.digest_of_file(tmp_path / "a.parquet")]
    assert sources.types_of(got.schema) == schema


def test_the_three_formats_give_the_same_rows(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "id": ["x", "y", "z"],
            "at": [NOON, NOON + timedelta(seconds=1.5), NOON + timedelta(days=1)],
            "count": [1, None, 3],
            "price": [1.5, -2.0, None],
            "late": [True, None, False],
            "zip": ["00501", "90210", None],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    text = frame.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ"))
    text.write_csv(tmp_path / "a.csv", separator=";")
    text.write_ndjson(tmp_path / "a.jsonl")
    declared: list[Source] = [
        Parquet("a.parquet", key=("id",), event_time="at"),
        Csv("a.csv", key=("id",), event_time="at", separator=";"),
        JsonLines("a.jsonl", key=("id",), event_time="at"),
    ]
    schemas = [sources.schema_of(source, tmp_path) for source in declared]
    assert schemas[0] == schemas[1] == schemas[2]
    read = [sources.read(s, sources.files(s, tmp_path)[0], schemas[0]).drop("_batch") for s in declared]
    assert read[0].equals(read[1])
    assert read[0].equals(read[2])
    assert read[0]["zip"].to_list() == ["00501", "90210", None], "leading zeros are a name, not a number"


def test_keys_are_written_as_prediction_ids_are() -> None:
    frame = pl.DataFrame(
        {
            "moment": [NOON, NOON + timedelta(microseconds=5), None],
            "text": ["a b", "ü", "c"],
            "count": [7, -1, 2],
            "flag": [True, False, True],
            "size": [1.0, 1e22, 2.0],
        }
    )
    source = Parquet("x", key=("moment", "text", "count", "flag", "size"), event_time="moment")
    got = sources.normalised(source, frame, {}, where="rows", digest="d")
    for row, key in zip(got.iter_rows(named=True), got["_key"], strict=True):
        if row["moment"] is None:
            assert key is None
            continue
        moment = (row["moment"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        parts = [key_text(moment, "instant"), *(key_text(row[n], None) for n in ("text", "count", "flag", "size"))]
        assert key == "|".join(str(part) for part in parts)


def test_a_counter_becomes_an_event_time() -> None:
    source = Parquet("x", key=("seq",), event_time=Fixed("seq", NOON, timedelta(minutes=10)))
    got = sources.normalised(source, pl.DataFrame({"seq": [0, 3, None]}), {}, where="rows", digest="d")
    assert got["_event_time"].to_list() == [NOON, NOON + timedelta(minutes=30), None]
    with pytest.raises(DataError, match=r"seq counts events.*is text"):
        sources.normalised(source, pl.DataFrame({"seq": ["a"]}), {}, where="rows", digest="d")


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(
        ["America/Chicago", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata", "UTC"]
    ),
    moments=st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2037, 12, 31)), min_size=1, max_size=20),
)
def test_naive_instants_are_read_as_python_reads_them(zone: str, moments: list[datetime]) -> None:
    hours = [datetime(2024, month, day, hour, 30) for month in (3, 4, 10, 11) for day in range(1, 32, 2) if not (
        month in (4, 11) and day == 31) for hour in (1, 2)]  # fmt: skip
    special = [datetime(2011, 12, 30, 10), datetime(2024, 3, 10, 2, 30), datetime(2024, 11, 3, 1, 30)]
    every = [*moments, *special, *hours]
    got = to_utc(pl.Series("at", every, dtype=pl.Datetime("us")), time_zone=zone, where="rows").to_list()
    assert got == [each.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for each in every]


def test_the_hour_that_happens_twice_is_the_first_and_one_that_never_was_is_shifted() -> None:
    naive = pl.Series("at", [datetime(2024, 11, 3, 1, 30), datetime(2024, 3, 10, 2, 30), None], dtype=pl.Datetime("us"))
    assert to_utc(naive, time_zone="America/Chicago", where="rows").to_list() == [
        datetime(2024, 11, 3, 6, 30, tzinfo=UTC),
        datetime(2024, 3, 10, 8, 30, tzinfo=UTC),
        None,
    ]


def test_a_naive_instant_without_a_zone_is_refused_with_the_remedy(tmp_path: Path) -> None:
    rows(at=[datetime(2024, 1, 1), datetime(2024, 1, 2)]).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"Column at .*without a zone.*time_zone="):
        sources.schema_of(parquet(), tmp_path)
    with pytest.raises(DataError, match=r"Column at .*without a zone.*time_zone="):
        sources.read(parquet(), tmp_path / "a.parquet")


def test_iso_texts_are_instants_with_and_without_offset() -> None:
    texts = [
        "2024-01-01T00:00:00Z",
        "2024-01-01 00:00:00.5",
        "2024-01-01",
        "2024-01-01T01:02+05:30",
        "2024-01-01T01:02:03.1234567-0530",
        None,
    ]
    got = instants(pl.Series("at", texts), time_zone="Europe/Paris", where="rows").to_list()
    assert got == [
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2023, 12, 31, 23, 0, 0, 500_000, tzinfo=UTC),
        datetime(2023, 12, 31, 23, tzinfo=UTC),
        datetime(2023, 12, 31, 19, 32, tzinfo=UTC),
        datetime(2024, 1, 1, 6, 32, 3, 123_456, tzinfo=UTC),
        None,
    ]
    with pytest.raises(SchemaChanged, match="Column at is instant; f has the text '2024-02-30'"):
        instants(pl.Series("at", ["2024-02-30"]), time_zone="UTC", where="f")


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2", None], "integer"),
        (["1", "2.5", "1e5", "NaN"], "number"),
        (["007", "8"], "text"),
        (["true", "False"], "boolean"),
        (["2024-01-01", "2024-01-01T10:00Z"], "instant"),
        (["1", "x"], "text"),
        (["99999999999999999999"], "number"),
        ([None, None], None),
    ],
)
def test_texts_are_typed_by_all_their_values(texts: list[str | None], kind: str | None) -> None:
    assert guessed(pl.Series("x", texts, dtype=pl.String)) == kind


CHANGES: list[tuple[Mapping[str, Any], str]] = [
    ({"x": [1.5, 2.0]}, "integer.*number"),
    ({"x": ["a", "b"]}, "integer.*text"),
    ({"x": [True, False]}, "integer.*boolean"),
    ({"x": [NOON, NOON]}, "integer.*instant"),
    ({"x": [[1], [2]]}, "integer.*List"),
]


@pytest.mark.parametrize(("columns", "types"), CHANGES)
def test_a_changed_column_type_names_the_column_both_types_and_the_file(
    tmp_path: Path, columns: Mapping[str, Any], types: str
) -> None:
    rows(**columns).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(
        SchemaChanged, match=rf"Column x is {types.split('.*')[0]}; in .*b\.parquet it is {types.split('.*')[1]}"
    ):
        sources.read(parquet(), tmp_path / "b.parquet", {"x": "integer"})


def test_what_loses_nothing_is_taken_for_the_declared_type(tmp_path: Path) -> None:
    rows(a=[1, None], b=[2.0, None], c=pl.Series([None, None], dtype=pl.Null)).write_parquet(tmp_path / "a.parquet")
    got = sources.read(parquet(), tmp_path / "a.parquet", {"a": "number", "b": "integer", "c": "text"})
    expected = {"id": "integer", "at": "instant", "a": "number", "b": "integer", "c": "text"}
    assert sources.types_of(got.schema) == expected
    assert got["b"].to_list() == [2, None]


def test_a_csv_value_of_another_type_names_the_value(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,at,x\n1,2024-01-01T00:00Z,5\n2,2024-01-01T00:00Z,many\n")
    source = Csv("*.csv", key=("id",), event_time="at")
    with pytest.raises(SchemaChanged, match=r"Column x is integer; in .*a\.csv it is text, for example 'many'"):
        sources.read(source, path, {"x": "integer"})
    path.write_text("id,at,x\n1,2024-01-01T00:00Z,5\n2,2024-01-01T00:00Z,5.5\n")
    with pytest.raises(SchemaChanged, match=r"Column x is integer; in .*a\.csv it is number"):
        sources.read(source, path, {"x": "integer"})


def test_heads_agree_or_name_both_files(tmp_path: Path) -> None:
    rows(x=[1, 2]).write_parquet(tmp_path / "a.parquet")
    rows(x=[1.5, 2.0]).write_parquet(tmp_path / "b.parquet")
    assert sources.schema_of(parquet(), tmp_path)["x"] == "number"
    rows(x=["a", "b"]).write_parquet(tmp_path / "c.parquet")
    with pytest.raises(SchemaChanged, match=r"Column x is number in .*a\.parquet and text in .*c\.parquet"):
        sources.schema_of(parquet(), tmp_path)


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No file matches '\*\.parquet'"):
        sources.schema_of(parquet(), tmp_path)


def test_a_damaged_file_is_named_wherever_it_was_cut(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    pl.DataFrame({"id": range(500), "at": [NOON] * 500, "t": [f"text {i}" for i in range(500)]}).write_parquet(good)
    whole = good.read_bytes()
    chance = random.Random(5)
    for cut in [0, 1, 3, 4, 8, *(chance.randrange(len(whole)) for _ in range(40)), len(whole) - 1]:
        path = tmp_path / "cut.parquet"
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cut\.parquet cannot be read"):
            sources.read(parquet(), path, {})


def test_a_cut_off_text_file_is_named(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps({"id": 1, "at": "2024-01-01T00:00Z"}) + '\n{"id": 2, "at": "20')
    with pytest.raises(DataError, match=r"a\.jsonl cannot be read"):
        sources.read(JsonLines("*", key=("id",), event_time="at"), lines, {})
    table = tmp_path / "a.csv"
    table.write_text("id,at,x\n1,2024-01-01T00:00Z,5\n2,2024-01-01")
    with pytest.raises(DataError, match=r"a\.csv ends inside a row: its last line has 2 of 3 fields"):
        sources.read(Csv("*", key=("id",), event_time="at"), table, {})
    table.write_bytes(b"id,at,x\n1,2024-01-01T00:00Z,\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.csv cannot be read"):
        sources.read(Csv("*", key=("id",), event_time="at"), table, {})
    with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
        sources.read(Csv("*", key=("id",), event_time="at"), tmp_path / "gone.csv", {})


def test_names_of_ours_and_missing_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows has a column _key, a name that everloop uses"):
        sources.normalised(parquet(), rows(_key=["a", "b"]), {}, where="rows", digest="d")
    with pytest.raises(DataError, match=r"rows has no column id, which the source names as key\. It has: at"):
        sources.normalised(parquet(), rows().drop("id"), {}, where="rows", digest="d")
    with pytest.raises(DataError, match="Column at is the event time and must hold instants; in rows it is integer"):
        sources.normalised(parquet(), rows(at=[1, 2]), {}, where="rows", digest="d")


def test_paths_are_what_their_files_hold_beneath_the_folder_alone(tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    (shots / "day").mkdir(parents=True)
    (shots / "day" / "a.png").write_bytes(b"picture")
    (tmp_path / "secret.txt").write_bytes(b"not for you")
    named = ["day/a.png", "day/b.png", "../secret.txt", str(tmp_path / "secret.txt"), ""]
    lines = "".join(f"{number},{NOON.isoformat()},{path}\n" for number, path in enumerate(named))
    (shots / "rows.csv").write_text(f"id,at,photo\n{lines}", "utf-8")
    source = Csv("*.csv", key="id", event_time="at", files="photo", time_zone="UTC")
    schema = sources.schema_of(source, shots)
    assert schema["photo"] == "bytes"
    assert sources.read(source, shots / "rows.csv", schema)["photo"].to_list() == [b"picture", None, None, None, None]

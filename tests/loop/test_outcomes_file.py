"""Outcomes from a file mean what is written there, and what a log cannot hold is refused before it is in it."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from everloop.errors import DataError
from everloop.loop.outcomes import read_outcomes
from everloop.measure.truth import Class
from everloop.records import Task
from everloop.store import segments

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def read(path: Path, task: Task = "binary", classes: Sequence[Class] = (False, True)) -> list[Any]:
    found = read_outcomes(path, label="late", now=NOW, task=task, classes=classes)
    frame = segments.OutcomeFrame(loop="l", outcomes=[(each.id, each.name, each.value, 0) for each in found])
    assert segments.decode(segments.encode(frame)) == frame, "what is written can be read again"
    return [(each.id, each.name, each.value) for each in found]


def test_an_id_in_a_csv_file_stays_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("id,value,name\n007,1,\n1e5,true,late\nü|x,2.5,7\n3,,\n")

    assert read(path) == [("007", "late", 1), ("1e5", "late", True), ("ü|x", "7", 2.5), ("3", "late", None)]


def test_a_label_of_texts_is_never_read_as_a_number(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("id,value,name\na,007,\nb,12,weight\n")

    assert read(path, "multiclass", ("006", "007", "008")) == [("a", "late", "007"), ("b", "weight", 12)]


def test_a_number_as_name_and_an_id_that_is_none_are_texts_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    pl.DataFrame({"id": [7, 8], "value": [1.5, float("nan")], "name": [3, 3]}).write_parquet(path)

    assert read(path) == [("7", "3", 1.5), ("8", "3", None)]


@pytest.mark.parametrize("value", [[1, 2], date(2026, 1, 1), {"a": 1}])
def test_what_is_no_value_is_refused_with_its_row(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "o.parquet"
    pl.DataFrame({"id": ["a"], "value": [value]}).write_parquet(path)

    with pytest.raises(DataError, match="row 1: value is"):
        read(path)


def test_a_number_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text(f"id,value\na,{2**70}\n")

    with pytest.raises(DataError, match="row 1: value is"):
        read(path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "ndjson", "parquet"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, ending: str, content: str) -> None:
    path = tmp_path / f"o.{ending}"
    path.write_text(content)

    with pytest.raises(DataError, match=r"is empty: it names no column\. Write id and value for each outcome\.$"):
        read(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"id": {"a": 1}, "value": 1}, "row 1: id is"),
        ({"id": ["a"], "value": 1}, "row 1: id is"),
        ({"id": "a", "value": 1, "at": "9999-12-31T23:59:59-14:00"}, "row 1: at is 9999"),
        ({"id": "a", "value": 1, "at": "0001-01-01T00:00:00+14:00"}, "row 1: at is 0001"),
    ],
)
def test_an_id_that_is_no_text_and_an_instant_beyond_all_years_are_refused(
    tmp_path: Path, line: dict[str, Any], words: str
) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text(json.dumps(line) + "\n")

    with pytest.raises(DataError, match=words):
        read(path)


WRONG = [
    ("binary", (False, True), "yes"),
    ("binary", (False, True), "2"),
    ("binary", ("no", "yes"), "1"),
    ("regression", (), "much"),
]


@pytest.mark.parametrize(("task", "classes", "value"), WRONG)
def test_a_value_that_cannot_be_the_label_is_refused_with_its_row(
    tmp_path: Path, task: Task, classes: Sequence[Class], value: str
) -> None:
    path = tmp_path / "o.csv"
    path.write_text(f"id,value,name\na,,\nb,{value},other\nc,{value},\n")

    with pytest.raises(DataError, match=f"row 3: value is '?{value}'?, which is no late; .*send"):
        read(path, task, classes)


@pytest.mark.parametrize(
    ("task", "classes", "value", "meant"),
    [
        ("binary", (0, 1), "1", 1),
        ("binary", (False, True), "1", 1),
        ("binary", (False, True), "TRUE", True),
        ("multiclass", ("a", "b", "c"), "new", "new"),
        ("regression", (), "1.5", 1.5),
    ],
)
def test_a_label_may_be_written_in_several_ways_and_of_several_classes_be_a_new_one(
    tmp_path: Path, task: Task, classes: Sequence[Class], value: str, meant: Any
) -> None:
    path = tmp_path / "o.csv"
    path.write_text(f"id,value\na,{value}\n")

    assert read(path, task, classes) == [("a", "late", meant)]

"""Only what is new is looked at."""

import os
from pathlib import Path

from everloop.data import sources
from everloop.data.arrivals import Arrivals
from everloop.spec.source import Parquet

SOURCE = Parquet("in/*.parquet", key="id", event_time="at")


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_file_is_new_until_it_is_done_with(tmp_path: Path) -> None:
    arrivals = Arrivals(SOURCE, tmp_path)
    assert arrivals.new() == []
    b, a = put(tmp_path, "b.parquet", b"1"), put(tmp_path, "a.parquet", b"2")
    put(tmp_path, "c.csv", b"3")
    (tmp_path / "in" / "folder.parquet").mkdir()
    assert arrivals.new() == [a, b]
    arrivals.done(a)
    assert arrivals.new() == [b], "what could not be read is tried again"
    arrivals.done(b)
    assert arrivals.new() == []


def test_a_file_that_changed_is_new_again(tmp_path: Path) -> None:
    arrivals = Arrivals(SOURCE, tmp_path)
    path = put(tmp_path, "a.parquet", b"1")
    for change in (lambda: put(tmp_path, "a.parquet", b"longer"), lambda: os.utime(path, ns=(1, 1))):
        arrivals.new()
        arrivals.done(path)
        assert arrivals.new() == []
        change()
        assert arrivals.new() == [path]
    beside = put(tmp_path, "beside", path.read_bytes())
    os.utime(beside, ns=(1, 1))
    arrivals.done(path)
    beside.replace(path)
    assert arrivals.new() == [path], "another file took its place, as old and as long"


def test_a_change_while_it_is_dealt_with_is_not_missed(tmp_path: Path) -> None:
    arrivals = Arrivals(SOURCE, tmp_path)
    path = put(tmp_path, "a.parquet", b"1")
    arrivals.new()
    put(tmp_path, "a.parquet", b"more came")
    arrivals.done(path)
    assert arrivals.new() == [path]


def test_files_come_sorted_by_path(tmp_path: Path) -> None:
    for name in ("a-b/x", "a/x", "a.c/x", "a/b/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    source = Parquet("**/x", key="id", event_time="at")
    expected = sorted(tmp_path.glob("**/x"))
    assert len(expected) == 4
    assert sources.files(source, tmp_path) == expected
    assert Arrivals(source, tmp_path).new() == expected

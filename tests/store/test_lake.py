"""The lake keeps every version readable for ever."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from everloop.errors import NotFound, SchemaChanged, StoreFull
from everloop.records import Outcome
from everloop.store.lake import COMPACT_EVERY, OUTCOME_SCHEMA, Lake, outcome_rows


def rows(start: int, count: int) -> pl.DataFrame:
    return pl.DataFrame({"number": range(start, start + count), "text": [f"t{i}" for i in range(start, start + count)]})


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert not lake.exists("raw")
    assert lake.version("raw") == -1
    assert lake.read("raw").is_empty()
    assert lake.read("raw", version=-1).is_empty()
    assert lake.history("raw") == []
    assert not lake.contains_batch("x")
    assert lake.schema("raw") == pl.Schema()


def test_every_version_stays_as_it_was(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    versions = [lake.append("raw", rows(i * 10, 10)) for i in range(COMPACT_EVERY + 15)]
    assert lake.read("raw").height == 10 * len(versions)
    for index in (0, 1, 30, COMPACT_EVERY - 1, COMPACT_EVERY, len(versions) - 1):
        then = lake.read("raw", version=versions[index])
        assert sorted(then["number"]) == list(range((index + 1) * 10))
    assert any(each["operation"] == "merge files" for each in lake.history("raw"))


def test_the_difference_of_two_versions_is_the_rows_added_between_them(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    versions = [lake.append("raw", rows(i * 3, 3)) for i in range(COMPACT_EVERY + 5)]
    for older, newer in ((-1, 0), (0, 0), (2, 7), (versions[40], versions[-1])):
        expected = lake.read("raw", version=newer).join(
            lake.read("raw", version=older) if older >= 0 else rows(0, 0).clear(), on="number", how="anti"
        )
        assert sorted(lake.diff("raw", older, newer)["number"]) == sorted(expected["number"])
    with pytest.raises(NotFound, match="versions 0 to"):
        lake.diff("raw", 0, 10_000)


def test_a_new_column_widens_the_table_and_an_absent_one_is_null(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("raw", rows(0, 2))
    lake.append("raw", rows(2, 2).with_columns(more=pl.lit(1.5)))
    lake.append("raw", rows(4, 2).select("text", "number"))
    lake.append("raw", rows(6, 1).with_columns(more=pl.lit(None)))
    now = lake.read("raw").sort("number")
    assert now["number"].to_list() == list(range(7))
    assert now["more"].to_list() == [None, None, 1.5, 1.5, None, None, None]
    assert "more" not in lake.read("raw", version=0).columns
    assert lake.diff("raw", -1, 3).sort("number").equals(now)


def test_another_type_is_refused_and_names_both(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("raw", rows(0, 2))
    with pytest.raises(SchemaChanged, match=r"Column number .* Int64; .* String"):
        lake.append("raw", rows(0, 2).with_columns(pl.col("number").cast(pl.String)))
    assert lake.version("raw") == 0


def test_notes_tell_which_batches_are_in(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("raw", rows(0, 2), note={"batch": "a", "more": "1"})
    lake.append("raw", rows(0, 0), note={"batch": "empty"})
    again = Lake(tmp_path)
    assert again.contains_batch("a")
    assert again.contains_batch("empty")
    assert not again.contains_batch("b")
    lake.append("raw", rows(2, 1), note={"batch": "b"})
    assert again.contains_batch("b")
    assert [(e["version"], e["rows"]) for e in again.history("raw")] == [(0, 2), (1, 0), (2, 1)]
    assert again.history("raw")[0]["note"] == {"batch": "a", "more": "1"}


def test_rows_and_columns_can_be_chosen(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("raw", rows(0, 100))
    got = lake.read("raw", columns=["text"], where=pl.col("number") >= 98)
    assert sorted(got["text"]) == ["t98", "t99"]
    assert got.columns == ["text"]


def test_a_version_that_never_was_is_not_found(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("raw", rows(0, 1))
    with pytest.raises(NotFound, match="no version 7; the newest is 0"):
        lake.read("raw", version=7)


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(part: int) -> None:
        mine = Lake(tmp_path)
        for index in range(8):
            mine.append("raw", rows(part * 1000 + index, 1), note={"batch": f"{part}-{index}"})

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    lake = Lake(tmp_path)
    assert lake.read("raw").height == 32
    assert len(lake.batches()) == 32


def wide(start: int, count: int) -> pl.DataFrame:
    """Every type that a table of ours has, with missing values."""
    at = [datetime(2024, 1, 1, microsecond=i, tzinfo=UTC) for i in range(count)]
    columns: dict[str, list[Any]] = {
        "at": [*at],
        "yes": [True, None] * (count // 2),
        "share": [0.5, None] * (count // 2),
    }
    return rows(start, count).with_columns(pl.Series(name, values) for name, values in columns.items())


def test_the_log_is_one_that_others_read_and_write(tmp_path: Path) -> None:
    """Our own commits beside those of the deltalake library, merges and checkpoints of both included."""
    lake = Lake(tmp_path)
    for index in range(COMPACT_EVERY + 10):
        lake.append("raw", wide(index * 4, 4), note={"batch": str(index)})
        if index % 7 == 0:
            write_deltalake(str(tmp_path / "raw"), wide(10_000 + index * 4, 4), mode="append")
    expected = lake.read("raw").sort("number")
    assert expected.height == 4 * (COMPACT_EVERY + 10) + 4 * len(range(0, COMPACT_EVERY + 10, 7))
    theirs = DeltaTable(tmp_path / "raw")
    assert theirs.version() == lake.version("raw")
    assert pl.scan_delta(theirs).collect().sort("number").equals(expected)
    theirs.optimize.compact()
    theirs.create_checkpoint()
    lake.append("raw", wide(50_000, 2))
    assert Lake(tmp_path).read("raw").sort("number").equals(lake.read("raw").sort("number"))
    assert lake.diff("raw", theirs.version(), lake.version("raw")).equals(wide(50_000, 2))
    told = [(each["version"], each["operation"]) for each in Lake(tmp_path).history("raw")]
    assert told == [(each["version"], each["operation"]) for each in lake.history("raw")]
    assert [version for version, _ in told] == list(range(lake.version("raw") + 1))


def test_a_column_that_somebody_else_added_meanwhile_stays_empty_in_our_rows(tmp_path: Path) -> None:
    mine, other = Lake(tmp_path), Lake(tmp_path)
    mine.append("raw", rows(0, 2))
    assert mine.version("raw") == 0
    other.append("raw", rows(2, 2).with_columns(more=pl.lit(1.5)))
    mine.append("raw", rows(4, 2))
    assert mine.schema("raw").names() == ["number", "text", "more"]
    assert mine.read("raw").sort("number")["more"].to_list() == [None, None, 1.5, 1.5, None, None]
    assert mine.diff("raw", 1, 2).equals(rows(4, 2).with_columns(more=pl.lit(None, pl.Float64())))


def test_a_file_without_its_commit_is_no_part_of_the_table(tmp_path: Path) -> None:
    """What a process leaves that is killed between the two."""
    lake = Lake(tmp_path)
    lake.append("raw", rows(0, 2))
    rows(2, 2).write_parquet(tmp_path / "raw" / "part-orphan.parquet")
    (tmp_path / "raw" / "_delta_log" / "_commit_0.json.tmp").write_text("{")
    lake.append("raw", rows(4, 2))
    for each in (lake, Lake(tmp_path)):
        assert sorted(each.read("raw")["number"]) == [0, 1, 4, 5]
        assert each.version("raw") == 1


def test_the_newest_note_under_a_name_is_found(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.last_note("raw", "folded") is None
    for index in range(3):
        lake.append("raw", rows(index, 1), note={"folded": str(index)})
    lake.append("raw", rows(3, 1), note={"batch": "x"})
    for each in (lake, Lake(tmp_path)):
        assert each.last_note("raw", "folded") == "2"
        assert each.last_note("raw", "nothing") is None
        assert (each.batch("x") or {})["version"] == 3
        assert each.batch("y") is None


def test_outcomes_have_one_form(tmp_path: Path) -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    values = (True, 3, 2.5, "late", None, 2**53 + 1)
    frame = outcome_rows([Outcome(id="k", name="n", value=value, at=at) for value in values], batch="b")
    assert frame.schema == OUTCOME_SCHEMA
    assert frame["value_number"].to_list() == [1.0, 3.0, 2.5, None, None, float(2**53 + 1)]
    assert frame["value_text"].to_list() == [None, None, None, "late", None, str(2**53 + 1)]
    lake = Lake(tmp_path)
    lake.append("outcomes", frame)
    assert lake.read("outcomes").schema == OUTCOME_SCHEMA


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import polars as pl
from everloop.errors import StoreFull
from everloop.store.lake import Lake
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lake = Lake(Path(sys.argv[1]))
lake.append("raw", pl.DataFrame({"number": range(100)}), note={"batch": "first"})
import random
random.seed(0)
big = pl.DataFrame({"number": [random.randrange(2**62) for _ in range(200_000)]})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    lake.append("raw", big, note={"batch": "second"})
except StoreFull as error:
    print("full:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert lake.read("raw").height == 100
assert not lake.contains_batch("second")
lake.append("raw", big, note={"batch": "second"})
assert lake.read("raw").height == 200_100
print("done")
"""


def test_a_write_that_finds_no_room_adds_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """A limit on the size of a file stands for a full disk: the same failing write, without the need to be root."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "full: No space is left for table raw" in ended.stdout
    assert "done" in ended.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tiny file system needs root")
def test_a_full_disk_adds_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tiny)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let a test mount a tmpfs")
    try:
        lake = Lake(tiny)
        lake.append("raw", rows(0, 10))
        ballast = tiny / "ballast"
        ballast.write_bytes(b"\x00" * 2_900_000)
        big = pl.DataFrame({"number": range(40_000), "text": [f"{i * 7919 % 99991}" for i in range(40_000)]})
        with pytest.raises(StoreFull, match="Nothing was added"):
            lake.append("raw", big)
        assert lake.version("raw") == 0
        assert Lake(tiny).read("raw").height == 10
        leftovers = [each for each in (tiny / "raw").iterdir() if each.is_file()]
        assert len(leftovers) == 1, "what was half written is gone, so that the space comes back"
        ballast.unlink()
        lake.append("raw", big)
        assert lake.read("raw").height == 40_010
    finally:
        subprocess.run(["umount", str(tiny)], check=True)

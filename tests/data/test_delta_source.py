"""A Delta table as a source: the files of its newest version, what partitions say, and no row twice after it is compacted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from everloop.data import sources
from everloop.data.ingest import Ingest
from everloop.errors import DataError
from everloop.spec.label import Label
from everloop.spec.loop import Loop
from everloop.spec.source import Parquet
from everloop.spec.train import Train
from everloop.store import delta
from everloop.store.lake import RAW, Lake

START = datetime(2024, 1, 1, tzinfo=UTC)
TABLE = Parquet("parcels", key="id", event_time="at")


def fit(samples: Any, parameters: Any, context: Any) -> Any:
    raise NotImplementedError


def rows(since: int, until: int) -> pl.DataFrame:
    ids = range(since, until)
    return pl.DataFrame(
        {
            "id": list(ids),
            "at": [START + timedelta(hours=each) for each in ids],
            "day": [(START + timedelta(hours=each)).date().isoformat() for each in ids],
            "region": [each % 3 for each in ids],
            "late": [each % 2 == 0 for each in ids],
        }
    )


def written(folder: Path, *commits: pl.DataFrame, **given: Any) -> None:
    for each in commits:
        write_deltalake(folder / "parcels", each.to_arrow(), mode="append", **given)


def rewritten(table: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The only commit of a table, with another ``add``."""
    (log,) = (table / "_delta_log").glob("*.json")
    actions = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    for each in actions:
        if "add" in each:
            change(each["add"])
    log.unlink()  # another inode, another time
    log.write_text("\n".join(json.dumps(each) for each in actions), "utf-8")


def ids(folder: Path) -> list[int]:
    schema = sources.schema_of(TABLE, folder)
    found = pl.concat([sources.read(TABLE, path, schema) for path in sources.files(TABLE, folder)])
    return sorted(found["id"].to_list())


def test_the_newest_version_is_read_and_nothing_of_earlier_ones(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 30), rows(30, 50))
    assert ids(tmp_path) == list(range(50))
    write_deltalake(tmp_path / "parcels", rows(100, 110).to_arrow(), mode="overwrite")
    assert ids(tmp_path) == list(range(100, 110))
    assert len(list((tmp_path / "parcels").glob("*.parquet"))) == 3


def test_what_a_partition_says_is_a_column_with_its_type(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 60), partition_by=["day", "region"])
    assert sources.schema_of(TABLE, tmp_path) == {
        "id": "integer", "at": "instant", "day": "text", "region": "integer", "late": "boolean",
    }  # fmt: skip
    schema = sources.schema_of(TABLE, tmp_path)
    read = pl.concat([sources.read(TABLE, path, schema) for path in sources.files(TABLE, tmp_path)], how="diagonal")
    assert read.sort("id").select(rows(0, 1).columns).equals(rows(0, 60))


def test_a_table_that_is_compacted_brings_no_row_twice(tmp_path: Path) -> None:
    loop = Loop(name="parcels", source=TABLE, label=Label("late"), train=Train(fit))
    lake = Lake(tmp_path / "lake")
    taking = Ingest(loop, lake)
    written(tmp_path, rows(0, 30), rows(30, 50))
    for path in sources.files(TABLE, tmp_path):
        taking.file(path, now=START + timedelta(days=30))
    DeltaTable(tmp_path / "parcels").optimize.compact()
    assert len(sources.files(TABLE, tmp_path)) == 1
    written(tmp_path, rows(50, 55))
    for path in sources.files(TABLE, tmp_path):
        taking.file(path, now=START + timedelta(days=30))
    assert sorted(lake.read(RAW)["id"].to_list()) == list(range(55))


def test_a_pattern_that_reaches_into_a_table_is_told_what_to_write(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 30))
    with pytest.raises(DataError, match=r'keeps files of earlier versions beside its own. Name the table: "parcels"'):
        sources.files(Parquet("parcels/*.parquet", key="id", event_time="at"), tmp_path)
    written(tmp_path / "parted", rows(0, 30), partition_by=["day"])
    with pytest.raises(DataError, match='Name the table: "parted/parcels"'):
        sources.files(Parquet("parted/**/*.parquet", key="id", event_time="at"), tmp_path)


@pytest.mark.parametrize("pattern", ["parcels/day=*", "parcels/*", "parcels/_delta_log", "par*/_delta_log/*.parquet"])
def test_who_names_folders_of_a_table_is_told_to_name_the_table(tmp_path: Path, pattern: str) -> None:
    written(tmp_path, rows(0, 30), partition_by=["day"])
    DeltaTable(tmp_path / "parcels").create_checkpoint()
    with pytest.raises(DataError, match='Name the table: "parcels"'):
        sources.schema_of(Parquet(pattern, key="id", event_time="at"), tmp_path)


@pytest.mark.parametrize(("pattern", "better"), [("days/day=*", "days/day=*/*.parquet"), ("da*", "da*/**/*.parquet")])
def test_who_names_folders_is_told_a_pattern_that_finds_all_their_files(
    tmp_path: Path, pattern: str, better: str
) -> None:
    for day in (1, 2):
        (tmp_path / "days" / f"day={day}").mkdir(parents=True)
        rows(0, 5).write_parquet(tmp_path / "days" / f"day={day}" / "part.parquet")
    with pytest.raises(DataError, match=re.escape(f'write "{better}"')):
        sources.schema_of(Parquet(pattern, key="id", event_time="at"), tmp_path)
    assert len(sources.files(Parquet(better, key="id", event_time="at"), tmp_path)) == 2


def test_a_folder_that_is_no_table_is_told_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "parcels.parquet").mkdir()
    rows(0, 5).write_parquet(tmp_path / "parcels.parquet" / "part-0.parquet")
    folder = Parquet("parcels.parquet", key="id", event_time="at")
    with pytest.raises(DataError, match=r'names the folder .*, not files; write "parcels.parquet/\*.parquet"'):
        sources.schema_of(folder, tmp_path)
    inside = Parquet("parcels.parquet/*.parquet", key="id", event_time="at")
    assert len(sources.files(inside, tmp_path)) == 1


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 30))
    for each in (tmp_path / "parcels" / "_delta_log").iterdir():
        each.write_text("{", "utf-8")
    with pytest.raises(DataError, match=r"The Delta table .*parcels cannot be read"):
        sources.files(TABLE, tmp_path)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (pl.Date(), datetime(2024, 1, 2, tzinfo=UTC).date()),
        (pl.Datetime("us", "UTC"), datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (pl.Boolean(), True),
        (pl.Float64(), 1.5),
        (pl.String(), "a b/c"),
        (pl.Date(), None),
    ],
)
def test_partitions_of_every_kind_are_read(tmp_path: Path, dtype: pl.DataType, value: Any) -> None:
    written(tmp_path, rows(0, 5).with_columns(part=pl.lit(value, dtype)), partition_by=["part"])
    (path,) = sources.files(TABLE, tmp_path)
    (found,) = delta.partition(path).values()
    assert (found.dtype, found.to_list()) == (dtype, [value])
    zoned = Parquet("parcels", key="id", event_time="at", time_zone="UTC")
    assert len(sources.read(zoned, path, sources.schema_of(zoned, tmp_path))) == 5


def test_a_partition_that_its_column_cannot_hold_is_named(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 5).with_columns(part=pl.lit(1, pl.Int64())), partition_by=["part"])
    (path,) = sources.files(TABLE, tmp_path)
    rewritten(tmp_path / "parcels", lambda add: add["partitionValues"].update(part="many"))
    for call in (lambda: sources.files(TABLE, tmp_path), lambda: delta.partition(path)):
        with pytest.raises(DataError, match=r"parcels cannot be read.*'many' as 'long'"):
            call()


def test_the_log_says_the_partition_and_not_the_folders_name(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 5).with_columns(part=pl.lit(7, pl.Int64())), partition_by=["part"])
    (path,) = sources.files(TABLE, tmp_path)
    table = tmp_path / "parcels"
    for name in (
        "aB/part.parquet",
        "part=8/part.parquet",
    ):  # some writers spread files over prefixes; a name is only a name
        (table / name).parent.mkdir()
        path.rename(table / name)
        path = table / name
        rewritten(table, partial(dict.update, path=name))
        (listed,) = delta.files(table).files
        assert [each["part"].to_list() for each in (listed.partition, delta.partition(path))] == [[7], [7]]
        assert sources.read(TABLE, path, sources.schema_of(TABLE, tmp_path))["part"].to_list() == [7] * 5


def test_a_file_that_is_replaced_while_it_is_to_be_read_keeps_its_partition(tmp_path: Path) -> None:
    for each in (rows(0, 5), rows(5, 9)):
        written(tmp_path, each.with_columns(part=pl.lit(7, pl.Int64())), partition_by=["part"])
    schema = sources.schema_of(TABLE, tmp_path)
    found = sources.files(TABLE, tmp_path)
    DeltaTable(tmp_path / "parcels").optimize.compact()
    assert not set(found) & set(sources.files(TABLE, tmp_path))
    assert [sources.read(TABLE, path, schema)["part"].unique().to_list() for path in found] == [[7], [7]]
    stray = found[0].with_name("stray.parquet")
    rows(0, 5).write_parquet(stray)
    with pytest.raises(DataError, match="whose log does not name it"):
        sources.read(TABLE, stray, schema)


def test_a_folder_of_somebody_else_below_a_table_is_read(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 30), partition_by=["day"])
    extra = tmp_path / "parcels" / "extra" / "more.parquet"
    extra.parent.mkdir()
    rows(100, 103).write_parquet(extra)
    source = Parquet("parcels/extra/*.parquet", key="id", event_time="at")
    schema = sources.schema_of(source, tmp_path)
    assert sources.read(source, extra, schema)["day"].to_list() == rows(100, 103)["day"].to_list()
    # What may have been the table's is refused all the same: its partition is not known any more.
    for strange in ("day=2024-01-01", "part=7", "_change_data", "."):
        place = tmp_path / "parcels" / strange / "old.parquet"
        place.parent.mkdir(exist_ok=True)
        extra.rename(place)
        with pytest.raises(DataError, match="whose log does not name it"):
            delta.partition(place)
        place.rename(extra)
    assert delta.partition(extra) == {}


def test_a_file_that_was_compacted_long_ago_does_not_lose_its_partition_in_silence(tmp_path: Path) -> None:
    table = tmp_path / "parcels"
    written(tmp_path, rows(0, 5).with_columns(part=pl.lit(7, pl.Int64())), partition_by=["part"])
    (old,) = sources.files(TABLE, tmp_path)
    spread = table / "aB" / "old.parquet"
    spread.parent.mkdir()
    old.rename(spread)
    rewritten(table, lambda add: add.update(path="aB/old.parquet"))
    assert delta.partition(spread)["part"].to_list() == [7]
    for name in ("aB/older.parquet", "cD/older.parquet"):  # such a writer names any folder
        (table / name).parent.mkdir(exist_ok=True)
        rows(0, 5).write_parquet(table / name)
        with pytest.raises(DataError, match="whose log does not name it"):
            delta.partition(table / name)


@pytest.mark.parametrize("by", [None, ["day"]])
def test_a_table_that_cannot_be_read_file_by_file_stands_in_nobodys_way_below_it(
    tmp_path: Path, by: list[str] | None
) -> None:
    written(tmp_path, rows(0, 5), partition_by=by)
    (path,) = sources.files(TABLE, tmp_path)
    extra = tmp_path / "parcels" / "extra" / "more.parquet"
    extra.parent.mkdir()
    rows(100, 103).write_parquet(extra)
    (log,) = (tmp_path / "parcels" / "_delta_log").glob("*.json")
    actions = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    for each in actions:
        if "protocol" in each:
            beyond = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
            each["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **beyond}
    log.unlink()
    log.write_text("\n".join(json.dumps(each) for each in actions), "utf-8")
    assert delta.partition(extra) == {}
    for call in (lambda: delta.files(tmp_path / "parcels"), lambda: delta.partition(path)):
        with pytest.raises(DataError, match="uses deletionVectors, so its files cannot be read one by one"):
            call()


def test_a_commit_at_the_same_tick_of_the_disks_clock_is_known(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 5).with_columns(part=pl.lit(7, pl.Int64())), partition_by=["part"])
    log = tmp_path / "parcels" / "_delta_log"
    delta.partition(sources.files(TABLE, tmp_path)[0])
    before = log.stat()
    written(tmp_path, rows(5, 9).with_columns(part=pl.lit(8, pl.Int64())), partition_by=["part"])
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    values = {delta.partition(path)["part"][0] for path in sources.files(TABLE, tmp_path)}
    assert values == {7, 8}


@pytest.mark.parametrize("pattern", ["parcels.parquet", "*.parquet", "*/parcels.parquet"])
def test_a_table_whose_folder_is_named_as_a_file_is_one(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "lake" if "/" in pattern else tmp_path
    table = folder / "parcels.parquet"
    for each in (rows(0, 30), rows(30, 50)):
        write_deltalake(table, each.to_arrow(), mode="append")
    rows(100, 103).write_parquet(folder / "more.parquet")
    write_deltalake(table, rows(10, 20).to_arrow(), mode="overwrite")
    source = Parquet(pattern, key="id", event_time="at")
    read = pl.concat([sources.read(source, path) for path in sources.files(source, tmp_path)])
    assert sorted(read["id"].to_list()) == [*range(10, 20), *((100, 101, 102) if pattern == "*.parquet" else ())]
    with pytest.raises(DataError, match=r'Name the table: "(lake/)?parcels.parquet"'):
        sources.files(Parquet("**/*.parquet", key="id", event_time="at"), tmp_path)


def test_a_file_that_the_table_names_and_that_is_not_there_is_said_and_not_left_out(tmp_path: Path) -> None:
    written(tmp_path, rows(0, 30), rows(30, 50))
    sources.files(TABLE, tmp_path)[0].unlink()
    with pytest.raises(DataError, match="which is no file in its folder"):
        sources.files(TABLE, tmp_path)

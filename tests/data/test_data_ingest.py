"""A file is taken in once, and each of its rows with its meaning."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data.ingest import Ingest, ingest, ingest_frame
from everloop.errors import DataError, SchemaChanged, StoreFull
from everloop.records import Batch, Outcome
from everloop.spec.checks import Between, Check, Fresh, Holds, Matches, NotNull, OneOf, Unique
from everloop.spec.label import Label
from everloop.spec.loop import Loop
from everloop.spec.source import Parquet
from everloop.spec.train import Train
from everloop.store.lake import OUTCOMES, QUARANTINE, RAW, Lake, outcome_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 2, 1, tzinfo=UTC)


def never(samples: Any, parameters: Any, context: Any) -> Any:
    raise NotImplementedError


fit: Any = never


def loop(checks: Sequence[Check] = (), quarantine_up_to: float = 0.05) -> Loop:
    return Loop(
        name="parcels",
        source=Parquet("in/*.parquet", key=("id",), event_time="at", after=("arrived",)),
        label=Label("late"),
        checks=tuple(checks),
        train=Train(fit),
        quarantine_up_to=quarantine_up_to,
    )


def parcels(ids: Sequence[Any], **columns: Any) -> pl.DataFrame:
    """Rows that are the same whenever they are asked for."""
    known = [0 if each is None else each for each in ids]
    made = {
        "id": ids,
        "at": [START + timedelta(hours=each) for each in known],
        "miles": [float(each % 17) for each in known],
        "carrier": [("heron", "osprey", None)[each % 3] for each in known],
        "arrived": pl.Series([None] * len(ids), dtype=pl.Float64),
        "late": [each % 5 == 0 for each in known],
    }
    types: dict[str, Any] = {
        "id": pl.Int64,
        "at": pl.Datetime("us", "UTC"),
        "carrier": pl.String,
        "arrived": pl.Float64,
        "late": pl.Boolean,
    }
    return pl.DataFrame({**made, **columns}, schema_overrides=types)


class Shop:
    """A lake with an ingest; ``deliver`` writes a file and takes it in."""

    def __init__(self, folder: Path, declared: Loop) -> None:
        self.folder = folder
        self.lake = Lake(folder / "lake")
        self.ingest = Ingest(declared, self.lake)
        self.count = 0

    def deliver(self, frame: pl.DataFrame, *, now: datetime = NOW) -> Batch:
        self.count += 1
        path = self.folder / f"{self.count:04d}.parquet"
        frame.write_parquet(path)
        batch = self.ingest.file(path, now=now)
        assert batch is not None
        return batch

    def raw(self) -> pl.DataFrame:
        return self.lake.read(RAW).sort("_event_time", "_key")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, loop())


def test_rows_are_kept_as_they_came(shop: Shop) -> None:
    batch = shop.deliver(parcels(range(10)))
    assert (batch.rows, batch.added, batch.copies, batch.outcomes, batch.quarantined) == (10, 10, 0, 0, 0)
    assert batch.raw_version == shop.lake.version(RAW) == 0
    assert (
        shop.raw()
        .select("id", "miles", "carrier", "late")
        .equals(parcels(range(10)).select("id", "miles", "carrier", "late"))
    )
    assert shop.raw()["_batch"].unique().to_list() == [batch.digest]


def test_the_same_file_twice_is_one_batch(shop: Shop, tmp_path: Path) -> None:
    first = shop.deliver(parcels(range(10)))
    shutil.copy(tmp_path / "0001.parquet", tmp_path / "other name.parquet")
    again = shop.ingest.file(tmp_path / "other name.parquet", now=NOW + timedelta(days=1))
    assert again == first, "the record of then, with its path and time"
    assert shop.ingest.file(tmp_path / "0001.parquet", known={first.digest}, now=NOW) is None
    assert shop.raw().height == 10
    assert shop.lake.version(RAW) == 0


def test_an_identical_copy_is_dropped_and_counted(shop: Shop) -> None:
    shop.deliver(parcels(range(10)))
    batch = shop.deliver(parcels(range(5, 15)))
    assert (batch.added, batch.copies, batch.outcomes, batch.quarantined) == (5, 5, 0, 0)
    assert shop.raw()["id"].to_list() == list(range(15))


def test_a_changed_label_or_after_column_is_an_outcome(shop: Shop) -> None:
    shop.deliver(parcels(range(4), late=[None, True, True, False]))
    batch = shop.deliver(parcels(range(4), late=[True, True, False, None], arrived=[1.5, None, 2.0, None]))
    assert (batch.added, batch.copies, batch.outcomes, batch.quarantined) == (0, 2, 4, 0)
    told = shop.lake.read(OUTCOMES).sort("id", "name").select("id", "name", "value_number", "at", "_batch").rows()
    assert told == [
        ("0", "arrived", 1.5, NOW, batch.digest),
        ("0", "late", 1.0, NOW, batch.digest),
        ("2", "arrived", 2.0, NOW, batch.digest),
        ("2", "late", 0.0, NOW, batch.digest),
    ]
    assert shop.raw()["late"].to_list() == [None, True, True, False], "what came first stays as it came"
    assert (
        shop.deliver(parcels(range(4), late=[True, True, False, False], arrived=[1.5, None, 2.0, None])[::-1]).copies
        == 4
    )


def test_anything_else_that_differs_is_quarantined_with_the_columns(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop(quarantine_up_to=1.0))
    shop.deliver(parcels(range(4)))
    batch = shop.deliver(parcels(range(4), miles=[0.0, 99.0, 2.0, None], late=[False] * 4))
    assert (batch.added, batch.copies, batch.outcomes, batch.quarantined) == (0, 1, 1, 2)
    aside = shop.lake.read(QUARANTINE).sort("id")
    assert aside["id"].to_list() == [1, 3]
    assert aside["_reason"].unique().to_list() == ["other values than the first row with this key: miles"]
    assert aside["_at"].to_list() == [NOW, NOW]
    assert shop.raw().height == 4
    assert batch.reasons == {"other values than the first row with this key: miles": 2}


def test_rows_of_one_batch_are_held_against_each_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop(quarantine_up_to=1.0))
    frame = pl.concat(
        [
            parcels([7, 8], late=[False, None]),
            parcels([7]),  # late differs: an outcome… of 7 % 5 == 2: False, so a copy
            parcels([8], late=[True]),
            parcels([8], late=[False]),
            parcels([7], miles=[-1.0]),
        ]
    )
    batch = shop.deliver(frame)
    assert (batch.rows, batch.added, batch.copies, batch.outcomes, batch.quarantined) == (6, 2, 1, 2, 1)
    told = shop.lake.read(OUTCOMES).sort("at")
    assert told["value_number"].to_list() == [1.0, 0.0], "the later in the file is the newer"
    assert told["at"].max() <= NOW  # type: ignore[operator]
    assert shop.lake.read(QUARANTINE)["_reason"].to_list() == ["other values than the first row with this key: miles"]


def test_an_answer_that_came_by_the_server_is_known_to_the_next_batch(shop: Shop) -> None:
    shop.deliver(parcels(range(3), late=[None, None, None]))
    said = [Outcome(id="0", name="late", value=True, at=NOW), Outcome(id="1", name="", value=False, at=NOW)]
    shop.lake.append(OUTCOMES, outcome_rows(said))
    batch = shop.deliver(parcels(range(3), late=[True, True, None]), now=NOW + timedelta(hours=1))
    assert (batch.copies, batch.outcomes) == (2, 1)
    assert shop.lake.read(OUTCOMES, where=pl.col("_batch").is_not_null())["id"].to_list() == ["1"]


def test_another_writer_is_seen(shop: Shop, tmp_path: Path) -> None:
    shop.deliver(parcels(range(3)))
    other = Shop(tmp_path, loop())
    other.count = 100
    assert other.deliver(parcels(range(1, 6))).copies == 2
    assert shop.deliver(parcels(range(3, 8))).copies == 3
    assert shop.raw()["id"].to_list() == list(range(8))


def test_missing_keys_and_times_are_quarantined(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop(quarantine_up_to=1.0))
    frame = parcels([1, None, 2, None]).with_columns(at=pl.when(pl.col("id") == 2).then(None).otherwise("at"))
    batch = shop.deliver(frame)
    assert (batch.added, batch.quarantined) == (1, 3)
    assert batch.reasons == {"event time is missing": 1, "key is missing": 2}


CHECKS: list[tuple[Check, dict[str, Any], list[int], str]] = [
    (NotNull("carrier"), {}, [2], "carrier is missing"),
    (Between("miles", 0, 3), {"miles": [0.0, 3.0, None, 3.5]}, [3], "miles is not between 0 and 3"),
    (OneOf("carrier", ("heron", "osprey")), {"carrier": ["heron", "gull", None, "osprey"]}, [1], "carrier is none of the 2"),
    (Matches("carrier", "^[a-z]+$"), {"carrier": ["heron", "x1", None, "h"]}, [1], r"carrier does not match \^\[a-z\]\+\$"),
    (Unique("miles"), {"miles": [1.0, 2.0, 1.0, None]}, [2], "miles not unique in its batch"),
    (Holds(lambda row: row.miles * 2 < 5, "short"), {"miles": [2.0, 2.5, None, 0.0]}, [1], "short does not hold"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "columns", "failing", "reason"), CHECKS)
def test_a_failing_row_is_quarantined_with_its_reason(
    tmp_path: Path, check: Check, columns: dict[str, Any], failing: list[int], reason: str
) -> None:
    shop = Shop(tmp_path, loop([check], quarantine_up_to=0.5))
    batch = shop.deliver(parcels(range(4), **columns))
    assert batch.refused is None
    aside = shop.lake.read(QUARANTINE)
    assert aside["id"].to_list() == failing
    assert pl.Series(aside["_reason"]).str.contains(f"^{reason}").all()
    assert shop.raw()["id"].to_list() == [each for each in range(4) if each not in failing]
    # A failing row leaves no trace: brought again and right, it is a new row.
    good = shop.deliver(parcels(failing, miles=[3.0], carrier=["osprey"]).with_columns(miles=pl.lit(0.25)))
    assert good.added == 1


def test_two_reasons_are_both_said(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop([NotNull("carrier"), Between("miles", 0, 1)], quarantine_up_to=1.0))
    batch = shop.deliver(parcels([2]))
    assert shop.lake.read(QUARANTINE)["_reason"].to_list() == ["carrier is missing; miles is not between 0 and 1"]
    assert batch.reasons == {"carrier is missing": 1, "miles is not between 0 and 1": 1}


MISFITS: list[Check] = [
    Between("carrier", 1, 2),
    Between("miles", START, NOW),
    Matches("miles", "1"),
    Matches("carrier", "(?=x)"),
]


@pytest.mark.parametrize("check", MISFITS)
def test_a_check_that_does_not_fit_its_column_is_said(tmp_path: Path, check: Check) -> None:
    shop = Shop(tmp_path, loop([check]))
    with pytest.raises(DataError, match=r"cannot be applied to .*\(number|text\)|is none for the regular expressions"):
        shop.deliver(parcels([0, 1]))
    assert not shop.lake.exists(RAW)


def test_a_batch_that_fails_too_much_is_refused_whole(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop([NotNull("carrier")], quarantine_up_to=0.3))
    shop.deliver(parcels([0, 1]))
    batch = shop.deliver(parcels([0, 2, 3, 5, 8], late=[False] * 5))
    assert batch.refused is not None
    assert "3 of 5 rows (60.0%) fail, more than quarantine_up_to=0.3 allows: carrier is missing (3)" in batch.refused
    assert (batch.added, batch.outcomes, batch.quarantined) == (0, 0, 3)
    assert not shop.lake.exists(QUARANTINE)
    assert not shop.lake.exists(OUTCOMES)
    assert shop.raw()["id"].to_list() == [0, 1]
    assert shop.deliver(parcels([3, 4])).added == 2, "what was refused is not known"


def test_a_stale_batch_is_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop([Fresh(timedelta(days=2))]))
    batch = shop.deliver(parcels([1, 2]), now=START + timedelta(days=3))
    assert batch.refused is not None
    assert "Fresh allows 2 days" in batch.refused
    assert shop.deliver(parcels([1, 2])[::-1], now=START + timedelta(days=1)).added == 2


def test_a_changed_type_is_refused_and_names_both(shop: Shop, tmp_path: Path) -> None:
    shop.deliver(parcels(range(3)))
    with pytest.raises(
        SchemaChanged, match=r"Column miles is number; in .*0002\.parquet it is text, for example 'far'"
    ):
        shop.deliver(parcels(range(3, 5), miles=["far", "near"]))
    assert shop.raw().height == 3
    assert shop.deliver(parcels(range(3, 5))).added == 2


def test_a_new_column_is_allowed_and_said(shop: Shop) -> None:
    shop.deliver(parcels(range(3)))
    batch = shop.deliver(parcels(range(2, 5), weight=[1.0, 2.0, 3.0]).filter(pl.col("id") > 2))
    assert batch.new_columns == ("weight",)
    assert shop.raw()["weight"].to_list() == [None, None, None, 2.0, 3.0]
    old = shop.deliver(parcels(range(6)))
    assert old.absent_columns == ("weight",)
    assert (old.copies, old.added, old.quarantined) == (3, 1, 2) or old.refused is not None


def test_a_new_column_does_not_change_what_the_old_rows_are(shop: Shop) -> None:
    shop.deliver(parcels(range(3)))
    shop.deliver(parcels([3], weight=[2.0]))
    again = shop.deliver(parcels(range(3), weight=pl.Series([None] * 3, dtype=pl.Float64)))
    assert again.copies == 3


def test_a_needed_column_may_not_be_absent(tmp_path: Path) -> None:
    shop = Shop(tmp_path, loop([NotNull("carrier")]))
    with pytest.raises(DataError, match=r"checks a column carrier|has no column carrier, which NotNull checks"):
        shop.deliver(parcels([1]).drop("carrier"))
    shop.deliver(parcels([1]))
    with pytest.raises(DataError, match=r"has no column carrier, which NotNull checks"):
        shop.deliver(parcels([2]).drop("carrier"))
    assert shop.deliver(parcels([3]).drop("late")).added == 1, "the label may come later"


def test_an_unreadable_file_is_named_and_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.deliver(parcels(range(3)))
    path = tmp_path / "cut.parquet"
    parcels(range(3, 900)).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut\.parquet cannot be read"):
        shop.ingest.file(path, now=NOW)
    assert shop.lake.version(RAW) == 0
    assert shop.deliver(parcels(range(3, 5))).added == 2


def test_an_empty_file_is_a_batch_of_no_rows(shop: Shop) -> None:
    shop.deliver(parcels(range(3)))
    batch = shop.deliver(parcels(range(3)).clear())
    assert (batch.rows, batch.added, batch.refused) == (0, 0, None)
    assert shop.lake.contains_batch(batch.digest)


def test_rows_in_memory_are_taken_in_like_a_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    declared = loop()
    first = ingest_frame(declared, parcels(range(5)), lake, now=NOW)
    assert first is not None
    assert first.added == 5
    assert ingest_frame(declared, parcels(range(5)), lake, now=NOW) == first
    assert ingest_frame(declared, parcels(range(5)), lake, {first.digest}, now=NOW) is None
    assert ingest_frame(declared, lake.read(RAW).sort("id").tail(2), lake, now=NOW).copies == 2  # type: ignore[union-attr]
    parcels(range(6)).write_parquet(tmp_path / "a.parquet")
    assert ingest(declared, tmp_path / "a.parquet", lake, now=NOW).added == 1  # type: ignore[union-attr]


def delivered() -> st.SearchStrategy[list[list[tuple[int, int, bool | None, float | None]]]]:
    row = st.tuples(
        st.integers(0, 5), st.integers(0, 1), st.sampled_from([None, False, True]), st.sampled_from([None, 1.0, 2.0])
    )
    return st.lists(st.lists(row, max_size=6), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(batches=delivered(), restarts=st.lists(st.booleans(), min_size=6, max_size=6))
def test_the_meaning_of_rows_is_that_of_a_plain_reading(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[int, int, bool | None, float | None]]],
    restarts: list[bool],
) -> None:
    """A second, slow implementation in plain Python, row by row, gives the same rows, outcomes and counts."""
    shop = Shop(tmp_path_factory.mktemp("shop"), loop(quarantine_up_to=1.0))
    fixed: dict[int, float] = {}
    latest: dict[int, dict[str, Any]] = {}
    for number, rows in enumerate(batches):
        if restarts[number]:
            shop.ingest = Ingest(loop(quarantine_up_to=1.0), Lake(shop.folder / "lake"))
        frame = parcels(
            [each[0] for each in rows],
            miles=pl.Series([float(each[1]) for each in rows], dtype=pl.Float64),
            late=[each[2] for each in rows],
            arrived=[each[3] for each in rows],
        )
        batch = shop.deliver(frame, now=NOW + timedelta(hours=number))
        if batch.at != NOW + timedelta(hours=number):
            continue  # the same content again
        counts = {"added": 0, "copies": 0, "outcomes": 0, "quarantined": 0}
        for id, miles, late, arrived in rows:
            news = {"late": late, "arrived": arrived}
            if id not in fixed:
                fixed[id], latest[id] = float(miles), dict(news)
                counts["added"] += 1
            elif fixed[id] != miles:
                counts["quarantined"] += 1
            else:
                changed = {k: v for k, v in news.items() if v is not None and v != latest[id][k]}
                latest[id] |= changed
                counts["outcomes"] += len(changed)
                counts["copies"] += not changed
        assert {name: getattr(batch, name) for name in counts} == counts
    raw = shop.raw() if shop.lake.exists(RAW) and shop.lake.read(RAW).height else parcels([])
    assert dict(zip(raw["id"], raw["miles"], strict=True)) == fixed
    effective = {row["id"]: {"late": row["late"], "arrived": row["arrived"]} for row in raw.iter_rows(named=True)}
    told = shop.lake.read(OUTCOMES)
    for row in (told.sort("at") if len(told) else told).iter_rows(named=True):
        value = row["value_number"]
        effective[int(row["id"])][row["name"]] = bool(value) if row["name"] == "late" else value
    assert effective == latest


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_data_ingest import NOW, Ingest, Lake, loop
folder = Path(sys.argv[1])
Ingest(loop(quarantine_up_to=1.0), Lake(folder / "lake")).file(folder / "second.parquet", now=NOW)
"""


@pytest.mark.parametrize("point", ["ingest.quarantine", "ingest.outcomes", "ingest.raw"])
def test_a_batch_that_was_killed_anywhere_is_in_once(tmp_path: Path, point: str) -> None:
    def prepared(folder: Path) -> Shop:
        shop = Shop(folder, loop(quarantine_up_to=1.0))
        shop.deliver(parcels(range(6), late=[None, True, True, False, False, None]))
        second = parcels(
            [0, 1, 2, 3, 9, 10], late=[True, False, True, False, True, True], miles=[0.0, 1.0, 2.0, 77.0, 9.0, 10.0]
        )
        second.write_parquet(folder / "second.parquet")
        return shop

    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    shop, whole = prepared(tmp_path / "killed"), prepared(tmp_path / "whole")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(Path(__file__).parent)],
        env={**os.environ, "EVERLOOP_CRASH_AT": point},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert shop.lake.contains_batch(whole.ingest._digest(tmp_path / "whole" / "second.parquet")) == (
        point == "ingest.raw"
    )
    expected = whole.ingest.file(tmp_path / "whole" / "second.parquet", now=NOW)
    assert expected is not None
    assert (expected.added, expected.copies, expected.outcomes, expected.quarantined) == (2, 1, 2, 1)
    for again in (shop.ingest, Ingest(loop(quarantine_up_to=1.0), Lake(tmp_path / "killed" / "lake"))):
        batch = again.file(tmp_path / "killed" / "second.parquet", now=NOW + timedelta(days=3))
        assert batch is not None
        assert (batch.added, batch.copies, batch.outcomes, batch.quarantined) == (2, 1, 2, 1)
    for table in (RAW, OUTCOMES, QUARANTINE):
        rows, others = shop.lake.read(table), whole.lake.read(table)
        order = [name for name in ("_key", "id", "name", "miles") if name in rows.columns]
        late = [name for name in ("_at", "at") if name in rows.columns and table != RAW]
        assert rows.drop(late).sort(order).equals(others.drop(late).sort(order))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tiny file system needs root")
def test_a_full_disk_takes_nothing_in_and_the_batch_comes_in_later(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tiny)], check=False).returncode != 0:
        pytest.skip("this machine does not let a test mount a tmpfs")
    try:
        lake = Lake(tiny / "lake")
        taking = Ingest(loop(), lake)
        first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
        parcels(range(100)).write_parquet(first)
        parcels(range(30_000)).write_parquet(second)
        taking.file(first, now=NOW)
        ballast = tiny / "ballast"
        free = os.statvfs(tiny)
        ballast.write_bytes(b"\x00" * (free.f_bavail * free.f_frsize - 120_000))
        with pytest.raises(StoreFull, match="No space is left"):
            taking.file(second, now=NOW)
        assert lake.version(RAW) == 0
        assert Lake(tiny / "lake").read(RAW).height == 100
        ballast.unlink()
        batch = taking.file(second, now=NOW)
        assert batch is not None
        assert (batch.added, batch.copies) == (29_900, 100)
        assert lake.read(RAW)["id"].n_unique() == lake.read(RAW).height == 30_000
    finally:
        subprocess.run(["umount", str(tiny)], check=True)

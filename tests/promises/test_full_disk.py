"""Promise 9: disk full or a file that cannot be read, while taking in or logging: a clear error, nothing half written."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from everloop.records import Batch
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.store.ledger import Ledger, batches, decisions, releases, versions
from small_loop import DAY, START, Ended, SmallLoop, made_rows

KIB = 1 << 10
LARGEST_FILE = 600 * KIB
"""A limit on the size of a file stands for a full disk where a real one cannot be had: the same failing write."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight megabytes."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def taken_in(loop: SmallLoop) -> tuple[Batch, ...]:
    ledger = Ledger.open(Home(loop.home).ledger)
    with ledger.read() as connection:
        found = batches.of(connection, loop.name)
    ledger.close()
    return found


def raw(loop: SmallLoop) -> pl.DataFrame:
    return Lake(Home(loop.home).lake(loop.name)).read("raw")


def is_told_in_one_line(ended: Ended) -> bool:
    return "Traceback" not in ended.err and ended.err.strip().count("\n") <= 1


def test_on_a_full_disk_a_batch_is_not_taken_in_at_all_and_later_once(turned: SmallLoop) -> None:
    turned.deliver("001", made_rows(60_000, start=START + 30 * DAY, seed=2))
    full = turned.command("run", str(turned.file), largest_file=LARGEST_FILE)
    assert full.code == 10
    assert "StoreFull: No space is left for table raw" in full.err
    assert is_told_in_one_line(full), full.err
    assert len(raw(turned)) == 1_500
    assert len(taken_in(turned)) == 1

    with turned.controller() as controller:
        (batch,) = controller.take_in()
    assert (batch.added, batch.copies) == (60_000, 0)
    assert raw(turned)["_key"].n_unique() == len(raw(turned)) == 61_500


def test_on_a_full_disk_outcomes_are_taken_whole_or_not_at_all(turned: SmallLoop) -> None:
    told = turned.folder / "told.csv"
    many = pl.DataFrame({"id": [f"told-{number:06d}" for number in range(30_000)], "value": [True] * 30_000})
    many.write_csv(told)
    full = turned.command("outcomes", str(told), largest_file=LARGEST_FILE)
    assert full.code == 10
    assert "StoreFull: No space is left to write" in full.err
    assert is_told_in_one_line(full), full.err
    with turned.controller() as controller:
        controller.look()
        lake = Lake(Home(turned.home).lake(turned.name))
        assert lake.read("outcomes").is_empty()
        assert turned.command("outcomes", str(told)).code == 0
        controller.look()
        assert len(lake.read("outcomes")) == 30_000


def test_on_a_full_disk_a_batch_of_answers_leaves_no_half_file(turned: SmallLoop) -> None:
    asked, answers = turned.folder / "asked.parquet", turned.folder / "answers.jsonl"
    made_rows(30_000, seed=3).drop("late").write_parquet(asked)
    full = turned.command("batch", turned.name, str(asked), str(answers), largest_file=LARGEST_FILE)
    assert full.code == 10, full.err
    assert is_told_in_one_line(full), full.err
    assert sorted(file.name for file in turned.folder.glob("*answers*")) == []
    assert turned.command("batch", turned.name, str(asked), str(answers)).code == 0
    assert len(pl.read_ndjson(answers)) == 30_000


def test_wherever_a_real_disk_fills_up_the_turn_is_made_once_there_is_space(turned: SmallLoop, disk: Path) -> None:
    """In the ledger, in the lake, after the fit."""
    rows = made_rows(1_500, start=START + 30 * DAY, seed=1)
    for free in (0, 80, 200):
        loop = turned.copy(disk / f"free-{free}")
        loop.deliver("001", rows)
        filler = disk / "filler"
        stat = os.statvfs(disk)
        filler.write_bytes(b"\0" * (stat.f_bavail * stat.f_frsize - free * KIB))
        full = loop.command("run", str(loop.file))
        filler.unlink()
        assert full.code == 10, f"{free} KiB: {full}"
        assert "space" in full.err.lower(), full.err
        assert "Traceback" not in full.err, full.err

        again = loop.command("run", str(loop.file))
        assert again.code == 0, again.err
        ledger = Ledger.open(Home(loop.home).ledger)
        with ledger.read() as connection:
            release = releases.get(connection, loop.name)
            assert [each.number for each in versions.of(connection, loop.name)] == [1, 2]
            assert (release.champion, release.challenger) == (1, 2)
        ledger.close()
        assert raw(loop)["_key"].n_unique() == len(raw(loop)) == 3_000
        shutil.rmtree(loop.folder)


def damaged(loop: SmallLoop, kind: str) -> str:
    """A second file that cannot be read, and a word of what is wrong with it."""
    rows = loop.folder / "rows"
    whole = (rows / "000.parquet").read_bytes()
    bad = rows / "001.parquet"
    if kind == "cut":
        bad.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        bad.write_bytes(b"")
    elif kind == "garbage":
        bad.write_bytes(os.urandom(5_000))
    elif kind == "retyped":
        made_rows(50, seed=9).with_columns(distance=pl.lit("far")).write_parquet(bad)
        return "distance"
    elif kind == "failing":
        if not Path("/proc/self/mem").exists():
            pytest.skip("this machine has no file that fails for everybody")
        bad.symlink_to("/proc/self/mem")
    else:
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        bad.write_bytes(whole)
        bad.chmod(0)
    return "001.parquet"


@pytest.mark.parametrize("kind", ["cut", "empty", "garbage", "retyped", "failing", "forbidden"])
def test_a_file_that_cannot_be_read_is_named_and_stops_no_other(kind: str, turned: SmallLoop) -> None:
    word = damaged(turned, kind)
    turned.deliver("002", made_rows(50, start=START + 40 * DAY, seed=4))
    with turned.controller() as controller:
        (batch,) = controller.take_in()
        assert batch.added == 50
        controller.take_in()
    ledger = Ledger.open(Home(turned.home).ledger)
    with ledger.read() as connection:
        refused = [each for each in decisions.of(connection, turned.name) if each.action == "batch refused"]
    ledger.close()
    assert [word in each.because for each in refused] == [True], "said once, with its name"
    assert len(raw(turned)) == 1_550


@pytest.mark.parametrize("kind", ["cut", "garbage", "failing", "forbidden"])
def test_a_first_file_that_cannot_be_read_is_an_error_of_the_data(kind: str, small: SmallLoop) -> None:
    word = damaged(small, kind)
    for command in ("check", "run"):
        ended = small.command(command, str(small.file))
        assert ended.code == 4, ended.err
        assert word in ended.err
        assert is_told_in_one_line(ended), ended.err
    assert not Home(small.home).lake(small.name).joinpath("raw").exists()
